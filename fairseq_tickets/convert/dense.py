"""Any checkpoint of ours as plain dense weights that compute the same function without knowing of tickets.

A pruned head is a head whose values are zero: its rows of W^V, their biases and its columns of W^O become 0,
and W^O's bias stays (paper S, section 3: ξ_h multiplies the head's output before W^O). A pruned FFN is one
whose W^FC2 and bias are 0 (ν multiplies the whole output). Compact checkpoints get their removed rows,
columns and FFNs back as zeros.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from fairseq_tickets.convert.names import SENTENCE_ENCODER
from fairseq_tickets.errors import UserError
from fairseq_tickets.parameters import is_dead_copy, matrix_name

TICKET_HEADS = SENTENCE_ENCODER + "ticket_heads"
TICKET_FFN = SENTENCE_ENCODER + "ticket_ffn"


def dense_state_dict(tensors: Mapping[str, Tensor], ffn_dim: int) -> dict[str, Tensor]:
    """Dense float32 weights under stock names.

    Args:
        tensors: a model's state dict: plain, gated or compact. A ticket is in the buffers `ticket_heads`,
            (layers, heads) of 0 and 1, and `ticket_ffn`, (layers,).
        ffn_dim: inner width of the FFNs, for layers whose FFN was removed.

    Returns:
        New tensors (the others are the same objects); fairseq's dead copies and the ticket are gone.

    Raises:
        UserError: tensors that contradict the ticket.
    """
    shared = [name for name in tensors if name.startswith("classification_heads.") and name.endswith(".ticket_heads")]
    if shared:
        raise UserError(
            f"the checkpoint has a ticket for each of its tasks ({shared[0].split('.')[1]} and others), but a dense "
            "model is one function: fine-tune on one task under its ticket, then export"
        )
    heads, ffn = tensors.get(TICKET_HEADS), tensors.get(TICKET_FFN)
    dense = {
        name: tensor.float() if tensor.is_floating_point() else tensor
        for name, tensor in tensors.items()
        if not is_dead_copy(name) and name not in (TICKET_HEADS, TICKET_FFN) and not name.endswith(".version")
    }
    if heads is None and ffn is None:
        return dense
    if heads is None or ffn is None or heads.dim() != 2 or ffn.shape != heads.shape[:1]:
        raise UserError(f"the checkpoint's ticket is broken: {TICKET_HEADS} and {TICKET_FFN} must go together")
    for layer in range(heads.shape[0]):
        _fill_heads(dense, layer, heads[layer].bool())
        if not ffn[layer]:
            _clear_ffn(dense, layer, ffn_dim)
    return dense


def _fill_heads(dense: dict[str, Tensor], layer: int, kept: Tensor) -> None:
    """Give the pruned heads of a layer back as zeros; `kept` is (heads,) of bool."""
    if bool(kept.all()):
        return
    out_bias = dense[matrix_name(layer, "out_proj", "bias")]
    embed_dim = out_bias.shape[0]
    rows = kept.repeat_interleave(embed_dim // kept.shape[0])  # (embed_dim,), True where a kept head's rows are
    for matrix in ("q_proj", "k_proj", "v_proj", "out_proj"):
        for kind in ("weight", "bias") if matrix != "out_proj" else ("weight",):
            name = matrix_name(layer, matrix, kind)
            tensor = dense[name].t() if matrix == "out_proj" else dense[name]
            whole = tensor.new_zeros(embed_dim, *tensor.shape[1:])
            if tensor.shape[0] == embed_dim:  # gated
                whole[rows] = tensor[rows]
            elif tensor.shape[0] == int(rows.sum()):  # compact
                whole[rows] = tensor
            else:
                raise UserError(
                    f"the checkpoint's ticket is broken: {name} has {tensor.shape[0]} rows or columns of "
                    f"heads, but its ticket keeps {int(rows.sum())} of {embed_dim}"
                )
            dense[name] = whole.t().contiguous() if matrix == "out_proj" else whole


def _clear_ffn(dense: dict[str, Tensor], layer: int, ffn_dim: int) -> None:
    out_bias = dense[matrix_name(layer, "out_proj", "bias")]
    embed_dim = out_bias.shape[0]
    shapes = {"fc1": (ffn_dim, embed_dim), "fc2": (embed_dim, ffn_dim)}
    for matrix, shape in shapes.items():
        dense[matrix_name(layer, matrix, "weight")] = torch.zeros(shape)
        dense[matrix_name(layer, matrix, "bias")] = torch.zeros(shape[0])
