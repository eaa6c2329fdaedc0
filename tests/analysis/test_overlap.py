"""Jaccard similarities against sets worked out by hand, brute force and the rows printed in paper D."""

from __future__ import annotations

import itertools

import pytest

from fairseq_tickets.analysis import overlap
from fairseq_tickets.analysis.overlap_tables import compare, similarity_tables
from fairseq_tickets.errors import UserError

from .samples import LARGE, SMALL, dominant, paper_ticket, skeleton_ticket, super_ticket


def similarity(a, b, measure):
    return overlap.pairwise({"a": a, "b": b}, measure)[0][1]


def test_rows_printed_in_the_paper():
    """MNLI and QNLI, rows 0, 7, 11 of Table 5 and 0, 6, 10 of Table 8: common 7 and 8 of 11 and 10."""
    mnli, qnli, sst = (paper_ticket(task) for task in ("MNLI", "QNLI", "SST"))
    assert similarity(mnli, qnli, "dimension") == pytest.approx(15 / 21)
    assert similarity(mnli, qnli, "parameters") == pytest.approx(15 / 21)  # both matrices have 1024 rows
    assert similarity(mnli, qnli, "matrix") == pytest.approx((2 / 4 + 1 + 2 / 4 + 2 / 4 + 1 + 1) / 6)
    # MNLI and SST: common 2+2+1 and 1+3+3 of 4+4+5 and 5+3+3
    assert similarity(mnli, sst, "dimension") == pytest.approx(12 / 24)


def test_the_three_measures_differ_as_named():
    """W^Q agrees on 1 of 3 (20 parameters each), W^FC1 on 1 of 1 (50), W^V is empty in one, W^O in both."""
    a = dominant(SMALL, {"q_proj": {0: [1, 2]}, "fc1": {2: [5]}, "v_proj": {1: [3]}})
    b = dominant(SMALL, {"q_proj": {0: [2, 4]}, "fc1": {2: [5]}})
    assert similarity(a, b, "dimension") == pytest.approx(2 / 5)
    assert similarity(a, b, "parameters") == pytest.approx((20 + 50) / (3 * 20 + 50 + 20))
    assert similarity(a, b, "matrix") == pytest.approx((1 / 3 + 1 + 0) / 3)


def test_same_dimension_elsewhere_does_not_count():
    a = dominant(SMALL, {"q_proj": {0: [1]}})
    for other in ({"q_proj": {1: [1]}}, {"k_proj": {0: [1]}}):
        assert similarity(a, dominant(SMALL, other), "dimension") == 0.0


def test_empty_tickets_are_the_same():
    empty = dominant(SMALL, {})
    for measure in overlap.DOMINANT_MEASURES:
        assert similarity(empty, empty, measure) == 1.0
        assert (
            overlap.expected_jaccard(overlap.blocks_of(empty, measure), overlap.blocks_of(empty, measure), measure) == 1
        )


@pytest.mark.parametrize("measure", overlap.DOMINANT_MEASURES)
def test_exact_expectation_against_every_possible_pair(measure):
    """Two blocks of different universe, size and weight: all pairs of sets listed."""

    def every(sizes):
        blocks = ((5, 2), (4, 3))
        choices = [itertools.combinations(range(n), k) for (n, _), k in zip(blocks, sizes)]
        return [
            [overlap.Block(frozenset(s), n, w) for s, (n, w) in zip(sets, blocks)]
            for sets in itertools.product(*choices)
        ]

    left, right = every((2, 1)), every((3, 2))
    mean = sum(overlap.jaccard(a, b, measure) for a in left for b in right) / (len(left) * len(right))
    assert overlap.expected_jaccard(left[0], right[-1], measure) == pytest.approx(mean, rel=1e-12)


def test_simulated_baseline_agrees_with_the_exact_one_and_repeats():
    tickets = {f"s{seed}": skeleton_ticket(SMALL, seed) for seed in range(3)}
    for measure in overlap.DOMINANT_MEASURES:
        found = overlap.random_baseline(tickets, measure, draws=120, seed=5)
        assert abs(found.mean - found.expected) < 4 * found.sd / 120**0.5 + 1e-9
        assert found == overlap.random_baseline(tickets, measure, draws=120, seed=5)
        assert found.expected < overlap.mean_similarity(overlap.pairwise(tickets, measure))


def test_random_tickets_of_the_papers_size_share_nearly_nothing():
    """Section 4.3: 'the similarity between random tickets is nearly 0'. About 3 · 3/1025 common of 6."""
    tickets = {str(seed): skeleton_ticket(LARGE, seed) for seed in (1, 2)}
    assert overlap.random_baseline(tickets, "dimension", draws=2, seed=1).expected == pytest.approx(0.00129, abs=1e-4)


def test_super_tickets():
    """Heads kept: 3 common of 4; pruned: 8 of 9. FFNs kept: 1 common of 3; pruned: none of 2."""
    a = super_ticket(SMALL, [[1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]], [1, 1, 0])
    b = super_ticket(SMALL, [[1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1]], [1, 0, 1])
    found = {m: similarity(a, b, m) for m in overlap.measures_for({"a": a, "b": b})}
    assert found == {"kept heads": 3 / 4, "kept FFNs": 1 / 3, "pruned heads": 8 / 9, "pruned FFNs": 0.0}


def test_mean_is_over_pairs():
    assert overlap.mean_similarity([[1, 0.2, 0.4], [0.2, 1, 0.9], [0.4, 0.9, 1]]) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("tickets", "reason"),
    [
        ({"a": dominant(SMALL, {})}, "at least 2 tickets, got 1"),
        ({"a": dominant(SMALL, {}), "b": dominant(LARGE, {})}, "b belongs to another model size"),
        ({"a": dominant(SMALL, {}), "b": super_ticket(SMALL, [[1] * 4] * 3, [1] * 3)}, "different kinds"),
    ],
)
def test_what_cannot_be_compared(tickets, reason):
    with pytest.raises(UserError, match=reason):
        overlap.measures_for(tickets)


def test_no_draws():
    tickets = {"a": dominant(SMALL, {}), "b": dominant(SMALL, {})}
    with pytest.raises(UserError, match="--draws 0"):
        overlap.random_baseline(tickets, "dimension", 0, 1)


def test_tables_hold_means_and_pairs():
    tickets = {task: paper_ticket(task) for task in ("MNLI", "QNLI", "SST")}
    tables = similarity_tables(compare({"tasks": tickets}, draws=2, seed=1, only=["dimension"]))
    summary, pairs = tables
    qnli_sst = 13 / 23  # W^Q: 2, 2, 1 of 4, 4, 5; W^O: 2, 3, 3 of 4, 3, 3
    mean = (15 / 21 + 12 / 24 + qnli_sst) / 3
    assert [cell.text for cell in summary.rows[0][:4]] == ["tasks", "dimension", "3", f"{mean:.3f}"]
    assert [cell.text for cell in pairs.rows[1]] == ["QNLI", f"{15 / 21:.3f}", "1.000", f"{qnli_sst:.3f}"]
