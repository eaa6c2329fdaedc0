"""One protocol in one output folder: where it stands, and doing what is left, on any engine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fairseq_tickets.errors import UserError
from fairseq_tickets.protocol.collecting import collect
from fairseq_tickets.protocol.config import load_protocol
from fairseq_tickets.protocol.driver import Driver
from fairseq_tickets.protocol.engines import Engine
from fairseq_tickets.protocol.inputs import Inputs, find_data, find_model
from fairseq_tickets.protocol.lab import Lab
from fairseq_tickets.protocol.recipes.adaptation import adaptation_recipes
from fairseq_tickets.protocol.recipes.dominant import dominant_recipes
from fairseq_tickets.protocol.recipes.early import early_recipes
from fairseq_tickets.protocol.recipes.iterative import iterative_recipes
from fairseq_tickets.protocol.recipes.sharing import sharing_recipes
from fairseq_tickets.protocol.recipes.super_tickets import super_ticket_recipes
from fairseq_tickets.protocol.status import Progress, Status, status_of
from fairseq_tickets.protocol.store import Store


def recipes(lab: Lab) -> None:
    """All that a protocol asks for."""
    found = super_ticket_recipes(lab)
    shared = sharing_recipes(lab, found)
    early_recipes(lab, found)
    iterative_recipes(lab, found)
    adaptation_recipes(lab, found, shared)
    dominant_recipes(lab)


class Experiment:
    """A protocol file and an output folder; steps go to OUTPUT/EXPERIMENT.

    Raises:
        UserError: whatever is wrong with the protocol, the model or the data; nothing has been run or written then.
    """

    def __init__(self, path: Path, output: Path) -> None:
        self.protocol = load_protocol(path)
        self.folder = output.absolute() / self.protocol.experiment
        self._model = find_model(self.protocol)
        self.protocol.check(self._model.shape)
        self._data = {name: find_data(self.protocol, task) for name, task in self.protocol.tasks.items()}
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
        return status_of(self.known(), 0)

    def run(
        self,
        engine: Engine,
        tell: Callable[[Progress], None] = lambda progress: None,
        rerun_changed: bool = False,
        memory: int = 0,
    ) -> Status:
        """Do what is missing.

        Args:
            rerun_changed: set results aside whose inputs have changed, in place of refusing.
            memory: bytes to ask the engine for, for each step; 0 = nothing said.

        Raises:
            UserError: as `status`, or a step failed; finished ones stay.
        """
        lab = self.lab(acts=True)
        if not rerun_changed:
            lab.store.check_inputs(self.inputs)
        lab.store.adopt()
        if rerun_changed:
            lab.store.set_aside(self.inputs)
        try:
            Driver(lab, engine, tell, memory, self.protocol.keep_checkpoints).drive(recipes)
        except UserError:
            collect(self.known())
            raise
        return status_of(lab, collect(lab))
