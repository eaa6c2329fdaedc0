"""What if a command is killed just before its N-th change of the file system, for every N?

The action runs in a fork of this process, so that PyTorch and fairseq are loaded once. In the fork, whatever changes
files through Python's `os` and `open` is counted, and strikes at the N-th change:

    KILL    the process is gone at once, as by SIGKILL or a power cut: no `finally` runs, buffers are lost
    STOP    KeyboardInterrupt, as by Ctrl-C or, in a command, SIGTERM
    FULL    OSError: the disk is full; from then on every change that needs space fails so (with none left to come,
            the action may end well)

Afterwards the same action runs once more without a strike, and must give byte for byte what it gives undisturbed::

    survive(action, make, at=tmp_path, points=every)

`make` fills an empty folder with what the action reads, and the action is called inside it. `half(folder)`, if given,
looks at the folder between the two: what must already hold, such as that no part is taken for the whole.

What libraries in C or Rust write is not counted; such writing stands between two changes that are. Files are compared
by name and content; `same` may give a file's content in another form where bytes differ from run to run by nature.
"""

from __future__ import annotations

import builtins
import errno
import io
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Optional

KILL, STOP, FULL = "killed", "stopped", "disk full"
CHANGES = (
    *("replace", "rename", "mkdir", "unlink", "remove", "rmdir", "fsync", "chmod", "fchmod", "link", "symlink"),
    *("truncate", "ftruncate"),
)
NEED_SPACE = ("mkdir", "fsync", "open")
KILLED = 137
Action = Callable[[], object]


def survive(
    action: Action,
    make: Callable[[Path], object],
    at: Path,
    how: str = KILL,
    points: Callable[[int], Iterable[int]] = lambda count: range(1, count + 1),
    half: Optional[Callable[[Path], object]] = None,
    same: Callable[[Path], object] = Path.read_bytes,
) -> int:
    """Strike at the chosen changes of an action, and see that running it again puts everything right.

    Args:
        action: what is to be done, with relative paths; if it fails, it raises or returns a number that is not 0.
        make: fills an empty folder.
        at: folder for the trials; it is emptied before each.
        how: KILL, STOP or FULL.
        points: number of changes -> the numbers, from 1, of those to strike at.
        half: see above; called with the folder.
        same: a file -> what must be equal.

    Returns:
        the number of changes that the action makes.
    """
    _fresh(at, make)
    before = set(tree(at, same))
    code, count = _in_fork(action, at, None, how)
    assert code == 0, f"undisturbed, the action ends with {code}"
    expected = tree(at, same)
    for number in points(count):
        _fresh(at, make)
        code, _ = _in_fork(action, at, number, how)
        where = f"{how} at change {number} of {count}"
        if how == KILL:
            assert code == KILLED, f"{where}: ended with {code}"
        else:
            assert code != KILLED and (code or how == FULL), f"{where}: ended with {code}"
            left = {
                name for name in set(tree(at, same)) - before if any(part.startswith(".") for part in Path(name).parts)
            }
            assert not left, f"{where}: left {left}"
        if half is not None:
            half(at)
        whole = expected.items() <= tree(at, same).items()  # then a command may refuse to write it anew
        code, _ = _in_fork(action, at, None, how)
        assert code == 0 or whole, f"{where}: the next try ends with {code}"
        _compare(expected, tree(at, same), where)
    return count


def every(step: int) -> Callable[[int], Iterable[int]]:
    """Points for `survive`: the first, every `step`-th, and the last three, where things are put in their places."""
    return lambda count: sorted({*range(1, count + 1, step), *range(max(1, count - 2), count + 1)})


def tree(folder: Path, same: Callable[[Path], object] = Path.read_bytes) -> dict[str, object]:
    """Relative name -> content of every file, hidden ones too; None for folders."""
    return {str(p.relative_to(folder)): None if p.is_dir() else same(p) for p in sorted(folder.rglob("*"))}


def _fresh(folder: Path, make: Callable[[Path], object]) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    make(folder)


def _compare(expected: dict[str, object], found: dict[str, object], where: str) -> None:
    assert set(found) == set(expected), f"{where}: {set(found) ^ set(expected)} is left over or missing"
    changed = [name for name in expected if expected[name] != found[name]]
    assert not changed, f"{where}: {changed} differ"


def _in_fork(action: Action, folder: Path, strike: Optional[int], how: str) -> tuple[int, int]:
    """Exit code of the action in a fork, and how many changes it made; what it printed is shown if it failed."""
    reader, writer = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if not child:
        _child(action, folder, strike, how, writer)
    os.close(writer)
    with open(reader, "rb") as pipe:
        count = int(pipe.read() or b"0")
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code not in (0, KILLED) and strike is None:
        print((folder.parent / f"{folder.name}.output").read_text(errors="replace")[-3000:], file=sys.stderr)
    return code, count


def _child(action: Action, folder: Path, strike: Optional[int], how: str, writer: int) -> None:
    """Run the action under count and end the process; never returns."""
    code = 1
    try:
        os.chdir(folder)
        output = os.open(folder.parent / f"{folder.name}.output", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        counter = _Counter(strike, how)
        counter.install()
        try:
            code = int(action() or 0)  # type: ignore[call-overload]
        except KeyboardInterrupt:
            code = 130
        except BaseException:
            traceback.print_exc()
        counter.active = False
        sys.stdout.flush()
        sys.stderr.flush()
        os.write(writer, str(counter.count).encode())
    finally:
        os._exit(code)


class _Counter:
    """Counts changes of the file system, and strikes."""

    def __init__(self, strike: Optional[int], how: str) -> None:
        self.strike, self.how = strike, how
        self.count, self.active = 0, True

    def install(self) -> None:
        """Put a counting function in the place of each that changes files."""
        for name in CHANGES:
            setattr(os, name, self._counted(getattr(os, name), name))
        os.open = self._counted(
            os.open, "open", lambda path, flags=0, *more, **named: flags & (os.O_CREAT | os.O_TRUNC)
        )
        counted = self._counted(io.open, "open", lambda file, mode="r", *more, **named: set(mode) & set("wax+"))
        io.open = builtins.open = counted  # type: ignore[assignment]

    def _counted(self, function: Any, name: str, changes: Callable[..., object] = lambda *a, **k: True) -> Any:
        def counted(*words: Any, **named: Any) -> Any:
            if self.active and changes(*words, **named):
                self.count += 1
                self._strike(name)
            return function(*words, **named)

        return counted

    def _strike(self, name: str) -> None:
        if self.strike is None or self.count < self.strike:
            return
        if self.how == FULL:
            if name in NEED_SPACE:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        elif self.count == self.strike:
            if self.how == KILL:
                os._exit(KILLED)
            raise KeyboardInterrupt
