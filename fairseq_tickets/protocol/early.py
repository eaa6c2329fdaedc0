"""Early super tickets: is the ticket there before fine-tuning has ended?

Fine-tuning is stopped after a part of its updates, everything else as in the whole run; the model is scored there, and
what the scores keep is trained from the pre-trained weights, like the super tickets of the whole run. You et al. 2020
("Drawing early-bird tickets") stop when masks no longer move, and measure that by their Hamming distance; EarlyBERT
(Chen et al. 2021) does so for heads and FFN neurons with learnt coefficients. Here the masks are those of Liang et al.
2021, and how far they are from the last ones is told by `table early`.
"""

from __future__ import annotations

from fairseq_tickets.protocol.config import Task
from fairseq_tickets.protocol.lab import Lab
from fairseq_tickets.protocol.sharing import Tickets
from fairseq_tickets.protocol.super_tickets import pruned


def train_early(lab: Lab, task: Task, found: Tickets) -> None:
    """Tickets after each part of fine-tuning, for the settings and seeds that there are winning tickets of."""
    section, super_tickets = lab.protocol.early, lab.protocol.super_tickets
    assert section is not None and super_tickets is not None
    for setting, seed in found[task.name, 1.0].result().winning:
        for part in section.after:
            scores = lab.score(task, lab.train_part(task, setting, seed, part, decay="whole"))
            for level in section.levels[task.name]:
                ticket = pruned(scores, "winning", level, seed, super_tickets.min_heads_per_layer)
                lab.train(
                    task, task.training, setting, seed, 1.0, "early",
                    level=level, ticket=ticket, found={"found_after": part},
                )  # fmt: skip


def early_recipes(lab: Lab, found: Tickets) -> None:
    """Section `early` of a protocol: a branch for each task."""
    if lab.protocol.early is not None:
        for name in lab.protocol.early.tasks:
            lab.branch(train_early, lab.protocol.tasks[name], found)
