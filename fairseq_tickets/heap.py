"""Memory that a training step has freed stays with the process, for the next step.

A step on a CPU allocates its activations and frees them again. glibc hands large ones back to the system at once, and
the next step's first touch of every page of them is a page fault, which costs more than working out what goes there
where that is cheap: with two threads half the time of a small model's FFN. With `keep_freed_memory` the pages stay.
The peak of what the process holds is as before; between steps it no longer falls.

How much of the heap lies idle at the peak depends on who asks for a block. PyTorch's are aligned, and glibc before 2.38
asks for an aligned block of n bytes by looking for a hole of n + 96: the hole that a block of the same size has left is
never used again, and a layer's activations are all of the same few sizes. `block` asks malloc, which does use it.
"""

from __future__ import annotations

import ctypes
import math
import os
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

# From malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_NEVER, _LARGEST = -1, 2**30


def keep_freed_memory() -> bool:
    """Give back what is free now, and from now on keep what is freed, blocks of up to 1 GiB.

    Calling it again gives back what has been freed since and not used again.

    Returns:
        False where nothing is changed: the C library isn't glibc, or the user has set malloc by its own variables.
    """
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version") or any(_sets_malloc(name) for name in os.environ):
        return False
    libc.malloc_trim(0)
    return bool(libc.mallopt(_M_MMAP_THRESHOLD, _LARGEST) and libc.mallopt(_M_TRIM_THRESHOLD, _NEVER))


def block(like: Tensor, shape: Sequence[int]) -> Tensor:
    """An uninitialised tensor of `like`'s type and device, for what a layer keeps (see the top); plain on a GPU."""
    if like.device.type != "cpu":
        return like.new_empty(shape)
    of_its_size = {1: np.uint8, 2: np.int16, 4: np.int32, 8: np.int64}[like.element_size()]
    return torch.from_numpy(np.empty(math.prod(shape), of_its_size)).view(like.dtype).view(tuple(shape))


def _sets_malloc(name: str) -> bool:
    return name.startswith("MALLOC_") or name == "GLIBC_TUNABLES"
