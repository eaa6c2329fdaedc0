"""A part of a dataset, for training on nested random subsets; and a dataset that says which part an example is of."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from fairseq.data import BaseWrapperDataset
from torch import Tensor


class MarkedDataset(BaseWrapperDataset):  # type: ignore[misc]
    """A dataset whose batches say under "selected" which of their examples are in the selection part.

    Args:
        dataset: what it wraps; its batches have the examples' numbers under "id".
        selected: by number, whether the example is in that part; (examples,) of bool.
    """

    def __init__(self, dataset: Any, selected: Tensor) -> None:
        super().__init__(dataset)
        self.selected = selected

    def collater(self, samples: Sequence[Any]) -> Any:
        """A batch, marked; an empty one stays empty."""
        batch = self.dataset.collater(samples)
        return {**batch, "selected": self.selected[batch["id"].view(-1)]} if batch else batch


class ChosenDataset(BaseWrapperDataset):  # type: ignore[misc]
    """Some examples of a dataset, in the order that the dataset has for them.

    Args:
        dataset: what the examples are taken from.
        chosen: their indices in it, rising.
    """

    def __init__(self, dataset: Any, chosen: Sequence[int]) -> None:
        super().__init__(dataset)
        self.chosen = np.asarray(chosen, dtype=np.int64)

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

    def num_tokens_vec(self, indices: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Lengths of examples."""
        return np.asarray(self.sizes[indices])

    def size(self, index: int) -> Any:
        """Length of an example."""
        return self.dataset.size(int(self.chosen[index]))

    def ordered_indices(self) -> npt.NDArray[np.int64]:
        """What fairseq makes batches from."""
        place = np.full(len(self.dataset), -1, dtype=np.int64)
        place[self.chosen] = np.arange(len(self.chosen))
        order = place[self.dataset.ordered_indices()]
        return order[order >= 0]

    def prefetch(self, indices: Sequence[int]) -> None:
        """Nothing: the data are memory-mapped."""

    def filter_indices_by_size(self, indices: npt.NDArray[np.int64], max_sizes: Any) -> Any:
        """fairseq's own rule, applied to this dataset's indices and lengths."""
        return super(BaseWrapperDataset, self).filter_indices_by_size(indices, max_sizes)

    def batch_by_size(self, indices: Any, *args: Any, **options: Any) -> Any:
        """fairseq's own rule, applied to this dataset's indices and lengths."""
        return super(BaseWrapperDataset, self).batch_by_size(indices, *args, **options)
