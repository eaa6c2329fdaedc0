"""Functions behind steps that find tickets in other ways than the papers do: a salience pass."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fairseq_tickets.protocol.steps import SALIENCE, TICKET
from fairseq_tickets.protocol.training import count_examples, pin_threads, train_subset


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
