"""SIGTERM and SIGHUP end a command as Ctrl-C does: what it was writing is removed, and it says that it was stopped."""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import threading
from collections.abc import Iterator
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGHUP)


class Stopped(KeyboardInterrupt):
    """A signal asked the command to end.

    Attributes:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


def stop_signal(stop: KeyboardInterrupt) -> int:
    """The number of the signal behind a KeyboardInterrupt; a command ends with 128 and this, as shells expect."""
    return stop.number if isinstance(stop, Stopped) else signal.SIGINT


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """Within, the first SIGTERM or SIGHUP raises Stopped and later ones are ignored, so that cleaning up goes on.

    A signal that is ignored already (nohup) stays so. Processes that the block started with `multiprocessing` end with
    it when it is stopped. Without effect outside the main thread, where Python takes no signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    heard = {number: old for number, old in before.items() if old is not signal.SIG_IGN}

    def stop(number: int, frame: FrameType | None) -> None:
        for other in heard:
            signal.signal(other, signal.SIG_IGN)
        raise Stopped(number)

    try:
        for number in heard:
            signal.signal(number, stop)
        yield
    except KeyboardInterrupt:
        for child in multiprocessing.active_children():
            child.terminate()
        raise
    finally:
        for number, old in heard.items():
            signal.signal(number, old)
