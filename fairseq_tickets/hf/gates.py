"""Mask variables of heads and FFNs as hooks on a model's own modules (Liang et al. 2021, section 3).

ξ_h multiplies a head's output before W^O: that is the input of the linear layer W^O, head by head, whatever computes
the attention. ν multiplies the whole FFN output: that is the output of W^FC2, its bias included. Both hold for every
architecture whose layers are built of these linear layers.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fairseq_tickets.super_ticket.importance import Gates
from fairseq_tickets.tickets import SuperTicket

Linears = Sequence[Mapping[str, nn.Linear]]
Hook = Callable[..., Any]


@contextlib.contextmanager
def scoring_gates(linears: Linears, heads: int, granularity: str) -> Iterator[Gates]:
    """While open, every forward pass has fresh masks of ones, leaves; the yielded list has them, by layer.

    Shapes as in `super_ticket.importance`: head gates (batch, 1, heads), FFN gates (batch, 1), or by `granularity`.
    """
    gates: Gates = [None] * len(linears)

    def before_out(index: int) -> Hook:
        def hook(linear: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
            x: Tensor = inputs[0]  # (batch, tokens, embed)
            batch, tokens = x.shape[:2]
            rows = 1 if granularity == "batch" else batch
            columns = tokens if granularity == "token" else 1
            dtype = torch.promote_types(x.dtype, torch.float32)
            head_gate = torch.ones(rows, columns, heads, dtype=dtype, device=x.device).requires_grad_()
            ffn_gate = torch.ones(rows, columns, dtype=dtype, device=x.device).requires_grad_()
            gates[index] = (head_gate, ffn_gate, batch)
            return (times_heads(x, head_gate), *inputs[1:])

        return hook

    def after_fc2(index: int) -> Hook:
        def hook(linear: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
            made = gates[index]
            assert made is not None, "the attention comes before the FFN"
            return output * made[1].unsqueeze(-1).to(output.dtype)

        return hook

    hooks = [row["out_proj"].register_forward_pre_hook(before_out(n)) for n, row in enumerate(linears)]
    hooks += [row["fc2"].register_forward_hook(after_fc2(n)) for n, row in enumerate(linears)]
    try:
        yield gates
    finally:
        for handle in hooks:
            handle.remove()


def gate(linears: Linears, ticket: SuperTicket) -> list[Any]:
    """Multiply pruned heads and FFNs by 0 from now on; the handles' `remove` undoes it."""
    handles: list[Any] = []
    for layer, row in enumerate(linears):
        if 0 in ticket.heads[layer]:
            kept = torch.tensor(ticket.heads[layer])

            def before_out(linear: nn.Module, inputs: tuple[Any, ...], kept: Tensor = kept) -> tuple[Any, ...]:
                return (times_heads(inputs[0], kept.to(inputs[0].device)), *inputs[1:])

            handles.append(row["out_proj"].register_forward_pre_hook(before_out))
        if not ticket.ffn[layer]:
            handles.append(row["fc2"].register_forward_hook(_nothing))
    return handles


def times_heads(x: Tensor, head_gate: Tensor) -> Tensor:
    """(batch, tokens, heads · head_dim) times a gate broadcastable to (batch, tokens, heads)."""
    by_head = x.reshape(*x.shape[:-1], head_gate.shape[-1], -1)
    return (by_head * head_gate.unsqueeze(-1).to(x.dtype)).reshape(x.shape)


def _nothing(linear: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
    return output * 0
