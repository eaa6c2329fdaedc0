"""A claim, how it is measured, and the rule that turns an interval into a verdict.

The rules are set by what a paper says. `MARGIN` is what "comparable" and "no loss" allow.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from fairseq_tickets.analysis.effects import Effect
from fairseq_tickets.analysis.results import Result
from fairseq_tickets.counts import DimensionCounts

HOLDS, FAILS, OPEN = "holds", "does not hold", "can't tell here"
MARGIN = 1.0  # points
FREEDOM = 2.0  # degrees of freedom that a verdict asks for: one task's three seeds

ABOVE, BELOW, NO_LOSS, STRONG, SMALLER = "above 0", "below 0", "above -1", "above 0.5", "below 1"
_BORDERS = {ABOVE: 0.0, BELOW: 0.0, NO_LOSS: -MARGIN, STRONG: 0.5, SMALLER: 1.0}


@dataclass(frozen=True)
class Setting:
    """Results that belong together: the runs of one model in one experiment, and counts of out-weighted parameters.

    Attributes:
        name: shown in tables.
        runs: without those of tasks that the full model has not learnt (see `learning.py`).
        counts: (task, seed) -> counts of out-weighted parameters, where files of them were given.
    """

    name: str
    runs: Sequence[Result]
    counts: Mapping[tuple[str, int], DimensionCounts] = field(default_factory=dict)


@dataclass(frozen=True)
class Finding:
    """What one setting says about a claim; `by_task` are the means behind the effect, for showing."""

    setting: str
    effect: Effect
    by_task: Mapping[str, float]


@dataclass(frozen=True)
class Claim:
    """One claim that can be measured.

    Attributes:
        key: paper, section, number, and a word more where one sentence claims several things.
        says: the paper's claim, with its figures.
        measured: what our effect is, in its unit.
        rule: where the whole interval must lie for the claim to hold; on the other side, it doesn't.
        command: arguments of `fairseq-tickets` that show the numbers behind it.
        digits: decimals to show.
        measure: the finding of one setting, or None where it has not the runs.
        between: the same of two settings, the smaller model's first; None for claims about one.
    """

    key: str
    says: str
    measured: str
    rule: str
    command: str
    digits: int
    measure: Callable[[Setting], Finding | None] | None = None
    between: Callable[[Setting, Setting], Finding | None] | None = None


def verdict(rule: str, effect: Effect) -> str:
    """HOLDS where the whole interval is on the claim's side of the border, FAILS on the other side, else OPEN."""
    if not effect.sure or effect.freedom < FREEDOM:
        return OPEN
    border = _BORDERS[rule]
    above, below = effect.low > border, effect.high < border
    if rule in (BELOW, SMALLER):
        above, below = below, above
    return HOLDS if above else FAILS if below else OPEN
