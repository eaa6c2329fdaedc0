"""Gong et al. 2022, section 3: L1 fine-tuning, extraction, and training what was found, against the baselines; or
what one pass at the pre-trained weights finds in place of the L1 run (`salience`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import model_validator

from fairseq_tickets.protocol.functions import finding
from fairseq_tickets.protocol.lab import Lab, Setting, label_of
from fairseq_tickets.protocol.settings import Task, Training
from fairseq_tickets.protocol.steps import CHECKPOINT, TICKET, Given, Step
from fairseq_tickets.protocol.values import Above0, Between, Count, Section, Several, among, by_name

if TYPE_CHECKING:
    from fairseq_tickets.protocol.config import Protocol

FROM_L1 = ("dominant", "random_dimensions")
OF_DIMENSIONS = (*FROM_L1, "salience")
Method = Literal["full", "dominant", "random_dimensions", "bitfit", "random_elements", "salience"]


class L1(Training):
    """Fine-tuning with a penalty on the distance from the pre-trained weights."""

    weight: Above0 = 1e-3
    """of the penalty, the paper's lambda"""
    mode: Literal["subgradient", "proximal"] = "subgradient"


class Salience(Section):
    """Tickets from one pass at the pre-trained weights, see `plugin.salience.checkpoint_salience`."""

    metric: Literal["gradient", "fisher", "consistent", "activation"] = "gradient"
    examples: Count = 512
    batch_size: Count = 8
    head: Literal["random", "probe"] = "random"

    @model_validator(mode="after")
    def _has_a_batch(self) -> Salience:
        if self.metric != "activation" and self.batch_size > self.examples:
            raise ValueError(f"batch_size is {self.batch_size}, more than the {self.examples} examples to take")
        return self


class Dominant(Section):
    """The section `dominant` of a protocol."""

    tasks: Several[str] = ()
    """all if absent"""
    l1: L1 = L1()
    """weight and mode of the penalty, and any key of `training`; what is absent is as the task says"""
    sigma: Above0 = 5e-5
    """a weight that has moved further is out-weighted"""
    top_k: Several[Count] = (1, 3)
    """dimensions of each matrix"""
    methods: Several[Method] = ("full", "dominant", "random_dimensions", "bitfit", "random_elements")
    """with salience, and neither dominant nor random_dimensions, no L1 run is done"""
    element_fraction: Between = 0.05
    """of random_elements"""
    ticket_seed: Literal["same", "first"] = "same"
    """each seed has its own ticket, or all have the first seed's"""
    training: Training = Training()
    """of what is trained under tickets; what is absent is as the task says"""
    learning_rates: dict[str, Several[Above0]] = {}  # noqa: RUF012
    """by method; those of `training` or the task if absent"""
    salience: Salience = Salience()

    def of(self, protocol: Protocol) -> Dominant:
        """With its tasks, and learning rates of every method (none: the task's); ValueError where one is unknown, or
        a task's settings don't go with these."""
        rates = by_name("learning_rates", self.learning_rates, dict.fromkeys(self.methods, ()))
        tasks = among("tasks", self.tasks, protocol.tasks)
        for name in tasks:  # before anything runs
            self.training.over(protocol.tasks[name])
            self.l1.over(protocol.tasks[name])
        return self.model_copy(update={"tasks": tasks, "learning_rates": rates})


def train_dominant(lab: Lab, section: Dominant, task: Task, method: str, top_k: int | None) -> None:
    """The search for one method's learning rate; each seed has its own ticket, or all have the first seed's."""
    config = section.training.over(task)

    def ticket(seed: int) -> dict[str, Any] | None:
        if method in OF_DIMENSIONS:
            own = seed if section.ticket_seed == "same" else lab.seeds[0]
            found = salience(lab, section, task, own) if method == "salience" else extract(lab, section, task, own)
            drawn = seed if method == "random_dimensions" else None
            return {"extract": found.file(TICKET), "top_k": top_k, "seed": drawn}
        return {"elements": section.element_fraction, "seed": seed} if method == "random_elements" else None

    def train(setting: Setting, seed: int) -> Step:
        return lab.train(task, setting, seed, 1.0, method, config, top_k=top_k, ticket=ticket(seed))

    lab.search(config.grid(section.learning_rates[method]), train)


def extract(lab: Lab, section: Dominant, task: Task, seed: int) -> Step:
    """The dominant ticket of an L1 run: fine-tuning of all weights under the penalty."""
    config = section.l1.over(task)
    run = {
        **lab.describe(task, config.grid()[0], seed, config=config),
        "l1_weight": section.l1.weight,
        "l1_mode": section.l1.mode,
    }
    l1 = lab.step(finding.l1, run, label_of(run, "l1"), lazy=True)
    arguments = {
        **{name: run[name] for name in ("task", "seed", "config", "l1_weight")},
        "l1": l1.file(CHECKPOINT),
        "l1_key": Given(l1.key),
        "sigma": section.sigma,
        "top_k": max(section.top_k),
        "pretrained": lab.pretrained().unhashed(),
    }
    return lab.step(finding.extract, arguments, label_of(arguments, "extract"), lazy=True)


def salience(lab: Lab, section: Dominant, task: Task, seed: int) -> Step:
    """The dominant ticket of one pass at the pre-trained weights; the seed is that of the random task head."""
    config = section.training.over(task)
    about = lab.describe(task, config.grid()[0], seed, config=config)
    wanted = ("max_positions", "separator_token", "device", "threads")
    arguments = {
        **{name: about[name] for name in ("model", "data", "task", "subset", "subset_seed", "fraction", "seed")},
        "config": {name: about["config"][name] for name in wanted},
        "salience": section.salience.model_dump(),
        "top_k": max(section.top_k),
    }
    return lab.step(finding.salience, arguments, f"{task.name} salience seed {seed}", lazy=True)


def dominant_recipes(lab: Lab) -> None:
    """A branch for each task, method and number of dimensions."""
    section = lab.protocol.dominant
    if section is None:
        return
    for name in section.tasks:
        task = lab.protocol.tasks[name]
        if "salience" not in section.methods or set(FROM_L1) & set(section.methods):
            for seed in lab.seeds if section.ticket_seed == "same" else lab.seeds[:1]:
                extract(lab, section, task, seed)
        for method in section.methods:
            for top_k in section.top_k if method in OF_DIMENSIONS else [None]:
                lab.branch(train_dominant, section, task, method, top_k)
