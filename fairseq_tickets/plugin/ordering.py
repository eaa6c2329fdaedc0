"""Which training examples a run sees and in which order: nested random subsets, and batches of like length.

fairseq makes batches once, of neighbours in a dataset's order, and shuffles whole batches in every epoch. In random order
a batch is padded to its longest example. Sorting by length within shuffled windows keeps batches random beyond a window
and wastes little on padding.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from fairseq.data import BaseWrapperDataset


class ArrangedDataset(BaseWrapperDataset):  # type: ignore[misc]
    """Some examples of a dataset, in an order of their own.

    Args:
        dataset: what the examples are taken from.
        chosen: their indices in it.
        order: a permutation of range(len(chosen)).
    """

    def __init__(self, dataset: Any, chosen: Sequence[int], order: npt.NDArray[np.int64]) -> None:
        super().__init__(dataset)
        self.chosen = np.asarray(chosen, dtype=np.int64)
        self.order = np.asarray(order, dtype=np.int64)

    def __getitem__(self, index: int) -> Any:
        return self.dataset[int(self.chosen[index])]

    def __len__(self) -> int:
        return len(self.chosen)

    @property
    def sizes(self) -> Any:
        """Lengths of the examples."""
        sizes = self.dataset.sizes
        return np.asarray(sizes[0] if isinstance(sizes, list) else sizes)[self.chosen]

    def num_tokens(self, index: int) -> int:
        """Length of an example."""
        return int(self.dataset.num_tokens(int(self.chosen[index])))

    def size(self, index: int) -> Any:
        """Length of an example."""
        return self.dataset.size(int(self.chosen[index]))

    def num_tokens_vec(self, indices: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Lengths of examples."""
        return np.asarray(self.sizes[indices])

    def ordered_indices(self) -> npt.NDArray[np.int64]:
        """What fairseq makes batches from."""
        return self.order

    def prefetch(self, indices: Sequence[int]) -> None:
        """Nothing: the data are memory-mapped."""

    def filter_indices_by_size(self, indices: npt.NDArray[np.int64], max_sizes: Any) -> Any:
        """fairseq's own rule, applied to this dataset's indices and lengths."""
        return super(BaseWrapperDataset, self).filter_indices_by_size(indices, max_sizes)

    def batch_by_size(self, indices: Any, *args: Any, **options: Any) -> Any:
        """fairseq's own rule, applied to this dataset's indices and lengths."""
        return super(BaseWrapperDataset, self).batch_by_size(indices, *args, **options)


def windowed_order(lengths: Sequence[int], window: int, seed: int) -> npt.NDArray[np.int64]:
    """A random order, with every `window` neighbours sorted by length; a window of 0 or 1 sorts nothing."""
    order = np.random.Generator(np.random.PCG64(seed)).permutation(len(lengths))
    if window > 1:
        measured = np.asarray(lengths)
        for start in range(0, len(order), window):
            part = order[start : start + window]
            order[start : start + window] = part[np.argsort(measured[part], kind="stable")]
    return order
