"""Files that are whole or absent: written to a temporary name in the same folder, then renamed."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
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
    rename, so after a crash `path` holds either its old content or the new, never a part.

    Raises:
        UserError: the folder can't be made, the file can't be written, or the disk is full.
    """
    target = Path(path)
    temporary: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, target)
    except BaseException as error:
        if temporary is not None:
            with contextlib.suppress(OSError):
                temporary.unlink()
        if isinstance(error, OSError):
            raise UserError(f"cannot write {target}: {error.strerror or error}") from error
        raise


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


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
