"""How long steps that are left will take, judged by those that are done."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from fairseq_tickets.protocol.steps import Step

# What makes runs alike, most alike first
ALIKE = (
    ("task", "fraction", "subset", "config", "method", "level"),
    ("task", "fraction", "subset", "config", "method"),
    ("task", "fraction", "subset", "config"),
    ("task", "fraction", "subset"),
)
TRAINING = ("train", "l1")


class Estimate:
    """Mean times of training runs that are alike.

    A shared run takes as long as its tasks take alone, a part of a run that part of its time. Steps that are not
    training are short beside it and count as nothing.
    """

    def __init__(self) -> None:
        self._sums: dict[tuple[Any, ...], tuple[float, int]] = {}
        self._known: dict[str, list[tuple[Any, ...]]] = {}

    def add(self, step: Step, seconds: float) -> None:
        """A step is done and took so long."""
        if step.kind in TRAINING:
            for place in self._places(step, {}):
                total, count = self._sums.get(place, (0.0, 0))
                self._sums[place] = (total + seconds, count + 1)

    def __call__(self, step: Step) -> float | None:
        """Seconds that a step will take; None without one that is like it."""
        if step.kind == "share":
            return total(self._of(step, task) for task in step["tasks"])
        if step.kind == "train_part":
            whole = self._of(step, {})
            return None if whole is None else step["part"] * whole
        return self._of(step, {}) if step.kind in TRAINING else 0.0

    def _of(self, step: Step, own: dict[str, Any]) -> float | None:
        for place in self._places(step, own):
            if place in self._sums:
                seconds, count = self._sums[place]
                return seconds / count
        return None

    def _places(self, step: Step, own: dict[str, Any]) -> list[tuple[Any, ...]]:
        if own:
            return _places(step, own)
        if step.key not in self._known:
            self._known[step.key] = _places(step, own)
        return self._known[step.key]


def total(times: Iterable[float | None]) -> float | None:
    """Their sum; None if one isn't known."""
    known = list(times)
    return None if None in known else sum(seconds or 0.0 for seconds in known)


def _places(step: Step, own: dict[str, Any]) -> list[tuple[Any, ...]]:
    """What a step is like, most alike first; `own` are arguments in place of the step's."""
    places = []
    for names in ALIKE:
        values = (own[name] if name in own else step.get(name) for name in names)
        places.append((len(names), *(json.dumps(value, sort_keys=True, default=str) for value in values)))
    return places
