"""Effects with confidence intervals: what a handful of seeds on a handful of tasks says, and how sure it is.

The tasks are those that were chosen, the seeds a sample: an interval says what other seeds would give on the same tasks
and the same development sets. Within a task the values (a difference of two runs of one seed, say) are a sample of
their own; over tasks the interval is Welch's: variances may differ, the degrees of freedom are Satterthwaite's.
With one task this is Student's paired interval, as in the t-test of Liang et al. 2021, section 5.3.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from fairseq_tickets.analysis.statistics import spread
from fairseq_tickets.errors import UserError

CONFIDENCE = 0.95


class Effect(NamedTuple):
    """An effect and its interval.

    Attributes:
        low, high: NaN where a task has a single value.
        n: values, in `tasks` tasks.
        freedom: degrees of freedom of the interval, 0 where there is none.
    """

    value: float
    low: float
    high: float
    n: int
    tasks: int
    freedom: float

    @property
    def sure(self) -> bool:
        """Is there an interval?"""
        return not math.isnan(self.low)


def mean_effect(by_task: Mapping[str, Sequence[float]]) -> Effect:
    """Mean over tasks of each task's mean; a task counts once, however many values it has."""
    return linear_effect(by_task, dict.fromkeys(by_task, 1 / len(by_task)) if by_task else {})


def slope(by_task: Mapping[str, Sequence[float]], at: Mapping[str, float]) -> Effect:
    """Least-squares slope of the tasks' means over `at`: the change for each unit of it.

    Raises:
        UserError: fewer than two different places.
    """
    middle = spread([at[task] for task in by_task]).mean if by_task else 0.0
    square = math.fsum((at[task] - middle) ** 2 for task in by_task)
    if not square:
        raise UserError("a slope needs tasks at two different places at least")
    return linear_effect(by_task, {task: (at[task] - middle) / square for task in by_task})


def linear_effect(by_task: Mapping[str, Sequence[float]], weights: Mapping[str, float]) -> Effect:
    """Σ w · mean over tasks, with Welch's interval.

    Args:
        by_task: task -> values, independent of each other and of other tasks' values.
        weights: task -> w.

    Raises:
        UserError: no task, or a task without values.
    """
    if not by_task:
        raise UserError("an effect needs the values of at least one task")
    found = {task: spread(values) for task, values in by_task.items()}
    value = math.fsum(weights[task] * s.mean for task, s in found.items())
    n = sum(s.n for s in found.values())
    if any(s.n < 2 for s in found.values()):
        return Effect(value, math.nan, math.nan, n, len(found), 0.0)
    parts = {task: (weights[task] * s.sd) ** 2 / s.n for task, s in found.items()}
    variance = math.fsum(parts.values())
    if not variance:
        return Effect(value, value, value, n, len(found), float(n - len(found)))
    freedom = variance**2 / math.fsum(part**2 / (found[task].n - 1) for task, part in parts.items())
    from scipy import stats  # here, since it takes a second to import

    reach = float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom)) * math.sqrt(variance)
    return Effect(value, value - reach, value + reach, n, len(found), freedom)


def deviation_ratio(by_task: Mapping[str, tuple[Sequence[float], Sequence[float]]]) -> Effect:
    """How many times the deviation over seeds of the second sample the first one's is, geometric mean over tasks.

    For normal values ln s² has the variance ψ'((n - 1) / 2), whatever σ; the two samples of a task are taken as
    independent, which is the safe side where runs of one seed go up and down together. The interval is that of the sum.

    Raises:
        UserError: no task, fewer than two values in a sample, or a sample without any spread.
    """
    if not by_task:
        raise UserError("a ratio of deviations needs the values of at least one task")
    from scipy import special, stats

    logs, variance, n = [], 0.0, 0
    for task, (treated, control) in by_task.items():
        a, b = spread(treated), spread(control)
        if min(a.n, b.n) < 2 or not (a.sd > 0 and b.sd > 0):
            raise UserError(f"{task}: a ratio of deviations needs two values a side that differ")
        logs.append(2 * math.log(a.sd / b.sd))
        variance += sum(float(special.polygamma(1, (s.n - 1) / 2)) for s in (a, b))
        n += min(a.n, b.n)
    mean = spread(logs).mean
    reach = float(stats.norm.ppf((1 + CONFIDENCE) / 2)) * math.sqrt(variance) / len(logs)
    low, value, high = (math.exp(x / 2) for x in (mean - reach, mean, mean + reach))
    return Effect(value, low, high, n, len(logs), float(n - len(logs)))


def pseudo_values(pairs: Sequence[Sequence[float]]) -> list[float]:
    """Jackknife: one value a thing whose mean is the mean over pairs of things, and whose spread is that mean's.

    Pairs that share a thing aren't independent, so their number is no sample size. Of n things the value of i is
    n · (mean over all pairs) - (n - 1) · (mean over the pairs without i).

    Args:
        pairs: square and symmetric, (n, n); the diagonal is not looked at.

    Raises:
        UserError: fewer than 3 things.
    """
    n = len(pairs)
    if n < 3:
        raise UserError(f"a jackknife over pairs needs at least 3 of what is paired, got {n}")

    def mean(kept: Sequence[int]) -> float:
        return spread([pairs[i][j] for i in kept for j in kept if i < j]).mean

    whole = mean(range(n))
    return [n * whole - (n - 1) * mean([j for j in range(n) if j != i]) for i in range(n)]
