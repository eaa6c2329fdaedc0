"""Training on a part of the examples: which ones, in which order, with which lengths."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fairseq.data import FairseqDataset
from omegaconf import OmegaConf

from fairseq_tickets.errors import UserError
from fairseq_tickets.plugin.chosen import ChosenDataset
from fairseq_tickets.plugin.task import TicketSentencePredictionConfig, TicketSentencePredictionTask
from tests.plugin import toy


class Letters(FairseqDataset):
    """Five examples with lengths 3, 1, 4, 1, 5, in the order e c a d b."""

    sizes = np.array([3, 1, 4, 1, 5])

    def __getitem__(self, index: int) -> str:
        return "abcde"[index]

    def __len__(self) -> int:
        return 5

    def num_tokens(self, index: int) -> int:
        return int(self.sizes[index])

    def ordered_indices(self) -> Any:
        return np.array([4, 2, 0, 3, 1])


def test_a_part_keeps_the_datasets_order() -> None:
    part = ChosenDataset(Letters(), [0, 2, 3])
    assert [part[index] for index in range(len(part))] == ["a", "c", "d"]
    assert [part[index] for index in part.ordered_indices()] == ["c", "a", "d"]
    assert list(part.sizes) == [3, 4, 1]
    assert [part.num_tokens(index) for index in range(3)] == [3, 4, 1]


def test_batches_hold_each_chosen_example_once() -> None:
    part = ChosenDataset(Letters(), [0, 2, 3])
    batches = part.batch_by_size(part.ordered_indices(), max_sentences=2)
    assert [[part[index] for index in batch] for batch in batches] == [["c", "a"], ["d"]]


def test_evaluation_on_a_part_of_dev(tmp_path: Path) -> None:
    toy.write_data(tmp_path)
    whole, part = (load(tmp_path, count) for count in (None, 7))
    examples = len(whole.dataset("valid"))
    assert examples > 7 and len(part.dataset("valid")) == 7
    ids = [int(part.dataset("valid")[index]["id"]) for index in range(7)]
    assert ids == sorted(set(ids)) and max(ids) < examples
    # the part for selection is of these: half of 7 is 3.5, to even 4, and nothing outside them
    marked = part.dataset("valid").selected
    assert int(marked.sum()) == 4 and not set(marked.nonzero().view(-1).tolist()) - set(ids)
    dataset = whole.dataset("valid")
    batch = dataset.collater([dataset[index] for index in range(examples)])
    assert int(batch["selected"].sum()) == round(examples / 2)
    assert set(ids) < {int(whole.dataset("valid")[index]["id"]) for index in range(examples)}


@pytest.mark.parametrize("count", [0, 100_000])
def test_more_examples_than_there_are(tmp_path: Path, count: int) -> None:
    toy.write_data(tmp_path)
    with pytest.raises(UserError, match=f"--valid-examples {count} must be 1 to"):
        load(tmp_path, count)


def load(data: Path, count: int | None) -> Any:
    config = OmegaConf.structured(TicketSentencePredictionConfig())
    config.data, config.valid_examples, config.select_fraction = str(data), count, 0.5
    config.best_checkpoint_metric = "loss"
    config.seed, config.regression_target = 1, False
    task = TicketSentencePredictionTask.setup_task(config)
    task.load_dataset("valid")
    return task
