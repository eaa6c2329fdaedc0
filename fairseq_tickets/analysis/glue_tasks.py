"""What a task's metrics are called in the papers' tables, and its score (S Table 9; D Table 2's caption)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fairseq_tickets.errors import UserError
from fairseq_tickets.glue import TASK_METRICS

# MNLI has two development sets.
METRICS: dict[str, tuple[str, ...]] = {**TASK_METRICS, "MNLI": ("accuracy", "accuracy_mm")}
HEADINGS = {
    "accuracy": "Acc",
    "f1": "F1",
    "mcc": "Mcc",
    "pearson": "P",
    "spearman": "S",
    "accuracy_mm": "mm",
}
KNOWN_METRICS = frozenset(HEADINGS)
# Paper D, Table 2: one metric a task.
SINGLE_METRIC = {"CoLA": "mcc", "STS-B": "pearson"}


def metrics_of(task: str, scores: Mapping[str, float] | None = None) -> tuple[str, ...]:
    """Metrics of `task`; for a task that GLUE does not know, accuracy, or what `scores` holds.

    MNLI's mismatched accuracy is left out where `scores` lacks it.
    """
    names = METRICS.get(task)
    if names is None:
        present = tuple(name for name in HEADINGS if scores is not None and name in scores)
        return ("accuracy",) if "accuracy" in present else present
    if scores is not None and "accuracy_mm" not in scores:
        names = tuple(name for name in names if name != "accuracy_mm")
    return names


def task_score(task: str, scores: Mapping[str, float], source: str = "scores") -> float:
    """One number a task: its metric, or the mean of its two, in the unit of `scores`.

    Raises:
        UserError: a metric of the task is missing from `scores`; `source` names the file.
    """
    names = metrics_of(task, scores)
    missing = [name for name in names if name not in scores]
    if missing or not names:
        raise UserError(f"{source}: no {' or '.join(missing) or 'known metric'} among the scores of {task}")
    return sum(scores[name] for name in names) / len(names)


def heading(task: str, names: tuple[str, ...]) -> str:
    """Column heading: "MRPC Acc/F1"."""
    if task == "MNLI" and "accuracy_mm" in names:
        return "MNLI-m/mm Acc"
    label = "/".join(HEADINGS[name] for name in names)
    return f"{task} {label}{' Corr' if names == METRICS['STS-B'] else ''}"


def task_order(task: str) -> tuple[int, str]:
    """Sort key: the papers' order, then by name."""
    names = list(METRICS)
    return (names.index(task), task) if task in METRICS else (len(names), task)


def is_number(value: Any) -> bool:
    """True for int and float, not for bool."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)
