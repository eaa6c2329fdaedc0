"""What a training run is told and what is made of what it logged; no training."""

from __future__ import annotations

import logging

import pytest
from fairseq.logging import progress_bar

from fairseq_tickets.errors import UserError
from fairseq_tickets.protocol.functions.fairseq_train import train_subset, updates_in_all
from fairseq_tickets.protocol.functions.recording import Recorder
from fairseq_tickets.protocol.functions.result_content import scores_of


@pytest.mark.parametrize(
    ("examples", "subset", "fraction", "expected"),
    [
        (2490, None, 1.0, None),
        (2490, None, 0.1, 249),
        (549367, None, 0.001, 549),  # SNLI at 0.1 %
        (67349, 6000, 1.0, 6000),
        (67349, 6000, 0.5, 3000),
        (1000, 0.3, 1.0, 300),  # 0.3 * 1000 is 299.99999999999994 with some roundings
        (5, None, 0.001, 1),
        (100, 100, 1.0, None),
    ],
)
def test_number_of_examples(examples: int, subset: float, fraction: float, expected: int) -> None:
    assert train_subset(examples, subset, fraction) == expected


def test_a_subset_larger_than_the_data() -> None:
    with pytest.raises(UserError, match="subset 20 is more than the 10 training examples"):
        train_subset(10, 20, 1.0)


def test_updates_by_hand() -> None:
    # RTE, batch 16: 2490 / 16 = 155.6, so 156 an epoch; 6 epochs
    assert updates_in_all(2490, 16, 6) == 936
    assert updates_in_all(32, 16, 3) == 6


def test_mismatched_dev_takes_no_part_in_selection() -> None:
    valid = {"accuracy": 0.5, "accuracy_select": 0.4, "accuracy_report": 0.6, "accuracy_mm": 0.7, "loss": 1.0}
    assert scores_of(valid) == {
        "all": {"accuracy": 0.5, "accuracy_mm": 0.7},
        "select": {"accuracy": 0.4},
        "report": {"accuracy": 0.6, "accuracy_mm": 0.7},
    }


def test_of_equal_epochs_the_last_is_best_as_fairseq_saves_it() -> None:
    recorder = Recorder("score_select")
    recorder.epochs = [{"epoch": n, "valid": {"score_select": s}} for n, s in ((1, 0.5), (2, 0.6), (3, 0.6), (4, 0.1))]
    assert recorder.best_epoch()["epoch"] == 3


@pytest.mark.parametrize("silenced", ["level", "disabled", "all"])
def test_a_recording_misses_nothing_whatever_is_done_with_logs(silenced: str, monkeypatch: pytest.MonkeyPatch) -> None:
    logger = logging.getLogger("fairseq.logging.progress_bar")
    monkeypatch.setattr(logger, "_cache", {logging.INFO: False})  # as after a level that once was higher
    if silenced == "disabled":
        monkeypatch.setattr(logger, "disabled", True)
    if silenced == "all":
        monkeypatch.setattr(logging.root.manager, "_disable", logging.CRITICAL)
    with Recorder("score") as recorder:
        bar = progress_bar.progress_bar([1, 2], log_format="json", log_interval=1, epoch=1)
        next(iter(bar))
        bar.log({"num_updates": 3, "loss": 0.5}, tag="train_inner", step=3)
        bar.log({"num_updates": 3}, tag="valid", step=3)
        assert progress_bar.logger.name == logger.name == "fairseq.logging.progress_bar"
    assert recorder.curve == [{"update": 3, "train_loss": 0.5}]
    assert progress_bar.logger is logger
