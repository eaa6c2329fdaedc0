"""Result files: one JSON a training run, loaded, checked, selected and reduced to super tickets.

Tables and figures are made from these files only. A file that was cut, edited or comes from elsewhere is
refused by name: its fields are checked one by one, its scores must be those of its best epoch, and where it
carries a `checksum` (see `checksum`) that must fit too. Paper S, sections 3 and 5.2: the super ticket is the
winning ticket with the best rewinding score on the 10 % of the development set kept for selection (`select`).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fairseq_tickets.analysis.glue_tasks import KNOWN_METRICS, is_number, task_score
from fairseq_tickets.errors import UserError
from fairseq_tickets.files import PathLike, read_json

FORMAT = "fairseq-tickets/result"
VERSION = 1
METHODS = (
    "full",
    "winning",
    "random",
    "losing",
    "dominant",
    "random_dimensions",
    "bitfit",
    "random_elements",
    "mt_dnn",
    "ticket_share",
    "mt_dnn+st",
    "ticket_share+st",
)
SPLITS = ("all", "select", "report")
# Options of `config` that the papers search over: of runs that differ in nothing else, the best are shown.
SEARCHED = ("lr", "batch_size", "head_dropout")
_AGREES = 1e-3  # scores may have been rounded for the log of epochs, to this at the most


@dataclass(frozen=True)
class Result:
    """One training run, as its file says; scores are fractions. Field names are those of the file."""

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
    predictions: Any = None

    def score(self, split: str = "all") -> float:
        """Task score (two metrics: their mean) on "all", "select" or "report"; UserError if not measured."""
        if split not in self.scores:
            raise UserError(f"result file {self.path}: no scores for split {split!r}")
        return task_score(self.task, self.scores[split], f"result file {self.path}, split {split}")

    def searched(self) -> tuple[tuple[str, Any], ...]:
        """The searched options and their values, sorted by name."""
        return tuple((name, self.config[name]) for name in sorted(SEARCHED) if name in self.config)


def load_results(paths: Iterable[PathLike]) -> list[Result]:
    """Read result files; a folder stands for all result files in it and below.

    In folders, JSON files of other kinds (tickets, task descriptions) are passed over; a file named outright
    must be a result. The same run found twice is taken once.

    Raises:
        UserError: nothing found, a file is damaged or not as its format says, or two files claim the same
            run.
    """
    found: dict[str, Result] = {}
    runs: dict[tuple[Any, ...], Result] = {}
    for path in paths:
        folder = Path(path).is_dir()
        for file in sorted(Path(path).rglob("*.json")) if folder else [Path(path)]:
            content = read_json(file, "result")
            if folder and (not isinstance(content, Mapping) or content.get("format") != FORMAT):
                continue
            result = result_from_json(content, str(file))
            run = _identity(result)
            twin = found.get(result.key) or runs.get(run)
            if twin is not None:
                if dict(vars(twin), path="") == dict(vars(result), path=""):
                    continue
                raise UserError(f"result files {twin.path} and {result.path} claim the same run but differ")
            found[result.key] = runs[run] = result
    if not found:
        raise UserError(f"no result files in {', '.join(str(p) for p in paths) or 'an empty list'}")
    return list(found.values())


def result_from_json(content: Any, source: str) -> Result:
    """Result from the content of its file; `source` names it in errors.

    Raises:
        UserError: another format or version, a field missing or of the wrong kind, scores that no epoch or
            checksum backs.
    """
    if not isinstance(content, Mapping) or content.get("format") != FORMAT:
        raise UserError(f"{source} is not a result file: its format must be {FORMAT}")
    if content.get("version") != VERSION:
        raise UserError(f"{source}: result version {content.get('version')!r} is unknown; this package reads {VERSION}")
    if "checksum" in content and content["checksum"] != checksum(content):
        raise UserError(f"result file {source} was changed after it was written: its checksum does not fit")
    for name, (rule, check) in _FIELDS.items():
        if name not in content:
            raise UserError(f"result file {source} lacks {name!r}")
        if not check(content[name]):
            raise UserError(f"result file {source}: {name} is {_short(content[name])}; it must be {rule}")
    _check_scores(content, source)
    optional: dict[str, Any] = {
        name: content.get(name) for name in ("ticket", "trainable_parameters", "total_parameters", "predictions")
    }
    weights = content.get("weight_remaining") or {}
    known = {name: content[name] for name in _FIELDS if name in Result.__dataclass_fields__}
    return Result(path=source, **known, **optional, weight_remaining=weights, curve=content.get("curve") or ())


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


def cell_of(result: Result) -> tuple[Any, ...]:
    """What two runs share that differ only in seed, level and searched options."""
    r = result
    return (r.experiment, r.model, r.task, r.method, r.top_k, r.train_fraction, r.source_task or "")


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
    partial = sorted({r.task for r in results if r.partial_data})
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


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _check_scores(content: Mapping[str, Any], source: str) -> None:
    for split, metrics in content["scores"].items():
        if split not in SPLITS or not isinstance(metrics, Mapping) or not metrics:
            raise UserError(f"result file {source}: scores may hold {', '.join(SPLITS)} with metrics, not {split!r}")
        for name, value in metrics.items():
            if name in KNOWN_METRICS and not (is_number(value) and -1 <= value <= 1):
                raise UserError(f"result file {source}: {split} {name} is {value!r}; a score must be between -1 and 1")
    if "all" not in content["scores"]:
        raise UserError(f"result file {source} has no scores for all of the development set")
    epochs = {epoch.get("epoch"): epoch for epoch in content["epochs"] if isinstance(epoch, Mapping)}
    if not epochs:
        return
    if content["best_epoch"] not in epochs:
        raise UserError(f"result file {source}: best_epoch {content['best_epoch']!r} is not among its epochs (edited?)")
    logged = epochs[content["best_epoch"]].get("valid", {})
    for split, suffix in (("all", ""), ("select", "_select"), ("report", "_report")):
        for name, value in content["scores"].get(split, {}).items():
            seen = logged.get(name + suffix)
            if is_number(seen) and is_number(value) and abs(seen - value) > _AGREES:
                raise UserError(f"result file {source}: {split} {name} is {value}, its best epoch has {seen} (edited?)")


def _text(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _fraction(value: Any) -> bool:
    return is_number(value) and 0 < value <= 1


_FIELDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "key": ("a text", _text),
    "experiment": ("a text", _text),
    "model": ("a text", _text),
    "task": ("a text", _text),
    "method": (f"one of {', '.join(METHODS)}", lambda v: v in METHODS),
    "level": ("null or between 0 and 1", lambda v: v is None or (is_number(v) and 0 <= v <= 1)),
    "top_k": ("null or a whole number of at least 1", lambda v: v is None or (_whole(v) and v >= 1)),
    "seed": ("a whole number", _whole),
    "train_fraction": ("above 0 and at most 1", _fraction),
    "source_task": ("null or a text", lambda v: v is None or _text(v)),
    "config": ("an object", lambda v: isinstance(v, Mapping)),
    "epochs": ("a list", lambda v: isinstance(v, list)),
    "best_epoch": ("null or a whole number", lambda v: v is None or _whole(v)),
    "scores": ("an object", lambda v: isinstance(v, Mapping)),
    "versions": ("an object", lambda v: isinstance(v, Mapping)),
    "partial_data": ("true or false", lambda v: isinstance(v, bool)),
}
