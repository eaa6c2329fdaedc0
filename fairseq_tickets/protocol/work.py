"""One step in a process of its own: claim its folder, call its function, publish what it wrote.

The function writes into a folder of this attempt; its files are moved to the step's folder when it has returned, and
`done.json` is written last. Whatever ends the process before that leaves the step not done.
"""

from __future__ import annotations

import contextlib
import json
import os
import pkgutil
import shutil
import signal
import socket
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fairseq_tickets.errors import UserError
from fairseq_tickets.files import read_json, sync
from fairseq_tickets.protocol.lease import Claim, Lease, claim
from fairseq_tickets.protocol.steps import RESULT
from fairseq_tickets.protocol.store import DONE, check_output, done_facts, inputs_of, write_done

LOG, SPEC = "log.txt", "spec.json"
FINISHED, FAILED, TAKEN, GONE = "finished", "failed", "taken", "gone"


@dataclass(frozen=True)
class Resources:
    """What a step needs of the machine it is done on: CPU cores, GPUs, and bytes of memory (0 = not said)."""

    cpus: int = 1
    gpus: int = 0
    memory: int = 0


@dataclass(frozen=True)
class Call:
    """A step, for another process.

    Attributes:
        folder: of the step; the folder's name is the step's key.
        function, arguments, label: see `Step`.
        needs: outputs of other steps that must be there: (folder of the step, name).
        stale: number of the claim on the step's folder that may be taken over, see `lease`.
        seen: what `done.json` said when the call was made: an output of it is missing, so the step is done again,
            unless another process has just done so; None = it was not done.
    """

    folder: Path
    function: str
    arguments: Mapping[str, Any]
    needs: Sequence[tuple[Path, str]] = ()
    label: str = ""
    resources: Resources = field(default_factory=Resources)
    stale: int | None = None
    seen: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Outcome:
    """How a call ended.

    Attributes:
        status: FINISHED; FAILED, by itself; TAKEN: another process does it; GONE: an output that it needs is not there.
        message: the reason.
    """

    status: str
    message: str = ""


def do(call: Call) -> Outcome:
    """Do a step in this process, which should do nothing else: its output goes to the step's log."""
    folder = call.folder
    try:
        held = claim(folder, _lost, call.stale)
        if isinstance(held, Claim):
            return Outcome(TAKEN, held.name())
        try:
            found = done_facts(folder)
            if found is not None and found != call.seen:
                return Outcome(FINISHED)
            _open_log(folder / LOG)
            if held.before is not None:
                print(f"taken over from {held.before.name()}, which has ended or gives no sign of life", flush=True)
            for needed, file in call.needs:
                facts = done_facts(needed)
                if facts is None or not (needed / file).exists():
                    return Outcome(GONE, f"{needed / file} is not there")
                check_output(needed, file, facts)
            began = time.monotonic()
            held.workplace.mkdir(parents=True)
            told = {"label": call.label, "function": call.function, "arguments": call.arguments}
            (folder / SPEC).write_text(json.dumps(told, indent=1), encoding="utf-8")  # for people; never read
            pkgutil.resolve_name(call.function)(held.workplace, **call.arguments)
            _publish(folder, held, time.monotonic() - began)
            return Outcome(FINISHED)
        finally:
            held.release()
    except UserError as error:
        with contextlib.suppress(OSError):
            print(error, flush=True)
        return Outcome(FAILED, str(error))
    except OSError as error:
        return Outcome(FAILED, f"cannot write in {folder}: {error.strerror or error}")
    except Exception as error:
        with contextlib.suppress(OSError):
            traceback.print_exc()
            sys.stderr.flush()
        from fairseq_tickets.compat import user_error_line

        return Outcome(FAILED, user_error_line(error) or f"{type(error).__name__}: {' '.join(str(error).split())}")


def _publish(folder: Path, held: Lease, seconds: float) -> None:
    """Move what an attempt wrote to the step's folder and mark it as done."""
    made = sorted(held.workplace.iterdir(), key=lambda path: path.name == RESULT)
    content = read_json(made[-1], "result") if made and made[-1].name == RESULT else {}
    written = list(held.workplace.rglob("*"))
    for path in written:
        sync(path)
    if not held.held():
        raise UserError("another process has taken this step over")
    for name in (DONE, RESULT):
        (folder / name).unlink(missing_ok=True)
    for path in made:
        if (folder / path.name).is_dir():
            shutil.rmtree(folder / path.name)
        os.replace(path, folder / path.name)
    moved = [folder / path.relative_to(held.workplace) for path in written]
    facts = {"seconds": round(seconds, 3), "where": socket.gethostname(), "inputs": inputs_of(content)}
    write_done(folder, [path for path in moved if path.is_file()], facts)


def _open_log(path: Path) -> None:
    """Send this process's output to a new log."""
    path.unlink(missing_ok=True)  # a suspended process may still write into the old one
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)


def _lost() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
