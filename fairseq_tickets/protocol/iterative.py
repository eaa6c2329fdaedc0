"""Iterative super tickets: fine-tune a little, score, prune a tenth, fine-tune on, score, prune the next, ..., rewind.

Liang et al. 2021 prune once, by the scores of a whole fine-tuning run. Pruned in steps, the later scores are those of a
model that has lost the first structures and got used to it. The model goes on from its weights between steps, with a
schedule of its own each time (warm-up and decay over the step's updates), and rewinds to the pre-trained weights once,
at the end: that run is the one that a one-shot ticket gets.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from fairseq_tickets.protocol.config import Task
from fairseq_tickets.protocol.lab import Lab
from fairseq_tickets.protocol.sharing import Tickets
from fairseq_tickets.protocol.steps import TICKET, Given, Step
from fairseq_tickets.protocol.super_tickets import pruned


def prune_in_steps(lab: Lab, task: Task, found: Tickets) -> None:
    """Tickets of each level, for the settings and seeds that there are winning tickets of."""
    section, super_tickets = lab.protocol.iterative, lab.protocol.super_tickets
    assert section is not None and super_tickets is not None
    for setting, seed in found[task.name, 1.0].result().winning:
        for level in section.levels[task.name]:
            steps = section.steps_to(level)
            part = section.fraction_of_budget or 1 / steps
            ticket: dict[str, Any] | None = None
            run: Step | None = None
            for number in range(1, steps + 1):
                run = lab.train_part(task, setting, seed, part, decay="part", ticket=ticket, start=run)
                ticket = pruned(
                    lab.score(task, run),
                    "winning",
                    float(number * Fraction(str(section.step))),
                    seed,
                    super_tickets.min_heads_per_layer,
                    within=run.file(TICKET).unhashed() if ticket else Given(None),
                )
            lab.train(
                task, task.training, setting, seed, 1.0, "iterative",
                level=level, ticket=ticket, found={"prune_step": section.step, "stage_budget": part},
            )  # fmt: skip


def iterative_recipes(lab: Lab, found: Tickets) -> None:
    """Section `iterative` of a protocol: a branch for each task."""
    if lab.protocol.iterative is not None:
        for name in lab.protocol.iterative.tasks:
            lab.branch(prune_in_steps, lab.protocol.tasks[name], found)
