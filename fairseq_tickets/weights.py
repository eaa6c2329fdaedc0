"""What may be a weight, checked where a file enters: dense numbers of a kind that float32 training holds, all finite.

A float32 or float64 tensor is a weight. float16 and bfloat16 are where the caller says so: they widen without loss,
but a difference between two of them resolves nothing (see `dominant_ticket/extraction.py`). Whole numbers, booleans,
complex, quantised and 8-bit numbers would be copied into float32 without a word, and the model would be another one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fairseq_tickets.errors import UserError

FULL = (torch.float32, torch.float64)
HALF = (torch.float16, torch.bfloat16)
FLAGS = (".ticket_heads", ".ticket_ffn", "position_ids")  # buffers of 0 and 1, and numbers that are no weights
BLOCK = 1 << 22  # elements looked at together

WIDEN = "`fairseq-tickets export --checkpoint FILE --output WIDE.pt` writes it in float32; start from that file"


def checked_weights(tensors: Any, source: str, half: bool = False) -> dict[str, Tensor]:
    """`tensors` as name -> tensor, if that is what they are; their values are not read.

    Args:
        tensors: what a file holds as its model.
        source: names the file in errors.
        half: True allows float16 and bfloat16.

    Raises:
        UserError: no mapping, a name that is no text, something that is no dense tensor in memory, a tensor that
            claims more numbers than its file holds for it, or numbers of a kind that is no weight.
    """
    if not isinstance(tensors, Mapping) or not tensors:
        raise UserError(f"{source} is damaged: its model is {_kind(tensors)}, not tensors by name")
    for name, tensor in tensors.items():
        if not isinstance(name, str):
            raise UserError(f"{source} is damaged: a parameter's name is {_kind(name)}, not a text")
        if not isinstance(tensor, Tensor):
            raise UserError(f"{source} is damaged: {name} is {_kind(tensor)}, not a tensor")
        check_extent(name, tensor, source)
        if name.endswith(FLAGS) and not tensor.is_complex() and not tensor.is_quantized:
            continue
        if tensor.dtype not in FULL and not (half and tensor.dtype in HALF):
            kind = str(tensor.dtype).replace("torch.", "")
            if tensor.dtype in HALF:
                raise UserError(f"{source} is in half precision: {name} is {kind}; {WIDEN}")
            raise UserError(f"{source}: {name} is {kind}; weights are float32 or float64")
    return dict(tensors)


def check_extent(name: str, tensor: Tensor, source: str) -> None:
    """Raise UserError where a tensor isn't dense and in memory, or claims more numbers than are stored for it."""
    if tensor.layout != torch.strided or tensor.device.type == "meta" or tensor.is_nested:
        kind = "without data" if tensor.device.type == "meta" else "sparse or nested"
        raise UserError(f"{source}: {name} is a tensor {kind}; weights must be dense")
    stored, claimed = tensor.untyped_storage().nbytes(), tensor.numel() * tensor.element_size()
    if claimed > stored:
        raise UserError(
            f"{source}: {name} claims {claimed:,} bytes, but the file holds {stored:,} for it (repeated by its strides)"
        )


def check_finite(tensors: Mapping[str, Tensor], source: str) -> None:
    """Raise UserError where a weight is NaN or infinite; reads every one of them, block by block."""
    for name, tensor in tensors.items():
        bad = count_not_finite(tensor)
        if bad:
            raise UserError(f"{source} is damaged: {name} has {bad:,} values that are NaN or infinite")


def count_not_finite(tensor: Tensor) -> int:
    """How many values are NaN or infinite."""
    if not tensor.is_floating_point():
        return 0
    rows = torch.split(tensor.detach().reshape(-1), BLOCK)
    # Where the sum is finite, all of them are; where it is not, they are counted.
    return sum(int(r.isfinite().logical_not().sum()) for r in rows if not r.sum().isfinite())


def half_precision(tensors: Mapping[str, Tensor]) -> str | None:
    """Name of the first tensor in half precision, None where there is none."""
    return next((name for name, tensor in tensors.items() if tensor.dtype in HALF), None)


def _kind(value: Any) -> str:
    return "nothing" if value is None or value == {} else f"of kind {type(value).__name__}"
