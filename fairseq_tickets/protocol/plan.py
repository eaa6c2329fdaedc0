"""From a protocol and the results there are to the runs it asks for.

What can't be known yet is left out and counted: which learning rate and batch size tickets use (best full model on
the part of dev kept for selection), and which winning ticket is the super ticket (the same, of its rewinding runs). The
plan is made again after every run, so that it grows; it depends on results alone, not on the order in which they came.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from fairseq_tickets.analysis.results import Result, best_of, super_tickets, tuned
from fairseq_tickets.errors import UserError
from fairseq_tickets.protocol.config import Protocol, Task, Training
from fairseq_tickets.protocol.inputs import Data, Model
from fairseq_tickets.protocol.plan_sharing import plan_sharing
from fairseq_tickets.protocol.runs import EXTRACT, L1, PREPARE, SCORE, TRAIN, Run, make_run
from fairseq_tickets.protocol.store import TICKET


@dataclass
class Plan:
    """Runs in the order to be run, and how many more there will be that depend on results."""

    runs: dict[str, Run] = field(default_factory=dict)
    undecided: int = 0

    def add(self, run: Run) -> Run:
        """Add a run; one that is there already is kept, and saves and predicts if either does."""
        known = self.runs.get(run.key)
        if known is None:
            self.runs[run.key] = run
        elif (run.saves, run.predicts) != (known.saves, known.predicts):
            self.runs[run.key] = replace(known, saves=run.saves or known.saves, predicts=run.predicts or known.predicts)
        return self.runs[run.key]


class Planner:
    """Makes plans for one protocol.

    Args:
        data: of every task.
        folder: where the runs are: the folder of a run is folder / key.
    """

    def __init__(self, protocol: Protocol, model: Model, data: Mapping[str, Data], folder: Path) -> None:
        self.protocol, self.model, self.data, self.folder = protocol, model, data, folder

    def plan(self, results: Mapping[str, Result]) -> Plan:
        """All runs that are known, given finished training runs (key -> result)."""
        plan = Plan()
        if self.protocol.super_tickets is not None:
            self._super_tickets(plan, results)
        shared: Mapping[tuple[str, int], Run] = {}
        if self.protocol.sharing is not None:
            shared = plan_sharing(self, plan, results)
        if self.protocol.adaptation is not None:
            self._adaptation(plan, results, shared)
        if self.protocol.dominant is not None:
            self._dominant(plan, results)
        return plan

    def _super_tickets(self, plan: Plan, results: Mapping[str, Result]) -> None:
        section = self.protocol.super_tickets
        assert section is not None
        cells = [(self.protocol.tasks[name], f) for name in section.tasks for f in self.protocol.tasks[name].fractions]
        settings: dict[tuple[str, float], Sequence[tuple[float, int]] | None] = {}
        for task, fraction in cells:
            full = self._full_runs(plan, results, task, fraction)
            chosen: Sequence[tuple[float, int]] | None = list(full)
            if section.settings == "best" and len(full) > 1:
                best = best_setting(full, results)
                chosen = None if best is None else [best]
            settings[task.name, fraction] = chosen
        for task, fraction in cells:
            chosen = settings[task.name, fraction]
            count = len(self.protocol.seeds) * (1 + len(section.levels[task.name]) * len(section.keep[task.name]))
            if chosen is None:
                plan.undecided += count
                continue
            for lr, batch_size in chosen:
                for seed in self.protocol.seeds:
                    self._tickets(plan, task, fraction, lr, batch_size, seed)

    def _full_runs(
        self, plan: Plan, results: Mapping[str, Result], task: Task, fraction: float
    ) -> dict[tuple[float, int], list[Run]]:
        section, training = self.protocol.super_tickets, task.training
        assert section is not None

        def train(lr: float, batch_size: int, seed: int) -> Run:
            return self.train(
                plan, task, training, lr, batch_size, seed, fraction, "full",
                predictions=section.predictions, saves=True,
            )  # fmt: skip

        return self.search(plan, results, training.learning_rates, training.batch_sizes, train)

    def search(
        self,
        plan: Plan,
        results: Mapping[str, Result],
        learning_rates: Sequence[float],
        batch_sizes: Sequence[int],
        train: Callable[[float, int, int], Run],
    ) -> dict[tuple[float, int], list[Run]]:
        """Runs of every setting on the seeds to search on, and of the best one on the others once it is known."""
        count = self.protocol.search_seeds
        seeds, others = self.protocol.seeds[:count], self.protocol.seeds[count:]
        runs = {(lr, b): [train(lr, b, seed) for seed in seeds] for b in batch_sizes for lr in learning_rates}
        if others:
            best = next(iter(runs)) if len(runs) == 1 else best_setting(runs, results)
            if best is None:
                plan.undecided += len(others)
            else:
                runs[best] += [train(*best, seed) for seed in others]
        return runs

    def _tickets(self, plan: Plan, task: Task, fraction: float, lr: float, batch_size: int, seed: int) -> None:
        section, training = self.protocol.super_tickets, task.training
        assert section is not None
        full = self.train(
            plan, task, training, lr, batch_size, seed, fraction, "full", predictions=section.predictions, saves=True
        )
        score = self._score(plan, task, full)
        adapted = self.protocol.adaptation is not None and self.protocol.adaptation.source == task.name
        for keep in section.keep[task.name]:
            for level in section.levels[task.name]:
                ticket = {
                    "scores": score.key,
                    "keep": keep,
                    "level": level,
                    "seed": seed,
                    "min_heads_per_layer": section.min_heads_per_layer,
                }
                self.train(
                    plan, task, training, lr, batch_size, seed, fraction, keep,
                    level=level, ticket=ticket, needs=(score.key,),
                    told={"scores": str(self.folder / score.key / "scores.npz")},
                    predictions=section.predictions and keep == "winning",
                    saves=adapted and keep == "winning" and fraction == 1.0,
                )  # fmt: skip

    def _score(self, plan: Plan, task: Task, full: Run) -> Run:
        section = self.protocol.super_tickets
        assert section is not None
        what = {
            "task": task.name,
            "seed": full.what["seed"],
            "fraction": full.what["fraction"],
            "config": full.what["config"],
            "full": full.key,
            "granularity": section.granularity,
            "limit": section.importance_limit,
        }
        run = make_run(
            SCORE,
            what,
            told={"checkpoint": str(self.folder / full.key / "checkpoint.pt"), "data": full.told["data"]},
            needs=(full.key,),
            takes_checkpoint=(full.key,),
        )
        return plan.add(run)

    def chosen(self, plan: Plan, results: Mapping[str, Result]) -> set[str]:
        """Keys of the runs whose tickets are the super tickets, by task, seed, learning rate and batch size.

        On all of the training data; none where a level isn't finished.
        """
        section = self.protocol.super_tickets
        if section is None:
            return set()
        whole = [run for run in plan.runs.values() if run.kind == TRAIN and run.what["start"] is None]
        whole = [run for run in whole if run.what["method"] == "winning" and run.what["fraction"] == 1.0]
        rivals: dict[tuple[Any, ...], list[Run]] = {}
        for run in whole:
            config = run.what["config"]
            place = (run.what["task"], run.what["seed"], config["lr"], config["batch_size"])
            rivals.setdefault(place, []).append(run)
        finished = [runs for runs in rivals.values() if all(run.key in results for run in runs)]
        return {ticket.key for runs in finished for ticket in super_tickets(results[run.key] for run in runs)}

    def _adaptation(self, plan: Plan, results: Mapping[str, Result], shared: Mapping[tuple[str, int], Run]) -> None:
        section, tickets = self.protocol.adaptation, self.protocol.super_tickets
        assert section is not None and tickets is not None
        source = self.protocol.tasks[section.source]
        of_source = [run for run in plan.runs.values() if run.kind == TRAIN and run.what["task"] == source.name]
        of_source = [run for run in of_source if run.what["fraction"] == 1.0]
        settings = {(run.what["config"]["lr"], run.what["config"]["batch_size"]) for run in of_source}
        for seed in self.protocol.seeds:
            own = [run for run in of_source if run.what["seed"] == seed]
            for method in section.methods:
                parent = shared.get((method, seed))
                rivals = [run for run in own if run.what["method"] == method]
                if method == "winning":
                    expected = len(tickets.levels[source.name])
                    if len(rivals) >= expected and all(run.key in results for run in rivals):
                        parent = plan.runs[best_of(super_tickets(results[run.key] for run in rivals)).key]
                elif method == "full" and (len(rivals) == 1 or all(run.key in results for run in rivals)):
                    parent = rivals[0]
                    if len(settings) > 1:
                        parent = plan.runs[best_of(results[run.key] for run in rivals).key]
                for name in section.targets:
                    self._adapt(plan, self.protocol.tasks[name], method, seed, parent)

    def _adapt(self, plan: Plan, task: Task, method: str, seed: int, parent: Run | None) -> None:
        section = self.protocol.adaptation
        assert section is not None
        rates = section.learning_rates or task.training.learning_rates
        for fraction in section.fractions:
            for batch_size in task.training.batch_sizes:
                for lr in rates:
                    if parent is None:
                        plan.undecided += 1
                        continue
                    self.train(
                        plan, task, task.training, lr, batch_size, seed, fraction, method,
                        level=parent.what.get("level"), needs=(parent.key,), start=parent, source_task=section.source,
                    )  # fmt: skip

    def _dominant(self, plan: Plan, results: Mapping[str, Result]) -> None:
        section = self.protocol.dominant
        assert section is not None
        for name in section.tasks:
            task = self.protocol.tasks[name]
            extracts = {seed: self._extract(plan, task, seed) for seed in self._ticket_seeds()}
            for method in section.methods:
                counts: Iterable[int | None] = section.top_k if method in ("dominant", "random_dimensions") else (None,)
                for top_k in counts:
                    train = partial(self._dominant_run, plan, task, method, top_k, extracts)
                    rates = section.learning_rates[method]
                    self.search(plan, results, rates, section.training.batch_sizes, train)

    def _ticket_seeds(self) -> Sequence[int]:
        assert self.protocol.dominant is not None
        return self.protocol.seeds if self.protocol.dominant.ticket_seed == "same" else self.protocol.seeds[:1]

    def _extract(self, plan: Plan, task: Task, seed: int) -> Run:
        section = self.protocol.dominant
        assert section is not None
        training = section.l1_training
        lr, batch_size = training.learning_rates[0], training.batch_sizes[0]
        what = self.describe(task, training, lr, batch_size, seed, 1.0)
        found = plan.add(
            make_run(
                L1,
                {**what, "l1_weight": section.l1_weight, "l1_mode": section.l1_mode},
                told=self.told_of(task),
                needs=self.prepare(plan, task),
                saves=True,
            )
        )
        return plan.add(
            make_run(
                EXTRACT,
                {
                    "task": task.name,
                    "seed": seed,
                    "config": what["config"],
                    "l1": found.key,
                    "sigma": section.sigma,
                    "top_k": max(section.top_k),
                    "l1_weight": section.l1_weight,
                },
                told={
                    "finetuned": str(self.folder / found.key / "checkpoint.pt"),
                    "pretrained": str(self.model.checkpoint),
                },
                needs=(found.key,),
                takes_checkpoint=(found.key,),
            )
        )

    def _dominant_run(
        self,
        plan: Plan,
        task: Task,
        method: str,
        top_k: int | None,
        extracts: Mapping[int, Run],
        lr: float,
        batch_size: int,
        seed: int,
    ) -> Run:
        section = self.protocol.dominant
        assert section is not None
        ticket: dict[str, Any] | None = None
        needs: tuple[str, ...] = ()
        told: dict[str, Any] = {}
        if method in ("dominant", "random_dimensions"):
            extract = extracts[seed if section.ticket_seed == "same" else self.protocol.seeds[0]]
            ticket = {"extract": extract.key, "top_k": top_k, "seed": seed if method != "dominant" else None}
            needs, told = (extract.key,), {"ticket": str(self.folder / extract.key / TICKET)}
        elif method == "random_elements":
            ticket = {"elements": section.element_fraction, "seed": seed}
        return self.train(
            plan, task, section.training, lr, batch_size, seed, 1.0, method,
            top_k=top_k, ticket=ticket, needs=needs, told=told,
        )  # fmt: skip

    def train(
        self,
        plan: Plan,
        task: Task,
        training: Training,
        lr: float,
        batch_size: int,
        seed: int,
        fraction: float,
        method: str,
        level: float | None = None,
        top_k: int | None = None,
        ticket: Mapping[str, Any] | None = None,
        start: Run | None = None,
        source_task: str | None = None,
        needs: tuple[str, ...] = (),
        told: Mapping[str, Any] | None = None,
        predictions: bool = False,
        saves: bool = False,
    ) -> Run:
        """Add a training run."""
        what = self.describe(task, training, lr, batch_size, seed, fraction)
        what.update(method=method, level=level, top_k=top_k, ticket=None if ticket is None else dict(ticket))
        what.update(source_task=source_task, start=None if start is None else start.key)
        extra = dict(self.told_of(task), **(told or {}))
        if start is not None:
            extra["start"] = str(self.folder / start.key / "checkpoint.pt")
        run = make_run(
            TRAIN,
            what,
            told=extra,
            needs=(*self.prepare(plan, task), *needs),
            takes_checkpoint=() if start is None else (start.key,),
            saves=saves,
            predicts=predictions,
        )
        return plan.add(run)

    def describe(
        self, task: Task, training: Training, lr: float, batch_size: int, seed: int, fraction: float
    ) -> dict[str, Any]:
        """What determines a run on a task: its `what`, but for method and ticket."""
        config = training.config(lr, batch_size)
        config["max_positions"] = min(config["max_positions"] or self.model.positions, self.model.positions)
        data = self.data[task.name].inputs
        return {
            "model": self.model.inputs["model"]["sha256"],
            "data": {role: entry["sha256"] for role, entry in sorted(data.items())},
            "task": task.name,
            "metrics": None if task.metrics is None else list(task.metrics),
            "subset": task.subset,
            "subset_seed": task.subset_seed,
            **({} if task.dev_subset is None else {"dev_subset": task.dev_subset}),
            "fraction": fraction,
            "seed": seed,
            "config": config,
        }

    def told_of(self, task: Task) -> dict[str, Any]:
        """What a run on a task must know besides."""
        return {
            "experiment": self.protocol.experiment,
            "model_name": self.protocol.model_name,
            "checkpoint": str(self.model.checkpoint),
            "data": str(self.data[task.name].folder),
            "inputs": {**self.model.inputs, **self.data[task.name].inputs},
        }

    def prepare(self, plan: Plan, task: Task) -> tuple[str, ...]:
        """Add the run that prepares a task's data, where there is one; its key."""
        data = self.data[task.name]
        if data.source is None:
            return ()
        what = {"task": task.name, "inputs": {role: entry["sha256"] for role, entry in sorted(data.inputs.items())}}
        run = make_run(PREPARE, what, told={**data.source, "folder": str(data.folder)})
        return (plan.add(run).key,)


def best_setting(
    full: Mapping[tuple[float, int], Sequence[Run]], results: Mapping[str, Result]
) -> tuple[float, int] | None:
    """Learning rate and batch size with the best mean `select` score over seeds, the one that tables show for the full
    model; None before all have run."""
    runs = [run for group in full.values() for run in group]
    if any(run.key not in results for run in runs):
        return None
    config = tuned(results[run.key] for run in runs)[0].config
    return config["lr"], config["batch_size"]


def check_levels(protocol: Protocol, model: Model) -> None:
    """Refuse levels that prune nothing or everything of this model, before anything runs.

    Raises:
        UserError: naming the level, or a min_heads_per_layer that leaves too little to prune.
    """
    from fairseq_tickets.super_ticket.pruning import prune_count

    section = protocol.super_tickets
    if section is None:
        return
    place = f"{protocol.path}: super_tickets: levels"
    layers, heads = model.shape.layers, model.shape.heads
    for level in dict.fromkeys(level for levels in section.levels.values() for level in levels):
        if level >= 1:
            raise UserError(f"{place}: {level:g} prunes everything; a level must be less than 1 (0.2 prunes 20 %)")
        head_count, ffn_count = prune_count(level, layers * heads, place), prune_count(level, layers, place)
        if head_count + ffn_count == 0:
            raise UserError(
                f"{place}: {level:g} prunes nothing: the model has {layers * heads} heads and {layers} FFNs, and "
                f"{level:g} of either is less than one"
            )
        if head_count > layers * (heads - section.min_heads_per_layer):
            raise UserError(
                f"{protocol.path}: super_tickets: min_heads_per_layer {section.min_heads_per_layer} leaves too few "
                f"heads to prune at level {level:g}"
            )
