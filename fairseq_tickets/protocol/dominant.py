"""Gong et al. 2022, section 3: L1 fine-tuning, extraction, and training what was found, against the baselines; or
what one pass at the pre-trained weights finds in place of the L1 run (`salience`)."""

from __future__ import annotations

from typing import Any

from fairseq_tickets.protocol.config import Task
from fairseq_tickets.protocol.lab import Lab, Setting
from fairseq_tickets.protocol.steps import TICKET, Step

FROM_L1 = ("dominant", "random_dimensions")
OF_DIMENSIONS = (*FROM_L1, "salience")


def train_dominant(lab: Lab, task: Task, method: str, top_k: int | None) -> None:
    """The search for one method's learning rate; each seed has its own ticket, or all have the first seed's."""
    section = lab.protocol.dominant
    assert section is not None

    def ticket(seed: int) -> dict[str, Any] | None:
        if method in OF_DIMENSIONS:
            own = seed if section.ticket_seed == "same" else lab.seeds[0]
            found = lab.salience(task, own) if method == "salience" else lab.extract(task, lab.l1(task, own))
            drawn = seed if method == "random_dimensions" else None
            return {"extract": found.file(TICKET), "top_k": top_k, "seed": drawn}
        return {"elements": section.element_fraction, "seed": seed} if method == "random_elements" else None

    def train(setting: Setting, seed: int) -> Step:
        return lab.train(task, section.training, setting, seed, 1.0, method, top_k=top_k, ticket=ticket(seed))

    lab.search([(lr, b) for b in section.training.batch_sizes for lr in section.learning_rates[method]], train)


def dominant_recipes(lab: Lab) -> None:
    """Section `dominant` of a protocol: a branch for each task, method and number of dimensions."""
    section = lab.protocol.dominant
    if section is None:
        return
    for name in section.tasks:
        task = lab.protocol.tasks[name]
        if "salience" not in section.methods or set(FROM_L1) & set(section.methods):
            for seed in lab.seeds if section.ticket_seed == "same" else lab.seeds[:1]:
                lab.extract(task, lab.l1(task, seed))
        for method in section.methods:
            for top_k in section.top_k if method in OF_DIMENSIONS else [None]:
                lab.branch(train_dominant, task, method, top_k)
