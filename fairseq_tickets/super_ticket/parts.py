"""Which tasks move which part of which parameter (Liang et al. 2021, section 4).

A head (its rows of W^Q, W^K, W^V with their biases, its columns of W^O) and an FFN belong to the tasks whose tickets
keep them; a classification head belongs to its task; everything else (embeddings, layer norms, W^O's bias) to all.
Parts with the same owners that lie side by side are one part. What nobody owns has no part and never moves.

The group of a part is the frozenset of its owners, so that an update of several tasks moves the parts with an owner
among them; what all tasks own has no group: it moves in every update.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Optional

from torch import nn

from fairseq_tickets.encoder_layer import TicketEncoderLayer
from fairseq_tickets.tickets import SuperTicket
from fairseq_tickets.updates.parts import Part, Span, Whole

Owners = frozenset[str]
HEADS = "classification_heads"


def sharing_parts(
    model: nn.Module, tasks: Sequence[str], tickets: Mapping[str, SuperTicket]
) -> dict[str, Sequence[Part]]:
    """The parts of every parameter, for optimizer `ticket`.

    Args:
        model: compact or gated; parameters that require no gradient get no parts.
        tasks: names of all tasks, which are those of their classification heads.
        tickets: by task; a task without one owns everything.

    Returns:
        By parameter name. Groups are frozensets of tasks.
    """
    everyone = frozenset(tasks)
    parts: dict[str, Sequence[Part]] = {}
    for name, parameter in model.named_parameters():
        owners = everyone
        head = name.partition(f"{HEADS}.")[2].partition(".")[0]
        if head in everyone:
            owners = frozenset([head])
        if parameter.requires_grad:
            parts[name] = (Whole(_group(owners, everyone)),)
    layers = [(name, m) for name, m in model.named_modules() if isinstance(m, TicketEncoderLayer)]
    for index, (prefix, layer) in enumerate(layers):
        ffn = frozenset(task for task in tasks if task not in tickets or tickets[task].ffn[index])
        for name in ("fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"):
            if f"{prefix}.{name}" in parts:
                parts[f"{prefix}.{name}"] = (Whole(_group(ffn, everyone)),) if ffn else ()
        runs = _runs(layer, index, tasks, tickets)
        for matrix in ("q_proj", "k_proj", "v_proj", "out_proj"):
            for kind in ("weight", "bias") if matrix != "out_proj" else ("weight",):
                name = f"{prefix}.self_attn.{matrix}.{kind}"
                if name in parts:
                    axis = 1 if matrix == "out_proj" else 0
                    parts[name] = _spans(runs, axis, layer.self_attn.head_dim, everyone)
    return parts


def _runs(
    layer: TicketEncoderLayer, index: int, tasks: Sequence[str], tickets: Mapping[str, SuperTicket]
) -> list[tuple[int, int, Owners]]:
    """(first, stop, owners) of neighbouring heads with the same owners, counted among the heads still there."""
    runs: list[tuple[int, int, Owners]] = []
    for place, head in enumerate(layer.kept_heads):
        owners = frozenset(task for task in tasks if task not in tickets or tickets[task].heads[index][head])
        if runs and runs[-1][2] == owners:
            runs[-1] = (runs[-1][0], place + 1, owners)
        else:
            runs.append((place, place + 1, owners))
    return runs


def _spans(runs: Sequence[tuple[int, int, Owners]], axis: int, head_dim: int, everyone: Owners) -> Sequence[Part]:
    if len(runs) == 1 and runs[0][2]:
        return (Whole(_group(runs[0][2], everyone)),)
    return tuple(
        Span(axis, first * head_dim, stop * head_dim, _group(owners, everyone))
        for first, stop, owners in runs
        if owners
    )


def _group(owners: Owners, everyone: Owners) -> Optional[Owners]:
    return None if owners == everyone else owners
