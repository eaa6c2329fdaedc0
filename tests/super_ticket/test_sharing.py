"""Tickets sharing: what a ticket lets move, against gated gradients and compact layers."""

from __future__ import annotations

import pytest
import torch

from fairseq_tickets.errors import UserError
from fairseq_tickets.parameters import MATRICES, ModelShape
from fairseq_tickets.super_ticket.sharing import (
    NOTHING,
    WHOLE,
    Allowed,
    allowed,
    allowed_by_name,
    ownership,
    union,
)
from fairseq_tickets.tickets import SuperTicket

from .conftest import collate, loss_of

SHAPE = ModelShape(layers=3, heads=2, embed_dim=8, ffn_dim=13)
RTE = SuperTicket(SHAPE, [[1, 0], [0, 0], [1, 1]], [1, 0, 1])
SST = SuperTicket(SHAPE, [[1, 1], [0, 0], [0, 1]], [1, 0, 0])
STS = SuperTicket(SHAPE, [[1, 0], [0, 1], [0, 1]], [1, 0, 0])


def mask_of(part: Allowed, parameter: torch.Tensor) -> torch.Tensor:
    """True where the parameter may move."""
    mask = torch.full(parameter.shape, part.whole)
    for start, stop in part.ranges or ():
        mask.narrow(part.axis, start, stop - start).fill_(True)
    return mask


def parameter_of(layer, matrix, kind):
    return getattr(getattr(layer.self_attn if matrix.endswith("_proj") else layer, matrix), kind)


def test_by_hand():
    # 4 heads of width 2; kept 0, 1 and 3: rows 0-3 and 6-7.
    ticket = SuperTicket(ModelShape(2, 4, 8, 5), [[1, 1, 0, 1], [1, 1, 1, 1]], [0, 1])
    for matrix in ("q_proj", "k_proj", "v_proj"):
        for kind in ("weight", "bias"):
            assert allowed(ticket, 0, matrix, kind) == (0, ((0, 4), (6, 8)))
    assert allowed(ticket, 0, "out_proj", "weight") == (1, ((0, 4), (6, 8)))
    assert allowed(ticket, 0, "out_proj", "bias") == WHOLE
    for matrix in ("fc1", "fc2"):
        for kind in ("weight", "bias"):
            assert allowed(ticket, 0, matrix, kind) == NOTHING
            assert allowed(ticket, 1, matrix, kind) == WHOLE
    assert allowed(ticket, 1, "q_proj", "weight").whole
    # A compact layer that has heads 1, 2 and 3 left: of its rows 0-1, 2-3, 4-5 the ticket keeps the first and
    # last.
    assert allowed(ticket, 0, "v_proj", "weight", present_heads=[1, 2, 3]) == (0, ((0, 2), (4, 6)))
    assert allowed(ticket, 0, "out_proj", "weight", present_heads=[1, 3]).whole
    assert allowed(ticket, 0, "out_proj", "weight", present_heads=[2]).nothing


@pytest.mark.parametrize(
    "part, size, held",
    [
        (WHOLE, 8, NOTHING),
        (NOTHING, 8, WHOLE),
        (Allowed(1, ((0, 4), (6, 8))), 8, Allowed(1, ((4, 6),))),
        (Allowed(0, ((2, 4),)), 8, Allowed(0, ((0, 2), (4, 8)))),
    ],
)
def test_complement(part, size, held):
    assert part.complement(size) == held


@pytest.mark.parametrize("ticket", [RTE, SST, STS], ids=["RTE", "SST", "STS"])
def test_allowed_is_exactly_where_the_gated_model_has_gradients(model, examples, ticket):
    model.eval()
    for index, layer in enumerate(model.layers):
        layer.head_gate = torch.tensor(ticket.heads[index], dtype=torch.float64).view(1, 1, -1)
        layer.ffn_gate = torch.tensor(float(ticket.ffn[index]), dtype=torch.float64).view(1, 1)
    loss_of(model)(collate(examples)).sum().backward()
    for index, layer in enumerate(model.layers):
        for matrix in MATRICES:
            for kind in ("weight", "bias"):
                gradient = parameter_of(layer, matrix, kind).grad
                mask = mask_of(allowed(ticket, index, matrix, kind), gradient)
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
    for index, layer in enumerate(model.layers):
        layer.prune_(ticket.kept_heads(index), bool(ticket.ffn[index]))
    left = dict(model.named_parameters())
    for name, before in marks.items():
        fairseq_name = name.replace("layers.", "encoder.sentence_encoder.layers.")
        mask = mask_of(allowed_by_name(ticket, fairseq_name), before)
        kept = left[name].flatten().tolist() if name in left else []
        assert before[mask].tolist() == kept, name


def test_by_name():
    prefix = "encoder.sentence_encoder.layers.1."
    assert allowed_by_name(STS, prefix + "self_attn.q_proj.weight") == (0, ((4, 8),))
    assert allowed_by_name(STS, prefix + "self_attn.out_proj.weight") == (1, ((4, 8),))
    assert allowed_by_name(STS, prefix + "fc2.bias") == NOTHING
    assert allowed_by_name(STS, prefix + "self_attn.q_proj.bias", present_heads={1: [1]}) == WHOLE
    for name in ("self_attn.out_proj.bias", "self_attn_layer_norm.weight", "final_layer_norm.bias"):
        assert allowed_by_name(STS, prefix + name) == WHOLE
    assert allowed_by_name(STS, "encoder.sentence_encoder.embed_tokens.weight") == WHOLE
    with pytest.raises(UserError, match=r"layers\.3\.fc1\.weight: .* 3 layers"):
        allowed_by_name(STS, "encoder.sentence_encoder.layers.3.fc1.weight")


def test_other_tasks_heads_are_held_still():
    for name in ("classification_heads.rte.dense.weight", "model.classification_heads.rte.out_proj.bias"):
        assert allowed_by_name(RTE, name) == WHOLE
        assert allowed_by_name(RTE, name, task_heads={"rte", "sst"}) == WHOLE
        assert allowed_by_name(RTE, name, task_heads={"sst"}) == NOTHING


def test_union_by_hand():
    both = union([RTE, SST])
    assert both.heads == [[1, 1], [0, 0], [1, 1]] and both.ffn == [1, 0, 1]
    assert union([RTE, SST, STS]).heads == [[1, 1], [0, 1], [1, 1]]
    assert union([SST]).heads == SST.heads


def test_ownership_by_hand():
    owners = ownership({"RTE": RTE, "SST": SST, "STS": STS})
    assert owners.tasks == ["RTE", "SST", "STS"]
    assert owners.heads == [[[0, 1, 2], [1]], [[], [2]], [[0], [0, 1, 2]]]
    assert owners.ffn == [[0, 1, 2], [], [0]]
    assert owners.counts() == {
        "heads": {"none": 1, "one": 3, "some": 0, "most": 0, "all": 2},
        "ffn": {"none": 1, "one": 1, "some": 0, "most": 0, "all": 1},
    }
    assert owners.exclusive("RTE") == {"heads": 1, "ffn": 1}
    assert owners.exclusive("SST") == {"heads": 1, "ffn": 0}


def test_shared_by_some_and_by_most():
    # Owners of the heads of layer 0 among five tasks: 2 (some), 3 (most); all FFNs by all.
    shape = ModelShape(1, 2, 8, 13)
    tickets = {str(i): SuperTicket(shape, [[int(i < 2), int(i < 3)]], [1]) for i in range(5)}
    assert ownership(tickets).counts() == {
        "heads": {"none": 0, "one": 0, "some": 1, "most": 1, "all": 0},
        "ffn": {"none": 0, "one": 0, "some": 0, "most": 0, "all": 1},
    }


def test_tickets_of_different_models_and_no_tickets_are_refused():
    other = SuperTicket.full(ModelShape(3, 4, 8, 13))
    with pytest.raises(UserError, match="ticket 2 of 2 belongs to another model size"):
        union([RTE, other])
    with pytest.raises(UserError, match="the ticket of task SST belongs to another model size"):
        ownership({"RTE": RTE, "SST": other})
    for make in (lambda: union([]), lambda: ownership({})):
        with pytest.raises(UserError, match="no tickets"):
            make()
