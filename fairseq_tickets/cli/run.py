"""`fairseq-tickets run`: a whole experiment of a paper from one protocol file, resumable."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from fairseq_tickets.cli.numbers import number, whole
from fairseq_tickets.cli.report import end_with_report
from fairseq_tickets.errors import UserError

if TYPE_CHECKING:
    from fairseq_tickets.protocol.engines import Options
    from fairseq_tickets.protocol.status import Progress, Status

DESCRIPTION = """\
Run a whole experiment of a paper: fine-tune, score, prune, rewind, select, for every task and seed of a YAML file.

  fairseq-tickets run examples/super_tickets/protocol/quick.yaml --dry-run
  fairseq-tickets run examples/super_tickets/protocol/quick.yaml --workers 2
  fairseq-tickets table S1 runs/quick/results

An experiment is made of steps: prepare, train, score, extract. Each is done once, in OUTPUT/EXPERIMENT/KEY/; its key is
the hash of what determines its result: settings, seed, checksums of model and data. Steps that are done are not done
again, so that the same call goes on after whatever stopped it, with the same results as if nothing had; several calls
may work on one experiment at the same time. OUTPUT/EXPERIMENT/results/runs.jsonl holds the results, for `table` and
`plot`; such a file, put there before, counts as done.

Engines: local (this machine), ray or ray:ADDRESS (a Ray cluster; without an address one is started here), slurm. The
nodes of a cluster need the same environment, and see OUTPUT, model and data under the same paths.

`fairseq-tickets options protocol` explains the keys of the file and their defaults; unknown ones are refused."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("protocol", metavar="FILE", type=Path, help="protocol file")
    parser.add_argument(
        "--output", metavar="DIR", type=Path, default=Path("runs"), help="folder of experiments (default: runs)"
    )
    parser.add_argument("--dry-run", action="store_true", help="list the steps: what is known, and how long it takes")
    parser.add_argument(
        "--status", action="store_true", help="say how far the experiment is, also while another process works on it"
    )
    parser.add_argument(
        "--rerun-changed",
        action="store_true",
        help="where model or data have changed since runs were finished, set those results aside and run again",
    )
    parser.add_argument("--json", action="store_true", help="print the list of steps as JSON on standard output")
    add_engine_arguments(parser)


def add_engine_arguments(parser: argparse.ArgumentParser) -> None:
    """Options that say where steps are done."""
    add = parser.add_argument_group("where steps are done").add_argument
    add("--engine", metavar="NAME", default="local", help="local (default), ray[:ADDRESS] or slurm")
    add(
        "--workers",
        metavar="N",
        type=whole("--workers", 1, 1024),
        default=1,
        help="local: steps at a time (default: 1)",
    )
    add("--memory", metavar="GB", type=number("--memory", 0.001, 1e6), help="ray, slurm: memory to ask for, a step")
    add("--partition", metavar="NAME", help="slurm: partition")
    add("--time", metavar="MINUTES", type=whole("--time", 1), help="slurm: time limit of a step")
    add("--gpus", metavar="N", type=whole("--gpus", 0, 1024), help="slurm: GPUs a step (default: 1 for device cuda)")
    add("--slurm", metavar="NAME=VALUE", action="append", default=[], help="slurm: an option of sbatch; repeatable")


def run(args: argparse.Namespace) -> int:
    """Run, or list, what is missing."""
    options = engine_options(args)
    from fairseq_tickets.protocol.engines import check_name, start_engine
    from fairseq_tickets.protocol.experiment import Experiment

    check_name(args.engine)
    experiment = Experiment(args.protocol, args.output)
    if args.dry_run or args.status:
        status = experiment.status()
    else:
        cores = os.cpu_count() or 1
        if args.engine == "local" and args.workers > cores:
            print(f"note: {args.workers} workers share {cores} cores", file=sys.stderr)
        with progress() as tell, start_engine(args.engine, options, experiment.folder) as engine:
            status = experiment.run(engine, tell, args.rerun_changed, options.memory)
    print(json.dumps(status.to_json(), indent=1) if args.json else text(status, args.dry_run))
    if not (args.dry_run or args.status) and status.collected:
        end_with_report(experiment.folder, experiment.folder / "report.html")
    return 0


def engine_options(args: argparse.Namespace) -> Options:
    """What the command line says about engines.

    Raises:
        UserError: --slurm without "=".
    """
    from fairseq_tickets.protocol.engines import Options

    extra = []
    for pair in args.slurm:
        name, equals, value = pair.partition("=")
        if not equals or not name.strip("-"):
            raise UserError(f"--slurm {pair}: it must be NAME=VALUE, an option of sbatch")
        extra.append((name.lstrip("-").replace("-", "_"), value))
    memory = int((args.memory or 0) * 2**30)
    return Options(args.workers, memory, args.partition, args.time, args.gpus, tuple(extra))


def text(status: Status, listed: bool) -> str:
    """The state of an experiment for people: with a line for every step if `listed`, else for every running one."""
    lines = []
    for entry in status.steps:
        said = {"left": duration(entry.seconds), "running": f"running: {entry.where}"}.get(entry.state, entry.state)
        if listed or entry.state == "running":
            lines.append(f"{entry.key}  {entry.label:60}  {said}")
    left, running = status.count("left", "running"), status.count("running")
    lines.append(f"{status.count('finished')} runs finished, {left} left")
    if running:
        lines[-1] += f", {running} of them running"
    if status.undecided:
        lines[-1] += ", and more that depend on results (choice of learning rate, batch size or ticket)"
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


@contextlib.contextmanager
def progress() -> Iterator[Callable[[Progress], None]]:
    """Something to tell progress to: a bar on a terminal, else a line for what happens, at most one a second."""
    if sys.stderr.isatty():
        from tqdm import tqdm

        form = "{desc} |{bar}| {n_fmt}/{total_fmt}"
        with tqdm(total=0, unit="run", file=sys.stderr, bar_format=form, dynamic_ncols=True) as bar:

            def on_bar(now: Progress) -> None:
                for line in now.news:
                    bar.write(line, file=sys.stderr)
                bar.total, bar.n = now.done + now.left, now.done
                bar.set_description_str(state(now))

            yield on_bar
        return
    last = 0.0
    held: list[str] = []

    def on_line(now: Progress) -> None:
        nonlocal last
        held.extend(now.news)
        if held and (not now.left or time.monotonic() - last >= 1.0):
            more = f" and {len(held) - 1} others" if len(held) > 1 else ""
            print(f"{held[-1]}{more} ({state(now)})", file=sys.stderr, flush=True)
            held.clear()
            last = time.monotonic()

    yield on_line


def state(now: Progress) -> str:
    """ "3 done, 2 running, 5 left, about 4 min", with what other processes do."""
    running = len(now.running)
    words = [f"{now.done} done", f"{running} running", f"{max(0, now.left - running)} left"]
    others = sorted({where for where in now.running.values() if where})
    if others:
        words[1] += f" (some by {others[0]})" if len(others) == 1 else f" (some by {len(others)} other processes)"
    if now.undecided:
        words[2] += " and more to come"
    elif now.left and now.seconds is not None:
        words.append(duration(now.seconds / max(1, running)))
    return ", ".join(words)
