"""Functions behind steps: one shared run of several tasks, and its tasks' results (Liang et al. 2021, section 4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fairseq_tickets.files import read_json, write_json
from fairseq_tickets.protocol.functions import fairseq_train
from fairseq_tickets.protocol.functions.recording import METRIC_NAMES, PARTS
from fairseq_tickets.protocol.functions.result_content import common_result, scores_of, task_facts, write_training
from fairseq_tickets.protocol.functions.tickets import ticket_name
from fairseq_tickets.protocol.steps import TICKET
from fairseq_tickets.protocol.store import write_result
from fairseq_tickets.super_ticket.sharing import union
from fairseq_tickets.tickets import load_super_ticket


def share(folder: Path, model: str, tasks: Sequence[Mapping[str, Any]], config: Mapping[str, Any], **run: Any) -> None:
    """Train several tasks on one encoder, each under its ticket; keeps the checkpoint with the best mean score.

    Writes `training.json`; under tickets also each task's (`ticket_name`) and their union, `ticket.json`.

    Args:
        tasks: for each its data, what is used of them, metrics, dropout of the head, and its ticket's file or None.
        run: "seed", "method" and what else `recipes.sharing.shared_run` gives.
    """
    entries, tickets = [], {}
    for task in tasks:
        entry: dict[str, Any] = {
            "name": task["task"],
            "data": str(Path(task["data"]).resolve()),
            "train_examples": fairseq_train.chosen_examples(task),
            "valid_examples": task.get("dev_subset"),
            "head_dropout": task["head_dropout"],
            "metric": None if task["metrics"] is None else ",".join(task["metrics"]),
        }
        if task["ticket"] is not None:
            tickets[task["task"]] = load_super_ticket(task["ticket"])
            entry["ticket"] = ticket_name(task["task"])
            tickets[task["task"]].save(folder / entry["ticket"])
        entries.append(entry)
    write_json(folder / "tasks.json", {"tasks": entries})  # YAML takes JSON
    if tickets:
        union(list(tickets.values())).save(folder / TICKET)
    names = [entry["name"] for entry in entries]
    mismatched = any(fairseq_train.has_split(Path(entry["data"]), "valid1") for entry in entries)
    updates = sum(fairseq_train.updates_of(task, config) for task in tasks)
    options = [
        *("--task", "ticket_multitask", "--tasks", str(folder / "tasks.json"), "--criterion", fairseq_train.CRITERION),
        *("--task-sampling", config["sampling"], "--task-temperature", repr(config["temperature"])),
        *("--finetune-from-model", model, "--valid-subset", "valid,valid1" if mismatched else "valid"),
        *("--optimizer", "ticket", "--ticket-optimizer", config["optimizer"]),
        *("--weight-decay", repr(config["weight_decay"])),
        *("--train-examples-seed", str(tasks[0]["subset_seed"])),
        *fairseq_train.schedule({"config": config, **run}, updates),
    ]
    recorder = fairseq_train.run_training(options, folder, config, saves=True, tasks=names)
    told = {name: ticket.to_json() for name, ticket in tickets.items()}
    remaining = {name: recorder.weight_remaining(tickets.get(name)) for name in names}
    write_training(folder, "shared-run", recorder, config, tickets=told, weight_remaining=remaining)


def part(folder: Path, task: str, shared: str, **run: Any) -> None:
    """Write the result file of one task of a shared run, read off its `training.json`, the file `shared`."""
    what, told = {"task": task, **run}, read_json(shared, "shared run")
    epochs = [{**epoch, "valid": _own(epoch["valid"], task)} for epoch in told["epochs"]]
    best = next(epoch for epoch in epochs if epoch["epoch"] == told["best_epoch"])
    taken = ("trainable_parameters", "total_parameters", "curve", "best_epoch", "versions")
    content = {
        **common_result(what, task_facts(Path(run["data"]))),
        "level": None,
        "top_k": None,
        "source_task": None,
        "shared_tasks": list(told["weight_remaining"]),
        "ticket": told["tickets"].get(task),
        "weight_remaining": told["weight_remaining"][task],
        **{name: told[name] for name in (*taken, "wall_seconds", "peak_memory_bytes")},
        "epochs": epochs,
        "scores": scores_of(best["valid"]),
    }
    write_result(folder, content)


def _own(valid: Mapping[str, float], task: str) -> dict[str, float]:
    """One task's metrics under their plain names."""
    names = [name + part for name in METRIC_NAMES for part in (*PARTS, "_mm")]
    return {name: valid[f"{task}_{name}"] for name in names if f"{task}_{name}" in valid}
