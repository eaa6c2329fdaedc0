"""Effects and intervals: by hand, against SciPy, and by drawing many samples."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from fairseq_tickets.analysis.effects import deviation_ratio, linear_effect, mean_effect, pseudo_values, slope
from fairseq_tickets.errors import UserError


def test_one_task_is_students_paired_interval() -> None:
    treated, control = [0.81, 0.84, 0.80, 0.86], [0.79, 0.83, 0.81, 0.82]
    found = mean_effect({"RTE": [a - b for a, b in zip(treated, control)]})
    known = stats.ttest_rel(treated, control).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((known.low, known.high))
    assert (found.value, found.n, found.tasks) == (pytest.approx(0.015), 4, 1)


def test_two_tasks_by_hand() -> None:
    """A: 1, 3 (mean 2, variance 2). B: 4, 6, 8 (mean 6, variance 4).

    Mean 4; variance (2 / 2 + 4 / 3) / 4 = 7 / 12; degrees of freedom (7 / 12)² / ((1 / 4)² / 1 + (1 / 3)² / 2)
    = (49 / 144) / (17 / 144) = 49 / 17 = 2.882.
    """
    found = mean_effect({"A": [1, 3], "B": [4, 6, 8]})
    reach = stats.t.ppf(0.975, 49 / 17) * math.sqrt(7 / 12)
    assert (found.value, found.n, found.tasks) == (4, 5, 2)
    assert (found.low, found.high) == pytest.approx((4 - reach, 4 + reach))


def test_difference_of_two_groups_is_welchs() -> None:
    a, b = [1.0, 2.0, 4.0], [2.0, 2.5, 3.5, 6.0]
    found = linear_effect({"a": a, "b": b}, {"a": 1, "b": -1})
    known = stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((known.low, known.high))


def test_slope_by_hand() -> None:
    """Means 5, 3, 1 at 10, 11, 12: -2 a unit; weights -1/2, 0, 1/2, variances 2 / 2, 0, 8 / 2: (1 + 4) / 4."""
    found = slope({"a": [4, 6], "b": [3, 3], "c": [-1, 3]}, {"a": 10, "b": 11, "c": 12})
    freedom = (5 / 4) ** 2 / ((1 / 4) ** 2 + 1**2)
    reach = stats.t.ppf(0.975, freedom) * math.sqrt(5 / 4)
    assert (found.value, found.high) == pytest.approx((-2, -2 + reach))


def test_a_single_seed_has_no_interval_and_equal_values_an_empty_one() -> None:
    one = mean_effect({"A": [1.0], "B": [1.0, 2.0]})
    assert one.value == 1.25 and not one.sure and math.isnan(one.high)
    assert mean_effect({"A": [2.0, 2.0]})[:3] == (2.0, 2.0, 2.0)


def test_jackknife_of_three_by_hand() -> None:
    """Pairs 12: 0.5, 13: 0.8, 23: 0.2, mean 0.5; without 1 0.2, so 3 · 0.5 - 2 · 0.2 = 1.1, and so on."""
    values = pseudo_values([[1, 0.5, 0.8], [0.5, 1, 0.2], [0.8, 0.2, 1]])
    assert values == pytest.approx([1.1, -0.1, 0.5])
    assert sum(values) / 3 == pytest.approx(0.5)


def test_jackknife_of_a_mean_gives_the_values() -> None:
    """A pair's value (a + b) / 2 makes the mean over pairs the mean, whose pseudo-values are the values."""
    values = [0.1, 0.7, 0.4, 0.9]
    assert pseudo_values([[(a + b) / 2 for b in values] for a in values]) == pytest.approx(values)


def test_deviation_ratio_by_hand() -> None:
    """Deviations 1 and 2 in one task, 3 and 1.5 in the other: ratios 0.5 and 2, geometric mean 1.

    Three values a side: ψ'(1) = π² / 6 each, four of them, over 2² tasks; half of it on the scale of ln s.
    """
    found = deviation_ratio({"A": ([1, 2, 3], [2, 4, 6]), "B": ([3, 6, 9], [1, 2.5, 4])})
    reach = 1.959964 * math.sqrt(4 * math.pi**2 / 6) / 2 / 2
    assert (found.value, found.low, found.high) == pytest.approx((1, math.exp(-reach), math.exp(reach)), rel=1e-5)


def test_intervals_cover() -> None:
    """Of 4,000 made-up experiments nine and a half of ten cover the truth, within what chance allows."""
    draw = np.random.default_rng(1)
    means, ratios = 0, 0
    for _ in range(4000):
        values = {name: draw.normal(mu, sd, 5).tolist() for name, mu, sd in (("a", 1, 1), ("b", 2, 2), ("c", 3, 1))}
        found = mean_effect(values)
        means += found.low <= 2 <= found.high
        sides = {task: (draw.normal(0, 2, 5).tolist(), draw.normal(5, 1, 5).tolist()) for task in "abcd"}
        ratio = deviation_ratio(sides)
        ratios += ratio.low <= 2 <= ratio.high
    assert 0.94 < means / 4000 < 0.97 and 0.94 < ratios / 4000 < 0.97


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mean_effect({}), "at least one task"),
        (lambda: mean_effect({"A": []}), "at least one value"),
        (lambda: slope({"A": [1], "B": [2]}, {"A": 3, "B": 3}), "two different places"),
        (lambda: deviation_ratio({}), "at least one task"),
        (lambda: deviation_ratio({"A": ([1], [1, 2])}), "A: .* two values"),
        (lambda: deviation_ratio({"A": ([1, 1], [1, 2])}), "that differ"),
        (lambda: pseudo_values([[1, 0], [0, 1]]), "at least 3"),
    ],
)
def test_what_cannot_be_said(call, message) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UserError, match=message):
        call()
