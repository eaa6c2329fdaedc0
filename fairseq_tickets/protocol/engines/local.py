"""Steps in processes of this machine, from the standard library's forkserver.

The fork server loads PyTorch and fairseq once; each step is a fork of it, started while the step before it works, and
leaves nothing behind for the next. A step's process watches its starter: when that ends, however it ends, the process
ends too.
"""

from __future__ import annotations

import atexit
import contextlib
import multiprocessing
import multiprocessing.forkserver
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from types import ModuleType

from fairseq_tickets.errors import UserError
from fairseq_tickets.protocol.engines import Engine
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
Child = tuple[ForkServerProcess, Connection]  # a process that waits for one call, does it, answers and ends

_context = multiprocessing.get_context("forkserver")
_starting = threading.Lock()
_spares: list[Child] = []


class LocalEngine(Engine):
    """Some steps at a time on this machine."""

    def __init__(self, workers: int) -> None:
        self.at_once = workers
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="step")
        self._running: set[ForkServerProcess] = set()
        self._closed = False

    def check(self, needed: Resources) -> None:
        if not needed.gpus:
            return
        import torch

        if not torch.cuda.is_available():
            raise UserError("training: device is 'cuda', but PyTorch finds no GPU here; use `device: cpu`")

    def submit(self, calls: Sequence[Call]) -> list[Future[Outcome]]:
        return [self._threads.submit(do_in_child, call, self._running, lambda: self._closed) for call in calls]

    def close(self, kill: bool) -> None:
        self._closed = True
        if kill:
            with _starting:
                for process in self._running:
                    process.kill()
        self._threads.shutdown(cancel_futures=kill)
        end_spares()


def do_in_child(call: Call, running: set[ForkServerProcess], closed: Callable[[], bool] = lambda: False) -> Outcome:
    """Do a step in a process of its own and wait for its answer.

    Args:
        running: gets the process while it runs.
        closed: whether no process should be started any more.
    """
    with _starting:
        if closed():
            return Outcome(FAILED, "it was stopped")
        process, pipe = _spares.pop() if _spares else _start_child()
        running.add(process)
    try:
        pipe.send(call)
        with _starting:  # while this one works the next one starts
            if not _spares and not closed():
                _spares.append(_start_child())
        outcome: Outcome = pipe.recv()
        return outcome
    except (EOFError, OSError):
        process.join()
        code = process.exitcode or 0
        return Outcome(FAILED, f"it was ended by signal {-code}" if code < 0 else f"its process ended with code {code}")
    finally:
        with _starting:
            running.discard(process)
        pipe.close()


def end_spares() -> None:
    """End the processes that wait for a call."""
    with _starting:
        while _spares:
            process, pipe = _spares.pop()
            pipe.close()
            process.join()


atexit.register(end_spares)  # else multiprocessing would wait for them when the program ends


def _start_child() -> Child:
    """Start a process, and the fork server before the first one."""
    ours, theirs = _context.Pipe()
    process = _context.Process(target=_child, args=(theirs,))
    _context.set_forkserver_preload(PRELOADED)
    main, added = sys.modules["__main__"], {name: ENVIRONMENT[name] for name in ENVIRONMENT if name not in os.environ}
    os.environ.update(added)
    sys.modules["__main__"] = ModuleType("__main__")  # else a child would import this program once more, by its file
    try:
        process.start()
    except OSError as error:
        raise UserError(f"cannot start a process for a step: {error.strerror or error}") from error
    finally:
        sys.modules["__main__"] = main
        for name in added:
            del os.environ[name]
    theirs.close()
    return process, ours


def _child(pipe: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the starter decides, and ends this process
    threading.Thread(target=_end_with_starter, daemon=True).start()
    with contextlib.suppress(EOFError):  # it was a spare one
        pipe.send(do(pipe.recv()))
    os._exit(0)  # there is nothing to take down that is worth the time


def _end_with_starter() -> None:
    starter = multiprocessing.parent_process()
    assert starter is not None
    wait([starter.sentinel])
    os._exit(1)
