"""A folder's files, all of them or none: written beside the target first, moved when everything is there."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from fairseq_tickets.errors import UserError
from fairseq_tickets.files import PathLike


@contextlib.contextmanager
def staged_folder(target: PathLike, owned: Sequence[str] = ()) -> Iterator[Path]:
    """Yield an empty folder beside `target`; move its files into `target` when the block succeeds.

    Args:
        target: the folder to fill; made if missing.
        owned: file names that must not be left over from an earlier use of `target`, since they would be taken for part
            of what is there now; those that aren't written are removed.

    Files of the same names are replaced, others in `target` stay. When the block fails, nothing in `target`
    has changed.

    Raises:
        UserError: `target` is a file, can't be made or written, or the disk is full.
    """
    folder = Path(target)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--output {folder} is a file; a folder is needed")
    stage: Path | None = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        stage = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".tmp", dir=folder.parent))
        yield stage
        folder.mkdir(exist_ok=True)
        mask = os.umask(0)
        os.umask(mask)
        written = sorted(stage.iterdir())
        for name in set(owned) - {file.name for file in written}:
            with contextlib.suppress(FileNotFoundError):
                (folder / name).unlink()
        for file in written:
            file.chmod(0o666 & ~mask)  # safetensors makes files that only their owner can read
            os.replace(file, folder / file.name)
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror or error}") from error
    finally:
        if stage is not None:
            shutil.rmtree(stage, ignore_errors=True)
