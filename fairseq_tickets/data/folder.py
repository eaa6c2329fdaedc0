"""Which folder `prepare` may write to."""

from __future__ import annotations

from pathlib import Path

from fairseq_tickets.data.prepared import TASK_FILE, TASK_FORMAT
from fairseq_tickets.errors import UserError
from fairseq_tickets.files import read_json


def may_replace(path: Path, overwrite: bool) -> bool:
    """Whether there is a folder at `path` that new data replace.

    Raises:
        UserError: `path` is a file, or a folder that is neither empty nor, with `overwrite`, prepared data.
    """
    if not path.exists() and not path.is_symlink():
        return False
    if not path.is_dir():
        raise UserError(f"--output {path}: it exists and is not a folder")
    if not any(path.iterdir()):
        return False
    if not overwrite:
        raise UserError(f"--output {path}: it exists already; --overwrite replaces it")
    if not _is_prepared(path):
        raise UserError(f"--output {path}: it is no folder of prepared data (no {TASK_FILE}), so it is not replaced")
    return True


def _is_prepared(path: Path) -> bool:
    try:
        content = read_json(path / TASK_FILE, "task")
    except UserError:
        return False
    return isinstance(content, dict) and content.get("format") == TASK_FORMAT
