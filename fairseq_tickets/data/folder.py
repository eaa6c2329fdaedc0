"""Output folders that are whole or absent: filled under a temporary name beside the target, then renamed."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from fairseq_tickets.errors import UserError

TASK_FILE = "task.json"
TASK_FORMAT = "fairseq-tickets/task"


@contextlib.contextmanager
def new_folder(path: Path, overwrite: bool = False) -> Iterator[Path]:
    """Yield a temporary folder; it becomes `path` when the block succeeds and is removed when it fails.

    An existing `path` is refused unless it is empty, or `overwrite` is given and it holds prepared data; then the old
    folder stays in place until the new one is complete.

    Raises:
        UserError: `path` may not be replaced, can't be written, or the disk is full.
    """
    target = path.resolve()
    check_target(path, overwrite)
    temporary: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent))
        os.chmod(temporary, target.stat().st_mode if target.is_dir() else 0o777 & ~_umask())
        yield temporary
        _replace(temporary, target)
    except BaseException as error:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(error, OSError):
            raise UserError(f"cannot write {path}: {error.strerror or error}") from error
        raise


def check_target(path: Path, overwrite: bool) -> None:
    """Raise UserError unless `new_folder` may put a folder at `path`; called early, before any work."""
    if not path.exists() and not path.is_symlink():
        return
    if not path.is_dir():
        raise UserError(f"--output {path}: it exists and is not a folder")
    if not any(path.iterdir()):
        return
    if not overwrite:
        raise UserError(f"--output {path}: it exists already; --overwrite replaces it")
    if not _is_prepared(path):
        raise UserError(f"--output {path}: it is no folder of prepared data (no {TASK_FILE}), so it is not replaced")


def _is_prepared(path: Path) -> bool:
    try:
        content = json.loads((path / TASK_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and content.get("format") == TASK_FORMAT


def _replace(temporary: Path, target: Path) -> None:
    if not target.exists():
        os.rename(temporary, target)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".old", dir=target.parent))
    os.rename(target, old / "folder")
    try:
        os.rename(temporary, target)
    except OSError:
        os.rename(old / "folder", target)
        raise
    finally:
        shutil.rmtree(old, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
