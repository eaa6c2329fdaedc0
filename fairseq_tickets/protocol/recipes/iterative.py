"""Iterative super tickets: fine-tune a little, score, prune a tenth, fine-tune on, score, prune the next, ..., rewind.

Liang et al. 2021 prune once, by the scores of a whole fine-tuning run. Pruned in steps, the later scores are those of a
model that has lost the first structures and got used to it. The model goes on from its weights between steps, with a
schedule of its own each time (warm-up and decay over the step's updates), and rewinds to the pre-trained weights once,
at the end: that run is the one that a one-shot ticket gets.
"""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, Annotated, Any, Optional

from annotated_types import Gt, Le

from fairseq_tickets.parameters import ModelShape
from fairseq_tickets.protocol.lab import Lab
from fairseq_tickets.protocol.recipes.early import compared_with, levels_of
from fairseq_tickets.protocol.recipes.super_tickets import Found, check_prunes, pruned, score
from fairseq_tickets.protocol.settings import Task
from fairseq_tickets.protocol.steps import TICKET, Given, Step
from fairseq_tickets.protocol.values import AtLeast0, ByTask, Number, Part, Section, Several

if TYPE_CHECKING:
    from fairseq_tickets.protocol.config import Protocol


class Iterative(Section):
    """The section `iterative` of a protocol."""

    tasks: Several[str] = ()
    """all with winning tickets if absent"""
    step: Annotated[Number, Gt(0), Le(0.5)] = 0.1
    """part of the heads, and of the FFNs, to prune at a time"""
    fraction_of_budget: Optional[Part] = None
    """updates of fine-tuning before each step, as a part of a whole run's; null = that part that makes one whole run of
    all steps to a level, what a one-shot ticket takes to be found"""
    levels: ByTask[AtLeast0] = {}  # noqa: RUF012
    """among those of super_tickets, each two steps or more; all such if absent"""

    def of(self, protocol: Protocol) -> Iterative:
        """With every task's levels; ValueError where one is no number of steps, or there is nothing to compare with."""
        known = compared_with(protocol, self.tasks)
        known = {task: tuple(level for level in own if level > self.step) for task, own in known.items()}
        levels = levels_of(self.levels, known)
        for level in sorted({level for own in levels.values() for level in own}):
            if self._steps(level).denominator > 1:
                raise ValueError(f"levels: {level:g} is no whole number of steps of {self.step:g}")
        return self.model_copy(update={"tasks": tuple(known), "levels": levels})

    def check(self, shape: ModelShape) -> None:
        """Refuse a step that prunes nothing of a model."""
        check_prunes("step", self.step, shape)

    def steps_to(self, level: float) -> int:
        """How many steps prune a level."""
        return int(self._steps(level))

    def _steps(self, level: float) -> Fraction:
        return Fraction(str(level)) / Fraction(str(self.step))


def prune_in_steps(lab: Lab, section: Iterative, task: Task, found: Found) -> None:
    """Tickets of each level, for the settings and seeds that there are winning tickets of."""
    for setting, seed in found[task.name, 1.0].result().winning:
        for level in section.levels[task.name]:
            steps = section.steps_to(level)
            part = section.fraction_of_budget or 1 / steps
            ticket: dict[str, Any] | None = None
            run: Step | None = None
            for number in range(1, steps + 1):
                run = lab.train_part(task, setting, seed, part, decay="part", ticket=ticket, start=run)
                reached = float(number * Fraction(str(section.step)))
                within = run.file(TICKET).unhashed() if ticket else Given(None)
                ticket = pruned(lab, score(lab, task, run), "winning", reached, seed, within=within)
            how = {"prune_step": section.step, "stage_budget": part}
            lab.train(task, setting, seed, 1.0, "iterative", level=level, ticket=ticket, found=how)


def iterative_recipes(lab: Lab, found: Found) -> None:
    """A branch for each task."""
    section = lab.protocol.iterative
    for name in section.tasks if section else ():
        lab.branch(prune_in_steps, section, lab.protocol.tasks[name], found)
