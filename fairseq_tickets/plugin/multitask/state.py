"""Several tasks in one checkpoint: a head for each, with its task's ticket in it; and fine-tuning one task from there.

A task's ticket is saved as two buffers of its head, `classification_heads.NAME.ticket_heads` (layers, heads) and
`ticket_ffn` (layers,), uint8, so that a reloaded model gates each task as it was trained, without any ticket file. The
encoder itself carries the union of the tickets (see model.py).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Optional

import torch
from torch import Tensor, nn

from fairseq_tickets.errors import UserError
from fairseq_tickets.parameters import ModelShape
from fairseq_tickets.tickets import SuperTicket

logger = logging.getLogger(__name__)

HEADS = "classification_heads."
BUFFERS = ("ticket_heads", "ticket_ffn")
AUTO, NEW = "auto", "new"


def attach_tickets(heads: nn.ModuleDict, tickets: Mapping[str, SuperTicket]) -> None:
    """Give the tasks' heads the buffers that save their tickets."""
    for name, ticket in tickets.items():
        device = next(heads[name].parameters()).device
        for buffer, values in zip(BUFFERS, (ticket.heads, ticket.ffn)):
            heads[name].register_buffer(buffer, torch.tensor(values, dtype=torch.uint8, device=device))


def saved_heads(state_dict: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Names of the classification heads in a state dict, in its order."""
    start = prefix + HEADS
    return list(dict.fromkeys(key[len(start) :].split(".")[0] for key in state_dict if key.startswith(start)))


def saved_tickets(state_dict: Mapping[str, Tensor], shape: ModelShape, prefix: str = "") -> dict[str, SuperTicket]:
    """Tickets of tasks in a state dict, by task.

    Raises:
        UserError: they are for another shape.
    """
    tickets = {}
    for name in saved_heads(state_dict, prefix):
        heads, ffn = (state_dict.get(f"{prefix}{HEADS}{name}.{buffer}") for buffer in BUFFERS)
        if heads is None or ffn is None:
            continue
        if heads.shape != (shape.layers, shape.heads) or ffn.shape != (shape.layers,):
            raise UserError(
                f"the checkpoint's ticket of task {name} is for {tuple(heads.shape)} (layers, heads); "
                f"this model has {(shape.layers, shape.heads)}"
            )
        tickets[name] = SuperTicket(shape, heads.tolist(), ffn.tolist())
    return tickets


def reconcile_tickets(own: Mapping[str, SuperTicket], saved: Mapping[str, SuperTicket]) -> dict[str, SuperTicket]:
    """The tickets that a model of several tasks goes on with: its own, or where it has none those of the checkpoint.

    Raises:
        UserError: both have tickets, and they differ.
    """
    if not own or not saved:
        return dict(own or saved)
    for name in dict.fromkeys([*own, *saved]):
        one, other = own.get(name), saved.get(name)
        if one is None or other is None or (one.heads, one.ffn) != (other.heads, other.ffn):
            raise UserError(
                f"the checkpoint was trained under another ticket of task {name} than --tasks gives; leave all tickets "
                "out to go on with the checkpoint's own, or start from the pre-trained model"
            )
    return dict(own)


def check_heads(state_dict: Mapping[str, Any], tasks: Sequence[str], all_needed: bool, prefix: str = "") -> None:
    """Refuse a checkpoint with heads for a part of the tasks; one without any starts new heads, unless `all_needed`.

    Raises:
        UserError: naming the first task without a head.
    """
    found = saved_heads(state_dict, prefix)
    missing = [task for task in tasks if task not in found]
    if missing and (all_needed or len(missing) < len(tasks)):
        raise UserError(
            f"the checkpoint has no head for task {missing[0]}; its heads are {', '.join(found) or 'none'}: use its "
            "own list of tasks, or start from the pre-trained model"
        )


def start_head(state_dict: dict[str, Any], heads: nn.ModuleDict, head: str, wanted: str, task: Optional[str]) -> None:
    """Give the one head of a single-task model the weights of the head of a checkpoint to start from, in place.

    Args:
        state_dict: to be loaded.
        heads: the model's.
        head: the name of its head.
        wanted: the head to take; AUTO = the one called `head` or, from several tasks, that of `task`, where it is there
            and fits; NEW = a fresh one.
        task: name of the data's task.

    Raises:
        UserError: the head that `wanted` names is not there or has another number of classes.
    """
    found = saved_heads(state_dict)
    if wanted == NEW:
        _drop_head(state_dict, head)
        return
    source = wanted if wanted != AUTO else head if head in found else task
    if source not in found:
        if wanted != AUTO:
            raise UserError(
                f"--start-head {wanted}: the checkpoint has no such head; its heads are {', '.join(found) or 'none'}"
            )
        return
    weights = {key: value for key, value in state_dict.items() if key.startswith(f"{HEADS}{source}.")}
    for name, tensor in heads[head].state_dict().items():
        saved = weights.get(f"{HEADS}{source}.{name}")
        if saved is None or saved.shape != tensor.shape:
            if wanted != AUTO:
                raise UserError(
                    f"--start-head {wanted}: its {name} does not fit this task, which needs {tuple(tensor.shape)}"
                )
            logger.info(f"head {source} of the checkpoint does not fit this task: starting a new one")
            _drop_head(state_dict, head)
            return
    for name in heads[head].state_dict():
        state_dict[f"{HEADS}{head}.{name}"] = weights[f"{HEADS}{source}.{name}"]
    logger.info(f"starting from head {source} of the checkpoint")


def _drop_head(state_dict: dict[str, Any], head: str) -> None:
    """Remove a head's weights, in place: fairseq then keeps the model's own, fresh ones."""
    for key in [key for key in state_dict if key.startswith(f"{HEADS}{head}.")]:
        del state_dict[key]


def drop_ticket_buffers(state_dict: dict[str, Any], keep: Sequence[str]) -> None:
    """Remove tickets of other tasks than `keep`, in place."""
    for key in [key for key in state_dict if key.startswith(HEADS) and key.endswith(BUFFERS)]:
        if key[len(HEADS) :].split(".")[0] not in keep:
            del state_dict[key]
