"""Results: one JSON file a training run, or one line of a file of many; loaded, checked, selected and reduced to super
tickets.

Tables and figures are made from these files only. A file that was cut, edited or comes from elsewhere is
refused by name: its fields are checked one by one, its scores must be those of its best epoch, and where it
carries a `checksum` (see `checksum`) that must fit too. Paper S, sections 3 and 5.2: the super ticket is the
winning ticket with the best rewinding score on the 10 % of the development set kept for selection (`select`).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fairseq_tickets.analysis.glue_tasks import task_score
from fairseq_tickets.analysis.result_fields import FIELDS, SEARCHED, check_fields
from fairseq_tickets.analysis.result_lines import SUFFIX as LINES_SUFFIX
from fairseq_tickets.analysis.result_lines import read_lines
from fairseq_tickets.documents import is_whole, shown
from fairseq_tickets.errors import UserError
from fairseq_tickets.files import PathLike, read_json

FORMAT = "fairseq-tickets/result"
VERSION = 1


@dataclass(frozen=True)
class Result:
    """One training run, as its file says; scores are fractions. Field names are those of the file.

    `ticket_seconds` is what the steps took that its ticket was found by; a ticket that many runs train has it in each.
    `shared_tasks` are the tasks trained on one encoder, by this run or by the run that it starts from: with other tasks
    it would be another run.
    """

    path: str
    key: str
    experiment: str
    model: str
    task: str
    method: str
    seed: int
    level: float | None
    top_k: int | None
    train_fraction: float
    source_task: str | None
    config: Mapping[str, Any]
    ticket: Mapping[str, Any] | None
    weight_remaining: Mapping[str, float]
    trainable_parameters: int | None
    total_parameters: int | None
    epochs: Sequence[Mapping[str, Any]]
    curve: Sequence[Mapping[str, Any]]
    scores: Mapping[str, Mapping[str, float]]
    versions: Mapping[str, str]
    partial_data: bool
    shared_tasks: tuple[str, ...] = ()
    best_epoch: int | None = None
    train_examples: int | None = None
    predictions: Any = None
    wall_seconds: float | None = None
    ticket_seconds: float | None = None
    peak_memory_bytes: int | None = None

    def score(self, split: str = "all") -> float:
        """Task score (two metrics: their mean) on "all", "select" or "report"; UserError if not measured."""
        if split not in self.scores:
            raise UserError(f"result file {self.path}: no scores for split {split!r}")
        return task_score(self.task, self.scores[split], f"result file {self.path}, split {split}")

    @property
    def single_class_prediction(self) -> bool:
        """Did the best epoch's model predict one class only? False also where its file does not say."""
        best = (epoch for epoch in self.epochs if isinstance(epoch, Mapping) and epoch.get("epoch") == self.best_epoch)
        valid = next(best, {}).get("valid")
        return isinstance(valid, Mapping) and valid.get("classes_predicted") == 1

    def searched(self) -> tuple[tuple[str, Any], ...]:
        """The searched options and their values, sorted by name."""
        return tuple((name, self.config[name]) for name in sorted(SEARCHED) if name in self.config)


def load_results(paths: Iterable[PathLike]) -> list[Result]:
    """Read result files, of one run (.json) or of many (.jsonl); a folder stands for all of them in it and below.

    In folders, JSON files of other kinds (tickets, task descriptions) are passed over; a file named outright
    must be a result. The same run found twice is taken once.

    Raises:
        UserError: nothing found, a file is damaged or not as its format says, or two files claim the same
            run.
    """
    collection = Collection()
    for path in paths:
        for source, content in contents(Path(path)):
            collection.add(result_from_json(content, source))
    if not collection.results:
        raise UserError(f"no result files in {', '.join(str(p) for p in paths) or 'an empty list'}")
    return collection.results


class Collection:
    """Results, each run once."""

    def __init__(self) -> None:
        self._by_key: dict[str, Result] = {}
        self._by_run: dict[tuple[Any, ...], Result] = {}

    @property
    def results(self) -> list[Result]:
        """In the order in which they were added."""
        return list(self._by_key.values())

    def add(self, result: Result) -> None:
        """Take a result unless the same is there; UserError if another one claims the same run."""
        run = _identity(result)
        twin = self._by_key.get(result.key) or self._by_run.get(run)
        if twin is None:
            self._by_key[result.key] = self._by_run[run] = result
        elif _said(twin) != _said(result):
            raise UserError(f"result files {twin.path} and {result.path} claim the same run but differ")


def _said(result: Result) -> dict[str, Any]:
    """What two copies of a run must agree in: all but their place and what the machine's load decides."""
    return dict(vars(result), path="", wall_seconds=None, ticket_seconds=None, peak_memory_bytes=None)


def contents(path: Path) -> Iterator[tuple[str, Any]]:
    """What a file or a folder holds of results, each with its place for errors."""
    folder = path.is_dir()
    for file in sorted(path.rglob("*.json*")) if folder else [path]:
        if file.suffix == LINES_SUFFIX:
            yield from read_lines(file)
        elif not folder or file.suffix == ".json":
            content = read_json(file, "result")
            if not folder or (isinstance(content, Mapping) and content.get("format") == FORMAT):
                yield str(file), content


def result_from_json(content: Any, source: str) -> Result:
    """Result from the content of its file; `source` names it in errors.

    Raises:
        UserError: another format or version, a field missing or of the wrong kind, scores that no epoch or
            checksum backs.
    """
    if not isinstance(content, Mapping) or content.get("format") != FORMAT:
        raise UserError(f"{source} is not a result file: its format must be {FORMAT}")
    version = content.get("version")
    if not is_whole(version, VERSION, VERSION):
        raise UserError(f"{source}: result version {shown(version)} is unknown; this package reads {VERSION}")
    if "checksum" in content and content["checksum"] != checksum(content):
        raise UserError(f"result file {source} was changed after it was written: its checksum does not fit")
    check_fields(content, source)
    optional: dict[str, Any] = {
        name: content.get(name)
        for name in (
            "ticket",
            "trainable_parameters",
            "total_parameters",
            "train_examples",
            "predictions",
            "wall_seconds",
            "ticket_seconds",
            "peak_memory_bytes",
        )
    }
    weights = content.get("weight_remaining") or {}
    known = {name: content[name] for name in FIELDS if name in Result.__dataclass_fields__}
    optional.update(curve=content.get("curve") or (), shared_tasks=tuple(content.get("shared_tasks") or ()))
    return Result(path=source, **known, **optional, weight_remaining=weights)


def checksum(content: Mapping[str, Any]) -> str:
    """SHA-256 of the content without its `checksum` field, as JSON with sorted keys and no spaces."""
    rest = {name: value for name, value in content.items() if name != "checksum"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def select(results: Iterable[Result], **wanted: Any) -> list[Result]:
    """Results whose fields have the wanted values; a set, list or tuple means "one of".

    Example: select(results, task="RTE", method={"full", "winning"}, seed=1)
    """
    return [
        result
        for result in results
        if all(
            getattr(result, name) in value if isinstance(value, (set, list, tuple)) else getattr(result, name) == value
            for name, value in wanted.items()
        )
    ]


def super_tickets(results: Iterable[Result]) -> list[Result]:
    """For each task and seed (and model, data, searched options) the winning run with the best `select`
    score.

    Ties go to the smallest level, the one that prunes least.
    """
    best: dict[tuple[Any, ...], Result] = {}
    for result in sorted(select(results, method="winning"), key=lambda r: (r.level is None, r.level)):
        place = (*cell_of(result), result.seed, result.searched())
        if place not in best or result.score("select") > best[place].score("select"):
            best[place] = result
    return list(best.values())


def best_of(results: Iterable[Result]) -> Result:
    """The result with the best `select` score; ties go to the smaller level, then by key."""
    return min(results, key=lambda r: (-r.score("select"), r.level or 0.0, r.key))


def cell_of(result: Result) -> tuple[Any, ...]:
    """What two runs share that differ only in seed, level and searched options."""
    r = result
    return (r.experiment, r.model, r.task, r.method, r.top_k, r.train_fraction, r.source_task or "", r.shared_tasks)


def tuned(results: Iterable[Result]) -> list[Result]:
    """Keep, for each task and method, only the runs with the best searched options (learning rate, batch
    size).

    Best is the highest mean `select` score over seeds; with levels, the mean of each seed's best level. Only
    options tried with as many runs as any other compete, so that one lucky seed does not win. Ties: the
    smallest options.
    """
    cells: dict[tuple[Any, ...], dict[tuple[Any, ...], list[Result]]] = {}
    for result in results:
        cells.setdefault(cell_of(result), {}).setdefault(result.searched(), []).append(result)
    kept: list[Result] = []
    for rivals in cells.values():
        if len(rivals) == 1:
            kept += next(iter(rivals.values()))
            continue
        most = max(len(runs) for runs in rivals.values())
        full = {options: runs for options, runs in rivals.items() if len(runs) == most}
        best = max(sorted(full, key=repr), key=lambda options: _mean_of_best(full[options]))
        kept += rivals[best]
    return kept


def signature(results: Sequence[Result]) -> str:
    """One line to compare two tables by: runs, seeds, data, versions, hashes of configs and of runs."""
    if not results:
        return "runs=0"
    versions: dict[str, set[str]] = {}
    for result in results:
        for name, version in result.versions.items():
            versions.setdefault(str(name), set()).add(str(version))
    configs = sorted({json.dumps(dict(r.config), sort_keys=True, default=str) for r in results})
    subsets = {(r.task, r.config["subset"]) for r in results if r.config.get("subset") is not None}
    subsets |= {(f"{r.task} dev", r.config["dev_subset"]) for r in results if r.config.get("dev_subset") is not None}
    partial = sorted({r.task for r in results if r.partial_data} | {f"{task} subset {n}" for task, n in subsets})
    parts = [
        f"runs={len(results)}",
        f"seeds={','.join(str(seed) for seed in sorted({r.seed for r in results}))}",
        f"data={'partial (' + ', '.join(partial) + ')' if partial else 'whole'}",
        *(f"{name}={'+'.join(sorted(found))}" for name, found in sorted(versions.items())),
        f"config={_digest(configs)}",
        f"keys={_digest(sorted(r.key for r in results))}",
    ]
    return "|".join(parts)


def _mean_of_best(runs: Sequence[Result]) -> float:
    best: dict[int, float] = {}
    for run in runs:
        best[run.seed] = max(best.get(run.seed, -math.inf), run.score("select"))
    return sum(best.values()) / len(best)


def _identity(result: Result) -> tuple[Any, ...]:
    config = json.dumps(dict(result.config), sort_keys=True, default=str)
    return (*cell_of(result), result.level, result.seed, config)


def _digest(lines: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:10]
