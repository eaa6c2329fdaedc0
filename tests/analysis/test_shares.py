"""Figure 6 in numbers, and ownership."""

from __future__ import annotations

import numpy as np
import pytest

from fairseq_tickets.analysis import shares
from fairseq_tickets.errors import UserError
from fairseq_tickets.scores import ImportanceScores

from .samples import LARGE, SMALL, super_ticket


def scores(heads, ffn, **provenance):
    return ImportanceScores(np.array(heads, float), np.array(ffn, float), 1, provenance)


def test_importance_and_shares_by_hand():
    """Heads of layer 0: (3, 4)/5 and (0, 2)/2, so (0.6, 0.8) and (0, 1); layer 1: zero in A, (0.8, 0.6) in B."""
    found = shares.task_shares({"A": scores([[3, 4], [0, 0]], [3, 4]), "B": scores([[0, 2], [4, 3]], [0, 7])})
    np.testing.assert_allclose(found.head_importance, [[0.3, 0.9], [0.4, 0.3]])
    np.testing.assert_allclose(found.head_shares[0], [[1, 0.8 / 1.8], [0, 0]])
    np.testing.assert_allclose(found.head_shares[1], [[0, 1 / 1.8], [1, 1]])
    np.testing.assert_allclose(found.ffn_importance, [0.3, 0.9])
    np.testing.assert_allclose(found.ffn_shares, [[1, 0.8 / 1.8], [0, 1 / 1.8]])


def test_a_tasks_loss_scale_does_not_matter():
    generator = np.random.default_rng(0)
    heads, ffn = generator.random((3, 4)), generator.random(3)
    plain = shares.task_shares({"A": scores(heads, ffn), "B": scores(heads[::-1], ffn[::-1])})
    scaled = shares.task_shares({"A": scores(1000 * heads, 1000 * ffn), "B": scores(heads[::-1], ffn[::-1])})
    for one, other in zip(plain[1:], scaled[1:]):
        np.testing.assert_allclose(one, other)


def test_a_structure_no_task_uses_has_no_share():
    found = shares.task_shares({"A": scores([[0, 1]], [0])})
    assert found.head_shares[0, 0, 0] == 0 and found.ffn_shares[0, 0] == 0


def test_shares_table_lists_every_structure():
    table = shares.shares_table(shares.task_shares({"A": scores(np.ones((3, 4)), np.ones(3))}))
    assert len(table.rows) == 3 * (4 + 1)
    assert [cell.text for cell in table.rows[4]] == ["0", "FFN", f"{3**-0.5:.4f}", "1.0000"]


def test_scores_of_two_models():
    with pytest.raises(UserError, match=r"A and B belong to different models.*\(3, 4\) and \(2, 4\)"):
        shares.task_shares({"A": scores(np.ones((3, 4)), np.ones(3)), "B": scores(np.ones((2, 4)), np.ones(2))})


def test_ownership_by_hand():
    """Four tasks. Head (0, 0) is in all, (0, 1) in three, (0, 2) in two, (1, 0) in A alone, the other 8 in none."""
    rows = {
        "A": [[1, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]],
        "B": [[1, 1, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]],
        "C": [[1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]],
        "D": [[1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]],
    }
    tickets = {name: super_ticket(SMALL, heads, [1, int(name == "B"), 0]) for name, heads in rows.items()}
    heads, ffns = shares.ownership(tickets)
    assert heads.by_number_of_tasks == [8, 1, 1, 1, 1] and heads.by_single_owner == {"A": 1, "B": 0, "C": 0, "D": 0}
    assert ffns.by_number_of_tasks == [1, 1, 0, 0, 1] and ffns.by_single_owner["B"] == 1
    rows_of = {row[0].text: [cell.text for cell in row[1:]] for row in shares.ownership_table(tickets).rows}
    assert rows_of["none (pruned)"] == ["8 (67%)", "1 (33%)"]
    assert rows_of["several, at most half"] == ["1 (8%)", "0 (0%)"]
    assert rows_of["most, not all"] == ["1 (8%)", "0 (0%)"]
    assert rows_of["all tasks"] == ["1 (8%)", "1 (33%)"]
    assert rows_of["only A"] == ["1", "0"]


@pytest.mark.parametrize("tasks", [1, 2, 3, 5])
def test_ownership_bands_count_everything_once(tasks):
    generator = np.random.default_rng(tasks)
    tickets = {
        f"t{i}": super_ticket(SMALL, generator.integers(0, 2, (3, 4)).tolist(), generator.integers(0, 2, 3).tolist())
        for i in range(tasks)
    }
    rows = shares.ownership_table(tickets).rows[:5]
    assert sum(int(row[1].text.split()[0]) for row in rows) == 12
    assert sum(int(row[2].text.split()[0]) for row in rows) == 3


def test_ownership_of_two_models():
    full = super_ticket(LARGE, [[1] * 16] * 24, [1] * 24)
    with pytest.raises(UserError, match="b belongs to another model size"):
        shares.ownership({"a": super_ticket(SMALL, [[1] * 4] * 3, [1] * 3), "b": full})
