"""Statistics by hand and against the averages that paper S prints."""

from __future__ import annotations

import math

import pytest

from fairseq_tickets.analysis.statistics import (
    average_score,
    average_weight_remaining,
    paired_t_test,
    round_half_up,
    spread,
)
from fairseq_tickets.errors import UserError

# Paper S, Tables 1 and 3: RTE, MRPC, CoLA, SST, STS-B, QNLI, QQP, MNLI, and the average printed beside them.
ROWS = [
    ([[69.2], [86.2, 90.4], [57.8], [92.9], [89.7, 89.2], [91.2], [90.9, 88.0], [84.5, 84.4]], "82.8"),
    ([[72.5], [87.5, 91.1], [58.8], [93.4], [89.8, 89.4], [91.3], [91.3, 88.3], [84.5, 84.5]], "83.7"),
    ([[72.1], [85.2, 89.5], [62.1], [93.3], [89.9, 89.6], [92.2], [91.3, 88.4], [86.2, 86.1]], "84.1"),
    ([[74.1], [88.0, 91.4], [64.3], [93.9], [89.9, 89.7], [92.4], [91.4, 88.5], [86.5, 86.2]], "85.1"),
    ([[79.0], [80.6, 86.2], [54.0], [92.2], [86.2, 86.4], [90.5], [90.6, 87.4], [84.6, 84.2]], "82.4"),
    ([[81.2], [87.0, 90.5], [52.0], [92.7], [87.7, 87.5], [91.0], [90.7, 87.5], [84.5, 84.1]], "83.3"),
]


@pytest.mark.parametrize(("row", "printed"), ROWS)
def test_average_score_is_the_papers(row, printed):
    assert round_half_up(average_score(row)) == printed


def test_average_weight_remaining_against_table_7():
    """BERT-large: 81.75, printed 81.7. BERT-base: the same mean gives 89.5, where Table 1 prints 86.8."""
    large = average_weight_remaining([0.82, 0.66, 0.84, 0.77, 0.79, 0.90, 0.84, 0.92])
    base = average_weight_remaining([0.83, 0.86, 0.89, 0.86, 0.93, 0.93, 0.93, 0.93])
    assert large == pytest.approx(0.8175) and base == pytest.approx(0.895)


def test_spread_by_hand():
    """2, 4, 9: mean 5, squares 9 + 1 + 16 = 26, over n - 1 = 2."""
    found = spread([2, 4, 9])
    assert (found.mean, found.n) == (5, 3) and found.sd == pytest.approx(math.sqrt(13))
    assert math.isnan(spread([0.5]).sd)
    with pytest.raises(UserError, match="at least one"):
        spread([])


def test_paired_t_by_hand():
    """Differences 1, 2, 3: mean 2, sd 1, t = 2 sqrt 3; 2 degrees of freedom: p = 1 - t / sqrt(t^2 + 2)."""
    found = paired_t_test([2, 4, 6], [1, 2, 3])
    t = 2 * math.sqrt(3)
    assert found.difference == 2 and found.n == 3
    assert found.t == pytest.approx(t) and found.p == pytest.approx(1 - t / math.sqrt(t * t + 2))


def test_paired_t_at_its_borders():
    same = paired_t_test([0.5, 0.7], [0.5, 0.7])
    assert (same.difference, same.t, same.p, same.n) == (0, 0, 1, 2)
    shifted = paired_t_test([0.4, 0.6, 0.8], [0.5, 0.7, 0.9])  # every difference is -0.1, up to binary noise
    assert shifted.t == -math.inf and shifted.p == 0


@pytest.mark.parametrize(("a", "b", "reason"), [([1], [2], "at least 2 seeds, got 1"), ([1, 2], [1], "got 2 and 1")])
def test_paired_t_needs_pairs(a, b, reason):
    with pytest.raises(UserError, match=reason):
        paired_t_test(a, b)


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        (83.65, 1, "83.7"),
        (0.25, 1, "0.3"),
        (-0.25, 1, "-0.3"),
        (-0.01, 1, "0.0"),
        (1.005, 2, "1.01"),
        (7, 0, "7"),
    ],
)
def test_rounding(value, digits, text):
    assert round_half_up(value, digits) == text
