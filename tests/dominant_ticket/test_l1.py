"""The L1 penalty by hand, by finite differences, and the proximal step against worked soft-thresholds."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from fairseq_tickets.dominant_ticket import l1 as l1_module
from fairseq_tickets.dominant_ticket.l1 import L1ToPretrained, step_scales
from fairseq_tickets.errors import UserError
from fairseq_tickets.parameters import EMBEDDINGS, matrix_name, parse
from tests.dominant_ticket import toy

Q, B = matrix_name(0, "q_proj"), matrix_name(0, "q_proj", "bias")


def parameters(tensors):
    return {name: nn.Parameter(t.clone()) for name, t in tensors.items()}


def moved_model(seed=1, scale=1e-3, dtype=torch.float64):
    base = {name: t.to(dtype) for name, t in toy.encoder().items()}
    model = parameters(base)
    torch.manual_seed(seed)
    for p in model.values():
        p.data += torch.randn_like(p) * scale
    return base, model


def test_gradient_by_hand():
    base = toy.encoder()
    base[B] = torch.tensor([0.5, -0.25, 0.0, 1.0, 2.0, 3.0])
    model = parameters(base)
    model[B].data = torch.tensor([0.75, -0.5, 0.0, 1.0, 1.5, 3.5])
    model[B].grad = torch.tensor([1.0, 1.0, 1.0, 1.0, 1.0, 1.0])
    L1ToPretrained(model.items(), base, 0.25).add_gradient_()
    assert model[B].grad.tolist() == [1.25, 0.75, 1.0, 1.0, 0.75, 1.25]  # 1 + λ·sign(Δ), sign(0) = 0
    L1ToPretrained(model.items(), base, 0.25).add_gradient_(scale=2.0)
    assert model[B].grad.tolist() == [1.75, 0.25, 1.0, 1.0, 0.25, 1.75]


def test_gradient_is_the_derivative_of_value():
    base, model = moved_model()
    penalty = L1ToPretrained(model.items(), base, 0.3)
    penalty.add_gradient_()
    step = 1e-7
    for name in (Q, B, matrix_name(2, "fc2"), matrix_name(1, "fc1", "bias")):
        flat = model[name].data.view(-1)
        for index in (0, len(flat) - 1):
            flat[index] += step
            up = penalty.value()
            flat[index] -= 2 * step
            down = penalty.value()
            flat[index] += step
            assert model[name].grad.view(-1)[index].item() == pytest.approx((up - down) / (2 * step), rel=1e-5)


def test_value_and_moved_against_a_loop():
    base, model = moved_model()
    sizes = [
        abs(float(a) - float(b))
        for name in base
        if parse(name)
        for a, b in zip(model[name].detach().flatten(), base[name].flatten())
    ]
    penalty = L1ToPretrained(model.items(), base, 1e-3)
    assert penalty.value() == pytest.approx(1e-3 * sum(sizes), rel=1e-12)
    for sigma in (5e-4, 1e-3, 1.0):
        assert penalty.moved(sigma) == sum(size > sigma for size in sizes)
    assert penalty.penalised == len(sizes) == penalty.measure(1.0).penalised


@pytest.mark.parametrize("block", [1, 7, 1 << 18])
def test_blocks_make_no_difference(block, monkeypatch):
    base, model = moved_model()
    whole = L1ToPretrained(model.items(), base, 0.5)
    whole.add_gradient_()
    expected = {name: p.grad.clone() for name, p in model.items() if p.grad is not None}
    value = whole.value()
    monkeypatch.setattr(l1_module, "CPU_BLOCK", block)
    for p in model.values():
        p.grad = None
    whole.add_gradient_()
    assert all(torch.equal(model[name].grad, g) for name, g in expected.items())
    assert whole.value() == pytest.approx(value, rel=1e-12)


def test_float32_value_of_many_small_differences():
    base = {Q: torch.zeros(2000, 1000)}
    model = {Q: nn.Parameter(torch.full((2000, 1000), 1e-4))}
    penalty = L1ToPretrained(model.items(), base, 1.0)
    assert penalty.value() == pytest.approx(2_000_000 * float(torch.tensor(1e-4)), rel=1e-6)


def test_only_the_six_matrices_are_touched():
    base, model = moved_model()
    for p in model.values():
        p.grad = torch.zeros_like(p)
    penalty = L1ToPretrained(model.items(), base, 0.1)
    penalty.add_gradient_()
    untouched = {name for name, p in model.items() if not p.grad.any()}
    assert untouched == {name for name in base if parse(name) is None}
    assert EMBEDDINGS[0] in untouched and any(n.endswith("fc1_weight") for n in untouched)
    before = {name: p.detach().clone() for name, p in model.items()}
    penalty.proximal_(1e-3)
    assert {name for name, p in model.items() if torch.equal(p, before[name])} == untouched


def test_frozen_parameters_and_missing_gradients():
    base, model = moved_model()
    model[Q].requires_grad_(False)
    model[B].data = base[B].clone()
    penalty = L1ToPretrained(model.items(), base, 0.1)
    assert Q not in penalty.names
    penalty.add_gradient_()
    assert model[Q].grad is None and model[B].grad is None  # frozen; not moved
    assert model[matrix_name(1, "fc1")].grad is not None  # moved: the penalty pulls it back
    before = model[B].detach().clone()
    L1ToPretrained(model.items(), base, 0.0).add_gradient_()
    assert torch.equal(before, model[B])


def test_theta0_is_a_copy():
    base, model = moved_model()
    penalty = L1ToPretrained(model.items(), base, 1.0)
    value = penalty.value()
    base[Q].zero_()
    assert penalty.value() == value


def test_proximal_by_hand_gives_exact_zeros():
    base = toy.encoder()
    base[B] = torch.tensor([1.0, 1.0, 1e-9, -2.0, 0.0, 4.0])
    model = parameters(base)
    model[B].data = torch.tensor([1.75, 0.25, 0.125, -2.25, 0.0, 4.125])  # Δ = .75 -.75 .125 -.25 0 .125
    L1ToPretrained(model.items(), base, 0.5).proximal_(step_size=0.5)  # t = 0.25
    assert model[B].tolist() == [1.5, 0.5, base[B][2].item(), -2.0, 0.0, 4.0]
    assert torch.equal(model[B][2:], base[B][2:])


def test_proximal_sgd_solves_a_quadratic():
    """min ½(θ−a)² + λ|θ−θ₀| has the solution θ₀ + soft(a−θ₀, λ)."""
    base = {B: torch.zeros(4, dtype=torch.float64)}
    target = torch.tensor([1.0, -0.4, 0.2, 0.0], dtype=torch.float64)
    model = {B: nn.Parameter(base[B].clone())}
    penalty = L1ToPretrained(model.items(), base, 0.3)
    for _ in range(300):
        with torch.no_grad():
            model[B].sub_(0.1 * (model[B] - target))
        penalty.proximal_(0.1)
    assert model[B].tolist() == pytest.approx([0.7, -0.1, 0.0, 0.0], abs=1e-12)
    assert model[B][2].item() == 0.0


def test_proximal_adam_uses_each_parameters_step():
    base = {B: torch.zeros(3, dtype=torch.float64)}
    model = {B: nn.Parameter(base[B].clone())}
    adam = torch.optim.Adam([model[B]], lr=0.01, betas=(0.9, 0.5), eps=1e-8)
    penalty = L1ToPretrained(model.items(), base, 0.3)
    penalty.proximal_(0.01, step_scales(adam))  # no state yet: nothing to do
    model[B].grad = torch.tensor([1.0, 0.2, -3.0], dtype=torch.float64)
    adam.step()
    penalty.proximal_(0.01, step_scales(adam))
    # First step: v̂ = g², so θ = -0.01·sign(g) and t = 0.01·0.3/|g| = 0.003, 0.015, 0.001
    assert model[B].tolist() == pytest.approx([-0.007, 0.0, 0.009], abs=1e-8)
    assert model[B][1].item() == 0.0


def test_proximal_adamax_and_other_optimizers():
    base = {B: torch.zeros(2, dtype=torch.float64)}
    model = {B: nn.Parameter(base[B].clone())}
    adamax = torch.optim.Adamax([model[B]], lr=0.01)
    model[B].grad = torch.tensor([1.0, 0.2], dtype=torch.float64)
    adamax.step()
    L1ToPretrained(model.items(), base, 0.3).proximal_(0.01, step_scales(adamax))
    assert model[B].tolist() == pytest.approx([-0.007, 0.0], abs=1e-7)  # exp_inf = |g|
    assert step_scales(torch.optim.SGD([model[B]], lr=0.1)) is None
    with pytest.raises(UserError, match="not those of Rprop"):
        step_scales(torch.optim.Rprop([model[B]]))


def test_gradient_that_is_not_contiguous():
    base, model = moved_model()
    name = matrix_name(0, "fc1")
    model[name].grad = torch.ones(6, 10, dtype=torch.float64).t()
    L1ToPretrained(model.items(), base, 0.5).add_gradient_()
    assert set(model[name].grad.flatten().tolist()) == {0.5, 1.5}


@pytest.mark.parametrize("weight", [-1e-3, math.nan, math.inf])
def test_bad_weight(weight):
    base, model = moved_model()
    with pytest.raises(UserError, match="l1_weight"):
        L1ToPretrained(model.items(), base, weight)


def test_theta0_that_does_not_fit():
    base, model = moved_model()
    with pytest.raises(UserError, match="lacks"):
        L1ToPretrained(model.items(), {n: t for n, t in base.items() if n != Q}, 1.0)
    with pytest.raises(UserError, match="pretrained_path must name"):
        L1ToPretrained(model.items(), {**base, Q: base[Q][:2]}, 1.0)
    with pytest.raises(UserError, match="no trainable"):
        L1ToPretrained([(EMBEDDINGS[0], model[EMBEDDINGS[0]])], base, 1.0)
    base[Q][0, 0] = math.nan
    with pytest.raises(UserError, match="damaged"):
        L1ToPretrained(model.items(), base, 1.0)
