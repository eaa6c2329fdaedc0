"""Parts that the result tables share: a cell of one task, bold for the best, notes on what is missing."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from fairseq_tickets.analysis.glue_tasks import METRICS, heading, metrics_of, task_order
from fairseq_tickets.analysis.markup import Cell
from fairseq_tickets.analysis.results import Result, select, super_tickets, tuned
from fairseq_tickets.analysis.statistics import round_half_up, spread
from fairseq_tickets.errors import UserError

NOT_MEASURED = Cell("-")
GLUE = ("RTE", "MRPC", "CoLA", "SST-2", "STS-B", "QNLI", "QQP", "MNLI")


def tasks_in(results: Iterable[Result]) -> list[str]:
    """Tasks that have results, in the papers' order."""
    return sorted({r.task for r in results}, key=task_order)


def models_in(results: Iterable[Result]) -> list[str]:
    """Models that have results, sorted by name."""
    return sorted({r.model for r in results})


def task_heading(task: str, runs: Sequence[Result]) -> str:
    """Column heading with the metrics these runs hold."""
    scores = next((r.scores["all"] for r in runs if r.task == task), None)
    return heading(task, metrics_of(task, scores)).strip()


def in_points(value: float, digits: int = 1) -> str:
    """A fraction as points out of 100; "-" for NaN."""
    return "-" if math.isnan(value) else round_half_up(100 * value, digits)


def metric_text(task: str, runs: Sequence[Result], split: str = "all", with_sd: bool = True) -> str:
    """Mean over runs of each metric of a task, with ± sample deviation where there are two runs or more:
    "87.5±0.2/91.1±0.1".
    """
    parts = []
    for name in metrics_of(task, _scores(runs[0], split)):
        values = []
        for run in runs:
            scores = _scores(run, split)
            if name not in scores:
                raise UserError(f"result file {run.path}: no {name} among the {split} scores of {task}")
            values.append(scores[name])
        found = spread(values)
        text = in_points(found.mean)
        parts.append(f"{text}±{in_points(found.sd)}" if with_sd and found.n > 1 else text)
    return "/".join(parts)


def score_cell(task: str, runs: Sequence[Result], split: str = "all") -> Cell:
    """`metric_text` as a cell that knows its runs; NOT_MEASURED without any."""
    return Cell(metric_text(task, runs, split), runs=keys_of(runs)) if runs else NOT_MEASURED


def keys_of(runs: Iterable[Result]) -> tuple[str, ...]:
    """Keys of runs, for `Cell.runs`."""
    return tuple(run.key for run in runs)


def by_task(runs: Iterable[Result]) -> dict[str, list[Result]]:
    """Task -> its runs, sorted by seed."""
    groups: dict[str, list[Result]] = {}
    for run in sorted(runs, key=lambda r: r.seed):
        groups.setdefault(run.task, []).append(run)
    return groups


def best_runs(results: Iterable[Result], method: str) -> list[Result]:
    """Runs of a method at its best searched options; for "winning", each seed's super ticket."""
    runs = tuned(r for r in results if r.method == method)
    return super_tickets(runs) if method == "winning" else runs


def by_sharing(runs: Iterable[Result]) -> list[tuple[str, list[Result]]]:
    """Runs apart by the tasks that share their encoder, each with these as words; all together, without words, where
    there are no two such sets of tasks."""
    groups: dict[tuple[str, ...], list[Result]] = {}
    for run in runs:
        groups.setdefault(run.shared_tasks, []).append(run)
    if sum(map(bool, groups)) < 2:
        return [("", [run for group in groups.values() for run in group])]
    return [(f" ({'+'.join(tasks)})" if tasks else "", groups[tasks]) for tasks in sorted(groups)]


def task_mean(runs: Sequence[Result], split: str = "all") -> float:
    """Mean task score over runs."""
    return spread([run.score(split) for run in runs]).mean


def weight_remaining(run: Result, kind: str) -> float:
    """Share of weight remaining; `kind` is "encoder" or "without_embeddings". A full model that does not say has 1."""
    if kind not in run.weight_remaining:
        if run.method in ("full", "mt_dnn", "mt_dnn+st"):
            return 1.0
        raise UserError(f"result file {run.path} lacks weight_remaining.{kind}")
    return run.weight_remaining[kind]


def need(results: Sequence[Result], what: str) -> None:
    """Refuse to make a table from nothing; `what` names the kind of runs."""
    if not results:
        raise UserError(f"the table needs {what} runs; the result files have none")


def whole_runs(results: Sequence[Result], methods: Iterable[str]) -> list[Result]:
    """Runs of these methods on all of a task's data, from the pre-trained model; refused where there are none."""
    methods = list(methods)
    found = select(results, method=set(methods), train_fraction=1.0, source_task=None)
    need(found, " or ".join(filter(None, (", ".join(methods[:-1]), methods[-1]))))
    return found


def embolden(rows: Sequence[list[Cell]], values: Sequence[Sequence[float]]) -> None:
    """Make the largest value of each column bold, in place; `values` has NaN where nothing was measured.

    Columns with fewer than two values have no best; equal values (to 1e-9) are all bold.
    """
    for column in range(len(values[0]) if values else 0):
        measured = [row[column] for row in values if not math.isnan(row[column])]
        if len(measured) < 2:
            continue
        top = max(measured)
        for row, numbers in zip(rows, values):
            if not math.isnan(numbers[column]) and numbers[column] >= top - 1e-9:
                row[column + 1] = replace(row[column + 1], bold=True)


def missing_note(rows: Mapping[str, Mapping[str, object]], tasks: Sequence[str]) -> list[str]:
    """One note that names every empty cell, and one that names GLUE tasks with no results at all."""
    gaps = [f"{name}: {task}" for name, row in rows.items() for task in tasks if task not in row]
    absent = [task for task in GLUE if task not in tasks]
    notes = [f"no results for {'; '.join(gaps)}"] if gaps else []
    if absent and any(task in GLUE for task in tasks):
        shown = "1 task" if len(tasks) == 1 else f"{len(tasks)} tasks"
        notes.append(f"averages are over the {shown} shown; no results for {', '.join(absent)}")
    return notes


def uneven_note(rows: Mapping[str, Mapping[str, Sequence[Result]]]) -> list[str]:
    """A note when cells rest on different numbers of seeds."""
    numbers = {len(runs) for row in rows.values() for runs in row.values()}
    if len(numbers) < 2:
        return []
    listed = "; ".join(f"{name}, {task}: {len(runs)}" for name, row in rows.items() for task, runs in row.items())
    return [f"seeds differ: {listed}"]


def _scores(run: Result, split: str) -> Mapping[str, float]:
    if split not in run.scores:
        raise UserError(f"result file {run.path}: no scores for split {split!r}")
    return run.scores[split]


assert set(GLUE) <= set(METRICS)
