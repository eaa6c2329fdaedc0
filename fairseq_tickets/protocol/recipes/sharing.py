"""Liang et al. 2021, sections 4 and 6: all tasks on one encoder, MT-DNN and Ticket-Share, and fine-tuning after it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from fairseq_tickets.protocol.functions import sharing as functions
from fairseq_tickets.protocol.functions.tickets import ticket_name
from fairseq_tickets.protocol.lab import Lab, Setting, label_of
from fairseq_tickets.protocol.plan import Branch
from fairseq_tickets.protocol.recipes.super_tickets import Found, super_ticket, winning_levels
from fairseq_tickets.protocol.settings import Task, Training
from fairseq_tickets.protocol.steps import TICKET, TRAINING, Step
from fairseq_tickets.protocol.values import Above0, IfNamed, Section, Several, among

if TYPE_CHECKING:
    from fairseq_tickets.protocol.config import Protocol

Shared = Mapping[tuple[str, int], Branch]  # branches that return shared runs, by method and seed


class Sharing(Section):
    """The section `sharing` of a protocol: with shared tickets, or none (MT-DNN)."""

    tasks: Several[str] = ()
    """those of super_tickets, or all, if absent"""
    methods: Several[Literal["mt_dnn", "ticket_share"]] = ("mt_dnn", "ticket_share")
    """ticket_share takes each task's super ticket of the same seed, found at the learning rate of the shared run
    (appendix A.2.1)"""
    training: Training = Training()
    """of the shared runs: one learning rate and one batch size; as `training` above if absent"""
    sampling: Literal["proportional", "temperature", "annealed"] = "proportional"
    """how tasks are mixed, see `ticket_multitask`"""
    temperature: Above0 = 2.0
    then: IfNamed[Training] = None
    """single-task fine-tuning from the shared model, its learning rates searched; what is absent is as the task says;
    no `then` = not done"""

    def of(self, protocol: Protocol) -> Sharing:
        """With its tasks; ValueError where these don't fit together, or have no tickets to share."""
        found, training = protocol.super_tickets, self.training.over(protocol.training)
        tasks = among("tasks", self.tasks or (found.tasks if found else ()), protocol.tasks)
        if len(training.grid()) > 1:
            taken = "a shared run takes one of learning_rates and one of batch_sizes"
            raise ValueError(f"training: {taken}, not {list(training.learning_rates)} and {list(training.batch_sizes)}")
        rate = training.learning_rates[0]
        for name in tasks if "ticket_share" in self.methods else ():
            if found is None or name not in winning_levels(protocol):
                raise ValueError(
                    f"tasks: {name} has no tickets to share: it must be among the tasks of super_tickets, with winning "
                    "tickets of all its data (1 among its `fractions`)"
                )
            rates = protocol.tasks[name].learning_rates
            if rate not in rates or (len(rates) > 1 and found.settings == "best"):
                raise ValueError(
                    f"training: learning_rates is {rate:g}, but {name}'s tickets are found at "
                    f"{', '.join(f'{rate:g}' for rate in rates)}; they must be found at the same rate (one learning "
                    "rate, or `settings: all`)"
                )
        if len({protocol.tasks[name].subset_seed for name in tasks}) > 1:
            raise ValueError("tasks: tasks of a shared run must have one subset_seed")
        if self.then is not None:
            for name in tasks:  # before anything runs
                self.then.over(protocol.tasks[name])
        return self.model_copy(update={"tasks": tasks, "training": training})


def share(lab: Lab, section: Sharing, method: str, seed: int, found: Found) -> Step:
    """One shared run and its tasks' results; Ticket-Share waits for each task's super ticket of the same seed, found
    at the learning rate of the shared run (appendix A.2.1)."""
    tickets = {}
    if method == "ticket_share":
        rate = section.training.learning_rates[0]
        for name in section.tasks:
            tickets[name] = super_ticket(lab, found[name, 1.0].result().rivals(seed, rate))
    run = shared_run(lab, section, method, seed, tickets)
    for name in section.tasks:
        part_of(lab, lab.protocol.tasks[name], run)
    return run


def shared_run(lab: Lab, section: Sharing, method: str, seed: int, tickets: Mapping[str, Step]) -> Step:
    """Several tasks on one encoder, each under the ticket of a run, or all without."""
    (setting,), tasks = section.training.grid(), []
    for name in section.tasks:
        task = lab.protocol.tasks[name]
        about = lab.describe(task, setting, seed, config=section.training)
        own = {name: value for name, value in about.items() if name not in ("model", "seed", "fraction", "config")}
        ticket = tickets[name].file(TICKET) if name in tickets else None
        tasks.append({**own, "head_dropout": task.head_dropout, "ticket": ticket})
    arguments = {
        **{name: about[name] for name in ("model", "seed", "fraction")},
        "task": "+".join(section.tasks),
        "tasks": tasks,
        "method": method,
        "config": {**about["config"], "sampling": section.sampling, "temperature": section.temperature},
    }
    return lab.step(functions.share, arguments, label_of(arguments, method), lazy=True)


def part_of(lab: Lab, task: Task, shared: Step) -> Step:
    """One task's result of a shared run."""
    own = next(own for own in shared["tasks"] if own["task"] == task.name)
    arguments = {
        **{name: shared[name] for name in ("method", "seed", "fraction", "config")},
        **{name: own[name] for name in ("task", "subset", "subset_seed", "dev_subset") if name in own},
        "shared": shared.file(TRAINING),
        "data": lab.data_of(task, hashed=False),
        "about": lab.about(task),
    }
    return lab.step(functions.part, arguments, label_of(arguments, shared["method"]), makes_result=True)


def fine_tune(lab: Lab, then: Training, method: str, task: Task, shared: Shared) -> None:
    """Single-task fine-tuning from the shared models, under the task's ticket (Table 3, "+ ST Fine-tuning")."""
    config = then.over(task)
    starts = {seed: shared[method, seed].result() for seed in lab.seeds}

    def train(setting: Setting, seed: int) -> Step:
        ticket = None
        if method == "ticket_share":
            ticket = {"task": task.name, "from": starts[seed].file(ticket_name(task.name)).unhashed()}
        return lab.train(task, setting, seed, 1.0, f"{method}+st", config, ticket=ticket, start=starts[seed])

    lab.search(config.grid(), train)


def sharing_recipes(lab: Lab, found: Found) -> Shared:
    """A branch for each shared run, and for each task's fine-tuning after them."""
    section = lab.protocol.sharing
    if section is None:
        return {}
    runs: list[tuple[str, int]] = [(method, seed) for method in section.methods for seed in lab.seeds]
    shared = {(method, seed): lab.branch(share, section, method, seed, found) for method, seed in runs}
    if section.then is not None:
        for method in section.methods:
            for name in section.tasks:
                lab.branch(fine_tune, section.then, method, lab.protocol.tasks[name], shared)
    return shared
