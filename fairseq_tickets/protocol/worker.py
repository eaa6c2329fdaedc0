"""The server that does runs, each in a fork of itself: `python -m fairseq_tickets.protocol.worker`.

It reads paths of specifications from standard input, one JSON text a line, and answers each with [exit code, message].
Only here fairseq is loaded.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import select
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fairseq_tickets.errors import UserError
from fairseq_tickets.files import read_json
from fairseq_tickets.protocol.runs import EXTRACT, L1, PART, PREPARE, SCORE, SHARE, TRAIN
from fairseq_tickets.protocol.store import LOG


def serve() -> None:
    """Do runs until standard input closes."""
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)  # whatever a library prints is no answer
        _preload()
        for line in iter(sys.stdin.buffer.readline, b""):
            spec = Path(json.loads(line))
            message, told = os.pipe()
            run = os.fork()
            if run == 0:
                _fork_main(spec, told)
            os.close(told)
            _, status = os.waitpid(run, 0)
            with os.fdopen(message, encoding="utf-8") as text:
                json.dump([os.waitstatus_to_exitcode(status), text.read()], answers)
            answers.write("\n")
            answers.flush()


def _preload() -> None:
    """Load what every run needs. Nothing is computed here: threads that a library starts would not live in a fork."""
    for module in ("fairseq_cli.train", "fairseq_tickets.plugin.scoring", "torch._dynamo"):
        importlib.import_module(module)


def _fork_main(spec: Path, told: int) -> None:
    """Do a run in the fork and end it; why it failed goes through the pipe `told`: the disk may be full."""
    code = 1
    try:
        message = main(spec)
        code = 2 if message else 0
        os.write(told, message.encode()[: select.PIPE_BUF])
    finally:
        os._exit(code)  # not through the interpreter's end: the watching thread is blocked on standard input


def main(spec_path: Path) -> str:
    """Do the run that a specification describes, with a log in its folder; returns the reason if it failed, else ""."""
    threading.Thread(target=_end_with_starter, daemon=True).start()
    try:
        log = os.open(spec_path.parent / LOG, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(log, 1)
        os.dup2(log, 2)
        spec = read_json(spec_path, "specification")
        KINDS[spec["kind"]](spec, spec_path.parent)
        return ""
    except UserError as error:
        with contextlib.suppress(OSError):
            print(error, flush=True)
        return str(error)
    except Exception as error:
        with contextlib.suppress(OSError):
            traceback.print_exc()
            sys.stderr.flush()
        from fairseq_tickets.compat import user_error_line

        return user_error_line(error) or f"{type(error).__name__}: {' '.join(str(error).split())}"


def prepare(spec: Mapping[str, Any], folder: Path) -> None:
    """Prepare a task's data into the cache."""
    from fairseq_tickets.data.prepare import prepare as prepare_data
    from fairseq_tickets.data.tasks import find_files, find_task

    told = spec["told"]
    task = find_task(told["task"])
    target = Path(told["folder"])
    if (target / "task.json").is_file():
        return
    prepare_data(
        task,
        find_files(Path(told["glue"]), task),
        target,
        tokenizer=Path(told["tokenizer"]),
        dictionary=Path(told["dictionary"]),
    )


def train(spec: Mapping[str, Any], folder: Path) -> None:
    """A training run that makes a result file."""
    from fairseq_tickets.protocol.training import train_run

    train_run(spec, folder)


def score(spec: Mapping[str, Any], folder: Path) -> None:
    """Importance scores of a fine-tuned full model over its training data."""
    from fairseq_tickets.plugin.scoring import score_checkpoint
    from fairseq_tickets.protocol.store import write_done
    from fairseq_tickets.protocol.training import pin_threads

    what, told = spec["what"], spec["told"]
    pin_threads(what["config"]["threads"])
    scores = score_checkpoint(
        told["checkpoint"],
        told["data"],
        granularity=what["granularity"],
        batch_size=what["config"]["batch_size"] if what["granularity"] == "batch" else 32,
        limit=what["limit"],
        device=what["config"]["device"],
    )
    scores.provenance.update(run=what["full"], seed=what["seed"])
    # the checkpoint holds the time it was written; its run's key says the same and never changes
    scores.provenance.pop("checkpoint_sha256", None)
    scores.save(folder / "scores.npz")
    write_done(folder, "scores.npz", {"examples": scores.examples})


def find_l1(spec: Mapping[str, Any], folder: Path) -> None:
    """L1 fine-tuning, whose checkpoint a dominant ticket is extracted from."""
    from fairseq_tickets.protocol.training import l1_run

    l1_run(spec, folder)


def extract(spec: Mapping[str, Any], folder: Path) -> None:
    """A dominant ticket from an L1 run."""
    from fairseq_tickets.protocol.training import extract_run

    extract_run(spec, folder)


def share(spec: Mapping[str, Any], folder: Path) -> None:
    """Several tasks on one encoder."""
    from fairseq_tickets.protocol.sharing import shared_run

    shared_run(spec, folder)


def part(spec: Mapping[str, Any], folder: Path) -> None:
    """The result file of one task of a shared run."""
    from fairseq_tickets.protocol.sharing import part_run

    part_run(spec, folder)


KINDS: dict[str, Callable[[Mapping[str, Any], Path], None]] = {
    PREPARE: prepare,
    TRAIN: train,
    SCORE: score,
    L1: find_l1,
    EXTRACT: extract,
    SHARE: share,
    PART: part,
}


def _end_with_starter() -> None:
    try:
        os.read(0, 1)
    finally:
        os._exit(1)


if __name__ == "__main__":
    serve()
