"""Files that are whole or absent: written to a temporary name in the same folder, then renamed."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Union

from fairseq_tickets.documents import check_plain, parse_json, parse_yaml
from fairseq_tickets.errors import UserError

PathLike = Union[str, "os.PathLike[str]"]
JSON_LIMIT = 256 << 20  # bytes; the largest tokenizer.json of the field has some 35 MB
YAML_LIMIT = 1 << 20  # bytes; protocols and task lists are written by hand


@contextlib.contextmanager
def atomic_write(path: PathLike) -> Iterator[Path]:
    """Yield a temporary path; rename it to `path` when the block succeeds, remove it when it fails.

    The temporary file is in the folder of `path`, which is made if missing. Data are flushed to disk before the
    rename, so after a crash `path` holds either its old content or the new, never a part. Temporary files that killed
    processes left for the same `path` are removed.

    Raises:
        UserError: the folder can't be made, the file can't be written, or the disk is full.
    """
    target = Path(path)
    temporary: Path | None = None
    claim = -1
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists() and not (target.is_file() or target.is_dir()):
            raise UserError(f"cannot write {target}: it is a device or pipe, and a file would take its place")
        remove_abandoned(target.parent, re.escape(target.name))
        claim, temporary = _claimed_file(target)
        yield temporary
        temporary.chmod(new_file_mode())
        sync(temporary)
        os.replace(temporary, target)
        sync(target.parent)
    except BaseException as error:
        if temporary is not None:
            with contextlib.suppress(OSError):
                temporary.unlink()
        if isinstance(error, OSError):
            raise UserError(f"cannot write {target}: {error.strerror or error}") from error
        raise
    finally:
        if claim >= 0:
            os.close(claim)


def sync(path: PathLike) -> None:
    """Wait until a file's content, or a folder's list of names, is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network file systems can't flush a folder
            raise
    finally:
        os.close(handle)


def new_file_mode() -> int:
    """Permissions that `open` gives a new file."""
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


def write_json(path: PathLike, content: Any) -> None:
    """Write `content` as indented JSON with a final newline.

    Raises:
        UserError: content that `read_json` would refuse (NaN, infinity), naming its place; or as `atomic_write`.
    """
    check_plain(content, f"cannot write {path}")
    text = json.dumps(content, indent=1, allow_nan=False) + "\n"
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_json(path: PathLike, what: str, limit: int = JSON_LIMIT) -> Any:
    """Read a JSON file; `what` names its kind in errors ("ticket", "result").

    Raises:
        UserError: the file is missing, unreadable, longer than `limit` bytes, not UTF-8, or not JSON that means
            one thing: see `documents.parse_json`.
    """
    return parse_json(read_text(path, what, limit), f"{what} file {path}")


def read_yaml(path: PathLike, what: str, limit: int = YAML_LIMIT) -> Any:
    """Read a YAML file as data of JSON's kinds; None for an empty one. Errors as for `read_json`."""
    return parse_yaml(read_text(path, what, limit), f"{what} file {path}")


def read_text(path: PathLike, what: str, limit: int) -> str:
    """Text of a UTF-8 file, with or without a byte order mark; errors as for `read_bytes`, or not UTF-8."""
    content = read_bytes(path, what, limit)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        byte = f"byte {error.start} is {content[error.start]:#04x}"
        raise UserError(f"{what} file {path} is not UTF-8 text: {byte}") from error


def read_bytes(path: PathLike, what: str, limit: int) -> bytes:
    """All bytes of a file; `what` names its kind in errors.

    Raises:
        UserError: the file is missing, a folder, unreadable, or longer than `limit` bytes.
    """
    try:
        with open(path, "rb") as handle:
            content = handle.read(limit + 1)
    except OSError as error:
        raise UserError(f"cannot read {what} file {path}: {error.strerror or error}") from error
    except ValueError as error:  # a NUL or half a surrogate pair in the name
        raise UserError(f"cannot read {what} file {str(path)!a}: no file can have this name") from error
    if len(content) > limit:
        raise UserError(f"{what} file {path} is longer than {limit:,} bytes, more than any {what} file needs")
    return content


def sha256(path: PathLike) -> str:
    """Hex SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as handle:
            for block in iter(lambda: handle.read(1 << 20), b""):
                digest.update(block)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    return digest.hexdigest()


def file_digest(path: PathLike) -> str:
    """The same, read once in a process as long as the file doesn't change."""
    try:
        status = Path(path).stat()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    return _digest(Path(path).resolve(), status.st_mtime_ns, status.st_size, status.st_ino)


@functools.lru_cache(maxsize=1024)
def _digest(path: Path, modified: int, size: int, inode: int) -> str:
    return sha256(path)


def _claimed_file(target: Path) -> tuple[int, Path]:
    """A new temporary file beside `target` and the open file that holds its lock."""
    while True:
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent)
        fcntl.flock(handle, fcntl.LOCK_EX)
        if os.fstat(handle).st_nlink:
            return handle, Path(name)
        os.close(handle)  # another process took it for abandoned before it was locked


def remove_abandoned(folder: Path, names: str) -> None:
    """Remove temporary files in `folder` that nobody has locked: their writers were killed.

    Args:
        names: regular expression for the names of the files they were to become.
    """
    pattern = re.compile(rf"\.(?:{names})\.[a-z0-9_]{{8}}\.tmp")
    for name in filter(pattern.fullmatch, os.listdir(folder)):
        with contextlib.suppress(OSError):  # locked, or gone meanwhile
            handle = os.open(folder / name, os.O_RDWR)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.unlink(folder / name)
            finally:
                os.close(handle)
