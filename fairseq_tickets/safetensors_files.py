"""safetensors files: read strictly, written so that equal content is equal bytes.

The library reads the tensors, memory-mapped. Before that the header is read here, since the library takes the last of
two equal names and calls a file that may not be read a missing one. The library's writer puts metadata in a random
order and has an error of its own for a full disk; so writing, a header and then the numbers, is done here.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from fairseq_tickets.documents import parse_json
from fairseq_tickets.errors import UserError, short
from fairseq_tickets.files import PathLike, atomic_write

LENGTH = struct.Struct("<Q")  # of the header, in bytes; comes first
HEADER_LIMIT = 100_000_000  # bytes, the library's own
ALIGNMENT = 8  # bytes
DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
    torch.float8_e4m3fn: "F8_E4M3",
}


def read(path: PathLike) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Name -> tensor, memory-mapped, and the metadata.

    Raises:
        UserError: missing, unreadable, cut, a name twice, or not what the format says.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    header = _header(path)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise UserError(f"{path} is not a whole safetensors file: its metadata are not texts by name")
    try:
        with safe_open(str(path), framework="pt") as file:
            return {name: file.get_tensor(name) for name in header}, metadata
    except (SafetensorError, ValueError, TypeError, AttributeError, NotImplementedError, RuntimeError) as error:
        raise UserError(f"{path} is not a whole safetensors file: {short(error)}") from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error


def write(path: PathLike, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a file, whole or not at all; equal tensors and metadata give equal bytes.

    Raises:
        UserError: no permission, or the disk is full; `path` is as it was before.
    """
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0]))  # so all are aligned
    header: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))}
    position = 0
    for name, tensor in ordered:
        end = position + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [position, end]}
        position = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    with atomic_write(path) as temporary, open(temporary, "wb") as handle:
        handle.write(LENGTH.pack(len(text)) + text)
        for _, tensor in ordered:
            raw = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            handle.write(cast(bytes, raw.numpy()))  # by its buffer, not copied


def _header(path: Path) -> dict[str, Any]:
    try:
        size = path.stat().st_size
        with open(path, "rb") as handle:
            start = handle.read(LENGTH.size)
            length = LENGTH.unpack(start)[0] if len(start) == LENGTH.size else size
            if length > min(size - LENGTH.size, HEADER_LIMIT):
                raise UserError(f"{path} is not a whole safetensors file: its {size:,} bytes don't hold its header")
            text = handle.read(length)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise UserError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    try:
        header = parse_json(text.decode("utf-8"), f"the header of {path}")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not a whole safetensors file: its header is not UTF-8") from error
    if not isinstance(header, dict):
        raise UserError(f"{path} is not a whole safetensors file: its header is not an object")
    return header
