"""Which tasks has the full model learnt? The scores of a model at chance say nothing about tickets.

Learnt means: the model that everything is compared with (the full model, in multi-task learning MT-DNN) correlates with
the truth, by Matthews' or Pearson's coefficient of at least `LEARNT` in the mean over seeds. Always answering the same
has 0, whatever the classes' sizes. A result that says no coefficient counts as learnt.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fairseq_tickets.analysis.results import Result
from fairseq_tickets.analysis.statistics import spread
from fairseq_tickets.analysis.table_parts import best_runs

LEARNT = 0.2
CONTROLS = ("full", "mt_dnn")
Cell = tuple[str, float, str]  # task, share of its data, source task or ""


def learnt(runs: Sequence[Result]) -> tuple[list[Result], list[Cell]]:
    """The runs of tasks that are learnt, and the tasks (at a share of their data) that aren't."""
    found: dict[Cell, float] = {}
    for control in reversed(CONTROLS):  # the full model has the last word
        by_cell: dict[Cell, list[float]] = {}
        for run in best_runs(runs, control):
            correlation = _correlation(run)
            if correlation is not None:
                by_cell.setdefault(_cell(run), []).append(correlation)
        found.update({cell: spread(values).mean for cell, values in by_cell.items()})
    missed = sorted(cell for cell, value in found.items() if value < LEARNT)
    return [run for run in runs if _cell(run) not in missed], missed


def _cell(run: Result) -> Cell:
    return run.task, run.train_fraction, run.source_task or ""


def _correlation(run: Result) -> float | None:
    """Of the best epoch, on all of dev."""
    valid: Any = next((epoch.get("valid") for epoch in run.epochs if epoch.get("epoch") == run.best_epoch), None)
    values = {**(valid if isinstance(valid, dict) else {}), **run.scores["all"]}
    value = values.get("pearson", values.get("mcc"))
    return value if isinstance(value, (int, float)) else None
