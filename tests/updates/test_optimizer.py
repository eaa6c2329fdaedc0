"""SlicedOptimizer against separate optimizers, and bit for bit outside the active parts."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from fairseq_tickets.updates.optimizer import SlicedOptimizer
from fairseq_tickets.updates.parts import Elements, Span, Whole

INNER = {
    "adamw": lambda leaves: torch.optim.AdamW(leaves, lr=1e-2, weight_decay=0.1),
    "adamax": lambda leaves: torch.optim.Adamax(leaves, lr=1e-2, weight_decay=0.01),
    "sgd": lambda leaves: torch.optim.SGD(leaves, lr=1e-2, momentum=0.9, weight_decay=0.1),
}


def test_elements():
    weight = nn.Parameter(torch.arange(6.0).view(2, 3))
    optimizer = SlicedOptimizer([("w", weight)], {"w": [Elements(torch.tensor([5, 0, 3]))]}, INNER["sgd"])
    weight.grad = torch.ones(2, 3)
    optimizer.step()
    assert (weight.detach() != torch.arange(6.0).view(2, 3)).flatten().tolist() == [1, 0, 0, 1, 0, 1]
    assert weight[1, 2].item() == pytest.approx(5 - 0.01 * (1 + 0.1 * 5))


@pytest.mark.parametrize("name", INNER)
def test_groups_equal_one_optimizer_for_each_structure(name):
    """Inactive rows and columns keep value, moments and step count: as if each had an optimizer of its own."""
    torch.manual_seed(0)
    rows, columns, rest = torch.randn(6, 5), torch.randn(5, 6), torch.randn(4)
    parameters = {"q": nn.Parameter(rows.clone()), "o": nn.Parameter(columns.clone()), "n": nn.Parameter(rest.clone())}
    parts = {
        "q": [Span(0, 2 * h, 2 * h + 2, ("head", h)) for h in range(3)],
        "o": [Span(1, 2 * h, 2 * h + 2, ("head", h)) for h in range(3)],
        "n": [Whole()],
    }
    shared = SlicedOptimizer(parameters.items(), parts, INNER[name])
    own = {h: [nn.Parameter(rows[2 * h : 2 * h + 2]), nn.Parameter(columns[:, 2 * h : 2 * h + 2])] for h in range(3)}
    own["rest"] = [nn.Parameter(rest.clone())]
    optimizers = {h: INNER[name](leaves) for h, leaves in own.items()}
    for step in range(12):
        active = {("head", step % 3), ("head", 1)}
        before = {key: p.detach().clone() for key, p in parameters.items()}
        gradients = {key: torch.randn_like(p) for key, p in parameters.items()}
        for key, p in parameters.items():
            p.grad = gradients[key].clone()
        if step == 5:  # the storage may change under the optimizer
            parameters["q"].data = parameters["q"].data.clone()
        shared.step(active)
        for h in range(3):
            if ("head", h) in active:
                own[h][0].grad = gradients["q"][2 * h : 2 * h + 2]
                own[h][1].grad = gradients["o"][:, 2 * h : 2 * h + 2]
                optimizers[h].step()
            else:
                assert torch.equal(parameters["q"][2 * h : 2 * h + 2], before["q"][2 * h : 2 * h + 2])
                assert torch.equal(parameters["o"][:, 2 * h : 2 * h + 2], before["o"][:, 2 * h : 2 * h + 2])
        own["rest"][0].grad = gradients["n"]
        optimizers["rest"].step()
    for h in range(3):
        assert torch.allclose(parameters["q"][2 * h : 2 * h + 2], own[h][0], atol=1e-7)
        assert torch.allclose(parameters["o"][:, 2 * h : 2 * h + 2], own[h][1], atol=1e-7)
    assert torch.equal(parameters["n"], own["rest"][0])


def test_an_inactive_whole_parameter_stands_still():
    p = nn.Parameter(torch.ones(3))
    optimizer = SlicedOptimizer([("p", p)], {"p": [Whole("ffn")]}, INNER["adamw"])
    p.grad = torch.ones(3)
    optimizer.step({"ffn"})
    value, state = p.detach().clone(), copy.deepcopy(optimizer.state_dict()["state"][0])
    p.grad = torch.ones(3)
    optimizer.step(set())
    assert torch.equal(p, value)
    assert all(torch.equal(state[k], v) for k, v in optimizer.state_dict()["state"][0].items())
