"""Training on a part of the examples: which ones, in which order, with which lengths."""

from __future__ import annotations

from typing import Any

import numpy as np
from fairseq.data import FairseqDataset

from fairseq_tickets.plugin.chosen import ChosenDataset


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
