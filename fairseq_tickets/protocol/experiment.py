"""One protocol in one output folder: where it stands, and doing what is left, on any engine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fairseq_tickets.errors import UserError
from fairseq_tickets.protocol.collecting import collect
from fairseq_tickets.protocol.config import load_protocol
from fairseq_tickets.protocol.demand import Demand, wanted
from fairseq_tickets.protocol.driver import Driver, Progress
from fairseq_tickets.protocol.engines import Engine
from fairseq_tickets.protocol.estimate import Estimate, total
from fairseq_tickets.protocol.inputs import Checksums, Inputs, check_levels, find_data, find_model
from fairseq_tickets.protocol.lab import Lab
from fairseq_tickets.protocol.lease import read_claim
from fairseq_tickets.protocol.recipes.adaptation import adaptation_recipes
from fairseq_tickets.protocol.recipes.dominant import dominant_recipes
from fairseq_tickets.protocol.recipes.early import early_recipes
from fairseq_tickets.protocol.recipes.iterative import iterative_recipes
from fairseq_tickets.protocol.recipes.sharing import sharing_recipes
from fairseq_tickets.protocol.recipes.super_tickets import super_ticket_recipes
from fairseq_tickets.protocol.steps import Step
from fairseq_tickets.protocol.store import Store


def recipes(lab: Lab) -> None:
    """All that a protocol asks for."""
    found = super_ticket_recipes(lab)
    shared = sharing_recipes(lab, found)
    early_recipes(lab, found)
    iterative_recipes(lab, found)
    adaptation_recipes(lab, found, shared)
    dominant_recipes(lab)


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


class Experiment:
    """A protocol file and an output folder.

    Args:
        path: the protocol.
        output: steps go to output / experiment.

    Raises:
        UserError: whatever is wrong with the protocol, the model or the data; nothing has been run or written then.
    """

    def __init__(self, path: Path, output: Path) -> None:
        self.protocol = load_protocol(path)
        self.folder = output / self.protocol.experiment
        self._checksums = Checksums(output / "checksums.json")
        self._model = find_model(self.protocol, self._checksums)
        check_levels(self.protocol, self._model)
        self._data = {
            name: find_data(self.protocol, task, self._checksums) for name, task in self.protocol.tasks.items()
        }
        self.inputs: Inputs = dict(self._model.inputs)
        for found in self._data.values():
            self.inputs.update(found.inputs)

    def lab(self, acts: bool = False) -> Lab:
        """A lab over what is finished now."""
        return Lab(self.protocol, self._model, self._data, Store(self.folder), acts)

    def known(self) -> Lab:
        """A lab whose recipes have gone as far as results allow."""
        lab = self.lab()
        lab.store.check_inputs(self.inputs)
        recipes(lab)
        for error in lab.errors:
            raise error
        return lab

    def status(self) -> Status:
        """Where the experiment stands, also while other processes work on it; writes nothing.

        Raises:
            UserError: a finished run was edited or cut, or its inputs have changed.
        """
        return _status(self.known(), 0)

    def run(
        self,
        engine: Engine,
        tell: Callable[[Progress], None] = lambda progress: None,
        rerun_changed: bool = False,
        memory: int = 0,
    ) -> Status:
        """Do what is missing.

        Args:
            tell: told about progress.
            rerun_changed: set results aside whose inputs have changed, in place of refusing.
            memory: bytes to ask the engine for, for each step; 0 = nothing said.

        Raises:
            UserError: as `status`, or a step failed: no new ones are started then, running ones are waited for, and
                finished ones stay.
        """
        lab = self.lab(acts=True)
        if not rerun_changed:
            lab.store.check_inputs(self.inputs)
        lab.store.adopt()
        if rerun_changed:
            lab.store.set_aside(self.inputs)
        self._checksums.save()
        driver = Driver(lab, engine, tell, memory)
        try:
            driver.drive(recipes)
        except UserError:
            lab.end()
            engine.close(kill=False)
            collect(self.known())
            raise
        except BaseException:
            lab.end()
            engine.close(kill=True)
            raise
        engine.close(kill=False)
        if not self.protocol.keep_checkpoints:
            driver.drop_checkpoints()
        return _status(lab, collect(lab))


def _status(lab: Lab, collected: int) -> Status:
    demand, estimate = Demand(lab.store), Estimate()
    for step in lab.steps.values():
        seconds = lab.store.seconds(step.key) if lab.store.done(step.key) else None
        if seconds is not None:
            estimate.add(step, seconds)
    undecided = sum(not branch.known for branch in lab.branches)
    for step in lab.steps.values() if undecided else wanted(lab.steps):
        if not step.lazy or not undecided:
            demand.want(step)
    entries = []
    for step in lab.steps.values():
        if step.key in demand.todo:
            claim = read_claim(lab.folder / step.key)
            running = claim is not None and not claim.ended()
            where = claim.name() if claim is not None and running else ""
            entries.append(Entry(step, "running" if running else "left", estimate(step), where))
        else:
            entries.append(Entry(step, "finished" if lab.store.done(step.key) else "not needed", None))
    strangers = len([key for key in lab.store.keys() - set(lab.steps) if lab.store.makes_result(key)])
    return Status(lab.folder, entries, undecided, strangers, collected)
