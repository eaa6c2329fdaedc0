"""ColumnLinear against nn.Linear with masked gradients, by gradcheck, and what it keeps for the backward pass."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fairseq_tickets.dominant_ticket.columns import ColumnLinear, apply_ticket, column_linears
from fairseq_tickets.encoder_layer import TicketEncoderLayer
from fairseq_tickets.errors import UserError
from fairseq_tickets.parameters import MATRICES, ModelShape
from fairseq_tickets.tickets import DominantTicket

IN, OUT = 7, 5
DIMENSIONS = [4, 7, 0]  # 7 is the bias


def pair(dtype=torch.float64, dimensions=DIMENSIONS):
    torch.manual_seed(0)
    dense = nn.Linear(IN, OUT).to(dtype)
    return dense, ColumnLinear.from_linear(copy.deepcopy(dense), dimensions)


@pytest.mark.parametrize("dimensions", [[4, 7, 0], [2], [7], []])
@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-6), (torch.float64, 1e-12)])
def test_the_same_function_at_the_start(dtype, tolerance, dimensions):
    dense, split = pair(dtype, dimensions)
    x = torch.randn(3, 2, IN, dtype=dtype)
    assert torch.allclose(split(x), dense(x), atol=tolerance, rtol=0)
    assert {n for n, p in split.named_parameters() if p.requires_grad} == (
        ({"columns"} if set(dimensions) - {7} else set()) | ({"bias"} if 7 in dimensions else set())
    )


@pytest.mark.parametrize("dimensions", [[4, 7, 0], [2], [7]])
def test_training_equals_a_dense_layer_with_the_ticket_alone_moving(dimensions):
    """50 AdamW updates with weight decay; the dense layer's update is taken on the ticket's entries only."""
    dense, split = pair(dimensions=dimensions)
    start = copy.deepcopy(dense)
    mask = torch.zeros(OUT, IN)
    mask[:, [d for d in dimensions if d != IN]] = 1
    options = {"lr": 1e-2, "weight_decay": 0.1}
    dense_optimizer = torch.optim.AdamW(dense.parameters(), **options)
    split_optimizer = torch.optim.AdamW([p for p in split.parameters() if p.requires_grad], **options)
    for _ in range(50):
        x, target = torch.randn(6, IN, dtype=torch.float64), torch.randn(6, OUT, dtype=torch.float64)
        for layer, optimizer in ((dense, dense_optimizer), (split, split_optimizer)):
            optimizer.zero_grad()
            F.mse_loss(layer(x).tanh(), target).backward()
            optimizer.step()
        with torch.no_grad():
            dense.weight.copy_(torch.where(mask.bool(), dense.weight, start.weight))
            if IN not in dimensions:
                dense.bias.copy_(start.bias)
    weight, bias = split.merge()
    assert torch.allclose(weight, dense.weight, atol=1e-12, rtol=0)
    assert torch.allclose(bias, dense.bias, atol=1e-12, rtol=0)
    assert not torch.equal(weight, start.weight) or dimensions == [IN]
    frozen = ~mask.bool()
    assert torch.equal(weight[frozen], start.weight[frozen])


@pytest.mark.parametrize("bias_trains", [True, False])
def test_gradcheck(bias_trains):
    _, split = pair(dimensions=DIMENSIONS if bias_trains else [4, 0])
    x = torch.randn(2, 3, IN, dtype=torch.float64, requires_grad=True)

    def run(x, columns, bias):
        other = copy.copy(split)
        other._parameters = {**split._parameters, "columns": columns, "bias": bias}
        return ColumnLinear.forward(other, x)

    assert torch.autograd.gradcheck(run, (x, split.columns, split.bias))


def test_input_without_gradient():
    _, split = pair()
    split(torch.randn(4, IN, dtype=torch.float64)).sum().backward()
    assert split.columns.grad.shape == (OUT, 2) and split.bias.grad.tolist() == [4.0] * OUT
    assert split.weight.grad is None


def test_only_k_columns_of_the_input_are_kept():
    _, split = pair(torch.float32)
    x = torch.randn(11, 3, IN, requires_grad=True)
    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        split(x)
    parameters = {split.columns.data_ptr(), split.bias.data_ptr(), split.weight.data_ptr(), split.dims.data_ptr()}
    activations = [t for t in kept if t.data_ptr() not in parameters]
    assert sum(t.numel() * t.element_size() for t in activations) == 11 * 3 * 2 * 4
    assert activations[0].untyped_storage().nbytes() == 11 * 3 * 2 * 4  # a copy, not a view that keeps x alive


def test_frozen_layer_keeps_nothing_of_the_input():
    _, split = pair(torch.float32, [7])
    x = torch.randn(11, IN, requires_grad=True)
    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        split(x)
    assert all(t.data_ptr() == split.weight.data_ptr() for t in kept)


def test_two_forward_passes_before_the_backward_pass():
    dense, split = pair()
    xs = [torch.randn(4, IN, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    (split(xs[0]).pow(2).sum() + split(xs[1]).sum()).backward()
    got = [x.grad.clone() for x in xs]
    for x in xs:
        x.grad = None
    (dense(xs[0]).pow(2).sum() + dense(xs[1]).sum()).backward()
    assert all(torch.allclose(g, x.grad) for g, x in zip(got, xs))
    assert torch.allclose(split.columns.grad, dense.weight.grad[:, [4, 0]])


def test_a_step_between_forward_and_backward_is_an_error():
    _, split = pair()
    loss = split(torch.randn(4, IN, dtype=torch.float64)).pow(2).sum()
    with torch.no_grad():
        split.columns.add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_columns_changed_through_data_are_used():
    """fairseq's fp16 optimizer writes parameters through .data."""
    dense, split = pair()
    split.columns.data.copy_(torch.full_like(split.columns, 2.0))
    dense.weight.data[:, [4, 0]] = 2.0
    x = torch.randn(4, IN, dtype=torch.float64)
    assert torch.allclose(split(x), dense(x))


def test_state_dict_is_the_dense_layers():
    dense, split = pair()
    with torch.no_grad():
        split.columns.mul_(3.0)
    state = split.state_dict()
    assert list(state) == ["weight", "bias"]
    expected = dense.weight.detach().clone()
    expected[:, [4, 0]] *= 3.0
    assert torch.equal(state["weight"], expected)
    plain = nn.Linear(IN, OUT).double()
    plain.load_state_dict(state)
    x = torch.randn(4, IN, dtype=torch.float64)
    assert torch.allclose(plain(x), split(x))


def test_dense_weights_load_and_split():
    _, split = pair()
    other = nn.Linear(IN, OUT).double()
    before = split.columns
    split.load_state_dict(other.state_dict())
    assert split.columns is before  # the optimizer's parameter
    assert torch.equal(split.columns, other.weight[:, [4, 0]])
    x = torch.randn(4, IN, dtype=torch.float64)
    assert torch.allclose(other(x), split(x))
    state = other.state_dict()
    with pytest.raises(RuntimeError, match="Missing key.*weight"):
        split.load_state_dict({"bias": state["bias"]})
    with pytest.raises(RuntimeError, match="size mismatch"):
        split.load_state_dict({"weight": torch.zeros(OUT, IN + 1), "bias": state["bias"]})


def test_explicit_columns_load_too():
    _, split = pair()
    weight = split.state_dict()["weight"].clone()
    weight[:, [4, 0]] = 0.0
    columns = torch.randn(OUT, 2, dtype=torch.float64)
    split.load_state_dict({"weight": weight, "bias": split.bias.detach().clone(), "columns": columns})
    assert torch.equal(split.columns, columns) and torch.equal(split.merge()[0][:, [4, 0]], columns)


@pytest.mark.parametrize("frozen_dtype", [None, torch.bfloat16])
def test_autocast_follows_a_dense_layer(frozen_dtype):
    dense, _ = pair(torch.float32)
    split = ColumnLinear.from_linear(copy.deepcopy(dense), DIMENSIONS, frozen_dtype)
    x = torch.randn(9, IN, requires_grad=True)
    grads = []
    for layer in (dense, split):
        x.grad = None
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = layer(x)
            assert y.dtype == torch.bfloat16
        y.float().pow(2).sum().backward()
        grads.append((y, x.grad.clone()))
    assert torch.equal(grads[0][0], grads[1][0])
    assert torch.allclose(grads[0][1], grads[1][1], rtol=0.02, atol=0.02)
    assert split.columns.grad.dtype == split.bias.grad.dtype == torch.float32
    assert torch.allclose(split.columns.grad, dense.weight.grad[:, [4, 0]], rtol=0.02, atol=0.1)


def test_frozen_bfloat16_keeps_columns_exact():
    dense, _ = pair(torch.float32)
    split = ColumnLinear.from_linear(copy.deepcopy(dense), DIMENSIONS, torch.bfloat16)
    rounded = dense.weight.detach().bfloat16().float()
    rounded[:, [4, 0]] = dense.weight.detach()[:, [4, 0]]
    x = torch.randn(9, IN)
    assert torch.allclose(split(x), F.linear(x, rounded, dense.bias), atol=1e-6)
    state = split.state_dict()
    assert state["weight"].dtype == torch.float32 and torch.equal(state["weight"], rounded)
    again = ColumnLinear.from_linear(nn.Linear(IN, OUT), DIMENSIONS, torch.bfloat16)
    again.load_state_dict(state)
    assert torch.equal(again.columns, split.columns) and torch.equal(again.weight[:, 1], split.weight[:, 1])


@pytest.mark.parametrize("dimensions, message", [([8], "out of range"), ([-1], "out of range"), ([2, 2], "twice")])
def test_wrong_dimensions(dimensions, message):
    with pytest.raises(UserError, match=message):
        ColumnLinear.from_linear(nn.Linear(IN, OUT), dimensions)
    with pytest.raises(UserError, match="has none"):
        ColumnLinear.from_linear(nn.Linear(IN, OUT, bias=False), [IN])


SHAPE = ModelShape(2, 3, 6, 10)


def ticket():
    return DominantTicket(
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


def layers(dtype=torch.float64):
    torch.manual_seed(3)
    return nn.ModuleList(TicketEncoderLayer(6, 10, 3).to(dtype) for _ in range(2))


def test_apply_ticket_to_encoder_layers():
    model = layers()
    x = torch.randn(4, 2, 6, dtype=torch.float64)
    expected = model[1](model[0](x))
    names = list(model.state_dict())
    apply_ticket(list(model), ticket())
    assert torch.allclose(model[1](model[0](x)), expected, atol=1e-12)
    assert len(column_linears(model)) == 2 * len(MATRICES)
    assert list(model.state_dict()) == names
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == ticket().trainable_parameters()
    assert not any(p.requires_grad for n, p in model.named_parameters() if "norm" in n)
    model[1](model[0](x)).pow(2).sum().backward()
    assert all((p.grad is not None) == p.requires_grad for p in model.parameters())


def test_apply_ticket_refuses_other_models():
    with pytest.raises(UserError, match="another model size"):
        apply_ticket(list(layers())[:1], ticket())
    pruned = layers()
    pruned[1].prune_([0, 2], True)
    with pytest.raises(UserError, match="layer 1, out_proj: the model is pruned"):
        apply_ticket(list(pruned), ticket())
    with pytest.raises(UserError, match="no encoder layers"):
        apply_ticket([], ticket())
