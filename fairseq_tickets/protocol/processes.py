"""Runs in processes of this machine.

A server process loads PyTorch and fairseq once and does one run after the other, each in a fork of itself: no run waits
for the imports, and none leaves anything behind for the next. When the process that started a server ends, however it
ends, the pipe to the server closes, and run and server end too.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import threading
from pathlib import Path

from fairseq_tickets.errors import UserError
from fairseq_tickets.protocol.store import LOG

# For glibc's malloc, unless the user has set it: keep freed blocks for the next step. By default large ones go back to
# the system, and every step has their pages mapped anew (MiniLM on two cores: about a tenth of the time of a run).
ALLOCATOR = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**40), "MALLOC_TOP_PAD_": str(2**26)}
STOP = ".stop"  # while a file of this name is in the experiment's folder, workers are ended


def run_worker(spec: str, threads: int, lock: int | None = None) -> None:
    """Do one run in a process of its own.

    Args:
        spec: path of the run's specification; its folder gets log and result.
        threads: for PyTorch and its libraries.
        lock: file descriptor that the process inherits, see `Store.lock`.

    Raises:
        UserError: the run failed; says why, or where the log is.
    """
    folder = Path(spec).parent
    server = _take(threads, lock)
    try:
        code, message = server.run(spec, folder.parent / STOP)
    except BaseException:
        server.end()
        raise
    if server.alive():
        with _guard:
            _idle.append(server)
    if code != 0:
        raise UserError(f"{message or _why(folder / LOG, code)} (log: {folder / LOG})")


def end_workers() -> None:
    """End the servers that wait for another run."""
    with _guard:
        servers, _idle[:] = list(_idle), []
    for server in servers:
        server.end()


class _Server:
    def __init__(self, threads: int, lock: int | None) -> None:
        self.threads, self.lock = threads, lock
        environment = {**ALLOCATOR, **os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
        environment["TOKENIZERS_PARALLELISM"] = "false"
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "fairseq_tickets.protocol.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environment,
                pass_fds=() if lock is None else (lock,),
            )
        except OSError as error:
            raise UserError(f"cannot start a process for runs: {error.strerror or error}") from error

    def alive(self) -> bool:
        return self._process.poll() is None

    def run(self, spec: str, stop: Path) -> tuple[int, str]:
        """Exit code of a run, negative for a signal, and its own error message, if any; ends once `stop` exists."""
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(spec).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            return self._process.wait() or 1, ""
        while not select.select([self._process.stdout], [], [], 0.5)[0]:
            if stop.exists():
                self.end()
                return -9, "it was stopped"
        answer = self._process.stdout.readline()
        if not answer:
            return self._process.wait() or 1, ""
        code, message = json.loads(answer)
        return int(code), str(message)

    def end(self) -> None:
        """Close the pipe, on which the run and the server end; wait for them."""
        assert self._process.stdin is not None and self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.stdout.read()  # at its end nobody holds the other side any more
        self._process.stdout.close()
        self._process.wait()


_idle: list[_Server] = []
_guard = threading.Lock()


def _take(threads: int, lock: int | None) -> _Server:
    with _guard:
        for server in _idle:
            if (server.threads, server.lock) == (threads, lock) and server.alive():
                _idle.remove(server)
                return server
    return _Server(threads, lock)


def _why(log: Path, code: int) -> str:
    """What is known of a run that ended without a message: a signal, or the end of its log."""
    if code < 0:
        return f"it was ended by signal {-code}"
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    return next((line.strip() for line in reversed(lines) if line.strip()), "no message")
