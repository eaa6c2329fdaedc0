"""Liang et al. 2021, section 7: fine-tuned models and super tickets of one task, trained on parts of other tasks."""

from __future__ import annotations

from fairseq_tickets.analysis.results import best_of
from fairseq_tickets.protocol.lab import Lab
from fairseq_tickets.protocol.sharing import Shared, Tickets
from fairseq_tickets.protocol.super_tickets import super_ticket


def adapt(lab: Lab, method: str, seed: int, found: Tickets, shared: Shared) -> None:
    """All targets from one source model: the full model, the super ticket, or a shared model of the same seed."""
    section = lab.protocol.adaptation
    assert section is not None
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
            for batch_size in task.training.batch_sizes:
                for lr in section.learning_rates or task.training.learning_rates:
                    lab.train(
                        task, task.training, (lr, batch_size), seed, fraction, method,
                        level=start.get("level"), start=start, source_task=section.source,
                    )  # fmt: skip


def adaptation_recipes(lab: Lab, found: Tickets, shared: Shared) -> None:
    """Section `adaptation` of a protocol: a branch for each seed and method."""
    section = lab.protocol.adaptation
    if section is not None:
        for seed in lab.seeds:
            for method in section.methods:
                lab.branch(adapt, method, seed, found, shared)
