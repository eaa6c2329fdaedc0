"""Early super tickets: is the ticket there before fine-tuning has ended?

Fine-tuning is stopped after a part of its updates, everything else as in the whole run; the model is scored there, and
what the scores keep is trained from the pre-trained weights, like the super tickets of the whole run. You et al. 2020
("Drawing early-bird tickets") stop when masks no longer move, and measure that by their Hamming distance; EarlyBERT
(Chen et al. 2021) does so for heads and FFN neurons with learnt coefficients. Here the masks are those of Liang et al.
2021, and how far they are from the last ones is told by `table early`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from fairseq_tickets.protocol.lab import Lab
from fairseq_tickets.protocol.recipes.super_tickets import Found, pruned, score, winning_levels
from fairseq_tickets.protocol.settings import Task
from fairseq_tickets.protocol.values import AtLeast0, Between, ByTask, Section, Several, among, by_name

if TYPE_CHECKING:
    from fairseq_tickets.protocol.config import Protocol


class Early(Section):
    """The section `early` of a protocol."""

    tasks: Several[str] = ()
    """all with winning tickets if absent"""
    after: Several[Between] = (0.01, 0.05, 0.1, 0.25, 0.5)
    """parts of all updates; the whole is the super ticket itself"""
    levels: ByTask[AtLeast0] = {}  # noqa: RUF012
    """among those of super_tickets, all of them if absent: a list, or lists by task and `default`"""

    def of(self, protocol: Protocol) -> Early:
        """With every task's levels; ValueError where there is nothing to be compared with."""
        known = compared_with(protocol, self.tasks)
        return self.model_copy(update={"tasks": tuple(known), "levels": levels_of(self.levels, known)})


def compared_with(protocol: Protocol, tasks: tuple[str, ...]) -> dict[str, tuple[float, ...]]:
    """Levels of winning tickets of these tasks, or of all that have some."""
    if protocol.super_tickets is None:
        raise ValueError("needs a section super_tickets with winning tickets, to be compared with")
    known = winning_levels(protocol)
    if not known:
        raise ValueError("super_tickets has no winning tickets of all the data of any task, to be compared with")
    return {task: known[task] for task in among("tasks", tasks, known)}


def levels_of(
    given: Mapping[str, tuple[float, ...]], known: Mapping[str, tuple[float, ...]]
) -> Mapping[str, tuple[float, ...]]:
    """Levels by task, among the known ones; all of them where none are given."""
    levels = by_name("levels", given, known)
    for task, own in levels.items():
        strangers = [level for level in own if level not in known[task]]
        if strangers or not own:
            found = f"{strangers[0]:g} is not among" if strangers else "there are none in"
            allowed = ", ".join(f"{level:g}" for level in known[task]) or "none that is two steps or more"
            raise ValueError(f"levels: {found} the levels of {task}'s winning tickets: {allowed}")
    return levels


def train_early(lab: Lab, section: Early, task: Task, found: Found) -> None:
    """Tickets after each part of fine-tuning, for the settings and seeds that there are winning tickets of."""
    for setting, seed in found[task.name, 1.0].result().winning:
        for part in section.after:
            scores = score(lab, task, lab.train_part(task, setting, seed, part, decay="whole"))
            for level in section.levels[task.name]:
                ticket = pruned(lab, scores, "winning", level, seed)
                lab.train(task, setting, seed, 1.0, "early", level=level, ticket=ticket, found={"found_after": part})


def early_recipes(lab: Lab, found: Found) -> None:
    """A branch for each task."""
    section = lab.protocol.early
    for name in section.tasks if section else ():
        lab.branch(train_early, section, lab.protocol.tasks[name], found)
