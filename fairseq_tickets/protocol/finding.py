"""Functions behind steps that find tickets in other ways than the papers do: a salience pass, a part of fine-tuning."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fairseq_tickets.files import write_json
from fairseq_tickets.protocol.steps import CHECKPOINT, SALIENCE, TICKET, TRAINING
from fairseq_tickets.protocol.training import (
    CRITERION,
    common_options,
    count_examples,
    make_ticket,
    pin_threads,
    run_training,
    train_subset,
    updates_in_all,
)


def salience(
    folder: Path,
    model: str,
    data: str,
    task: str,
    subset: int | float | None,
    subset_seed: int,
    fraction: float,
    seed: int,
    config: Mapping[str, Any],
    salience: Mapping[str, Any],
    top_k: int,
) -> None:
    """A dominant ticket from one pass over examples that training sees too, with the most dimensions the protocol asks
    for; smaller ones are its first dimensions. The salience of every dimension is written beside it.

    Args:
        model: the pre-trained checkpoint.
        subset, subset_seed, fraction: the part of the training data; see `training.train_subset`.
        seed: of the random task head.
        salience: metric, examples, batch_size and head of `checkpoint_salience`.
    """
    from fairseq_tickets.dominant_ticket.salience import salient_ticket
    from fairseq_tickets.plugin.salience import checkpoint_salience

    pin_threads(config["threads"])
    found, measured = checkpoint_salience(
        model,
        data,
        **salience,
        seed=seed,
        separator_token=config["separator_token"],
        device=config["device"],
        train_examples=train_subset(count_examples(Path(data)), subset, fraction),
        train_examples_seed=subset_seed,
        max_positions=config["max_positions"],
    )
    ticket = salient_ticket(found, top_k)
    ticket.provenance.update(measured.provenance, task=task)
    measured.save(folder / SALIENCE)
    ticket.save(folder / TICKET)


def train_part(folder: Path, **run: Any) -> None:
    """Fine-tuning for a part of all updates; the arguments are those that `Lab.train_part` gives.

    The checkpoint of the last update is kept. One under a ticket becomes a whole model of the same function, its pruned
    heads and FFNs zeros: scored, these have the importance 0, and training can go on from it under a smaller ticket.
    """
    data, config = Path(run["data"]), run["config"]
    part = train_subset(count_examples(data), run["subset"], run["fraction"]) or count_examples(data)
    whole = updates_in_all(part, config["batch_size"], config["max_epoch"])
    updates = max(1, round(run["part"] * whole))
    ticket = make_ticket(folder, run)
    options = [*common_options(run, data, run["start"] or run["model"]), "--criterion", CRITERION]
    options += ["--max-update", str(updates)]
    if run["decay"] == "part":
        options += ["--total-num-update", str(updates), "--warmup-updates", str(round(config["warmup"] * updates))]
    if ticket is not None:
        options += ["--ticket", str(folder / TICKET)]
    recorder, wall = run_training(options, folder, config, ["valid", "valid1"], saves=True, last=True)
    if ticket is not None:
        _make_whole(folder / CHECKPOINT, ticket.shape.ffn_dim)
    facts = {"epochs": recorder.epochs, "curve": recorder.curve, "wall_seconds": wall, "config": config}
    about = {"part": run["part"], "updates": updates, "updates_of_a_whole_run": whole}
    write_json(folder / TRAINING, {"format": "fairseq-tickets/part-of-training", "version": 1, **about, **facts})


def _make_whole(path: Path, ffn_dim: int) -> None:
    from fairseq_tickets import checkpoint
    from fairseq_tickets.convert.dense import dense_state_dict

    state = checkpoint.load(path)
    state["model"] = dense_state_dict(state["model"], ffn_dim)
    checkpoint.save(state, path)
