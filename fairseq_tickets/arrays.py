"""Array files (.npz) without pickle, read by their own claims no further than these hold.

A file names what it holds more than once: the ZIP directory says how long a member is and what its checksum is, the
member's header says of which kind and shape the array is. Everything that is read here was checked first: one
member of each name, stored or deflated, not encrypted, of the length that header and directory agree on, with the
checksum that the directory gives, and of a kind of number that the caller expects. Nothing is converted silently.
"""

from __future__ import annotations

import io
import math
import re
import struct
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any, Union

import numpy as np
from numpy.typing import NDArray

from fairseq_tickets.errors import UserError, short
from fairseq_tickets.files import PathLike, atomic_write, read_bytes

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
Array = Union[FloatArray, IntArray, str]

FILE_LIMIT = MEMBER_LIMIT = 256 << 20  # bytes; RoBERTa-large's counts are 5 MB
_KINDS = {  # what a caller may ask for: words for errors, and the types that hold such values without loss
    "numbers": ("floating-point numbers of 4 or 8 bytes", ("f4", "f8")),
    "whole": ("whole numbers", ("i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8")),
    "text": ("a text", ("U",)),
}
_HELD = {
    "f": "floating-point numbers",
    "i": "whole numbers",
    "u": "whole numbers",
    "b": "truth values",
    "c": "complex numbers",
    "M": "dates",
    "m": "durations",
    "U": "texts",
    "S": "bytes",
    "V": "records",
    "O": "pickled Python objects",
}
_HEADER = re.compile(
    r"\{'descr': '(?P<order>[<>|=]?)(?P<letter>[a-zA-Z])(?P<size>\d{0,9})(?P<unit>\[\w+\])?', "
    r"'fortran_order': (?P<fortran>True|False), 'shape': \((?P<shape>(\d{1,18},? ?)*)\),? ?\}\s*"
)
_DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    ValueError,
    OSError,  # an offset before the start of the file
    OverflowError,
    NotImplementedError,
    RuntimeError,
)


def read_arrays(path: PathLike, what: str, wanted: Mapping[str, str]) -> dict[str, Any]:
    """Arrays of a file by name.

    Args:
        path: the file.
        what: its kind, for errors: "scores".
        wanted: name -> "numbers" (given as float64 arrays, all finite), "whole" (int64 arrays) or "text" (a str).

    Raises:
        UserError: the file is missing or unreadable, no .npz file, damaged or cut, lacks a name, holds another kind
            of values under it, or claims more than is there.
    """
    source = f"{what} file {path}"
    content = read_bytes(path, what, FILE_LIMIT)
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            names = [info.filename for info in archive.infolist()]
            twice = next((name for name in wanted if names.count(f"{name}.npy") > 1), None)
            if twice is not None:
                raise UserError(f"{source} holds two arrays of the name {twice}")
            missing = [name for name in wanted if f"{name}.npy" not in names]
            if missing:
                raise UserError(f"{source} is not a {what} file: it lacks {', '.join(missing)}")
            return {
                name: _array(_member(archive, f"{name}.npy", source), kind, f"{source}: {name}")
                for name, kind in wanted.items()
            }
    except _DAMAGED as error:
        reason = short(error, 120) or type(error).__name__
        raise UserError(f"{source} is not a readable .npz file (damaged or cut?): {reason}") from error


def write_arrays(path: PathLike, arrays: Mapping[str, Any], compress: bool = False) -> None:
    """Write an array file, whole or not at all; the same arrays give the same bytes."""
    with atomic_write(path) as temporary, open(temporary, "wb") as handle:
        (np.savez_compressed if compress else np.savez)(handle, **arrays)


def _member(archive: zipfile.ZipFile, name: str, source: str) -> bytes:
    info = archive.getinfo(name)
    if info.flag_bits & 0x1:
        raise UserError(f"{source}: {name} is encrypted")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise UserError(f"{source}: {name} is compressed by method {info.compress_type}; only deflate is read")
    if info.file_size > MEMBER_LIMIT:
        raise UserError(f"{source}: {name} claims {info.file_size:,} bytes; at most {MEMBER_LIMIT:,} are read")
    with archive.open(info) as member:
        data = member.read(info.file_size)
        member.read(1)  # the end, where the checksum is compared
    if len(data) != info.file_size:
        raise UserError(f"{source}: {name} holds {len(data):,} of the {info.file_size:,} bytes that the file claims")
    return data


def _array(data: bytes, kind: str, source: str) -> Any:
    """The array of a .npy member, of the kind asked for."""
    header, start = _header(data, source)
    rule, types = _KINDS[kind]
    letter, size = header["letter"], header["size"]
    if letter not in types and letter + size not in types:
        held = _HELD.get(letter, f"the unknown type {letter}")
        exact = f" of {size} bytes" if letter in "fiu" and size else ""
        raise UserError(f"{source} holds {held}{exact}; it must hold {rule}")
    shape = tuple(int(number) for number in re.findall(r"\d+", header["shape"]))
    dtype = np.dtype(header["order"] + letter + size)
    claimed = math.prod(shape) * dtype.itemsize
    if claimed != len(data) - start:
        raise UserError(f"{source} claims the shape {shape}, {claimed:,} bytes, but {len(data) - start:,} are there")
    if kind == "text":
        if shape:
            raise UserError(f"{source} has the shape {shape}; it must be one text")
        return _text(data[start:], header["order"], source)
    flat = np.frombuffer(data, dtype, offset=start)
    values = flat.reshape(shape, order="F" if header["fortran"] == "True" else "C")
    if kind == "numbers":
        if not np.isfinite(values).all():
            raise UserError(f"{source} holds a number that is not finite")
        return values.astype(np.float64)
    if values.size and int(values.max()) > np.iinfo(np.int64).max:
        raise UserError(f"{source} holds {values.max()}; at most {np.iinfo(np.int64).max} can be read")
    return values.astype(np.int64)


def _header(data: bytes, source: str) -> tuple[dict[str, str], int]:
    """Fields of a .npy header and where the values start."""
    wide = data[6:7] != b"\x01"
    length = data[8:12] if wide else data[8:10]
    if data[:6] != b"\x93NUMPY" or data[6:7] not in (b"\x01", b"\x02", b"\x03") or len(length) < (4 if wide else 2):
        raise UserError(f"{source} is no NumPy array")
    start = 8 + len(length) + int.from_bytes(length, "little")
    text = data[8 + len(length) : start]
    found = _HEADER.fullmatch(text.decode("latin-1")) if len(text) < 10_000 else None
    if found is None or start > len(data):
        raise UserError(f"{source} has a header that is not that of a plain array")
    return found.groupdict(), start


def _text(data: bytes, order: str, source: str) -> str:
    try:
        return data.decode("utf-32-be" if order == ">" else "utf-32-le").rstrip("\0")
    except UnicodeDecodeError as error:
        raise UserError(f"{source} is not a readable text") from error
