"""GLUE's metrics over a whole split.

Every function takes all predictions of a split at once; none can be averaged over batches. Classification metrics take
class indices, correlations take real numbers. Values are fractions (accuracy, F1: 0 to 1; MCC and correlations: -1 to
1).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

CLASSIFICATION = ("accuracy", "f1", "mcc")
REGRESSION = ("pearson", "spearman")


def metrics_that_fit(regression: bool, classes: int) -> tuple[str, ...]:
    """Names of the metrics that make sense for a task: correlations of real targets; F1 of two classes only."""
    if regression:
        return REGRESSION
    return CLASSIFICATION if classes == 2 else ("accuracy", "mcc")


def accuracy(predictions: ArrayLike, targets: ArrayLike) -> float:
    """Share of predictions that equal their target."""
    return float(np.mean(np.asarray(predictions) == np.asarray(targets)))


def f1(predictions: ArrayLike, targets: ArrayLike, positive: int = 1) -> float:
    """F1 of class `positive`, 1 in GLUE's binary tasks; 0 when nothing is or is said to be positive."""
    p, t = np.asarray(predictions) == positive, np.asarray(targets) == positive
    marked = float(p.sum() + t.sum())
    return 2 * float((p & t).sum()) / marked if marked else 0.0


def mcc(predictions: ArrayLike, targets: ArrayLike) -> float:
    """Matthews correlation, for any number of classes (Gorodkin 2004); 0 when either side is constant."""
    p, t = np.asarray(predictions, dtype=np.int64), np.asarray(targets, dtype=np.int64)
    classes = np.union1d(p, t)
    p_k = np.array([(p == k).sum() for k in classes], dtype=np.float64)
    t_k = np.array([(t == k).sum() for k in classes], dtype=np.float64)
    s, c = float(len(p)), float((p == t).sum())
    spread = (s * s - p_k @ p_k) * (s * s - t_k @ t_k)
    return float((c * s - p_k @ t_k) / np.sqrt(spread)) if spread > 0 else 0.0


def pearson(predictions: ArrayLike, targets: ArrayLike) -> float:
    """Pearson's r; 0 when either side is constant or has fewer than 2 values."""
    return 0.0 if _constant(predictions, targets) else float(stats.pearsonr(predictions, targets)[0])


def spearman(predictions: ArrayLike, targets: ArrayLike) -> float:
    """Spearman's ρ; 0 when either side is constant or has fewer than 2 values."""
    return 0.0 if _constant(predictions, targets) else float(stats.spearmanr(predictions, targets)[0])


def task_score(values: Mapping[str, float], metrics: Sequence[str]) -> float:
    """The mean of a task's metrics, as GLUE counts tasks with two."""
    return float(np.mean([values[metric] for metric in metrics]))


METRICS = {"accuracy": accuracy, "f1": f1, "mcc": mcc, "pearson": pearson, "spearman": spearman}


def _constant(*sides: ArrayLike) -> bool:
    return any(np.size(side) < 2 or bool(np.all(np.asarray(side) == np.ravel(side)[0])) for side in sides)
