"""`fairseq-tickets run`: a whole experiment of a paper from one protocol file, resumable."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fairseq_tickets.cli.numbers import whole
from fairseq_tickets.errors import UserError

if TYPE_CHECKING:
    from fairseq_tickets.protocol.experiment import Status

HELP = "run a whole experiment of a paper from a protocol file; resumable"
DESCRIPTION = """\
Run a whole experiment of a paper: fine-tune, score, prune, rewind, select, for every task and seed of a YAML file.

  fairseq-tickets run examples/super_tickets/protocol/quick.yaml --dry-run
  fairseq-tickets run examples/super_tickets/protocol/quick.yaml --workers 2
  fairseq-tickets table S1 runs/quick/results

Every training run writes one result file, OUTPUT/EXPERIMENT/KEY/result.json; its key is the hash of what determines
the result: configuration, seed, checksums of model and data. Runs that are finished are not done again, so that the
same call goes on after whatever stopped it, with the same results as if nothing had. OUTPUT/EXPERIMENT/results/ holds
the results of this protocol side by side, for `table` and `plot`.

The keys of the file and their defaults are explained in fairseq_tickets/protocol/config.py; unknown ones are
refused."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("protocol", metavar="FILE", type=Path, help="protocol file")
    parser.add_argument(
        "--output", metavar="DIR", type=Path, default=Path("runs"), help="folder of runs (default: runs)"
    )
    parser.add_argument(
        "--workers", metavar="N", type=whole("--workers", 1, 1024), default=1, help="runs at a time (default: 1)"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="list the runs with an estimate of the time; run nothing"
    )
    parser.add_argument(
        "--rerun-changed",
        action="store_true",
        help="where model or data have changed since runs were finished, set those results aside and run again",
    )
    parser.add_argument("--json", action="store_true", help="print the list of runs as JSON on standard output")


def run(args: argparse.Namespace) -> int:
    """Run, or list, what is missing."""
    from fairseq_tickets.protocol.experiment import Experiment

    if args.workers < 1:
        raise UserError(f"--workers {args.workers}: it must be at least 1")
    experiment = Experiment(args.protocol, args.output)
    if args.dry_run:
        status = experiment.status()
    else:
        cores = os.cpu_count() or 1
        if args.workers > cores:
            print(f"note: {args.workers} workers share {cores} cores", file=sys.stderr)
        with Progress() as progress:
            status = experiment.run(args.workers, progress.update, args.rerun_changed)
    print(json.dumps(status.to_json(), indent=1) if args.json else text(status, args.dry_run))
    return 0


def text(status: Status, listed: bool) -> str:
    """The state of an experiment for people: with a line for every run if `listed`."""
    lines = []
    if listed:
        for entry in status.runs:
            time = "finished" if entry.finished else duration(entry.seconds)
            lines.append(f"{entry.run.key}  {entry.run.label():60}  {time}")
    left = sum(not entry.finished for entry in status.runs)
    lines.append(f"{len(status.runs) - left} runs finished, {left} left")
    if status.undecided:
        lines[-1] += f", {status.undecided} more that depend on results (choice of learning rate, batch size or ticket)"
    if left or status.undecided:
        seconds = status.seconds_left()
        lines.append(
            "time left: unknown until a run of each task is finished"
            if seconds is None
            else f"time left: {duration(seconds)} of one worker, judged by finished runs"
        )
    if status.strangers:
        lines.append(
            f"{status.strangers} finished runs in {status.folder} are not of this protocol; they are left alone"
        )
    if status.collected:
        lines.append(f"{status.collected} results in {status.folder / 'results'}")
    return "\n".join(lines)


def duration(seconds: float | None) -> str:
    """ "about 1 h 05 min", or "unknown"."""
    if seconds is None:
        return "unknown"
    if seconds < 90:
        return f"about {seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"about {minutes} min" if minutes < 90 else f"about {minutes // 60} h {minutes % 60:02} min"


class Progress:
    """A bar on standard error: done / running / left, and a line for every run that ends."""

    def __enter__(self) -> Progress:
        from tqdm import tqdm

        self._bar: Any = tqdm(total=0, unit="run", file=sys.stderr, bar_format="{desc} |{bar}| {n_fmt}/{total_fmt}")
        return self

    def __exit__(self, *error: Any) -> None:
        self._bar.close()

    def update(self, total: int, done: int, running: int, ended: str | None) -> None:
        """Called after every change."""
        if ended is not None:
            self._bar.write(f"done: {ended}", file=sys.stderr)
        self._bar.total, self._bar.n = total, done
        self._bar.set_description_str(f"{done} done, {running} running, {max(0, total - done - running)} left")
