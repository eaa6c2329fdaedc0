"""One step, one writer: a claim on a step's folder that other processes and other machines respect.

A claim is a numbered file, made so that only one process can make it; the highest number holds. Its owner lengthens it
by a byte every few seconds. A claim is stale when its owner, a process of this machine, has ended; or when it has not
grown for STALE seconds by the observer's own clock, so that clocks of machines need not agree. Whoever takes a stale
claim over makes the next number. An owner that finds a higher number than its own (it was suspended, say) must stop:
it works in a folder of its own (`Lease.workplace`), so nothing that it has written by then is taken for a result.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fairseq_tickets.errors import UserError

BEAT = 2.0  # seconds between two signs of life
STALE = 60.0  # seconds without one after which a claim of another machine is taken over
_NAME = "lease-"


@dataclass(frozen=True)
class Claim:
    """What a claim's file says.

    Attributes:
        number: of the claim; size: of its file, which grows while the owner lives.
        owner: "machine", "pid", "born" (when the process started), "name" (for people), "token" (of this claim alone);
            empty while it is being written.
    """

    number: int
    size: int
    owner: dict[str, Any]

    def name(self) -> str:
        """Who holds it, for people."""
        return str(self.owner.get("name", "an unknown process"))

    def ended(self) -> bool:
        """Whether it is plain that the owner has ended: it was a process of this machine."""
        here = self.owner.get("machine") == _machine()
        return here and _born(int(self.owner.get("pid", 0))) != self.owner.get("born")


class Lease:
    """A claim that this process holds, with a thread that keeps it alive.

    Attributes:
        workplace: a folder for this attempt alone.
        before: the claim that was taken over, if any.
    """

    def __init__(self, folder: Path, number: int, token: str, lost: Callable[[], None], before: Claim | None) -> None:
        self._folder, self._number, self._token, self._lost, self.before = folder, number, token, lost, before
        self.workplace = folder / f"attempt-{token}"
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep, daemon=True)
        self._thread.start()

    def held(self) -> bool:
        """Whether nobody has taken the claim over."""
        current = read_claim(self._folder)
        return current is not None and current.owner.get("token") == self._token

    def release(self) -> None:
        """End the claim and remove what older attempts left."""
        self._ended.set()
        self._thread.join()
        for path in self._folder.glob("attempt-*"):
            shutil.rmtree(path, ignore_errors=True)
        for number in sorted(_numbers(self._folder)):
            if number <= self._number:
                (self._folder / f"{_NAME}{number}").unlink(missing_ok=True)

    def _keep(self) -> None:
        while not self._ended.wait(BEAT):
            if not self.held():
                self._lost()
                return
            with contextlib.suppress(OSError), (self._folder / f"{_NAME}{self._number}").open("a") as handle:
                handle.write("\n")  # a full disk is no reason to end


def claim(folder: Path, lost: Callable[[], None], stale: int | None = None) -> Lease | Claim:
    """Claim a step's folder; the claim in the way, if it can't be had.

    Args:
        lost: called, in a thread, when somebody else has taken the claim over.
        stale: number of a claim that was seen not to grow, see `Watch`.

    Raises:
        UserError: the folder can't be written.
    """
    current = read_claim(folder)
    if current is not None and current.number != stale and not current.ended():
        return current
    number = 1 if current is None else current.number + 1
    path, token, pid = folder / f"{_NAME}{number}", secrets.token_hex(6), os.getpid()
    name = f"process {pid} on {socket.gethostname()}"
    owner = {"machine": _machine(), "pid": pid, "born": _born(pid), "token": token, "name": name}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with path.open("x") as handle:
            handle.write(json.dumps(owner))
    except FileExistsError:
        return read_claim(folder) or Claim(number, 0, {})
    except OSError as error:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    return Lease(folder, number, token, lost, current)


def read_claim(folder: Path) -> Claim | None:
    """The claim that holds; None without one."""
    number = max(_numbers(folder), default=0)
    try:
        text = (folder / f"{_NAME}{number}").read_text(encoding="utf-8") if number else None
    except FileNotFoundError:
        text = None
    if text is None:
        return None
    try:
        owner = json.loads(text)
    except ValueError:  # being written at this moment, or never finished
        owner = {}
    return Claim(number, len(text), owner if isinstance(owner, dict) else {})


class Watch:
    """Looks at claims of others again and again and tells which are stale."""

    def __init__(self) -> None:
        self._seen: dict[Path, tuple[int, int, float]] = {}  # folder -> number and size of its claim, and since when

    def stale(self, folder: Path, current: Claim) -> bool:
        """Whether a claim that was just read is stale."""
        now, state = time.monotonic(), (current.number, current.size)
        if self._seen.get(folder, ())[:2] != state:
            self._seen[folder] = (*state, now)
        return current.ended() or now - self._seen[folder][2] > STALE


def _numbers(folder: Path) -> list[int]:
    try:
        names = os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [int(name[len(_NAME) :]) for name in names if name.startswith(_NAME) and name[len(_NAME) :].isdigit()]


def _machine() -> str:
    """This host, since this start of it, and this container in it: what makes a process number mean one process."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(str(os.stat("/proc/self/ns/pid").st_ino))
    return "/".join(parts)


def _born(pid: int) -> str | None:
    """When a process of this machine started, in the kernel's ticks; None when there is none (or only its remains)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if fields[0] in ("Z", "X") else fields[19]
    except (OSError, IndexError):
        if Path("/proc/self/stat").exists():
            return None
    try:  # no /proc: a living process of that number is taken for the owner
        os.kill(pid, 0)
    except OSError:
        return None
    return "alive"
