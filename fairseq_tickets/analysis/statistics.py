"""Means, spreads and the paired t-test behind the papers' result tables.

Paper S, section 5.3 and appendix A.1.3: scores are means over seeds with their standard deviation, and the
gain of super tickets over the full model is tested with a paired Student t-test. The deviation is the sample
deviation (n - 1).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fairseq_tickets.errors import UserError


class Spread(NamedTuple):
    """Mean and sample standard deviation of n values; `sd` is NaN for a single value."""

    mean: float
    sd: float
    n: int


class PairedTest(NamedTuple):
    """Two-sided paired t-test: mean of the differences, t statistic, p, number of pairs."""

    difference: float
    t: float
    p: float
    n: int


def spread(values: Sequence[float]) -> Spread:
    """Mean and sample deviation (n - 1); raises UserError when there is no value."""
    if not values:
        raise UserError("a mean needs at least one value")
    mean = math.fsum(values) / len(values)
    if len(values) < 2:
        return Spread(mean, math.nan, 1)
    return Spread(mean, math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1)), len(values))


def paired_t_test(treated: Sequence[float], control: Sequence[float]) -> PairedTest:
    """Test whether `treated` differs from `control`, pair by pair.

    Two borders that the formula leaves open: when every difference is 0 the two are the same, t = 0 and p =
    1; when every difference is the same and not 0, the deviation is 0, t is infinite and p = 0.

    Raises:
        UserError: unequal lengths, or fewer than 2 pairs.
    """
    if len(treated) != len(control):
        raise UserError(f"a paired t-test needs as many values on both sides, got {len(treated)} and {len(control)}")
    n = len(treated)
    if n < 2:
        raise UserError(f"a paired t-test needs at least 2 seeds, got {n}")
    differences = np.asarray(treated, dtype=np.float64) - np.asarray(control, dtype=np.float64)
    mean = float(differences.mean())
    scale = max(float(np.abs(differences).max()), 1e-300)
    if float(np.abs(differences).max()) == 0.0:
        return PairedTest(0.0, 0.0, 1.0, n)
    if float(np.ptp(differences)) <= 1e-12 * scale:
        return PairedTest(mean, math.copysign(math.inf, mean), 0.0, n)
    from scipy import stats  # here, since it takes a second to import and most tables do without

    found = stats.ttest_rel(treated, control)
    return PairedTest(mean, float(found.statistic), float(found.pvalue), n)


def average_score(metrics_by_task: Sequence[Sequence[float]]) -> float:
    """The "Average Score" of paper S, Tables 1 and 3: a task with two metrics counts once, as their mean.

    The rows of the paper's Table 1 give 82.8, 83.7, 84.1 and 85.1 this way, as printed. (Its Table 2 averages
    as the GLUE site does for BERT: F1 and Spearman only, MNLI matched and mismatched as two entries of nine.)

    Args:
        metrics_by_task: one list of metric values a task, all in the same unit.
    """
    return spread([spread(metrics).mean for metrics in metrics_by_task]).mean


def average_weight_remaining(by_task: Sequence[float]) -> float:
    """The "Average Compression" of paper S: mean over tasks of the weight remaining.

    Its Table 7 gives 81.75 % for BERT-large (printed: 81.7 %), but 89.5 % for BERT-base where Table 1 prints
    86.8 %: the two printed tables do not agree for the base model.
    """
    return spread(by_task).mean


def round_half_up(value: float, digits: int = 1) -> str:
    """Fixed-point text, rounded half away from zero after removing binary noise: 83.65 gives 83.7, as in the
    paper.
    """
    scaled = abs(round(value * 10**digits, 6))
    text = f"{math.floor(scaled + 0.5) / 10**digits:.{digits}f}"
    return f"-{text}" if value < 0 and float(text) != 0 else text
