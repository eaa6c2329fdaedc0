"""Tickets sharing: what a ticket lets move, against gated gradients and compact layers."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import nn

from fairseq_tickets.encoder_layer import TicketEncoderLayer
from fairseq_tickets.errors import UserError
from fairseq_tickets.parameters import MATRICES, ModelShape
from fairseq_tickets.super_ticket.parts import sharing_parts
from fairseq_tickets.super_ticket.sharing import union
from fairseq_tickets.tickets import SuperTicket
from fairseq_tickets.updates.parts import Part, Span, Whole

from .conftest import collate, loss_of

SHAPE = ModelShape(layers=3, heads=2, embed_dim=8, ffn_dim=13)
RTE = SuperTicket(SHAPE, [[1, 0], [0, 0], [1, 1]], [1, 0, 1])
SST = SuperTicket(SHAPE, [[1, 1], [0, 0], [0, 1]], [1, 0, 0])
STS = SuperTicket(SHAPE, [[1, 0], [0, 1], [0, 1]], [1, 0, 0])


def mask_of(parts: Sequence[Part], parameter: torch.Tensor) -> torch.Tensor:
    """True where task "one" may move the parameter; no element is in two parts."""
    covered = torch.zeros_like(parameter, dtype=torch.int32)
    for part in parts:
        if part.group is None or "one" in part.group:
            part.read(covered).add_(1)
    assert covered.le(1).all()
    return covered.bool()


def parts_of(model: nn.Module, ticket: SuperTicket) -> dict[str, Sequence[Part]]:
    """Of a model that task "one" shares with a task that owns everything."""
    return sharing_parts(model, ["one", "all"], {"one": ticket})


def parameter_of(layer, matrix, kind):
    return getattr(getattr(layer.self_attn if matrix.endswith("_proj") else layer, matrix), kind)


def test_by_hand():
    # 4 heads of width 2; kept 0, 1 and 3: rows 0-3 and 6-7.
    ticket = SuperTicket(ModelShape(2, 4, 8, 5), [[1, 1, 0, 1], [1, 1, 1, 1]], [0, 1])
    model = nn.ModuleList(TicketEncoderLayer(8, 5, 4) for _ in range(2))
    parts = sharing_parts(model, ["one"], {"one": ticket})
    for matrix in ("q_proj", "k_proj", "v_proj"):
        for kind in ("weight", "bias"):
            assert parts[f"0.self_attn.{matrix}.{kind}"] == (Span(0, 0, 4), Span(0, 6, 8))
    assert parts["0.self_attn.out_proj.weight"] == (Span(1, 0, 4), Span(1, 6, 8))
    everything = ["0.self_attn.out_proj.bias", "1.self_attn.q_proj.weight", "0.final_layer_norm.bias"]
    for matrix in ("fc1", "fc2"):
        for kind in ("weight", "bias"):
            assert parts[f"0.{matrix}.{kind}"] == ()
            everything.append(f"1.{matrix}.{kind}")
    assert {parts[name] for name in everything} == {(Whole(),)}
    # A compact layer that has heads 1, 2 and 3 left: of its rows 0-1, 2-3, 4-5 the ticket keeps the first and last.
    model[0].prune_([1, 2, 3], True)
    parts = sharing_parts(model, ["one"], {"one": ticket})
    assert parts["0.self_attn.v_proj.weight"] == (Span(0, 0, 2), Span(0, 4, 6))
    model[0].prune_([1, 3], True)
    assert sharing_parts(model, ["one"], {"one": ticket})["0.self_attn.out_proj.weight"] == (Whole(),)


def test_owners_by_hand():
    """Neighbouring heads of the same owners are one part; what nobody owns has none; of all tasks, no group."""
    model = nn.ModuleDict({"layers": nn.ModuleList(TicketEncoderLayer(8, 13, 2) for _ in range(3))})
    model["classification_heads"] = nn.ModuleDict({"RTE": nn.Linear(8, 2), "SST": nn.Linear(8, 2)})
    parts = sharing_parts(model, ["RTE", "SST", "STS"], {"RTE": RTE, "SST": SST, "STS": STS})

    def owners(name: str) -> list[tuple[int, int, frozenset[str] | None]]:
        return [(part.start, part.stop, part.group) for part in parts[name]]

    sst, sts, rte = (frozenset([name]) for name in ("SST", "STS", "RTE"))
    assert owners("layers.0.self_attn.q_proj.weight") == [(0, 4, None), (4, 8, sst)]
    assert owners("layers.1.self_attn.out_proj.weight") == [(4, 8, sts)]
    assert owners("layers.2.self_attn.k_proj.bias") == [(0, 4, rte), (4, 8, None)]
    assert [parts[f"layers.{layer}.fc1.weight"] for layer in range(3)] == [(Whole(),), (), (Whole(rte),)]
    assert parts["classification_heads.SST.weight"] == (Whole(sst),)
    assert parts["layers.1.self_attn_layer_norm.weight"] == (Whole(),)


@pytest.mark.parametrize("ticket", [RTE, SST, STS], ids=["RTE", "SST", "STS"])
def test_allowed_is_exactly_where_the_gated_model_has_gradients(model, examples, ticket):
    model.eval()
    for index, layer in enumerate(model.layers):
        layer.head_gate = torch.tensor(ticket.heads[index], dtype=torch.float64).view(1, 1, -1)
        layer.ffn_gate = torch.tensor(float(ticket.ffn[index]), dtype=torch.float64).view(1, 1)
    loss_of(model)(collate(examples)).sum().backward()
    parts = parts_of(model, ticket)
    for index, layer in enumerate(model.layers):
        for matrix in MATRICES:
            for kind in ("weight", "bias"):
                gradient = parameter_of(layer, matrix, kind).grad
                prefix = f"layers.{index}." + ("self_attn." if matrix.endswith("_proj") else "")
                mask = mask_of(parts[f"{prefix}{matrix}.{kind}"], gradient)
                assert not gradient[~mask].any(), (index, matrix, kind)
                if (matrix, kind) != (
                    "k_proj",
                    "bias",
                ):  # softmax does not feel the key's bias: its gradient is 0
                    assert gradient[mask].all(), (index, matrix, kind)


@pytest.mark.parametrize("ticket", [RTE, SST, STS], ids=["RTE", "SST", "STS"])
def test_held_still_is_exactly_what_compact_layers_lack(model, ticket):
    marks = {}  # every element gets its own number, so that what is left after pruning can be told
    for name, parameter in model.named_parameters():
        parameter.data = torch.arange(parameter.numel(), dtype=torch.float64).view(parameter.shape)
        marks[name] = parameter.data.clone()
    parts = parts_of(model, ticket)
    for index, layer in enumerate(model.layers):
        layer.prune_(ticket.kept_heads(index), bool(ticket.ffn[index]))
    left = dict(model.named_parameters())
    for name, before in marks.items():
        mask = mask_of(parts[name], before)
        kept = left[name].flatten().tolist() if name in left else []
        assert before[mask].tolist() == kept, name


def test_union_by_hand():
    both = union([RTE, SST])
    assert both.heads == [[1, 1], [0, 0], [1, 1]] and both.ffn == [1, 0, 1]
    assert union([RTE, SST, STS]).heads == [[1, 1], [0, 1], [1, 1]]
    assert union([SST]).heads == SST.heads


def test_tickets_of_different_models_and_no_tickets_are_refused():
    other = SuperTicket.full(ModelShape(3, 4, 8, 13))
    with pytest.raises(UserError, match="ticket 2 of 2 belongs to another model size"):
        union([RTE, other])
    with pytest.raises(UserError, match="no tickets"):
        union([])
