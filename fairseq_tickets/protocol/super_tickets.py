"""Liang et al. 2021, sections 3 and 5: fine-tune, score, prune, rewind; for every seed, level and kind of ticket."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fairseq_tickets.analysis.results import best_of, super_tickets
from fairseq_tickets.protocol.config import Task
from fairseq_tickets.protocol.lab import Branch, Lab, Setting
from fairseq_tickets.protocol.steps import SCORES, Given, Step


@dataclass
class Tickets:
    """Runs of one task on one part of its data.

    Attributes:
        full: full models by setting and seed.
        winning: runs under winning tickets by setting and seed, by level.
    """

    full: Mapping[Setting, Mapping[int, Step]]
    winning: dict[tuple[Setting, int], list[Step]] = field(default_factory=dict)

    def rivals(self, seed: int, lr: float | None = None) -> list[Step]:
        """Winning runs of a seed, at all settings or those of one learning rate."""
        return [
            run
            for (setting, own), runs in self.winning.items()
            if own == seed and lr in (None, setting[0])
            for run in runs
        ]


def find_super_tickets(lab: Lab, task: Task, fraction: float) -> Tickets:
    """The grid, scores of the best full models, and rewound runs under the tickets that the scores give."""
    section = lab.protocol.super_tickets
    assert section is not None

    def train(setting: Setting, seed: int, method: str = "full", **options: Any) -> Step:
        predicts = section.predictions and method in ("full", "winning")
        return lab.train(task, task.training, setting, seed, fraction, method, predicts=predicts, **options)

    adapted = lab.protocol.adaptation is not None and lab.protocol.adaptation.source == task.name and fraction == 1.0
    grid = [(lr, batch_size) for batch_size in task.training.batch_sizes for lr in task.training.learning_rates]
    found = Tickets(lab.search(grid, lambda setting, seed: train(setting, seed, saves=True)))
    for setting in grid if section.settings == "all" else [lab.best(found.full)]:
        for seed in lab.seeds:
            scores = lab.score(task, found.full[setting][seed])
            for keep in section.keep[task.name]:
                runs = [
                    train(
                        setting,
                        seed,
                        keep,
                        level=level,
                        ticket=pruned(scores, keep, level, seed, section.min_heads_per_layer),
                        saves=adapted and keep == "winning",
                    )
                    for level in section.levels[task.name]
                ]
                if keep == "winning":
                    found.winning[setting, seed] = runs
    return found


def pruned(scores: Step, keep: str, level: float, seed: int, min_heads_per_layer: int, **more: Any) -> dict[str, Any]:
    """The ticket that keeps the highest, the lowest, or random structures."""
    return {
        "scores": scores.file(SCORES),
        "scores_key": Given(scores.key),
        "keep": keep,
        "level": level,
        "seed": seed,
        "min_heads_per_layer": min_heads_per_layer,
        **more,
    }


def super_ticket(lab: Lab, rivals: Iterable[Step]) -> Step:
    """The winning run with the best score on the part of dev kept for selection (section 5.2); waits for all."""
    return lab.steps[best_of(super_tickets(lab.wait(rivals))).key]


def super_ticket_recipes(lab: Lab) -> dict[tuple[str, float], Branch]:
    """Section `super_tickets` of a protocol: a branch for each task and part of its data."""
    section = lab.protocol.super_tickets
    if section is None:
        return {}
    tasks = [lab.protocol.tasks[name] for name in section.tasks]
    return {(task.name, part): lab.branch(find_super_tickets, task, part) for task in tasks for part in task.fractions}
