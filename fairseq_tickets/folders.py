"""Output folders written under a temporary name, by one command at a time, and moved when they are complete.

While a command writes the folder NAME it holds the lock of `.NAME.lock` and fills `.NAME.tmp`, both beside it. The lock
ends with the process, however that ends, so whoever holds it knows that `.NAME.tmp` and `.NAME.old` are left over
from a command that was killed, and removes them.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import socket
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from fairseq_tickets.errors import UserError
from fairseq_tickets.files import PathLike, new_file_mode, sync


@contextlib.contextmanager
def new_folder(path: PathLike, check: Callable[[], bool]) -> Iterator[Path]:
    """Yield an empty folder; it becomes `path` when the block succeeds.

    Args:
        path: the folder to make.
        check: whether a folder with content at `path` may be replaced; it may raise a UserError. Called when the lock
            is held. The old folder stays until the new one is complete; if the process is killed between the two
            renames, it waits as `.NAME.old`, and the next call puts it back.

    Raises:
        UserError: another command is writing `path`, it can't be written, or the disk is full.
    """
    with _stage(path) as (target, stage):
        replace = check()
        yield stage
        for folder, _, names in os.walk(stage):
            for name in names:
                sync(os.path.join(folder, name))
            sync(folder)
        if replace and target.is_dir():
            stage.chmod(target.stat().st_mode & 0o7777)
            os.rename(target, _beside(target, "old"))
        os.rename(stage, target)
        sync(target.parent)
        shutil.rmtree(_beside(target, "old"), ignore_errors=True)


MARKS = ("import.json", "config.json", "adapter_config.json")  # what tells of which kind a folder's files are


@contextlib.contextmanager
def filled_folder(path: PathLike, last: str, owned: Sequence[str] = ()) -> Iterator[Path]:
    """Yield an empty folder; its files move into the folder `path`, which is made if missing, when the block succeeds.

    Args:
        path: the folder to fill. Files of the same names are replaced, others stay. When the block fails, nothing in
            it has changed.
        last: the file without which the others are not taken for whole. The old one goes first and the new one comes
            last, so that files of two uses never pass for one.
        owned: file names that must not be left over from an earlier use, since they would be taken for part of what is
            there now; those that aren't written are removed.

    Raises:
        UserError: `path` is a file or can't be written, another command is writing it, or the disk is full.
    """
    if Path(path).exists() and not Path(path).is_dir():
        raise UserError(f"--output {path} is a file; a folder is needed")
    for mark in MARKS:
        if mark != last and (Path(path) / mark).is_file():
            raise UserError(
                f"--output {path} holds {mark}, which is of another kind of model; give a folder of its own"
            )
    with _stage(path) as (target, stage):
        yield stage
        written = sorted(stage.iterdir(), key=lambda file: (file.name == last, file.name))
        for file in written:
            file.chmod(new_file_mode())  # safetensors makes files that only their owner can read
            sync(file)
        if not target.exists():
            sync(stage)
            os.rename(stage, target)
        else:
            for name in (last, *sorted(set(owned) - {file.name for file in written})):
                (target / name).unlink(missing_ok=True)
            sync(target)
            for file in written:
                if file.name == last:
                    sync(target)
                os.replace(file, target / file.name)
            sync(target)
        sync(target.parent)


def tidy(path: PathLike) -> None:
    """Remove what a killed command left beside a folder that turned out to be whole, unless one is writing it now."""
    if _beside(Path(path).resolve(), "lock").exists():
        with contextlib.suppress(UserError), _stage(path):
            pass  # who takes the lock removes the rest


@contextlib.contextmanager
def _stage(path: PathLike) -> Iterator[tuple[Path, Path]]:
    """The real path of the target and an empty folder beside it, under the target's lock; it is removed at the end."""
    target = Path(path).resolve()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _locked(target, path):
            stage, old = _beside(target, "tmp"), _beside(target, "old")
            if old.exists() and not target.exists():
                os.rename(old, target)
            for left in (stage, old):
                if left.exists():
                    shutil.rmtree(left)
            try:
                stage.mkdir()
                yield target, stage
            finally:
                _surely(lambda: shutil.rmtree(stage, ignore_errors=True))
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error


@contextlib.contextmanager
def _locked(target: Path, shown: PathLike) -> Iterator[None]:
    """Hold `.NAME.lock`; a UserError, naming who has it, when another process does."""
    lock = _beside(target, "lock")
    handle = _take(lock, shown)
    try:
        os.ftruncate(handle, 0)
        os.write(handle, f"process {os.getpid()} on {socket.gethostname()}".encode())
        yield
    finally:
        _surely(
            lambda: lock.unlink(missing_ok=True)
        )  # while it is held: whoever waits finds another file, or none, at this name
        os.close(handle)


def _surely(clean: Callable[[], object]) -> None:
    """Clean up, once more if Ctrl-C or a signal came in between."""
    try:
        clean()
    except KeyboardInterrupt:
        clean()
        raise


def _take(lock: Path, shown: PathLike) -> int:
    while True:
        handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(handle), lock.stat()):
                return handle
        except BlockingIOError:
            owner = os.read(handle, 200).decode(errors="replace") or "another process"
            os.close(handle)
            raise UserError(f"--output {shown}: {owner} is writing it now; wait for it, or name another") from None
        except FileNotFoundError:
            pass  # released and removed between the two looks
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def _beside(target: Path, kind: str) -> Path:
    return target.with_name(f".{target.name}.{kind}")
