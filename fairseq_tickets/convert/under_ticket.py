"""Checkpoints and tickets, before an export: a super ticket put on a full model, a dominant ticket's delta cut out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fairseq_tickets.convert.dense import TICKET_FFN, TICKET_HEADS, dense_state_dict
from fairseq_tickets.convert.shape import ModelConfig, config_from_checkpoint
from fairseq_tickets.errors import UserError
from fairseq_tickets.parameters import model_shape
from fairseq_tickets.task_record import recorded_task

if TYPE_CHECKING:
    from fairseq_tickets.dominant_ticket.delta import Delta
    from fairseq_tickets.tickets import DominantTicket, SuperTicket


def dense_model(checkpoint: Mapping[str, Any]) -> tuple[ModelConfig, dict[str, Tensor]]:
    """The model's settings and dense weights, of a plain, gated or compact checkpoint."""
    config = config_from_checkpoint(checkpoint)
    return config, dense_state_dict(checkpoint["model"], int(config["encoder_ffn_embed_dim"] or 0))


def with_ticket(checkpoint: Mapping[str, Any], ticket: SuperTicket, source: str) -> dict[str, Any]:
    """A full model's checkpoint under a super ticket; `source` names the ticket in errors.

    Raises:
        UserError: the ticket is for another size, or the checkpoint is under a ticket already.
    """
    config = config_from_checkpoint(checkpoint)
    tensors = checkpoint["model"]
    if TICKET_HEADS in tensors:
        raise UserError(f"{source}: this checkpoint was trained under a super ticket and is exported under that one")
    ticket.validate_for(model_shape(tensors, int(config["encoder_attention_heads"] or 0)), source)
    buffers = {
        TICKET_HEADS: torch.tensor(ticket.heads, dtype=torch.uint8),
        TICKET_FFN: torch.tensor(ticket.ffn, dtype=torch.uint8),
    }
    return {**checkpoint, "model": {**tensors, **buffers}}


def make_delta_checked(checkpoint: Mapping[str, Any], base: Mapping[str, Tensor], ticket: DominantTicket) -> Delta:
    """The delta of a model trained under a dominant ticket; checks that nothing else of the encoder moved.

    Args:
        checkpoint: content of the trained checkpoint.
        base: tensors of the model that training started from.
        ticket: the dominant ticket.

    Raises:
        UserError: other sizes, or a parameter outside the ticket differs from the base: a delta would lose
        it.
    """
    from fairseq_tickets.checkpoint import fingerprint, is_head
    from fairseq_tickets.dominant_ticket.delta import apply, make_delta

    _, tensors = dense_model(checkpoint)
    delta = make_delta(tensors, ticket, fingerprint(base))
    delta.task = recorded_task(checkpoint)
    merged = apply(base, delta)
    for name, tensor in tensors.items():
        if not is_head(name) and (name not in merged or not torch.equal(merged[name], tensor)):
            raise UserError(
                f"{name} differs from --base outside the ticket, so a delta file can't hold this model; "
                "was it trained from another base or under another ticket?"
            )
    return delta
