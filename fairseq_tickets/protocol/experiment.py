"""One protocol in one output folder: what is to be done, how long it will take, and doing it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Optional

from fairseq_tickets.analysis.results import Result
from fairseq_tickets.protocol.config import load_protocol
from fairseq_tickets.protocol.inputs import Checksums, Inputs, find_data, find_model
from fairseq_tickets.protocol.plan import Plan, Planner, check_levels
from fairseq_tickets.protocol.processes import end_workers
from fairseq_tickets.protocol.runs import EXTRACT, L1, SCORE, SHARE, TRAIN, Run
from fairseq_tickets.protocol.scheduler import default_executor, missing, run_all
from fairseq_tickets.protocol.store import COUNTS, OUTPUTS, RESULT, TICKET, Store

Update = Callable[[int, int, int, Optional[str]], None]


@dataclass(frozen=True)
class Entry:
    """A run in a list: whether it is finished, and else how many seconds it may take, None = unknown."""

    run: Run
    finished: bool
    seconds: float | None


@dataclass(frozen=True)
class Status:
    """Where an experiment stands.

    Attributes:
        folder: its runs.
        runs: all that are known.
        undecided: how many more there will be that depend on results.
        strangers: finished runs in the folder that the protocol does not ask for.
        collected: result files in `folder / "results"`.
    """

    folder: Path
    runs: list[Entry]
    undecided: int
    strangers: int
    collected: int

    def seconds_left(self) -> float | None:
        """Seconds of one worker for the known runs; None when one of them can't be judged, or some are undecided."""
        open_runs = [entry.seconds for entry in self.runs if not entry.finished]
        if self.undecided or any(seconds is None for seconds in open_runs):
            return None
        return sum(seconds for seconds in open_runs if seconds is not None)

    def to_json(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "folder": str(self.folder),
            "finished": sum(entry.finished for entry in self.runs),
            "left": sum(not entry.finished for entry in self.runs),
            "undecided": self.undecided,
            "seconds_left": self.seconds_left(),
            "other_runs": self.strangers,
            "results": self.collected,
            "runs": [
                {
                    "key": entry.run.key,
                    "kind": entry.run.kind,
                    "label": entry.run.label(),
                    "finished": entry.finished,
                    "seconds": entry.seconds,
                }
                for entry in self.runs
            ],
        }


class Experiment:
    """A protocol file and an output folder.

    Args:
        path: the protocol.
        output: runs go to output / experiment, prepared data to output / data.

    Raises:
        UserError: whatever is wrong with the protocol, the model or the data; nothing has been run or written then.
    """

    def __init__(self, path: Path, output: Path) -> None:
        self.protocol = load_protocol(path)
        self.folder = output / self.protocol.experiment
        self.store = Store(self.folder)
        checksums = Checksums(output / "checksums.json")
        model = find_model(self.protocol, checksums)
        check_levels(self.protocol, model)
        data = {
            name: find_data(self.protocol, task, output / "data", checksums)
            for name, task in self.protocol.tasks.items()
        }
        self._checksums = checksums
        self._inputs: Inputs = dict(model.inputs)
        for found in data.values():
            self._inputs.update(found.inputs)
        self._planner = Planner(self.protocol, model, data, self.folder)

    def plan(self) -> Plan:
        """The plan as of the results there are."""
        return self._planner.plan(self.store.results())

    def status(self) -> Status:
        """Where the experiment stands; writes nothing.

        Raises:
            UserError: a finished run was edited or cut, or its inputs have changed.
        """
        self.store.check_inputs(self._inputs, rerun=False)
        return self._status(self.plan(), 0)

    def run(
        self, workers: int, update: Update, rerun_changed: bool = False, executor: Executor | None = None
    ) -> Status:
        """Do what is missing.

        Args:
            workers: most runs at a time.
            update: told about progress: runs known, finished, running, and the label of the one that just ended.
            rerun_changed: see `Store.check_inputs`.
            executor: where the runs go; the default starts subprocesses here.

        Raises:
            UserError: as `status`, or a run failed, or another process works in the folder.
        """
        with self.store.lock() as lock:
            self.store.check_inputs(self._inputs, rerun=rerun_changed)
            self._checksums.save()
            chosen = executor or default_executor(workers)
            try:
                plan = run_all(
                    self.plan,
                    self.store,
                    chosen,
                    workers,
                    lambda plan, done, running, run: update(
                        len(plan.runs) + plan.undecided, done, running, None if run is None else run.label()
                    ),
                    lock,
                    self.protocol.keep_checkpoints,
                )
            finally:
                if executor is None:
                    chosen.shutdown(wait=False)
                    end_workers()
                collected = self._collect()
            self._copy_predictions()
            return self._status(plan, collected)

    def _collect(self) -> int:
        """Copy what people look at side by side: `results`; `scores` of importance and the `super_tickets` chosen;
        dominant `tickets` and `counts`."""
        plan, results = self.plan(), self.store.results()
        found = {
            f"{_stem(results[key])}-{key[:8]}.json": self.folder / key / RESULT for key in plan.runs if key in results
        }
        self.store.collect("results", found)
        chosen = self._planner.chosen(plan, results)
        for name, kind, output in (
            ("scores", SCORE, OUTPUTS[SCORE]),
            ("super_tickets", TRAIN, TICKET),
            ("tickets", EXTRACT, TICKET),
            ("counts", EXTRACT, COUNTS),
        ):
            done = [run for run in plan.runs.values() if run.kind == kind and self.store.finished(run)]
            done = [run for run in done if kind != TRAIN or run.key in chosen]
            names = [f"{run.what['task']}-seed{run.what['seed']}" for run in done]
            files = {}
            for run, stem in zip(done, names):
                own = stem if names.count(stem) == 1 else f"{stem}-{run.key[:8]}"
                if (self.folder / run.key / output).is_file():
                    files[own + Path(output).suffix] = self.folder / run.key / output
            self.store.collect(name, files)
        return len(found)

    def _status(self, plan: Plan, collected: int) -> Status:
        todo = missing(plan, self.store)
        seconds = _seconds(self.folder)
        entries = [
            Entry(run, key not in todo, _estimate(run, seconds) if key in todo else None)
            for key, run in plan.runs.items()
        ]
        strangers = len([key for key in self.store.results() if key not in plan.runs])
        return Status(self.folder, entries, plan.undecided, strangers, collected)

    def _copy_predictions(self) -> None:
        """Test predictions of the seed with the best task average, full model and super ticket (paper S, A.1.3)."""
        from fairseq_tickets.protocol.submission import gather

        section = self.protocol.super_tickets
        if section is not None and section.predictions:
            results = self.store.results()
            wanted = [key for key in self.plan().runs if key in results]
            gather([results[key] for key in wanted], self.folder, section.tasks)


def _seconds(folder: Path) -> list[tuple[Mapping[str, Any], float]]:
    """What finished training runs were and how long they took; not a shared run's parts, which repeat its time."""
    found = []
    for path in sorted(folder.glob(f"*/{RESULT}")):
        try:
            seconds = float(json.loads(path.read_text(encoding="utf-8"))["wall_seconds"])
            what = json.loads((path.parent / "spec.json").read_text(encoding="utf-8"))["what"]
        except (OSError, ValueError, KeyError):
            continue
        if "shared" not in what:
            found.append((what, seconds))
    return found


def _estimate(run: Run, finished: list[tuple[Mapping[str, Any], float]]) -> float | None:
    """Mean of the finished runs most like this one: same task, data and settings; else same task; None without any.

    A shared run takes as long as its tasks take alone. Runs that are not training are short beside it and count as
    nothing.
    """
    if run.kind == SHARE:
        alone = [_estimate(replace(run, kind=TRAIN, what={**run.what, **task}), finished) for task in run.what["tasks"]]
        return None if any(seconds is None for seconds in alone) else sum(seconds or 0.0 for seconds in alone)
    if run.kind not in (TRAIN, L1):
        return 0.0
    alike = [
        ("task", "fraction", "subset", "config", "method", "level"),
        ("task", "fraction", "subset", "config", "method"),
        ("task", "fraction", "subset", "config"),
        ("task", "fraction", "subset"),
    ]
    for names in alike:
        times = [seconds for what, seconds in finished if all(what.get(n) == run.what.get(n) for n in names)]
        if times:
            return sum(times) / len(times)
    return None


def _stem(result: Result) -> str:
    words = [result.task, result.method]
    if result.source_task:
        words.append(f"from-{result.source_task}")
    if result.top_k is not None:
        words.append(f"k{result.top_k}")
    if result.level is not None:
        words.append(f"{result.level:g}")
    if result.train_fraction != 1.0:
        words.append(f"of{result.train_fraction:g}")
    return "-".join([*words, f"seed{result.seed}"])
