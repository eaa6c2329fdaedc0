"""The ticket that a run trains under, made from what its step was given."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fairseq_tickets.errors import UserError
from fairseq_tickets.protocol.steps import TICKET
from fairseq_tickets.recorded import attention_heads


def make_ticket(folder: Path, run: Mapping[str, Any]) -> Any:
    """The ticket a run trains under, written to `ticket.json`; None for none.

    `run["ticket"]` says what it is made from, by what it holds:

        scores, scores_key, keep, level, seed, min_heads_per_layer: a super ticket of these scores; `within`, where it
            is there, is the file of a ticket that it must be a part of.
        extract, top_k, seed: the first dimensions of this dominant ticket; for `random_dimensions` as many random ones.
        from: the ticket in this file, as it is.
    """
    from fairseq_tickets.tickets import load_super_ticket

    asked = run["ticket"] or {}
    ticket: Any = None
    if "scores" in asked:
        from fairseq_tickets.scores import ImportanceScores
        from fairseq_tickets.super_ticket.pruning import check_within, super_ticket

        level, scores = str(asked["level"]), ImportanceScores.load(asked["scores"])
        ticket = super_ticket(scores, level, level, asked["keep"], asked["seed"], asked["min_heads_per_layer"])
        ticket.provenance["scores_run"] = asked["scores_key"]
        if asked.get("within"):
            check_within(ticket, load_super_ticket(asked["within"]), f"pruning to {level}")
    elif "from" in asked or run["start_ticket"] is not None:
        ticket = load_super_ticket(asked.get("from") or run["start_ticket"])
    elif "extract" in asked:
        from fairseq_tickets.dominant_ticket.baselines import random_like
        from fairseq_tickets.tickets import DominantTicket, load_dominant_ticket

        whole, k = load_dominant_ticket(asked["extract"]), asked["top_k"]
        counts = whole.counts and {matrix: [row[:k] for row in rows] for matrix, rows in whole.counts.items()}
        dimensions = {matrix: [row[:k] for row in rows] for matrix, rows in whole.dimensions.items()}
        ticket = DominantTicket(whole.shape, dimensions, counts, {**whole.provenance, "top_k": k})
        if run["method"] == "random_dimensions":
            ticket = random_like(ticket, asked["seed"])
            ticket.provenance["top_k"] = k
    elif run["method"] == "bitfit":
        from fairseq_tickets import checkpoint
        from fairseq_tickets.dominant_ticket.baselines import bitfit_ticket
        from fairseq_tickets.parameters import model_shape

        state = checkpoint.load(run["model"], mmap=True)
        ticket = bitfit_ticket(model_shape(state["model"], heads_of(state)))
    if ticket is not None:
        ticket.save(folder / TICKET)
    return ticket


def ticket_name(task: str) -> str:
    """File of one task's ticket in the folder of a shared run; `ticket.json` is their union."""
    return f"ticket-{task}.json"


def heads_of(state: Mapping[str, Any]) -> int:
    heads = attention_heads(state)
    if heads is None:
        raise UserError("the checkpoint doesn't record its number of attention heads (cfg.model)")
    return heads
