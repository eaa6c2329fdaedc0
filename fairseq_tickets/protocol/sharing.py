"""Liang et al. 2021, sections 4 and 6: all tasks on one encoder, MT-DNN and Ticket-Share, and fine-tuning after it."""

from __future__ import annotations

from collections.abc import Mapping

from fairseq_tickets.protocol.config import Task
from fairseq_tickets.protocol.lab import Branch, Lab, Setting
from fairseq_tickets.protocol.steps import Step
from fairseq_tickets.protocol.super_tickets import super_ticket
from fairseq_tickets.protocol.training import ticket_name

Tickets = Mapping[tuple[str, float], Branch]
Shared = dict[tuple[str, int], Branch]  # shared runs by method and seed


def share(lab: Lab, method: str, seed: int, found: Tickets) -> Step:
    """One shared run and its tasks' results; Ticket-Share waits for each task's super ticket of the same seed, found
    at the learning rate of the shared run (appendix A.2.1)."""
    section = lab.protocol.sharing
    assert section is not None
    tickets = {}
    if method == "ticket_share":
        rate = section.training.learning_rates[0]
        for name in section.tasks:
            tickets[name] = super_ticket(lab, found[name, 1.0].result().rivals(seed, rate))
    run = lab.share(method, seed, tickets)
    for name in section.tasks:
        lab.part(lab.protocol.tasks[name], run)
    return run


def fine_tune(lab: Lab, method: str, task: Task, shared: Shared) -> None:
    """Single-task fine-tuning from the shared models, under the task's ticket (Table 3, "+ ST Fine-tuning")."""
    section = lab.protocol.sharing
    assert section is not None and section.then is not None
    config, starts = section.then, {seed: shared[method, seed].result() for seed in lab.seeds}
    grid = [(lr, batch_size) for batch_size in config.batch_sizes for lr in config.learning_rates]

    def train(setting: Setting, seed: int) -> Step:
        ticket = None
        if method == "ticket_share":
            ticket = {"task": task.name, "from": starts[seed].file(ticket_name(task.name)).unhashed()}
        return lab.train(task, config, setting, seed, 1.0, f"{method}+st", ticket=ticket, start=starts[seed])

    lab.search(grid, train)


def sharing_recipes(lab: Lab, found: Tickets) -> Shared:
    """Section `sharing` of a protocol: a branch for each shared run, and for each task's fine-tuning after them."""
    section = lab.protocol.sharing
    if section is None:
        return {}
    runs = [(method, seed) for method in section.methods for seed in lab.seeds]
    shared = {(method, seed): lab.branch(share, method, seed, found) for method, seed in runs}
    if section.then is not None:
        for method in section.methods:
            for name in section.tasks:
                lab.branch(fine_tune, method, lab.protocol.tasks[name], shared)
    return shared
