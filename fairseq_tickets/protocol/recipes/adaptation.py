"""Liang et al. 2021, section 7: fine-tuned models and super tickets of one task, trained on parts of other tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fairseq_tickets.analysis.results import best_of
from fairseq_tickets.protocol.lab import Lab
from fairseq_tickets.protocol.recipes.sharing import Shared
from fairseq_tickets.protocol.recipes.super_tickets import Found, super_ticket, winning_levels
from fairseq_tickets.protocol.values import Above0, Part, Section, Several, among

if TYPE_CHECKING:
    from fairseq_tickets.protocol.config import Protocol


class Adaptation(Section):
    """The section `adaptation` of a protocol."""

    source: str
    """a task of super_tickets with winning tickets"""
    targets: Several[str]
    fractions: Several[Part] = (0.001, 0.01, 0.1, 1.0)
    """parts of the targets' training data"""
    methods: Several[str] = ()
    """full, winning, and the methods of `sharing` where that is there; all if absent"""
    learning_rates: Several[Above0] = ()
    """those of the target if absent"""

    def of(self, protocol: Protocol) -> Adaptation:
        """With its methods; ValueError where source or targets aren't there, or the source has no tickets."""
        among("source", [self.source], protocol.tasks)
        if self.source not in winning_levels(protocol):
            raise ValueError(
                f"source: {self.source} must be among the tasks of super_tickets, with winning tickets of all its data "
                "(1 among its `fractions`)"
            )
        among("targets", self.targets, [name for name in protocol.tasks if name != self.source])
        shared = protocol.sharing.methods if protocol.sharing else ()
        return self.model_copy(update={"methods": among("methods", self.methods, ("full", "winning", *shared))})


def adapt(lab: Lab, section: Adaptation, method: str, seed: int, found: Found, shared: Shared) -> None:
    """All targets from one source model: the full model, the super ticket, or a shared model of the same seed."""
    if (method, seed) in shared:
        start = shared[method, seed].result()
    else:
        of_source = found[section.source, 1.0].result()
        if method == "winning":
            start = super_ticket(lab, of_source.rivals(seed))
        else:
            full = [runs[seed] for runs in of_source.full.values() if seed in runs]
            start = full[0] if len(of_source.full) == 1 else lab.steps[best_of(lab.wait(full)).key]
    for name in section.targets:
        task = lab.protocol.tasks[name]
        for fraction in section.fractions:
            for setting in task.grid(section.learning_rates):
                lab.train(
                    task, setting, seed, fraction, method,
                    level=start.get("level"), start=start, source_task=section.source,
                )  # fmt: skip


def adaptation_recipes(lab: Lab, found: Found, shared: Shared) -> None:
    """A branch for each seed and method."""
    section = lab.protocol.adaptation
    for seed in lab.seeds if section else ():
        for method in section.methods if section else ():
            lab.branch(adapt, section, method, seed, found, shared)
