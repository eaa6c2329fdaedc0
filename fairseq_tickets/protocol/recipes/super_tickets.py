"""Liang et al. 2021, sections 3 and 5: fine-tune, score, prune, rewind; for every seed, level and kind of ticket."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Optional

from fairseq_tickets.analysis.results import best_of, super_tickets
from fairseq_tickets.parameters import ModelShape
from fairseq_tickets.protocol.functions import training
from fairseq_tickets.protocol.lab import Lab, Runs, Setting, label_of
from fairseq_tickets.protocol.plan import Branch
from fairseq_tickets.protocol.settings import Task
from fairseq_tickets.protocol.steps import CHECKPOINT, SCORES, Given, Step
from fairseq_tickets.protocol.values import AtLeast0, ByTask, Count, Flag, Natural, Section, Several, among, by_name
from fairseq_tickets.super_ticket.pruning import prune_count

if TYPE_CHECKING:
    from fairseq_tickets.protocol.config import Protocol

Kind = Literal["winning", "random", "losing"]
LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
KEEP: tuple[Kind, ...] = ("winning", "random", "losing")


class Importance(Section):
    """How heads and FFNs are scored, see `plugin.scoring.score_checkpoint`."""

    granularity: Literal["example", "token", "batch"] = "example"
    limit: Optional[Count] = None
    """so many training examples only; null = all"""


class SuperTickets(Section):
    """The section `super_tickets` of a protocol."""

    tasks: Several[str] = ()
    """all if absent"""
    levels: ByTask[AtLeast0] = {"default": LEVELS}  # noqa: RUF012
    """parts of the heads, and of the FFNs, to prune: a list, or lists by task and `default`"""
    keep: ByTask[Kind] = {"default": KEEP}  # noqa: RUF012
    """kinds of tickets: a list, or lists by task and `default`"""
    importance: Importance = Importance()
    min_heads_per_layer: Natural = 0
    settings: Literal["best", "all"] = "best"
    """tickets at the best learning rate and batch size of the full models, or at all of them"""
    predictions: Flag = False
    """write predictions for the test split, as the GLUE server takes them"""

    def of(self, protocol: Protocol) -> SuperTickets:
        """With every task's levels and kinds.

        Raises:
            ValueError: what does not fit together.
        """
        if self.settings == "all" and protocol.search_seeds < len(protocol.seeds):
            raise ValueError(f"settings is 'all', on every seed, but search_seeds is {protocol.search_seeds}")
        tasks = among("tasks", self.tasks, protocol.tasks)
        levels = by_name("levels", self.levels, dict.fromkeys(tasks, LEVELS))
        keep = by_name("keep", self.keep, dict.fromkeys(tasks, KEEP))
        return self.model_copy(update={"tasks": tasks, "levels": levels, "keep": keep})

    def check(self, shape: ModelShape) -> None:
        """Refuse levels that prune nothing or everything of a model; ValueError names the level."""
        heads, free = shape.layers * shape.heads, shape.layers * (shape.heads - self.min_heads_per_layer)
        for level in dict.fromkeys(level for levels in self.levels.values() for level in levels):
            if level >= 1:
                raise ValueError(f"levels: {level:g} prunes everything; it must be less than 1 (0.2 prunes 20 %)")
            check_prunes("levels", level, shape)
            if prune_count(level, heads, "levels") > free:
                raise ValueError(
                    f"min_heads_per_layer {self.min_heads_per_layer} leaves too few heads to prune at level {level:g}"
                )


def check_prunes(key: str, level: float, shape: ModelShape) -> None:
    """Refuse a part of heads and FFNs that is less than one of either."""
    heads = shape.layers * shape.heads
    if prune_count(level, heads, key) + prune_count(level, shape.layers, key) == 0:
        raise ValueError(
            f"{key}: {level:g} prunes nothing: the model has {heads} heads and {shape.layers} FFNs, and {level:g} of "
            "either is less than one"
        )


def winning_levels(protocol: Protocol) -> dict[str, tuple[float, ...]]:
    """Levels of the tasks that have winning tickets of all their data."""
    section, tasks = protocol.super_tickets, protocol.tasks
    if section is None:
        return {}
    known = [task for task in section.tasks if "winning" in section.keep[task] and 1.0 in tasks[task].fractions]
    return {task: section.levels[task] for task in known}


@dataclass
class Tickets:
    """Runs of one task on one part of its data.

    Attributes:
        full: full models by setting and seed.
        winning: runs under winning tickets by setting and seed, by level.
    """

    full: Runs
    winning: dict[tuple[Setting, int], list[Step]] = field(default_factory=dict)

    def rivals(self, seed: int, lr: float | None = None) -> list[Step]:
        """Winning runs of a seed, at all settings or those of one learning rate."""
        return [
            run
            for (setting, own), runs in self.winning.items()
            if own == seed and lr in (None, setting[0])
            for run in runs
        ]


Found = Mapping[tuple[str, float], Branch]  # branches that return Tickets, by task and part of its data


def find_super_tickets(lab: Lab, section: SuperTickets, task: Task, fraction: float) -> Tickets:
    """The grid, scores of the best full models, and rewound runs under the tickets that the scores give."""

    def train(setting: Setting, seed: int, method: str = "full", **options: Any) -> Step:
        predicts = section.predictions and method in ("full", "winning")
        return lab.train(task, setting, seed, fraction, method, predicts=predicts, **options)

    adapted = lab.protocol.adaptation is not None and lab.protocol.adaptation.source == task.name and fraction == 1.0
    grid = task.grid()
    found = Tickets(lab.search(grid, lambda setting, seed: train(setting, seed, saves=True)))
    for setting in grid if section.settings == "all" else [lab.best(found.full)]:
        for seed in lab.seeds:
            scores = score(lab, task, found.full[setting][seed])
            for keep in section.keep[task.name]:
                saves = adapted and keep == "winning"
                runs = [
                    train(setting, seed, keep, level=level, ticket=pruned(lab, scores, keep, level, seed), saves=saves)
                    for level in section.levels[task.name]
                ]
                if keep == "winning":
                    found.winning[setting, seed] = runs
    return found


def score(lab: Lab, task: Task, full: Step) -> Step:
    """Importance scores of a full model over its training data."""
    assert lab.protocol.super_tickets is not None
    importance = lab.protocol.super_tickets.importance
    arguments = {
        "task": task.name,
        "seed": full["seed"],
        "fraction": full["fraction"],
        "config": full["config"],
        "full": full.file(CHECKPOINT),
        "granularity": importance.granularity,
        "limit": importance.limit,
        "data": lab.data_of(task, hashed=False),
        "full_key": Given(full.key),
    }
    label = label_of(arguments, "score") if full.kind == "train" else f"{full.label}: score"
    return lab.step(training.score, arguments, label, lazy=True)


def pruned(lab: Lab, scores: Step, keep: str, level: float, seed: int, **more: Any) -> dict[str, Any]:
    """The ticket that keeps the highest, the lowest, or random structures."""
    assert lab.protocol.super_tickets is not None
    return {
        "scores": scores.file(SCORES),
        "scores_key": Given(scores.key),
        "keep": keep,
        "level": level,
        "seed": seed,
        "min_heads_per_layer": lab.protocol.super_tickets.min_heads_per_layer,
        **more,
    }


def super_ticket(lab: Lab, rivals: Iterable[Step]) -> Step:
    """The winning run with the best score on the part of dev kept for selection (section 5.2); waits for all."""
    return lab.steps[best_of(super_tickets(lab.wait(rivals))).key]


def super_ticket_recipes(lab: Lab) -> Found:
    """A branch for each task and part of its data."""
    section = lab.protocol.super_tickets
    if section is None:
        return {}
    tasks = [lab.protocol.tasks[name] for name in section.tasks]
    return {
        (task.name, part): lab.branch(find_super_tickets, section, task, part)
        for task in tasks
        for part in task.fractions
    }
