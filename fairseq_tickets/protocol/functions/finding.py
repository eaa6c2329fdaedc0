"""Functions behind steps that find dominant tickets: L1 fine-tuning and extraction, or one salience pass."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fairseq_tickets.protocol.functions.fairseq_train import (
    count_examples,
    options_of,
    pin_threads,
    run_training,
    train_subset,
)
from fairseq_tickets.protocol.functions.result_content import write_training
from fairseq_tickets.protocol.functions.tickets import heads_of
from fairseq_tickets.protocol.steps import COUNTS, SALIENCE, TICKET
from fairseq_tickets.recorded import peak_lr


def l1(folder: Path, **run: Any) -> None:
    """L1 fine-tuning (Gong et al. 2022, section 3.1); the arguments are those that `recipes.dominant` gives.

    Keeps the checkpoint of the last epoch: the ticket is read off where the weights have moved to, not off a score.
    """
    config = run["config"]
    options = [
        *options_of(run, folder, None, criterion="ticket_sentence_prediction_l1"),
        *("--l1-weight", repr(run["l1_weight"]), "--l1-mode", run["l1_mode"], "--pretrained-path", run["model"]),
        *("--l1-log-interval", str(config["log_interval"])),
    ]
    recorder = run_training(options, folder, config, saves=True, last=True)
    write_training(folder, "l1-run", recorder, config)


def extract(
    folder: Path,
    task: str,
    seed: int,
    config: Mapping[str, Any],
    l1: str,
    l1_key: str,
    pretrained: str,
    sigma: float,
    top_k: int,
    l1_weight: float,
) -> None:
    """A dominant ticket with the most dimensions the protocol asks for; smaller ones are its first dimensions.

    All counts are written beside it, for `plot out-weighted`.

    Args:
        l1, l1_key: checkpoint of the L1 run, and its key.
    """
    from fairseq_tickets import checkpoint
    from fairseq_tickets.counts import DimensionCounts
    from fairseq_tickets.dominant_ticket.extraction import check_top_k, count_model, sigma_hint, ticket_from_counts

    pin_threads(config["threads"])
    state = checkpoint.load(l1, mmap=True)
    hint = sigma_hint(sigma, peak_lr(state))
    if hint:
        print(f"fairseq-tickets: {hint}", file=sys.stderr)
    before, after = (checkpoint.encoder_tensors(path) for path in (pretrained, l1))
    counted = count_model(before, after, heads_of(state), sigma)
    check_top_k(counted.shape, top_k)
    ticket = ticket_from_counts(counted, top_k)
    ticket.provenance.update(task=task, seed=seed, l1_weight=l1_weight, run=l1_key)
    DimensionCounts(counted.tables(), ticket.provenance).save(folder / COUNTS)
    ticket.save(folder / TICKET)


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
