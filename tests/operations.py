"""Counting what PyTorch really does: every operation below autograd, with the shapes and types of its result."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

BATCHED = {"bmm", "baddbmm"}
PRODUCTS = {"mm", "addmm", *BATCHED}
COPIES = {"_to_copy", "clone", "copy_", "contiguous"}


class Operation(NamedTuple):
    """One call.

    Attributes:
        name: without namespace and overload: "addmm".
        shape: of the result, if it is a tensor; else ().
        dtype: of the result.
        given: types of the tensors it was given.
    """

    name: str
    shape: Sequence[int]
    dtype: Any
    given: Sequence[torch.dtype]


class Operations(TorchDispatchMode):
    """While open, `seen` collects operations."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Operation] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.name().split("::")[1].split(".")[0]
        given = [value.dtype for value in args if isinstance(value, Tensor)]
        tensor = isinstance(result, Tensor)
        self.seen.append(
            Operation(name, tuple(result.shape) if tensor else (), result.dtype if tensor else None, given)
        )
        return result

    def named(self, names: set[str]) -> list[Operation]:
        """Those of some names."""
        return [operation for operation in self.seen if operation.name in names]

    def copies_of(self, shape: Sequence[int]) -> list[Operation]:
        """Copies and conversions whose result has a shape, either way round."""
        either = {tuple(shape), tuple(reversed(shape))}
        return [operation for operation in self.named(COPIES) if tuple(operation.shape) in either]
