"""Tickets sharing by two workers (gloo, on the CPU): an update moves the union of what all workers' tasks may move."""

from __future__ import annotations

from pathlib import Path
from unittest import mock

import pytest

from .. import test_workers
from ..test_training import assert_same_weights
from ..training import NO_DROPOUT
from . import toy as multitask_toy
from .toy import train, write_list


@pytest.mark.slow
def test_two_workers_are_one_that_accumulates_two_batches(tmp_path: Path) -> None:
    """Batches 2u and 2u + 1 make update u, often of two tasks; the last of 15 comes with a dummy batch."""
    folder = multitask_toy.write_tasks(tmp_path / "data")
    tasks = write_list(folder, tmp_path / "tasks.yaml", tickets=True)
    common = [*NO_DROPOUT, "--lr", "0.001", "--ticket-optimizer", "adamw", "--weight-decay", "0.1"]
    common += ["--clip-norm", "0.5"]
    one = train(tasks, tmp_path / "one", folder / "model.pt", *common, "--update-freq", "2")
    with (
        mock.patch.object(test_workers, "arguments", multitask_toy.arguments),
        mock.patch.object(test_workers, "run_config", multitask_toy.train_config),
    ):
        two = test_workers.train_in_parallel(tasks, tmp_path / "two", folder / "model.pt", *common)
    assert len(one.losses) == len(two.losses) == 16
    assert two.losses == pytest.approx(one.losses, abs=1e-5)
    assert_same_weights(one.checkpoint()["model"], two.checkpoint()["model"], 2e-5)
    for name in ("loss", "score", "three_accuracy", "real_pearson", "two_score_report", "real_loss"):
        assert two.valid[-1][name] == pytest.approx(one.valid[-1][name], abs=1e-4), name
