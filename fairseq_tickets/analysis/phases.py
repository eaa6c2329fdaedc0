"""The numbers behind interactive figures, as rows: phase transitions, costs of methods, learning curves.

A row is a plain dictionary. Scores are in points out of 100, deviations are sample deviations (n - 1).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from fairseq_tickets.analysis.glue_tasks import KNOWN_METRICS, is_number
from fairseq_tickets.analysis.results import Result, select, super_tickets, tuned
from fairseq_tickets.analysis.statistics import spread
from fairseq_tickets.analysis.table_parts import weight_remaining
from fairseq_tickets.analysis.tables_dominant import single_score, trained_share

KINDS = ("winning", "random", "losing")
SCORE, UNSEEN = "task score", "task score on the 90 % not selected on"
METHOD_NAMES = {
    "full": "all weights",
    "dominant": "dominant",
    "random_dimensions": "random dimensions",
    "bitfit": "BitFit (biases)",
    "random_elements": "random elements",
    "salience": "salience",
}
FOUND = {  # methods whose tickets are not drawn
    "winning": "super ticket",
    "early": "early super ticket",
    "iterative": "iterative super ticket",
    "dominant": "dominant (L1 run)",
    "salience": "salience (one pass)",
}
CURVES = {"train_loss": "training loss", "train_accuracy": "training accuracy"}
VALIDATION = "validation score"
_POINTS = 400  # of one curve; longer ones are thinned evenly

Row = dict[str, Any]


def phase_rows(results: Sequence[Result], task: str) -> tuple[list[Row], list[Row]]:
    """A task's single runs and their means over seeds, at every level and in every metric that its runs have.

    Level 0 is the full model. `super` marks each seed's super ticket (`results.super_tickets`).

    Returns:
        rows of runs: kind, level, weight (percent, embeddings included), layers_weight (without), seed, metric, score,
        key, super; rows of means: kind, level, weight, layers_weight, metric, mean, low, high (± 1 deviation), sd, n.
    """
    own = select(results, task=task, train_fraction=1.0, source_task=None)
    shown = {kind: tuned(r for r in own if r.method == kind) for kind in ("full", *KINDS)}
    chosen = {run.key for run in super_tickets(shown["winning"])}
    runs: list[Row] = []
    for kind, found in shown.items():
        for run in found:
            place = {
                "kind": kind,
                "level": 100 * (run.level or 0.0),
                "weight": _percent(run, "encoder"),
                "layers_weight": _percent(run, "without_embeddings"),
                "seed": run.seed,
                "key": run.key,
                "super": run.key in chosen,
            }
            runs += [{**place, "metric": metric, "score": 100 * value} for metric, value in _metrics(run).items()]
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in runs:
        groups.setdefault((row["kind"], row["level"], row["metric"]), []).append(row)
    means = []
    for (kind, level, metric), rows in sorted(groups.items()):
        found_ = spread([row["score"] for row in rows])
        sd = 0.0 if math.isnan(found_.sd) else found_.sd
        means.append(
            {
                "kind": kind,
                "level": level,
                "metric": metric,
                **{name: _mean([row[name] for row in rows]) for name in ("weight", "layers_weight")},
                "mean": found_.mean,
                "low": found_.mean - sd,
                "high": found_.mean + sd,
                "sd": None if math.isnan(found_.sd) else found_.sd,
                "n": found_.n,
            }
        )
    return runs, means


def phase_tasks(results: Sequence[Result]) -> list[str]:
    """Tasks with winning, random or losing runs on whole training data."""
    return sorted({r.task for r in select(results, method=set(KINDS), train_fraction=1.0, source_task=None)})


def cost_rows(results: Sequence[Result]) -> list[Row]:
    """Methods that train a part, against full fine-tuning: score, trained parameters, time and memory of a run.

    One row a task, method and k: mean, low, high, n of the score; `parameters` trained and their `share` in percent;
    `seconds`, `megabytes` and `ticket_seconds`, means over runs that say; keys of the runs. Methods without a count are
    left out.
    """
    groups: dict[tuple[str, str, int], list[Result]] = {}
    for run in tuned(select(results, method=set(METHOD_NAMES), train_fraction=1.0)):
        if run.method != "full" or run.source_task is None:
            groups.setdefault((run.task, run.method, run.top_k or 0), []).append(run)
    rows = []
    for (task, method, k), runs in sorted(groups.items()):
        shares = [share for share in map(trained_share, runs) if share is not None]
        if not shares:
            continue
        found = spread([100 * single_score(run) for run in runs])
        sd = 0.0 if math.isnan(found.sd) else found.sd
        rows.append(
            {
                "task": task,
                "method": METHOD_NAMES[method] + (f", k = {k}" if k else ""),
                "parameters": _mean([count for count, _ in shares]),
                "share": 100 * _mean([share for _, share in shares]),
                "mean": found.mean,
                "low": found.mean - sd,
                "high": found.mean + sd,
                "n": found.n,
                "seconds": _mean_of_known([run.wall_seconds for run in runs]),
                "ticket_seconds": _mean_of_known([run.ticket_seconds for run in runs]),
                "megabytes": _mean_of_known([b / 2**20 for b in (r.peak_memory_bytes for r in runs) if b is not None]),
                "keys": [run.key for run in runs],
            }
        )
    return rows


def finding_rows(results: Sequence[Result]) -> list[Row]:
    """What finding a ticket took, a row a task and way: mean, least and most `seconds`, and n, the number of tickets.

    These are seconds of training and scoring up to the ticket file, of the settings shown; searching for the settings,
    and training other levels to choose a super ticket among them, are not in it. Runs that don't say are left out.
    """
    groups: dict[tuple[str, str], set[tuple[int, float]]] = {}
    for run in tuned(select(results, method=set(FOUND), train_fraction=1.0, source_task=None)):
        if run.ticket_seconds is not None:
            groups.setdefault((run.task, _way(run)), set()).add((run.seed, run.ticket_seconds))
    rows = []
    for (task, method), tickets in groups.items():
        seconds = [value for _, value in tickets]
        facts = {"seconds": _mean(seconds), "least": min(seconds), "most": max(seconds), "n": len(seconds)}
        rows.append({"task": task, "method": method, **facts})
    return sorted(rows, key=lambda row: (row["task"], row["seconds"]))


def curve_rows(results: Sequence[Result], task: str) -> list[Row]:
    """Learning curves of a task's runs: method, run, update, quantity (training loss, ..., validation score), value."""
    rows = []
    for run in tuned(select(results, task=task, method=set(METHOD_NAMES), train_fraction=1.0)):
        place = {"method": METHOD_NAMES[run.method] + (f", k = {run.top_k}" if run.top_k else ""), "seed": run.seed}
        step = max(1, math.ceil(len(run.curve) / _POINTS))
        for point in run.curve[::step]:
            for name, quantity in CURVES.items():
                if name in point:
                    value = point[name] if name == "train_loss" else 100 * point[name]
                    rows.append(
                        {**place, "key": run.key, "update": point["update"], "quantity": quantity, "value": value}
                    )
        for epoch in run.epochs:
            valid = epoch.get("valid", {})
            score = {name: valid[name] for name in run.scores["all"] if name in valid and name in KNOWN_METRICS}
            if "updates" in epoch and set(score) == {name for name in run.scores["all"] if name in KNOWN_METRICS}:
                value = 100 * single_score_of(run, score)
                update = epoch["updates"]
                rows.append({**place, "key": run.key, "update": update, "quantity": VALIDATION, "value": value})
    return rows


def single_score_of(run: Result, scores: dict[str, float]) -> float:
    """`single_score` of one epoch's metrics."""
    from dataclasses import replace

    return single_score(replace(run, scores={"all": scores}))


def _way(run: Result) -> str:
    """How a run's ticket was found; what takes longer the later, or the more steps, is told apart."""
    after, level = run.config.get("found_after"), run.level
    if run.method == "early" and after is not None and is_number(after):
        return f"{FOUND[run.method]}, after {100 * after:g} %"
    if run.method == "iterative" and level is not None:
        return f"{FOUND[run.method]}, {100 * level:g} % pruned"
    return FOUND[run.method]


def _metrics(run: Result) -> dict[str, float]:
    found = {SCORE: run.score()}
    if "report" in run.scores:
        found[UNSEEN] = run.score("report")
    known = {name: value for name, value in run.scores["all"].items() if name in KNOWN_METRICS}
    return {**found, **known}


def _percent(run: Result, kind: str) -> float | None:
    return 100 * weight_remaining(run, kind) if kind in run.weight_remaining or run.method == "full" else None


def _mean(values: Sequence[float | None]) -> float:
    return _mean_of_known(values) or 0.0


def _mean_of_known(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None
