"""The mix: how many examples of each task, in which batches."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fairseq_tickets.plugin.multitask.data import MultitaskDataset, examples_per_task, sampling_exponent


class Numbers:
    """Examples 0 to n - 1 of lengths 1, 2, 3, 1, 2, 3, ..."""

    def __init__(self, n: int) -> None:
        self.sizes = [np.array([1 + index % 3 for index in range(n)])]

    def __len__(self) -> int:
        return len(self.sizes[0])

    def __getitem__(self, index: int) -> int:
        return index

    def ordered_indices(self) -> Any:
        return np.arange(len(self))[::-1]

    def collater(self, samples: list[int]) -> dict[str, Any]:
        return {"ids": samples}


def mix(epoch: int = 1, weights: tuple[float, float] = (1, 1), **changes: Any) -> MultitaskDataset:
    options: dict[str, Any] = {"exponents": lambda epoch: 1.0, "seed": 3, "shuffle": True, **changes}
    made = MultitaskDataset({"a": Numbers(7), "b": Numbers(20)}, {"a": weights[0], "b": weights[1]}, **options)
    made.set_epoch(epoch)
    return made


def test_examples_per_task_by_hand() -> None:
    assert examples_per_task([400, 100], [1, 1], 1.0) == [400, 100]
    # Square roots 20 : 10, of 500.
    assert examples_per_task([400, 100], [1, 1], 0.5) == [333, 167]
    assert examples_per_task([400, 100], [1, 1], 0.0) == [250, 250]
    # A weight of 3 shows 100 examples 3 times.
    assert examples_per_task([400, 100], [1, 3], 1.0) == [400, 300]
    assert examples_per_task([10**6, 1], [1, 1e-6], 1.0) == [1000000, 1]


def test_exponents() -> None:
    assert [sampling_exponent("annealed", 2.0, 5, epoch) for epoch in range(1, 6)] == pytest.approx(
        [1, 0.8, 0.6, 0.4, 0.2]
    )
    assert sampling_exponent("annealed", 2.0, 1, 1) == 1
    assert sampling_exponent("temperature", 4.0, 5, 3) == 0.25
    assert sampling_exponent("proportional", 4.0, 5, 3) == 1


def test_an_epoch_has_each_example_once_and_no_mixed_batch() -> None:
    data = mix()
    batches = data.batch_by_size(data.ordered_indices(), max_sentences=4)
    assert sorted(int(i) for batch in batches for i in batch) == list(range(27))
    assert sorted(len(batch) for batch in batches) == [3, 4, 4, 4, 4, 4, 4]
    for batch in batches:
        sample = data.collater([data[int(i)] for i in batch])
        assert sample["task"] == ("a" if max(batch) < 7 else "b")
        assert sample["ids"] == [int(i) - (7 if sample["task"] == "b" else 0) for i in batch]
    assert data.collater([]) == {}


def test_order_follows_from_seed_and_epoch() -> None:
    first = mix(1).ordered_indices()
    assert first.tolist() == mix(1).ordered_indices().tolist()
    assert first.tolist() != mix(2).ordered_indices().tolist()
    assert first.tolist() != mix(1, seed=4).ordered_indices().tolist()


def test_weights_repeat_examples_evenly() -> None:
    """7 examples 2.5 times: each 2 or 3 times."""
    chosen = mix(weights=(2.5, 1)).ordered_indices()
    counts = np.bincount(chosen, minlength=27)
    assert counts[:7].sum() == 18 and set(counts[:7]) == {2, 3}
    assert set(counts[7:]) == {1}


def test_buckets_keep_lengths_together() -> None:
    data = mix(bucket=1)
    lengths = [data.num_tokens(int(i)) for i in data.ordered_indices()]
    assert lengths == [*sorted(lengths[:7]), *sorted(lengths[7:])]


def test_evaluation_keeps_the_order_of_the_tasks() -> None:
    data = mix(shuffle=False, weights=(3, 1))
    assert data.ordered_indices().tolist() == [*range(6, -1, -1), *range(26, 6, -1)]
    assert data.can_reuse_epoch_itr_across_epochs and not mix().can_reuse_epoch_itr_across_epochs
