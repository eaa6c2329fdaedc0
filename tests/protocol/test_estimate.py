"""How long the steps that are left will take, from those that are done."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fairseq_tickets.protocol.functions.sharing import part, share
from fairseq_tickets.protocol.functions.training import score, train
from fairseq_tickets.protocol.status import Estimate
from fairseq_tickets.protocol.steps import Step

FULL = {"task": "RTE", "method": "full", "level": None, "config": {"lr": 1}}
LEVEL_2 = {"task": "RTE", "method": "winning", "level": 0.2, "config": {"lr": 1}}
LEVEL_4 = {**LEVEL_2, "level": 0.4}


def step(function: Any, **arguments: Any) -> Step:
    return Step(SimpleNamespace(folder=Path("runs")), function, {"fraction": 1.0, **arguments}, "")  # type: ignore[arg-type]


@pytest.fixture
def estimate() -> Estimate:
    made = Estimate()
    for arguments, seconds in ((FULL, 10.0), (LEVEL_2, 6.0), (LEVEL_4, 4.0), ({**FULL, "task": "mine"}, 20.0)):
        made.add(step(train, **arguments), seconds)
    made.add(step(part, **FULL, shared="key"), 500.0)  # a part tells the time of the shared run again
    return made


@pytest.mark.parametrize(
    "what, seconds",
    [
        (LEVEL_4, 4.0),
        ({**LEVEL_4, "level": 0.6}, 5.0),
        ({**LEVEL_4, "method": "random", "level": 0.6}, 20 / 3),
        ({**FULL, "method": "mt_dnn+st", "config": {"lr": 2}}, 20 / 3),
        ({**FULL, "task": "QNLI"}, None),
    ],
)
def test_the_runs_most_like_it(estimate: Estimate, what: dict[str, Any], seconds: float | None) -> None:
    assert estimate(step(train, **what)) == (None if seconds is None else pytest.approx(seconds))


def test_a_shared_run_takes_as_long_as_its_tasks_alone(estimate: Estimate) -> None:
    what = {"method": "mt_dnn", "config": {"lr": 1}}
    assert estimate(step(share, **what, tasks=[{"task": "RTE"}, {"task": "mine"}])) == pytest.approx(20 / 3 + 20)
    assert estimate(step(share, **what, tasks=[{"task": "RTE"}, {"task": "QNLI"}])) is None


def test_scoring_counts_as_nothing(estimate: Estimate) -> None:
    assert estimate(step(score, task="QNLI")) == 0.0
