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

from fairseq_tickets.errors import UserError

PathLike = Union[str, "os.PathLike[str]"]


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
    """Write `content` as indented JSON with a final newline; NaN and infinity are refused with ValueError."""
    text = json.dumps(content, indent=1, allow_nan=False) + "\n"
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_json(path: PathLike, what: str) -> Any:
    """Read a JSON file; `what` names its kind in errors ("ticket", "result").

    Raises:
        UserError: the file is missing, unreadable, or not JSON (a file cut in half, for example).
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {what} file {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise UserError(f"{what} file {path} is not valid JSON (damaged or cut?): {error}") from error


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
