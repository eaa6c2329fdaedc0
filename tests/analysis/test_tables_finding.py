"""Tables of early and iterative super tickets, and the distance of masks, by hand."""

from __future__ import annotations

from typing import Any

import pytest

from fairseq_tickets.analysis.overlap import mask_distance, similarity
from fairseq_tickets.analysis.results import Result, result_from_json
from fairseq_tickets.analysis.tables import result_table
from fairseq_tickets.errors import UserError
from fairseq_tickets.parameters import ModelShape
from fairseq_tickets.tickets import SuperTicket
from tests.analysis.samples import result

SHAPE = ModelShape(2, 4, 8, 12)
LAST = SuperTicket(SHAPE, [[0, 0, 1, 1], [1, 1, 1, 1]], [0, 1])
NEAR = SuperTicket(SHAPE, [[0, 1, 1, 1], [0, 1, 1, 1]], [0, 1])  # one of two pruned heads is another
FAR = SuperTicket(SHAPE, [[1, 1, 1, 1], [1, 1, 0, 0]], [1, 0])


def runs(*contents: dict[str, Any]) -> list[Result]:
    return [result_from_json(content, "file") for content in contents]


def run(method: str, ticket: SuperTicket, score: float, seed: int = 1, **config: float) -> dict[str, Any]:
    options = {"lr": 5e-5, "batch_size": 16, **config}
    return result(method=method, level=0.25, ticket=ticket.to_json(), score=score, seed=seed, config=options)


def lines(name: str, *contents: dict[str, Any]) -> list[list[str]]:
    return [[cell.text for cell in row] for row in result_table(name, runs(*contents)).rows]


def test_distance_of_masks_by_hand() -> None:
    """Of 8 heads two differ; of 4 pruned in all, one is shared by both: J = 1/3. Disjoint: 4 of 8, J = 0."""
    assert mask_distance(LAST, NEAR) == {"heads": 2 / 8, "FFNs": 0.0}
    assert mask_distance(LAST, FAR) == mask_distance(FAR, LAST) == {"heads": 4 / 8, "FFNs": 1.0}
    assert mask_distance(FAR, FAR) == {"heads": 0.0, "FFNs": 0.0}
    assert similarity(LAST, NEAR)["pruned heads"] == pytest.approx(1 / 3)
    with pytest.raises(UserError, match="the second ticket"):
        mask_distance(LAST, SuperTicket(ModelShape(1, 4, 8, 12), [[1, 1, 1, 1]], [1]))


def test_early_tickets_come_near_the_last_one() -> None:
    """After 10 % one seed is near and one far: 3/8 of heads, J = (1/3 + 0) / 2; scores 2 and 4 points below the last.

    Saved: 90 % of the search, 45 % of search and training. Random pairs out of 8 heads: J = (12/28)(1/3) + 1/28.
    """
    contents = [
        run("winning", LAST, 0.7, 1),
        run("winning", LAST, 0.8, 2),
        run("early", NEAR, 0.68, 1, found_after=0.1),
        run("early", FAR, 0.76, 2, found_after=0.1),
        run("early", LAST, 0.7, 1, found_after=0.5),
    ]
    found = lines("early", *contents)
    assert [line[2:] for line in found] == [
        ["25 %", "10 %", "0.375", "0.500", "0.17", "0.50", "72.0±5.7", "-3.0±1.4", "90 %", "45 %"],
        ["25 %", "50 %", "0.000", "0.000", "1.00", "1.00", "70.0", "+0.0", "50 %", "25 %"],
        ["25 %", "100 %", "0.000", "0.000", "1.00", "1.00", "75.0±7.1", "-", "0 %", "0 %"],
    ]
    assert "heads 0.18, FFNs 0.50" in result_table("early", runs(*contents)).notes[-1]


def test_steps_against_at_once() -> None:
    """25 % in steps of 5 %, a fifth of a run each: one whole run; of 12.5 %, half a run in all."""
    contents = [
        run("winning", LAST, 0.7),
        run("iterative", NEAR, 0.75, prune_step=0.05, stage_budget=0.2),
        run("iterative", FAR, 0.6, prune_step=0.125, stage_budget=0.25),
    ]
    assert [line[3:] for line in lines("iterative", *contents)] == [
        ["at once", "1", "0.000", "0.000", "1.00", "1.00", "70.0", "-"],
        ["5 %", "1", "0.250", "0.000", "0.33", "1.00", "75.0", "+5.0"],
        ["12.5 %", "0.5", "0.500", "1.000", "0.00", "0.00", "60.0", "-10.0"],
    ]


def test_only_runs_of_the_same_options_are_compared() -> None:
    """The better learning rate of the winning runs is shown, and the early run of that one."""
    contents = [
        run("winning", LAST, 0.7),
        run("winning", LAST, 0.8, lr=1e-4),
        run("early", NEAR, 0.9, found_after=0.1),
        run("early", FAR, 0.6, found_after=0.1, lr=1e-4),
    ]
    assert [line[8] for line in lines("early", *contents)] == ["60.0", "80.0"]


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ([run("winning", LAST, 0.7)], "needs early runs"),
        ([run("early", LAST, 0.7, found_after=0.1)], "no early run has a winning run of the same level, seed"),
        ([run("winning", LAST, 0.7), run("early", LAST, 0.7)], "config found_after is None; it must be above 0"),
        ([run("winning", LAST, 0.7), run("early", LAST, 0.7, found_after=2)], "config found_after is 2; it must be"),
        (
            [run("winning", LAST, 0.7), {**run("early", LAST, 0.7, found_after=0.1), "ticket": None}],
            "a run of method early must have a super ticket",
        ),
    ],
)
def test_refused(contents: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(UserError) as error:
        result_table("early", runs(*contents))
    assert message in str(error.value)
