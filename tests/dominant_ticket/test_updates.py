"""Any model under a dominant ticket, by parts: against ColumnLinear, and bit for bit outside the ticket."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fairseq_tickets.dominant_ticket.baselines import random_elements
from fairseq_tickets.dominant_ticket.columns import ColumnLinear, apply_ticket
from fairseq_tickets.dominant_ticket.updates import element_parts, parts_of, trainable_slices
from fairseq_tickets.encoder_layer import TicketEncoderLayer, encoder_layers
from fairseq_tickets.errors import UserError
from fairseq_tickets.parameters import ModelShape, parse
from fairseq_tickets.tickets import DominantTicket
from fairseq_tickets.updates.optimizer import SlicedOptimizer
from fairseq_tickets.updates.parts import Columns, Whole

SHAPE = ModelShape(2, 3, 6, 10)
TICKET = DominantTicket(
    SHAPE,
    {
        "q_proj": [[5, 0], [1]],
        "k_proj": [[2], []],
        "v_proj": [[6], [3, 6]],
        "out_proj": [[0], [1]],
        "fc1": [[4, 6], [2]],
        "fc2": [[9, 10], [7]],
    },
)
INNER = {
    "adamw": lambda leaves: torch.optim.AdamW(leaves, lr=1e-2, weight_decay=0.1),
    "adamax": lambda leaves: torch.optim.Adamax(leaves, lr=1e-2, weight_decay=0.01),
    "sgd": lambda leaves: torch.optim.SGD(leaves, lr=1e-2, momentum=0.9, weight_decay=0.1),
}


class Toy(nn.Module):
    """Embedding, two encoder layers and a head under fairseq's names."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Module()
        self.encoder.sentence_encoder = nn.Module()
        self.encoder.sentence_encoder.embed_tokens = nn.Embedding(11, 6)
        self.encoder.sentence_encoder.layers = nn.ModuleList(TicketEncoderLayer(6, 10, 3) for _ in range(2))
        self.classification_heads = nn.ModuleDict({"h": nn.Linear(6, 4)})

    def forward(self, tokens):
        x = self.encoder.sentence_encoder.embed_tokens(tokens)
        for layer in self.encoder.sentence_encoder.layers:
            x = layer(x)
        return self.classification_heads["h"](x[0])


def toy():
    torch.manual_seed(1)
    return Toy().double()


def batches(n, seed=5):
    random = torch.Generator().manual_seed(seed)
    for _ in range(n):
        yield torch.randint(11, (7, 3), generator=random), torch.randint(4, (3,), generator=random)


def outside(name, slices):
    """True for every element that may not move."""

    def mask(tensor):
        frozen = torch.ones_like(tensor, dtype=torch.bool)
        if isinstance(slices[name], torch.Tensor):
            frozen[:, slices[name]] = False
        elif slices[name] == "all":
            frozen[:] = False
        return frozen

    return mask


def test_slices_of_every_parameter():
    slices = trainable_slices(toy().named_parameters(), TICKET)
    layer = "encoder.sentence_encoder.layers.{}.{}"
    assert slices[layer.format(0, "self_attn.q_proj.weight")].tolist() == [5, 0]
    assert slices[layer.format(0, "self_attn.q_proj.bias")] is None
    assert slices[layer.format(0, "self_attn.v_proj.weight")] is None  # the bias alone
    assert slices[layer.format(0, "self_attn.v_proj.bias")] == "all"
    assert slices[layer.format(1, "self_attn.v_proj.weight")].tolist() == [3]
    assert slices[layer.format(0, "fc2.weight")].tolist() == [9]
    assert slices[layer.format(0, "fc2.bias")] == "all"
    assert slices[layer.format(1, "self_attn.k_proj.weight")] is None
    assert slices[layer.format(1, "final_layer_norm.weight")] is None
    assert slices["encoder.sentence_encoder.embed_tokens.weight"] is None
    assert slices["classification_heads.h.weight"] == "all"
    optimizer = SlicedOptimizer(toy().named_parameters(), parts_of(slices), INNER["sgd"])
    assert optimizer.trainable_parameters() == TICKET.trainable_parameters() + 4 * 6 + 4


@pytest.mark.parametrize("name", INNER)
def test_both_routes_follow_the_same_weights(name):
    """50 updates: columns split off (route 1) and sliced updates of a stock model (route 2)."""
    split, stock = toy(), toy()
    start = copy.deepcopy(stock.state_dict())
    apply_ticket(encoder_layers(split), TICKET)
    split.encoder.sentence_encoder.embed_tokens.requires_grad_(False)
    first = INNER[name]([p for p in split.parameters() if p.requires_grad])
    slices = trainable_slices(stock.named_parameters(), TICKET)
    second = SlicedOptimizer(stock.named_parameters(), parts_of(slices), INNER[name])
    for tokens, labels in batches(50):
        first.zero_grad()
        loss = F.cross_entropy(split(tokens), labels)
        loss.backward()
        first.step()
        second.zero_grad()
        stock.zero_grad()
        other = F.cross_entropy(stock(tokens), labels)
        other.backward()
        second.step()
        assert other.item() == pytest.approx(loss.item(), abs=1e-10)
    moved = 0
    state = split.state_dict()
    for key, tensor in stock.state_dict().items():
        assert torch.allclose(tensor, state[key], atol=1e-10, rtol=0), key
        frozen = outside(key, slices)(tensor)
        assert torch.equal(tensor[frozen], start[key][frozen])
        assert torch.equal(state[key][frozen], start[key][frozen])
        moved += int((tensor != start[key]).sum())
    assert moved == second.trainable_parameters()


def test_state_exists_for_slices_alone_and_resumes():
    model = toy()
    slices = trainable_slices(model.named_parameters(), TICKET)

    def build(m):
        return SlicedOptimizer(m.named_parameters(), parts_of(slices), INNER["adamw"])

    def train(m, optimizer, data):
        for tokens, labels in data:
            m.zero_grad()
            F.cross_entropy(m(tokens), labels).backward()
            optimizer.step()

    data = list(batches(6))
    whole, whole_optimizer = copy.deepcopy(model), None
    whole_optimizer = build(whole)
    train(whole, whole_optimizer, data)
    optimizer = build(model)
    train(model, optimizer, data[:3])
    saved, state = copy.deepcopy(model.state_dict()), copy.deepcopy(optimizer.state_dict())
    numbers = sum(t.numel() for s in state["state"].values() for k, t in s.items() if k == "exp_avg")
    assert numbers == optimizer.trainable_parameters()
    resumed = toy()
    resumed_optimizer = build(resumed)
    resumed.load_state_dict(saved)  # after the optimizer is built, as fairseq does
    resumed_optimizer.load_state_dict(state)
    train(resumed, resumed_optimizer, data[3:])
    assert all(torch.equal(a, b) for a, b in zip(resumed.state_dict().values(), whole.state_dict().values()))


def test_clipping_sees_the_trainable_part_alone():
    weight = nn.Parameter(torch.zeros(2, 3))
    optimizer = SlicedOptimizer([("w", weight)], {"w": [Columns(torch.tensor([2]))]}, INNER["sgd"])
    weight.grad = torch.tensor([[100.0, 100.0, 3.0], [100.0, 100.0, 4.0]])
    gradients = optimizer.collect()
    norm = torch.linalg.vector_norm(torch.stack([g.norm() for g in gradients]))
    assert norm.item() == pytest.approx(5.0)
    for gradient in gradients:
        gradient.div_(5.0)
    optimizer.step()
    assert weight.tolist() == [[0, 0, pytest.approx(-0.006)], [0, 0, pytest.approx(-0.008)]]


def test_random_elements_of_a_model():
    model = toy()
    start = copy.deepcopy(model.state_dict())
    chosen = random_elements(SHAPE, 0.3, seed=2)
    optimizer = SlicedOptimizer(
        model.named_parameters(), element_parts(model.named_parameters(), chosen), INNER["adamw"]
    )
    for tokens, labels in batches(3):
        model.zero_grad()
        F.cross_entropy(model(tokens), labels).backward()
        optimizer.step()
    for name, tensor in model.state_dict().items():
        role = parse(name)
        moved = (tensor != start[name]).flatten().nonzero().flatten().tolist()
        if role is not None and role.kind == "weight":
            assert moved == chosen[role.layer, role.matrix].tolist()
        else:
            assert bool(moved) == name.startswith("classification_heads")


def test_bad_tickets_and_parts():
    other = DominantTicket(ModelShape(2, 3, 6, 12), TICKET.dimensions)
    with pytest.raises(UserError, match="another model size"):
        trainable_slices(toy().named_parameters(), other)
    with pytest.raises(ValueError, match="lacks"):
        SlicedOptimizer([], {"x": [Whole()]}, INNER["sgd"])
    pruned = toy()
    pruned.encoder.sentence_encoder.layers[1].prune_([0], True)
    with pytest.raises(UserError, match="pruned"):
        trainable_slices(pruned.named_parameters(), TICKET)


def test_column_linear_names_do_not_confuse_the_slices():
    assert parse("encoder.sentence_encoder.layers.0.fc1.columns") is None
    assert isinstance(ColumnLinear.from_linear(nn.Linear(2, 2), [0]), nn.Linear)
