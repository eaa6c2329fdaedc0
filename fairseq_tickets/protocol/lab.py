"""The words that recipes are written in: train, for a part of it too, and search."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from fairseq_tickets.analysis.results import tuned
from fairseq_tickets.protocol.functions import training
from fairseq_tickets.protocol.inputs import Data, Model
from fairseq_tickets.protocol.plan import Plan
from fairseq_tickets.protocol.steps import CHECKPOINT, DATA, NOTHING, TICKET, Given, Step, behind
from fairseq_tickets.protocol.store import Store

if TYPE_CHECKING:
    from fairseq_tickets.protocol.config import Protocol
    from fairseq_tickets.protocol.settings import Task, Training

Setting = tuple[float, int]  # learning rate, batch size
Runs = Mapping[Setting, Mapping[int, Step]]  # by setting and seed
DRAWN = ("random", "random_dimensions", "random_elements")  # tickets of these methods are drawn, not found


class Lab(Plan):
    """Steps of one protocol; for store and acts see `Plan`."""

    def __init__(
        self, protocol: Protocol, model: Model, data: Mapping[str, Data], store: Store, acts: bool = False
    ) -> None:
        super().__init__(store, acts)
        self.protocol, self.model, self.data = protocol, model, data
        self.seeds = protocol.seeds

    def train(
        self,
        task: Task,
        setting: Setting,
        seed: int,
        fraction: float,
        method: str,
        config: Training | None = None,
        level: float | None = None,
        top_k: int | None = None,
        ticket: Mapping[str, Any] | None = None,
        start: Step | None = None,
        source_task: str | None = None,
        predicts: bool = False,
        saves: bool = False,
        found: Mapping[str, Any] | None = None,
    ) -> Step:
        """A training run of a task, which makes a result.

        Args:
            fraction: of the training data.
            method: "full", "winning" and so on: one of `analysis.result_fields.METHODS`.
            config: how it is trained, where not as the task says.
            level, top_k: of its ticket.
            ticket: what it is made from, see `training.make_ticket`; None = no ticket, or that of `start`.
            start: the run whose checkpoint it starts from; None = the pre-trained model.
            predicts: whether it writes predictions for the test split, where there is one.
            saves: whether its checkpoint is kept until nobody needs it any more.
            found: how its ticket was found, where its method leaves that open; it stands in the result's `config`.
        """
        about = self.describe(task, setting, seed, fraction, config)
        found_by = [step for step in behind(ticket) if step.kind != "prepare" and method not in DRAWN]
        arguments = {
            **about,
            "config": {**about["config"], **(found or {})},
            "method": method,
            "level": level,
            "top_k": top_k,
            "ticket": ticket,
            "ticket_steps": Given([str(step.folder) for step in found_by]),
            "source_task": source_task,
            "shared_tasks": Given([own["task"] for own in start.get("tasks", ())] if start is not None else []),
            "start": None if start is None else start.file(CHECKPOINT),
            "start_ticket": start.file(TICKET).unhashed() if start is not None and has_ticket(start) else Given(None),
            "predicts": Given(predicts),
            "saves": Given(saves),
            "about": self.about(task),
        }
        label = label_of(arguments, method)
        return self.step(training.train, arguments, label, makes_result=True, predicts=predicts)

    def search(self, settings: Sequence[Setting], train: Callable[[Setting, int], Step]) -> Runs:
        """Runs of every setting on the seeds to search on, and of the best one on the others, once it is known."""
        count = self.protocol.search_seeds
        runs = {setting: {seed: train(setting, seed) for seed in self.seeds[:count]} for setting in settings}
        if self.seeds[count:]:
            best = self.best(runs)
            runs[best].update({seed: train(best, seed) for seed in self.seeds[count:]})
        return runs

    def best(self, runs: Runs) -> Setting:
        """The setting with the best mean score over seeds on the part of dev kept for selection, the one that tables
        show: of those with the most seeds. Waits for the runs where these are several."""
        most = max(map(len, runs.values()))
        runs = {setting: by_seed for setting, by_seed in runs.items() if len(by_seed) == most}
        if len(runs) == 1:
            return next(iter(runs))
        found = self.wait(step for by_seed in runs.values() for step in by_seed.values())
        config = tuned(found)[0].config
        return config["lr"], config["batch_size"]

    def train_part(
        self,
        task: Task,
        setting: Setting,
        seed: int,
        part: float,
        decay: str,
        ticket: Mapping[str, Any] | None = None,
        start: Step | None = None,
    ) -> Step:
        """Fine-tuning for a part of all updates, whose last checkpoint is kept, as a whole model.

        Args:
            part: of the updates of a whole run, above 0 and at most 1.
            decay: over how many updates the learning rate rises and falls: "whole" = as in a whole run, so that this is
                its beginning; "part" = over its own.
            ticket: what its ticket is made from, see `training.make_ticket`.
            start: the run whose checkpoint it starts from; None = the pre-trained model.
        """
        arguments = {
            **self.describe(task, setting, seed),
            "method": "part",
            "part": part,
            "decay": decay,
            "ticket": ticket,
            "start": None if start is None else start.file(CHECKPOINT),
            "start_ticket": Given(None),
        }
        what = f"{100 * part:g}% of training" + (f" pruned to {ticket['level']:g}" if ticket else "")
        return self.step(training.train_part, arguments, label_of(arguments, what), lazy=True)

    def describe(
        self, task: Task, setting: Setting, seed: int, fraction: float = 1.0, config: Training | None = None
    ) -> dict[str, Any]:
        """Arguments of any training run on a task, but for method and ticket."""
        settings = (config or task).config(*setting)
        settings["max_positions"] = min(settings["max_positions"] or self.model.positions, self.model.positions)
        return {
            "model": self.pretrained(),
            "data": self.data_of(task),
            "task": task.name,
            "metrics": None if task.metrics is None else list(task.metrics),
            "subset": task.subset,
            "subset_seed": task.subset_seed,
            **({} if task.dev_subset is None else {"dev_subset": task.dev_subset}),
            "fraction": fraction,
            "seed": seed,
            "config": settings,
        }

    def pretrained(self) -> Given:
        """The pre-trained model, as an argument."""
        return Given(str(self.model.checkpoint), self.model.inputs["model"]["sha256"])

    def data_of(self, task: Task, hashed: bool = True) -> Given:
        """A task's prepared folder, as an argument; its inputs stand for it in a key. Where the protocol names no
        folder, a step prepares it."""
        data = self.data[task.name]
        digests = {role: entry["sha256"] for role, entry in sorted(data.inputs.items())}
        if data.source is None:
            given = Given(str(data.folder))
        else:
            source = {name: Given(value) for name, value in data.source.items()}
            arguments = {"task": task.name, "inputs": digests, **source}
            given = self.step(training.prepare, arguments, f"prepare {task.name}", lazy=True).file(DATA)
        return replace(given, hashed=digests if hashed else NOTHING)

    def about(self, task: Task) -> Given:
        """What a result tells besides what determines it."""
        inputs = {**self.model.inputs, **self.data[task.name].inputs}
        return Given({"experiment": self.protocol.experiment, "model": self.protocol.model.name, "inputs": inputs})


def has_ticket(run: Step) -> bool:
    """Whether a training run, single or shared, has a super ticket."""
    return run.get("ticket") is not None or any(task["ticket"] is not None for task in run.get("tasks", ()))


def label_of(arguments: Mapping[str, Any], what: str) -> str:
    """A few words for people: "RTE winning 0.2 lr 0.0001 batch 16 seed 1"."""
    words, config = [str(arguments["task"]), what], arguments["config"]
    if arguments.get("top_k") and what != "extract":
        words.append(f"k {arguments['top_k']}")
    if arguments.get("level") is not None:
        words.append(f"{arguments['level']:g}")
    if arguments.get("fraction", 1.0) != 1.0:
        words.append(f"{100 * arguments['fraction']:g}% of the data")
    if arguments.get("source_task"):
        words.append(f"from {arguments['source_task']}")
    return " ".join([*words, f"lr {config['lr']:g}", f"batch {config['batch_size']}", f"seed {arguments['seed']}"])
