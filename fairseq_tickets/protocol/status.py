"""Where an experiment stands: which steps are finished, running, left, and how long the rest takes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from fairseq_tickets.protocol.demand import Demand
from fairseq_tickets.protocol.lease import read_claim
from fairseq_tickets.protocol.plan import Plan
from fairseq_tickets.protocol.steps import Step

# What makes runs alike, most alike first
ALIKE = (
    ("task", "fraction", "subset", "config", "method", "level"),
    ("task", "fraction", "subset", "config", "method"),
    ("task", "fraction", "subset", "config"),
    ("task", "fraction", "subset"),
)
TRAINING = ("train", "l1")


@dataclass
class Progress:
    """What a driver tells after every change.

    Attributes:
        done, left: numbers of steps; those that are running are among those left.
        running: label of a step that is being done -> by which other process, "" = by this call.
        undecided: how many branches of the recipes wait for results.
        seconds: of one worker left; None = can't be judged.
        news: lines about what has happened.
    """

    done: int
    left: int
    running: dict[str, str]
    undecided: int
    seconds: float | None
    news: list[str]


@dataclass(frozen=True)
class Entry:
    """A step in a list.

    Attributes:
        state: "finished", "left", "not needed" (all that needs it is finished), or "running".
        seconds: how long it may take where it is left, None = unknown.
        where: who does it, where that is known.
    """

    key: str
    kind: str
    label: str
    state: str
    seconds: float | None
    where: str


@dataclass(frozen=True)
class Status:
    """Where an experiment stands.

    Attributes:
        folder: its steps.
        steps: all that are known.
        undecided: how many branches of the recipes wait for results.
        strangers: finished runs in the folder that the protocol does not ask for.
        collected: results in `folder / "results"`.
    """

    folder: Path
    steps: list[Entry]
    undecided: int
    strangers: int
    collected: int

    def count(self, *states: str) -> int:
        """Number of steps in one of these states."""
        return sum(entry.state in states for entry in self.steps)

    def seconds_left(self) -> float | None:
        """Seconds of one worker for the known steps; None when one of them can't be judged, or some are undecided."""
        return None if self.undecided else total(e.seconds for e in self.steps if e.state in ("left", "running"))

    def to_json(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "folder": str(self.folder),
            "finished": self.count("finished"),
            "running": self.count("running"),
            "left": self.count("left", "running"),
            "undecided": self.undecided,
            "seconds_left": self.seconds_left(),
            "other_runs": self.strangers,
            "results": self.collected,
            "runs": [asdict(entry) for entry in self.steps],
        }


class Estimate:
    """Mean times of training runs that are alike.

    A shared run takes as long as its tasks take alone, a part of a run that part of its time. Steps that are not
    training are short beside it and count as nothing.
    """

    def __init__(self) -> None:
        self._sums: dict[tuple[Any, ...], tuple[float, int]] = {}

    def add(self, step: Step, seconds: float | None) -> None:
        """A step is done and took so long, where that is known."""
        if step.kind in TRAINING and seconds is not None:
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


def status_of(plan: Plan, collected: int) -> Status:
    """Status of a plan whose recipes have gone as far as results allow; reads only."""
    store, demand, estimate = plan.store, Demand(plan.store), Estimate()
    for step in plan.steps.values():
        estimate.add(step, store.seconds(step.key))
    for step in plan.wanted():
        demand.want(step)
    entries = []
    for step in plan.steps.values():
        state, seconds, where = "finished" if store.done(step.key) else "not needed", None, ""
        if step.key in demand.todo:
            state, seconds, claim = "left", estimate(step), read_claim(step.folder)
            if claim is not None and not claim.ended():
                state, where = "running", claim.name()
        entries.append(Entry(step.key, step.kind, step.label, state, seconds, where))
    return Status(plan.folder, entries, plan.undecided(), len(store.runs() - set(plan.steps)), collected)


def total(times: Iterable[float | None]) -> float | None:
    """Their sum; None if one isn't known."""
    known = list(times)
    return None if None in known else sum(seconds or 0.0 for seconds in known)


def _places(step: Step, own: Mapping[str, Any] = MappingProxyType({})) -> Iterator[tuple[Any, ...]]:
    """What a step is like, most alike first; `own` are arguments in place of the step's."""
    for names in ALIKE:
        values = (own[name] if name in own else step.get(name) for name in names)
        yield (len(names), *(json.dumps(value, sort_keys=True, default=str) for value in values))
