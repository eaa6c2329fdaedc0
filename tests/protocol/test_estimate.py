"""How long the runs that are left will take, from those that are finished."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fairseq_tickets.protocol.experiment import _estimate, _seconds
from fairseq_tickets.protocol.runs import SCORE, SHARE, TRAIN, make_run


@pytest.fixture
def finished(tmp_path: Path) -> Any:
    runs = [
        ({"task": "RTE", "method": "full", "level": None, "config": {"lr": 1}}, 10.0),
        ({"task": "RTE", "method": "winning", "level": 0.2, "config": {"lr": 1}}, 6.0),
        ({"task": "RTE", "method": "winning", "level": 0.4, "config": {"lr": 1}}, 4.0),
        ({"task": "mine", "method": "full", "level": None, "config": {"lr": 1}}, 20.0),
        # of the shared run, whose time it tells
        ({"task": "RTE", "method": "mt_dnn", "level": None, "config": {"lr": 1}, "shared": "key"}, 500.0),
    ]
    for number, (what, seconds) in enumerate(runs):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "spec.json").write_text(json.dumps({"what": {"fraction": 1.0, **what}}))
        (folder / "result.json").write_text(json.dumps({"wall_seconds": seconds}))
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "result.json").write_text("{")
    return _seconds(tmp_path)


@pytest.mark.parametrize(
    "what, seconds",
    [
        ({"task": "RTE", "method": "winning", "level": 0.4, "config": {"lr": 1}}, 4.0),
        ({"task": "RTE", "method": "winning", "level": 0.6, "config": {"lr": 1}}, 5.0),
        ({"task": "RTE", "method": "random", "level": 0.6, "config": {"lr": 1}}, 20 / 3),
        ({"task": "RTE", "method": "mt_dnn+st", "level": None, "config": {"lr": 2}}, 20 / 3),
        ({"task": "QNLI", "method": "full", "level": None, "config": {"lr": 1}}, None),
    ],
)
def test_the_runs_most_like_it(finished: Any, what: dict[str, Any], seconds: float | None) -> None:
    estimate = _estimate(make_run(TRAIN, {"fraction": 1.0, **what}), finished)
    assert estimate == (None if seconds is None else pytest.approx(seconds))


def test_a_shared_run_takes_as_long_as_its_tasks_alone(finished: Any) -> None:
    what = {"method": "mt_dnn", "fraction": 1.0, "config": {"lr": 1}, "tasks": [{"task": "RTE"}, {"task": "mine"}]}
    assert _estimate(make_run(SHARE, what), finished) == pytest.approx(20 / 3 + 20)
    what["tasks"] = [{"task": "RTE"}, {"task": "QNLI"}]
    assert _estimate(make_run(SHARE, what), finished) is None


def test_scoring_counts_as_nothing(finished: Any) -> None:
    assert _estimate(make_run(SCORE, {"task": "QNLI"}), finished) == 0.0
