"""How long steps that are left will take, judged by those that are done."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
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

    def add(self, step: Step, seconds: float) -> None:
        """A step is done and took so long."""
        if step.kind in TRAINING:
            for place in _places(step):
                total, count = self._sums.get(place, (0.0, 0))
                self._sums[place] = (total + seconds, count + 1)

    def __call__(self, step: Step) -> float | None:
        """Seconds that a step will take; None without one that is like it."""
        if step.kind == "share":
            return total(self._like(step, task) for task in step["tasks"])
        seconds = self._like(step) if step.kind in (*TRAINING, "train_part") else 0.0
        return step["part"] * seconds if step.kind == "train_part" and seconds else seconds

    def _like(self, *arguments: Any) -> float | None:
        known = next((self._sums[place] for place in _places(*arguments) if place in self._sums), None)
        return known and known[0] / known[1]


def total(times: Iterable[float | None]) -> float | None:
    """Their sum; None if one isn't known."""
    known = list(times)
    return None if None in known else sum(seconds or 0.0 for seconds in known)


def _places(step: Step, own: Mapping[str, Any] = MappingProxyType({})) -> Iterator[tuple[Any, ...]]:
    """What a step is like, most alike first; `own` are arguments in place of the step's."""
    for names in ALIKE:
        values = (own[name] if name in own else step.get(name) for name in names)
        yield (len(names), *(json.dumps(value, sort_keys=True, default=str) for value in values))
