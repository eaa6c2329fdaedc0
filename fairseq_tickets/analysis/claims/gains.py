"""What the claims about super tickets, sharing and adaptation are measured with: gains, falls, deviations."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from fairseq_tickets.analysis.claims.claim import Finding, Setting
from fairseq_tickets.analysis.claims.pairs import (
    Values,
    along,
    at_levels,
    by_task,
    difference,
    examples,
    finding,
    joined_finding,
    points,
    scores,
    single_task,
)
from fairseq_tickets.analysis.effects import deviation_ratio, linear_effect
from fairseq_tickets.analysis.results import select
from fairseq_tickets.analysis.statistics import spread
from fairseq_tickets.analysis.table_parts import best_runs, weight_remaining
from fairseq_tickets.tickets import SuperTicket, ticket_from_json

# Levels above the first and up to the second number. Light is what keeps 80 % of BERT-base or more, as super tickets do
# there; in the paper's Figure 4 the kinds of tickets meet beyond 60 %.
LIGHT, MIDDLE, HEAVY, FAR = (0.0, 0.3), (0.3, 0.6), (0.4, 1.0), (0.6, 1.0)
FEWEST = 3  # seeds for a deviation


def gain(setting: Setting) -> Values:
    """Super ticket less the full model."""
    return difference(scores(setting, "winning"), scores(setting, "full"))


def rise(kind: str, setting: Setting) -> Values:
    """A kind of ticket, its light levels, less the full model."""
    (tickets,) = at_levels(setting, [kind], *LIGHT)
    return difference(tickets, scores(setting, "full"))


def lead(upper: str, lower: str, above: float, up_to: float, setting: Setting) -> Values:
    """One kind of ticket less another, at the levels that both have."""
    return difference(*at_levels(setting, [upper, lower], above, up_to))


def pruned(setting: Setting) -> Values:
    """Share of the layers' weights that the super ticket prunes, in points."""
    found = scores(setting, "winning", of=lambda run: 100 * (1 - weight_remaining(run, "without_embeddings")))
    return difference(found, dict.fromkeys(found, 0.0))


def mean(values: Callable[[Setting], Values], setting: Setting) -> Finding | None:
    """Mean over tasks."""
    return finding(setting.name, values(setting))


def by_size(values: Callable[[Setting], Values], setting: Setting) -> Finding | None:
    """Change for each doubling of a task's training data, at the levels of winning tickets that all tasks have."""
    doublings = {task: math.log2(count) for task, count in examples(single_task(setting)).items()}
    found = _winning_levels(setting)
    tasks = {task for task, _ in found}
    shared = {(task, level) for task, level in found if all((other, level) in found for other in tasks)}
    return along(setting.name, values(_at(shared, setting)), doublings)


def between(values: Callable[[Setting], Values], smaller: Setting, larger: Setting) -> Finding | None:
    """The larger model's mean less the smaller one's, over tasks and levels of winning tickets that both have."""
    shared = _winning_levels(smaller) & _winning_levels(larger)
    low, high = (by_task(values(_at(shared, setting))) for setting in (smaller, larger))
    both = [task for task in low if task in high]
    if not both:
        return None
    parts = {f"{task}, {side}": found[task] for side, found in (("smaller", low), ("larger", high)) for task in both}
    weights = {name: (1 if name.endswith("larger") else -1) / len(both) for name in parts}
    effect = linear_effect(parts, weights)._replace(tasks=len(both))
    changes = {task: spread(high[task]).mean - spread(low[task]).mean for task in both}
    return Finding(f"{smaller.name} to {larger.name}", effect, changes)


def _winning_levels(setting: Setting) -> set[tuple[str, float | None]]:
    return {(run.task, run.level) for run in single_task(setting) if run.method == "winning"}


def _at(levels: set[tuple[str, float | None]], setting: Setting) -> Setting:
    runs = [run for run in setting.runs if run.method != "winning" or (run.task, run.level) in levels]
    return replace(setting, runs=runs)


def winning_falls(setting: Setting) -> Finding | None:
    """Winning tickets of the heavy levels less those of the light ones."""
    (far,), (near,) = (at_levels(setting, ["winning"], *levels) for levels in (HEAVY, LIGHT))
    return finding(setting.name, difference(far, near))


def gap_closes(setting: Setting) -> Finding | None:
    """How much winning tickets lead random ones far out, less their lead in the middle."""
    far, middle = (lead("winning", "random", *levels, setting) for levels in (FAR, MIDDLE))
    return finding(setting.name, difference(far, middle))


def sharing(suffix: str, setting: Setting) -> Finding | None:
    """Ticket-Share less MT-DNN; with the suffix "+st" both fine-tuned."""
    sides = [scores(setting, method + suffix) for method in ("ticket_share", "mt_dnn")]
    return joined_finding(setting.name, difference(*sides))


def _adapted(setting: Setting) -> dict[float, Values]:
    """Share of the data -> gain of what starts from tickets over what starts from full models."""
    found: dict[float, Values] = {}
    for fraction, source in sorted({(r.train_fraction, r.source_task) for r in setting.runs if r.source_task}):
        runs = select(setting.runs, train_fraction=fraction, source_task=source)
        tickets, full = ({(r.task, r.seed): points(r) for r in best_runs(runs, m)} for m in ("winning", "full"))
        found.setdefault(fraction, {}).update(difference(tickets, full))
    return {fraction: values for fraction, values in found.items() if values}


def adaptation(setting: Setting) -> Finding | None:
    """Gain in adaptation, over tasks and shares of their data."""
    cells = {
        (f"{task} {100 * fraction:g} %", seed): value
        for fraction, values in _adapted(setting).items()
        for (task, seed), value in values.items()
    }
    return joined_finding(setting.name, cells)


def few_shot(setting: Setting) -> Finding | None:
    """Of each task the smallest learnt share's gain less that of all its data."""
    gains = _adapted(setting)
    found: Values = {}
    for place in sorted({place for values in gains.values() for place in values}):
        shares = sorted(share for share, values in gains.items() if place in values)
        if len(shares) > 1:
            found[place] = gains[shares[0]][place] - gains[shares[-1]][place]
    return joined_finding(setting.name, found)


def shared_heads(setting: Setting) -> Finding | None:
    """Share of heads in the super tickets of all tasks of a seed, less that of independent tickets of these sizes."""
    masks: dict[int, list[list[int]]] = {}
    for run in best_runs(single_task(setting), "winning"):
        ticket = None if run.ticket is None else ticket_from_json(run.ticket, run.path)
        if isinstance(ticket, SuperTicket):
            masks.setdefault(run.seed, []).append([kept for row in ticket.heads for kept in row])
    most = max((len(tasks) for tasks in masks.values()), default=0)
    values: Values = {}
    for seed, tasks in masks.items():
        if len(tasks) == most > 1:
            chance = math.prod(spread(mask).mean for mask in tasks)
            values["all", seed] = spread([math.prod(kept) for kept in zip(*tasks)]).mean - chance
    found = finding(setting.name, values)
    return None if found is None else replace(found, effect=found.effect._replace(tasks=most))


def deviations(treated: str, control: str, setting: Setting) -> Finding | None:
    """Deviation over seeds of one method as a multiple of another's."""
    sides = [by_task(scores(setting, method)) for method in (treated, control)]
    both = {
        task: (sides[0][task], sides[1][task])
        for task in sides[0]
        if task in sides[1] and all(len(side[task]) >= FEWEST and spread(side[task]).sd > 0 for side in sides)
    }
    if not both:
        return None
    ratios = {task: spread(a).sd / spread(b).sd for task, (a, b) in both.items()}
    return Finding(setting.name, deviation_ratio(both), ratios)
