"""Steps in processes of this machine, from the standard library's forkserver.

The fork server loads PyTorch and fairseq once; each step is a fork of it, which starts at once and leaves nothing
behind for the next. A step's process waits on a pipe that its starter holds: when the starter ends, however it ends,
the pipe closes and the process ends too.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.forkserver
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from types import ModuleType

from fairseq_tickets.errors import UserError
from fairseq_tickets.protocol.work import FAILED, Call, Outcome, Resources, do

# What every step needs. Nothing is computed at import: threads that a library starts would not live in a fork.
PRELOADED = ["fairseq_tickets.protocol.engines.preload"]
# For glibc's malloc, unless the user has set it: keep freed blocks for the next step. By default large ones go back to
# the system, and every step has their pages mapped anew (MiniLM on two cores: about a tenth of the time of a run).
ENVIRONMENT = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**40),
    "MALLOC_TOP_PAD_": str(2**26),
    "OMP_NUM_THREADS": "1",  # a step sets its own number
    "MKL_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}

_context = multiprocessing.get_context("forkserver")
_starting = threading.Lock()


class LocalEngine:
    """Some steps at a time on this machine."""

    def __init__(self, workers: int) -> None:
        self.at_once = workers
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="step")
        self._running: set[ForkServerProcess] = set()
        self._closed = False

    def check(self, needed: Resources, folder: Path) -> None:
        """See `Engine.check`."""
        if needed.gpus:
            check_gpus()

    def submit(self, calls: Sequence[Call]) -> list[Future[Outcome]]:
        """See `Engine.submit`."""
        return [self._threads.submit(self._do, call) for call in calls]

    def close(self, kill: bool) -> None:
        """See `Engine.close`."""
        self._closed = True
        if kill:
            with _starting:
                for process in self._running:
                    process.kill()
        self._threads.shutdown(cancel_futures=kill)

    def _do(self, call: Call) -> Outcome:
        return do_in_child(call, self._running, lambda: self._closed)


def check_gpus() -> None:
    """Refuse where PyTorch finds no GPU."""
    import torch

    if not torch.cuda.is_available():
        raise UserError("training: device is 'cuda', but PyTorch finds no GPU here; use `device: cpu`")


def do_in_child(call: Call, running: set[ForkServerProcess], closed: object = None) -> Outcome:
    """Do a step in a process of its own and wait for it.

    Args:
        running: gets the process while it runs.
        closed: a function: whether no process should be started any more.
    """
    ours, theirs = _context.Pipe(duplex=False)
    with _starting:
        if callable(closed) and closed():
            return Outcome(FAILED, "it was stopped")
        process = start_child(call, theirs)
        running.add(process)
    theirs.close()
    try:
        outcome: Outcome = ours.recv()
        return outcome
    except EOFError:
        process.join()
        code = process.exitcode or 0
        return Outcome(FAILED, f"it was ended by signal {-code}" if code < 0 else f"its process ended with code {code}")
    finally:
        ours.close()
        process.join()
        with _starting:
            running.discard(process)


def start_child(call: Call, answer: Connection) -> ForkServerProcess:
    """Start the process of a step, and the fork server before the first one."""
    process = _context.Process(target=_child, args=(call, answer))
    with _environment(), _without_main():
        _context.set_forkserver_preload(PRELOADED)
        try:
            process.start()
        except OSError as error:
            raise UserError(f"cannot start a process for a step: {error.strerror or error}") from error
    return process


@contextlib.contextmanager
def _environment() -> Iterator[None]:
    """The fork server, and so every step, gets ENVIRONMENT where the user has not set it."""
    added = {name: value for name, value in ENVIRONMENT.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]


@contextlib.contextmanager
def _without_main() -> Iterator[None]:
    """A child would import the program that runs here once more, by its file; steps are in modules."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _child(call: Call, answer: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the starter decides, and ends this process
    threading.Thread(target=_end_with_starter, daemon=True).start()
    answer.send(do(call))
    answer.close()
    os._exit(0)  # there is nothing to take down that is worth the time


def _end_with_starter() -> None:
    starter = multiprocessing.parent_process()
    assert starter is not None
    wait([starter.sentinel])
    os._exit(1)
