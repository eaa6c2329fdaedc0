"""Three toy tasks, their tickets, and training on them in this process."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Optional
from unittest import mock

import yaml
from fairseq_cli import hydra_train

from fairseq_tickets.parameters import ModelShape
from fairseq_tickets.plugin.multitask.criterion import TicketMultitaskCriterion
from fairseq_tickets.tickets import SuperTicket

from .. import toy
from ..training import COMMON, Run, config, fresh_process, recorded, run_config

SHAPE = ModelShape(toy.LAYERS, toy.HEADS, toy.EMBED, toy.FFN)
# Layer 1 has no FFN and layer 2 no head 0 in any ticket; layer 0 has heads of one, two and all three tasks.
TICKETS = {
    "three": SuperTicket(SHAPE, [[1, 1, 1, 0], [1, 0, 1, 1], [0, 1, 0, 1]], [1, 0, 1]),
    "two": SuperTicket(SHAPE, [[1, 1, 0, 0], [1, 1, 1, 0], [0, 1, 1, 1]], [1, 0, 0]),
    "real": SuperTicket(SHAPE, [[1, 0, 0, 1], [1, 1, 1, 1], [0, 1, 1, 0]], [0, 0, 1]),
}
UNION = SuperTicket(SHAPE, [[1, 1, 1, 1], [1, 1, 1, 1], [0, 1, 1, 1]], [1, 0, 1])


def write_tasks(folder: Path) -> Path:
    """Folders `three` (3 classes, 26 examples), `two` (2 classes, 18) and `real` (regression, 10), and `model.pt`."""
    toy.write_data(folder / "three", train=26)
    toy.write_data(folder / "two", train=18, valid=23, classes=2, seed=6)
    toy.write_data(folder / "real", train=10, valid=17, regression=True)
    for name in TICKETS:
        known = json.loads((folder / name / "task.json").read_text())
        (folder / name / "task.json").write_text(json.dumps({**known, "name": name}))
    toy.write_checkpoint(folder / "model.pt", toy.ticket_roberta())
    return folder


def write_list(folder: Path, target: Path, tickets: bool, **changes: dict[str, Any]) -> Path:
    """The YAML file of the three tasks; `changes` by task."""
    entries = []
    for name, ticket in TICKETS.items():
        entry: dict[str, Any] = {"name": name, "data": str(folder / name)}
        if tickets:
            ticket.save(target.parent / f"{name}.json")
            entry["ticket"] = f"{name}.json"
        entries.append({**entry, **changes.get(name, {})})
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(yaml.safe_dump({"tasks": entries}))
    return target


def arguments(tasks: Path, save_dir: Path, model: Optional[Path], *more: str) -> list[str]:
    """Command line of fairseq-train; `more` comes last and so wins."""
    start = ["--finetune-from-model", str(model)] if model else []
    return [
        *("--task", "ticket_multitask", "--tasks", str(tasks), "--arch", "ticket_roberta"),
        *("--criterion", "ticket_sentence_prediction", *start),
        *("--optimizer", "ticket", "--lr", "0.01", "--lr-scheduler", "fixed", "--batch-size", "4"),
        *("--max-epoch", "2", "--save-dir", str(save_dir), "--no-epoch-checkpoints"),
        *("--best-checkpoint-metric", "score", "--maximize-best-checkpoint-metric"),
        *COMMON,
        *more,
    ]


def train(tasks: Path, save_dir: Path, model: Optional[Path], *more: str) -> Run:
    """Run fairseq-train's main on several tasks."""
    return train_config(config(arguments(tasks, save_dir, model, *more)), save_dir)


def train_config(made: Any, save_dir: Path) -> Run:
    """Run fairseq-train's main on a config, with exact losses recorded."""
    with exact_losses() as losses:
        run = run_config(made, save_dir)
    run.losses = losses
    return run


def train_hydra(made: Any, save_dir: Path) -> Run:
    """Run fairseq-hydra-train on a composed config, with exact losses recorded."""
    run = Run(save_dir)
    with exact_losses() as losses, fresh_process(), recorded(run):
        hydra_train._hydra_main(made)
    run.losses = losses
    return run


@contextlib.contextmanager
def exact_losses() -> Iterator[list[float]]:
    """The list fills with the mean training loss of every update."""
    losses: list[float] = []
    reduce = TicketMultitaskCriterion.reduce_metrics

    def reduce_metrics(logs: list[dict[str, Any]]) -> None:
        if not any("predictions" in log for log in logs):
            losses.append(float(sum(log["loss"] for log in logs)) / sum(log["sample_size"] for log in logs))
        reduce(logs)

    with mock.patch.object(TicketMultitaskCriterion, "reduce_metrics", staticmethod(reduce_metrics)):
        yield losses


@contextlib.contextmanager
def watching(method: str, around: Any) -> Iterator[None]:
    """Call `around(original, self, *args, **options)` in place of a method of the task."""
    from fairseq_tickets.plugin.multitask.task import TicketMultitaskTask

    original = getattr(TicketMultitaskTask, method)

    def replaced(self: Any, *args: Any, **options: Any) -> Any:
        return around(original, self, *args, **options)

    with mock.patch.object(TicketMultitaskTask, method, replaced):
        yield
