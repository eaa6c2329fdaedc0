"""The mix of several tasks' examples: batches of one task each, made and shuffled anew every epoch.

Liang et al. 2021, Algorithm 1, lines 4 to 6: in every epoch the union of the data sets is shuffled and minibatches of
one task each are drawn. Here each epoch permutes every task's examples and cuts them into batches; fairseq's iterator
then shuffles the batches of all tasks together and deals them out to the workers. All follows from (seed, epoch), so
that a run resumed in mid-epoch sees the batches it would have seen.

Beyond the paper, which takes each example once an epoch ("proportional"): a temperature T draws task i with probability
∝ w_i n_i^(1/T), for n_i examples of weight w_i, and "annealed" lets the exponent fall from 1 to 0.2 over the epochs
(Stickland and Murray 2019, section 3.4). The epoch keeps its length Σ w_i n_i.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from fairseq.data import FairseqDataset

PROPORTIONAL, TEMPERATURE, ANNEALED = "proportional", "temperature", "annealed"
Indices = npt.NDArray[np.int64]


def sampling_exponent(how: str, temperature: float, epochs: int, epoch: int) -> float:
    """The exponent of n_i: 1, 1 / temperature, or 1 - 0.8 (epoch - 1) / (epochs - 1); epoch counts from 1."""
    if how == TEMPERATURE:
        return 1 / temperature
    if how == ANNEALED:
        return 1 - 0.8 * min(1.0, (epoch - 1) / max(1, epochs - 1))
    return 1.0


def examples_per_task(sizes: Sequence[int], weights: Sequence[float], exponent: float) -> list[int]:
    """How many examples of each task an epoch has: ∝ w_i n_i^exponent, about Σ w_i n_i in all, at least 1 each."""
    n, w = np.asarray(sizes, dtype=np.float64), np.asarray(weights, dtype=np.float64)
    wanted = w * n**exponent
    wanted *= (w * n).sum() / wanted.sum()
    return [max(1, int(count)) for count in np.rint(wanted)]


class MultitaskDataset(FairseqDataset):  # type: ignore[misc]
    """Several tasks' data sets, one after the other; see the module.

    Args:
        datasets: by task name; each makes its own batches.
        weights: by task name; see `examples_per_task`.
        exponents: of n_i, by epoch; called with the epoch's number.
        seed: of everything random.
        shuffle: False keeps every data set's own order, each example once; for evaluation.
        bucket: examples whose lengths differ by less than so many tokens are batched together; 0 = off.
    """

    def __init__(
        self,
        datasets: Mapping[str, Any],
        weights: Mapping[str, float],
        exponents: Any,
        seed: int,
        shuffle: bool,
        bucket: int = 0,
    ) -> None:
        super().__init__()
        self.names = list(datasets)
        self.datasets = dict(datasets)
        self.weights = [weights[name] for name in self.names]
        self.exponents, self.seed, self.shuffle, self.bucket = exponents, seed, shuffle, bucket
        self.starts = np.cumsum([0, *(len(dataset) for dataset in self.datasets.values())])
        self.sizes: Indices = np.concatenate([_lengths(dataset) for dataset in self.datasets.values()])
        self.epoch = 1

    def task_of(self, index: int) -> int:
        """Which task an example belongs to: its place in `names`."""
        return int(self.tasks_of(index))

    def tasks_of(self, indices: Any) -> Indices:
        """`task_of` for each of several examples."""
        return np.asarray(np.searchsorted(self.starts, indices, side="right") - 1)

    def __getitem__(self, index: int) -> Any:
        place = self.task_of(index)
        return place, self.datasets[self.names[place]][int(index - self.starts[place])]

    def __len__(self) -> int:
        return int(self.starts[-1])

    def collater(self, samples: Sequence[Any]) -> dict[str, Any]:
        """A batch, with the name of its task under "task"."""
        if not samples:
            return {}
        places = {place for place, _ in samples}
        assert len(places) == 1, "a batch has examples of one task"
        name = self.names[places.pop()]
        return {**self.datasets[name].collater([item for _, item in samples]), "task": name}

    def num_tokens(self, index: int) -> int:
        """Length of an example."""
        return int(self.sizes[index])

    def num_tokens_vec(self, indices: Indices) -> Indices:
        """Lengths of examples."""
        return np.asarray(self.sizes[indices])

    def size(self, index: int) -> int:
        """Length of an example."""
        return int(self.sizes[index])

    def ordered_indices(self) -> Indices:
        """This epoch's examples, task by task: what fairseq makes batches from."""
        if not self.shuffle:
            parts = [d.ordered_indices() + start for d, start in zip(self.datasets.values(), self.starts)]
            return np.concatenate(parts).astype(np.int64)
        random = np.random.Generator(np.random.PCG64([self.seed, self.epoch]))
        sizes = [len(dataset) for dataset in self.datasets.values()]
        counts = examples_per_task(sizes, self.weights, self.exponents(self.epoch))
        parts = []
        for start, size, count in zip(self.starts, sizes, counts):
            rounds = [random.permutation(size) for _ in range(-(-count // size))]
            chosen = np.concatenate(rounds)[:count] + start
            if self.bucket > 0:
                chosen = chosen[np.argsort(self.sizes[chosen] // self.bucket, kind="stable")]
            parts.append(chosen)
        return np.concatenate(parts).astype(np.int64)

    def batch_by_size(self, indices: Indices, *args: Any, **options: Any) -> list[Any]:
        """fairseq's own rule for each task, so that no batch mixes tasks."""
        places = self.tasks_of(indices)
        batches: list[Any] = []
        for place in range(len(self.names)):
            own = indices[places == place]
            if len(own):
                batches.extend(super().batch_by_size(own, *args, **options))
        return batches

    @property
    def can_reuse_epoch_itr_across_epochs(self) -> bool:
        """Training makes new batches every epoch."""
        return not self.shuffle

    def set_epoch(self, epoch: int) -> None:
        """Called by fairseq before it asks for an epoch's batches."""
        self.epoch = epoch


def _lengths(dataset: Any) -> Indices:
    sizes = dataset.sizes
    return np.asarray(sizes[0] if isinstance(sizes, list) else sizes, dtype=np.int64)
