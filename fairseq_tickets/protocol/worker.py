"""One run in one process: `python -m fairseq_tickets.protocol.worker KEY/spec.json`; only here fairseq is loaded.

The process ends when its standard input closes, which happens when whoever started it ends, however it ends.
"""

from __future__ import annotations

import os
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fairseq_tickets.errors import UserError
from fairseq_tickets.files import read_json
from fairseq_tickets.protocol.runs import EXTRACT, L1, PREPARE, SCORE, TRAIN
from fairseq_tickets.protocol.scheduler import ERROR_MARK


def main(spec_path: Path) -> int:
    """Do the run that a specification describes; returns the exit code."""
    threading.Thread(target=_end_with_starter, daemon=True).start()
    spec = read_json(spec_path, "specification")
    try:
        KINDS[spec["kind"]](spec, spec_path.parent)
    except UserError as error:
        print(f"{ERROR_MARK}{error}", flush=True)
        return 2
    except Exception as error:
        traceback.print_exc()
        from fairseq_tickets.compat import user_error_line

        message = user_error_line(error) or f"{type(error).__name__}: {' '.join(str(error).split())}"
        print(f"{ERROR_MARK}{message}", flush=True)
        return 1
    return 0


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


KINDS: dict[str, Callable[[Mapping[str, Any], Path], None]] = {
    PREPARE: prepare,
    TRAIN: train,
    SCORE: score,
    L1: find_l1,
    EXTRACT: extract,
}


def _end_with_starter() -> None:
    try:
        sys.stdin.buffer.read()
    finally:
        os._exit(1)


if __name__ == "__main__":
    code = main(Path(sys.argv[1]))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # not through the interpreter's end: the watching thread is blocked on standard input
