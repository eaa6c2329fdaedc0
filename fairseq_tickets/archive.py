"""The container of a checkpoint, ZIP or the older row of pickles, looked at before PyTorch reads it.

PyTorch passes over the checksums of its ZIP files, trusts their directory, and makes storages as long as the pickle
says. So here: every member is stored as it is, once, under its own checksum, and no tensor's storage is longer than
its record. Reading a file for its checksums is done once as long as the file stays what it is.
"""

from __future__ import annotations

import functools
import io
import mmap
import os
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

from fairseq_tickets import safe_pickle
from fairseq_tickets.errors import UserError, short

ZIP_START, PICKLE_START, GZIP_START = b"PK\x03\x04", b"\x80", b"\x1f\x8b"
TAR_MARK, TAR_AT = b"ustar", 257
LEGACY_PICKLES = 5  # files written before PyTorch 1.6: magic number, protocol, system, the object, keys of storages
BLOCK = 1 << 20  # bytes read together
# what zipfile raises for files that are no whole ZIP; OSError: a directory that points before the file's start
ZIP_FAULTS = (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, ValueError, OSError, OverflowError)
ITEM_SIZES = {"ComplexDouble": 16, "Double": 8, "Long": 8, "ComplexFloat": 8, "Float": 4, "Int": 4}
ITEM_SIZES.update({"Half": 2, "BFloat16": 2, "Short": 2})  # all others have 1
ENCRYPTED = 1  # bit of a ZIP member's flags


def named_globals(path: Path) -> set[str]:
    """Full names of the globals that a checkpoint's pickle asks for; the container has been checked then.

    Raises:
        UserError: missing, unreadable, empty, compressed, cut, damaged, or storages that claim more than there is.
    """
    start, size = _start(path)
    if start.startswith(GZIP_START) or start[TAR_AT:].startswith(TAR_MARK):
        raise UserError(f"{path} is a packed archive (.tar or .gz); unpack it: the checkpoint is the .pt file in it")
    if start.startswith(ZIP_START):
        stat = path.stat()
        return _look_into_zip(path, stat.st_mtime_ns, stat.st_size, stat.st_ino)
    if not start.startswith(PICKLE_START):
        raise UserError(f"{path} is not a PyTorch checkpoint")
    found = []
    with open(path, "rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as content:
        for _ in range(LEGACY_PICKLES):
            found.append(_look(content, path))  # a text said to be longer than the file costs nothing so
            if safe_pickle.refused(found[-1].names):
                break
    claimed = sum(count * _item_size(kind) for each in found for _, kind, count in each.stored)
    if claimed > size:
        raise UserError(f"checkpoint {path} is damaged or was cut short: its tensors claim {claimed:,} bytes")
    return {name for each in found for name in each.names}


def damaged(path: Path, why: object = "") -> UserError:
    """The error for a file that was a checkpoint once."""
    because = f": {short(why)}" if why else ""
    return UserError(f"checkpoint {path} is damaged or was cut short{because}")


@functools.lru_cache(maxsize=16)
def _look_into_zip(path: Path, modified: int, size: int, inode: int) -> set[str]:
    try:
        with zipfile.ZipFile(path) as archive:
            members = _members(archive, path, size)
            pickled = [name for name in members if name.endswith("/data.pkl")]
            if any(name.endswith("/constants.pkl") for name in members) or len(pickled) != 1:
                raise UserError(f"{path} is not a PyTorch checkpoint")
            root = pickled[0][: -len("data.pkl")]
            found = _look(io.BytesIO(archive.read(pickled[0])), path)
            for name in members:
                with archive.open(name) as member:
                    while member.read(BLOCK):  # its end compares the checksum
                        pass
    except (*ZIP_FAULTS, struct.error, zlib.error) as error:
        raise damaged(path, error) from error
    for key, kind, count in found.stored:
        stored, claimed = members.get(f"{root}data/{key}", 0), count * _item_size(kind)
        if claimed > stored:
            raise damaged(path, f"a tensor claims {claimed:,} bytes, of which {stored:,} are there")
    return found.names


def _members(archive: zipfile.ZipFile, path: Path, size: int) -> dict[str, int]:
    members: dict[str, int] = {}
    for info in archive.infolist():
        if info.filename in members:
            raise damaged(path, f"{info.filename} is in it twice")
        if info.flag_bits & ENCRYPTED or info.compress_type != zipfile.ZIP_STORED:
            how = "encrypted" if info.flag_bits & ENCRYPTED else "compressed"
            raise UserError(f"checkpoint {path} is refused: {info.filename} in it is {how}, which PyTorch never writes")
        members[info.filename] = info.file_size
    if sum(members.values()) > size:
        raise damaged(path, "its directory claims more than the file holds")
    return members


def _look(stream: Any, path: Path) -> safe_pickle.Found:
    try:
        return safe_pickle.look(stream)
    except Exception as error:  # instructions that are no pickle's fail in any way; none of them runs anything
        raise damaged(path, "its pickle is not whole") from error


def _item_size(kind: str) -> int:
    """Bytes of an element, by the full name of a storage's class; 1 for the small ones and unknown names."""
    return ITEM_SIZES.get(kind.rpartition(".")[2].removesuffix("Storage"), 1)


def _start(path: Path) -> tuple[bytes, int]:
    try:
        with open(path, "rb") as handle:
            start = handle.read(TAR_AT + len(TAR_MARK))
            size = os.fstat(handle.fileno()).st_size
    except FileNotFoundError:
        raise UserError(f"checkpoint {path} does not exist") from None
    except IsADirectoryError:
        inside = path / "model.pt"
        hint = f"; did you mean {inside}?" if inside.is_file() else ""
        raise UserError(f"checkpoint {path} is a folder, not a file{hint}") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise UserError(f"cannot read checkpoint {path}: {getattr(error, 'strerror', None) or error}") from error
    if not start:
        raise UserError(f"checkpoint {path} is empty (0 bytes)")
    return start, size
