"""Dropout (Srivastava et al. 2014) whose masks are cheap on a CPU.

PyTorch draws one random number an element and compares it: 6 ns on a CPU, longer than an element of a bf16 matrix
product takes. Here an element takes 16 of the 64 bits that one number of PyTorch's generator has: kept if those 16, a
number from 0 to 65535, are at least p · 65536, rounded. So p is honoured to 2⁻¹⁷; what is kept is divided by the
probability that it really is kept. `torch.manual_seed` decides, as for PyTorch's own dropout, but on other masks.

GPUs have a fused kernel of their own, which is used there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fairseq_tickets.heap import block

STEPS = 1 << 16


def kept_share(p: float) -> float:
    """Probability that an element is kept: 1 - p to within 2⁻¹⁷."""
    return 1.0 - round(p * STEPS) / STEPS


def keep_mask(shape: Sequence[int], p: float) -> Tensor:
    """A random tensor of 1, with probability `kept_share(p)`, and 0, on a CPU; in bf16, so that it is small.

    To be converted to the type of what it multiplies: PyTorch's products of two types take 20 times as long.
    """
    mask = torch.empty(shape, dtype=torch.bfloat16)
    if kept_share(p) <= 0.0:
        return mask.zero_()
    words = torch.empty(-(-mask.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    numbers = words.view(torch.int16)[: mask.numel()].view(mask.shape)  # -32768 to 32767
    return torch.ge(numbers, round(p * STEPS) - STEPS // 2, out=mask)


def dropout(x: Tensor, p: float, training: bool = True) -> Tensor:
    """Elements set to 0 with probability p, the others divided by `kept_share(p)`; in evaluation x itself."""
    if not training or not p:
        return x
    if x.device.type != "cpu":
        return F.dropout(x, p)
    dropped: Tensor = _Dropout.apply(x, p)  # type: ignore[no-untyped-call]
    return dropped


def add_dropped(x: Tensor, z: Tensor, p: float, training: bool = True) -> Tensor:
    """x + dropout(z), for a residual connection; x and z of one shape and type."""
    if not training or not p:
        return x + z
    if x.device.type != "cpu" or x.dtype != z.dtype:
        return x + dropout(z, p)
    total: Tensor = _AddDropped.apply(x, z, p)  # type: ignore[no-untyped-call]
    return total


class Dropout(nn.Module):
    """`dropout` as a module."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """Any shape."""
        return dropout(x, self.p, self.training)

    def extra_repr(self) -> str:
        """What `print(model)` shows."""
        return f"p={self.p}"


def _times(x: Tensor, mask: Tensor, scale: float) -> Tensor:
    """x · mask · scale in one pass over memory."""
    return torch.addcmul(x.new_zeros(()), x, mask.to(x.dtype), value=scale)


def _scale(p: float) -> float:
    share = kept_share(p)
    return 1.0 / share if share > 0.0 else 0.0


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, p: float) -> Tensor:
        mask = keep_mask(x.shape, p)
        ctx.scale = _scale(p)
        ctx.save_for_backward(mask)
        return _times(x, mask, ctx.scale)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (mask,) = ctx.saved_tensors
        return _times(gradient, mask, ctx.scale), None


class _AddDropped(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, z: Tensor, p: float) -> Tensor:
        mask = keep_mask(z.shape, p)
        ctx.scale = _scale(p)
        ctx.save_for_backward(mask)
        return torch.addcmul(x, z, mask.to(z.dtype), value=ctx.scale, out=block(z, z.shape))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        (mask,) = ctx.saved_tensors
        return gradient, _times(gradient, mask, ctx.scale), None
