"""Runs of a protocol's section `sharing`: MT-DNN, Ticket-Share, and single-task fine-tuning after either.

Liang et al. 2021, sections 4 and 6. Ticket-Share waits for each task's super ticket of the same seed, found at the
learning rate of the shared run (appendix A.2.1). A shared run trains all tasks; a run of kind PART reads one task's
result off it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fairseq_tickets.analysis.results import Result, best_of, super_tickets
from fairseq_tickets.protocol.config import Sharing, Task
from fairseq_tickets.protocol.runs import PART, SHARE, TRAIN, Run, make_run
from fairseq_tickets.protocol.store import TICKET

PART_NAMES = ("task", "subset", "subset_seed", "dev_subset")  # what a result file says of its data

if TYPE_CHECKING:
    from fairseq_tickets.protocol.plan import Plan, Planner


def plan_sharing(planner: Planner, plan: Plan, results: Mapping[str, Result]) -> dict[tuple[str, int], Run]:
    """Add the section's runs; returns the shared runs known so far by method and seed."""
    section = planner.protocol.sharing
    assert section is not None
    shared: dict[tuple[str, int], Run] = {}
    for method in section.methods:
        for seed in planner.protocol.seeds:
            tickets: dict[str, Run] | None = {}
            if method == "ticket_share":
                tickets = _tickets(planner, plan, results, section, seed)
            if tickets is None:
                plan.undecided += 1 + len(section.tasks)
                continue
            run = _shared(planner, plan, section, method, seed, tickets)
            shared[method, seed] = run
            for name in section.tasks:
                _part(planner, plan, planner.protocol.tasks[name], run)
        if section.then is not None:
            for name in section.tasks:
                _then(planner, plan, results, planner.protocol.tasks[name], method, shared)
    return shared


def _tickets(
    planner: Planner, plan: Plan, results: Mapping[str, Result], section: Sharing, seed: int
) -> dict[str, Run] | None:
    """By task, the run whose ticket is the super ticket; None while one isn't known."""
    assert planner.protocol.super_tickets is not None
    lr, found = section.training.learning_rates[0], {}
    for name in section.tasks:
        wanted = {"task": name, "method": "winning", "seed": seed, "fraction": 1.0, "source_task": None}
        rivals = [
            run
            for run in plan.runs.values()
            if run.kind == TRAIN
            and run.what["config"]["lr"] == lr
            and all(run.what[field] == value for field, value in wanted.items())
        ]
        levels = planner.protocol.super_tickets.levels[name]
        if len(rivals) < len(levels) or any(run.key not in results for run in rivals):
            return None
        found[name] = plan.runs[best_of(super_tickets(results[run.key] for run in rivals)).key]
    return found


def _shared(planner: Planner, plan: Plan, section: Sharing, method: str, seed: int, tickets: Mapping[str, Run]) -> Run:
    training = section.training
    lr, batch_size = training.learning_rates[0], training.batch_sizes[0]
    tasks, entries, needs = [], [], [run.key for run in tickets.values()]
    inputs: dict[str, Any] = {}
    for name in section.tasks:
        task = planner.protocol.tasks[name]
        what = planner.describe(task, training, lr, batch_size, seed, 1.0)
        config = what.pop("config")
        ticket = tickets.get(name)
        tasks.append(
            {
                **{name: value for name, value in what.items() if name not in ("model", "seed", "fraction")},
                "head_dropout": task.training.head_dropout,
                "ticket": None if ticket is None else ticket.key,
            }
        )
        entries.append(
            {
                "data": str(planner.data[name].folder),
                "ticket": None if ticket is None else str(planner.folder / ticket.key / TICKET),
            }
        )
        inputs.update(planner.told_of(task)["inputs"])
        needs += planner.prepare(plan, task)
    what = {
        "model": planner.model.inputs["model"]["sha256"],
        "task": "+".join(section.tasks),
        "tasks": tasks,
        "method": method,
        "seed": seed,
        "fraction": 1.0,
        "config": {**config, "sampling": section.sampling, "temperature": section.temperature},
    }
    told = {"checkpoint": str(planner.model.checkpoint), "entries": entries, "inputs": inputs}
    return plan.add(make_run(SHARE, what, told=told, needs=tuple(dict.fromkeys(needs)), saves=True))


def _part(planner: Planner, plan: Plan, task: Task, shared: Run) -> Run:
    what = {name: shared.what[name] for name in ("method", "seed", "fraction", "config")}
    own = next(own for own in shared.what["tasks"] if own["task"] == task.name)
    what.update(shared=shared.key, **{name: own[name] for name in PART_NAMES if name in own})
    told = {**planner.told_of(task), "shared": str(planner.folder / shared.key)}
    return plan.add(make_run(PART, what, told=told, needs=(shared.key,)))


def _then(
    planner: Planner,
    plan: Plan,
    results: Mapping[str, Result],
    task: Task,
    method: str,
    shared: Mapping[tuple[str, int], Run],
) -> None:
    """Single-task fine-tuning from the shared model under the task's ticket (Table 3, "+ ST Fine-tuning")."""
    assert planner.protocol.sharing is not None and planner.protocol.sharing.then is not None
    then = planner.protocol.sharing.then
    if any((method, seed) not in shared for seed in planner.protocol.seeds):
        plan.undecided += len(planner.protocol.seeds)
        return
    ticket = {"task": task.name} if method == "ticket_share" else None

    def train(lr: float, batch_size: int, seed: int) -> Run:
        start = shared[method, seed]
        return planner.train(
            plan, task, then, lr, batch_size, seed, 1.0, f"{method}+st",
            ticket=ticket, needs=(start.key,), start=start,
        )  # fmt: skip

    planner.search(plan, results, then.learning_rates, then.batch_sizes, train)
