"""Where an experiment stands: which steps are finished, running, left, and how long the rest takes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fairseq_tickets.protocol.demand import Demand, wanted
from fairseq_tickets.protocol.estimate import Estimate, total
from fairseq_tickets.protocol.lease import read_claim
from fairseq_tickets.protocol.plan import Plan
from fairseq_tickets.protocol.steps import Step


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

    step: Step
    state: str
    seconds: float | None
    where: str = ""


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
            "runs": [
                {
                    "key": entry.step.key,
                    "kind": entry.step.kind,
                    "label": entry.step.label,
                    "state": entry.state,
                    "finished": entry.state == "finished",
                    "seconds": entry.seconds,
                    "where": entry.where,
                }
                for entry in self.steps
            ],
        }


def status_of(plan: Plan, collected: int) -> Status:
    """Status of a plan whose recipes have gone as far as results allow; reads only."""
    demand, estimate = Demand(plan.store), Estimate()
    for step in plan.steps.values():
        seconds = plan.store.seconds(step.key) if plan.store.done(step.key) else None
        if seconds is not None:
            estimate.add(step, seconds)
    undecided = sum(not branch.known for branch in plan.branches)
    for step in plan.steps.values() if undecided else wanted(plan.steps):
        if not step.lazy or not undecided:
            demand.want(step)
    entries = []
    for step in plan.steps.values():
        if step.key in demand.todo:
            claim = read_claim(plan.folder / step.key)
            running = claim is not None and not claim.ended()
            where = claim.name() if claim is not None and running else ""
            entries.append(Entry(step, "running" if running else "left", estimate(step), where))
        else:
            entries.append(Entry(step, "finished" if plan.store.done(step.key) else "not needed", None))
    strangers = len([key for key in plan.store.keys() - set(plan.steps) if plan.store.makes_result(key)])
    return Status(plan.folder, entries, undecided, strangers, collected)
