"""Parts of a parameter: what may move of it, read and written as tensors of their own.

- `Whole`: the parameter itself.
- `Span`: some adjacent rows or columns, a view into the parameter; for heads (rows of W^Q, W^K, W^V, columns of W^O).
- `Columns`: any columns, copied into a compact tensor (out_features, k) and written back after the step; for dominant
  tickets (Gong et al. 2022). Same leaf, state and update as the `columns` of `ColumnLinear`.
- `Elements`: single elements of the flattened parameter, copied likewise; for the paper's random 5 % (its section 5).

A part may carry a *group*, by which `SlicedOptimizer.step` is told what may move in this update.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import NamedTuple, Union

from torch import Tensor


class Whole(NamedTuple):
    """The whole parameter."""

    group: Hashable = None

    def read(self, tensor: Tensor) -> Tensor:
        """The part's numbers; a view where possible."""
        return tensor


class Span(NamedTuple):
    """Rows (axis 0) or columns (axis 1) start to stop."""

    axis: int
    start: int
    stop: int
    group: Hashable = None

    def read(self, tensor: Tensor) -> Tensor:
        """The part's numbers, a view."""
        return tensor.narrow(self.axis, self.start, self.stop - self.start)


class Columns(NamedTuple):
    """Columns of a weight, in this order."""

    indices: Tensor
    group: Hashable = None

    def read(self, tensor: Tensor) -> Tensor:
        """(out_features, k), a copy."""
        return tensor.index_select(1, self.indices)

    def write(self, tensor: Tensor, values: Tensor) -> None:
        """Put values back."""
        tensor.index_copy_(1, self.indices, values)


class Elements(NamedTuple):
    """Elements of the flattened, contiguous parameter."""

    indices: Tensor
    group: Hashable = None

    def read(self, tensor: Tensor) -> Tensor:
        """(len(indices),), a copy."""
        return tensor.reshape(-1).index_select(0, self.indices)

    def write(self, tensor: Tensor, values: Tensor) -> None:
        """Put values back."""
        tensor.view(-1).index_copy_(0, self.indices, values)


Part = Union[Whole, Span, Columns, Elements]
