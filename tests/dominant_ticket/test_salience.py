"""Salience of input dimensions against each batch's whole gradient, finite differences and arithmetic by hand."""

from __future__ import annotations

import math
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fairseq_tickets.dominant_ticket import salience as module
from fairseq_tickets.dominant_ticket.salience import (
    METRICS,
    Salience,
    dimension_salience,
    salient_ticket,
    salient_ticket_like,
    salient_ticket_of_budget,
)
from fairseq_tickets.errors import UserError
from fairseq_tickets.parameters import MATRICES, ModelShape
from fairseq_tickets.tickets import DominantTicket

from ..operations import Operations
from ..super_ticket.conftest import EMBED, FFN, HEADS, LAYERS, collate, make_examples, make_model

SHAPE = ModelShape(LAYERS, HEADS, EMBED, FFN)


def linears_of(model):
    rows = []
    for layer in model.layers:
        projections = {name: getattr(layer.self_attn, name) for name in MATRICES if name.endswith("_proj")}
        rows.append({**projections, "fc1": layer.fc1, "fc2": layer.fc2})
    return rows


def mean_loss(model):
    def loss_fn(batch):
        tokens, labels = batch
        return F.cross_entropy(model(tokens), labels), len(labels)

    return loss_fn


def batches():
    """Of 4 and 2 sentences, with padding in both."""
    examples = make_examples()
    return [collate(examples[:4]), collate(examples[4:])]


def measured(metric, model=None, data=None):
    model = make_model() if model is None else model
    return dimension_salience(
        model, linears_of(model), HEADS, batches() if data is None else data, mean_loss(model), metric
    )


def whole_gradients(model, name, kind) -> Tensor:
    """(batches, layers, out_features[, in_features]): every batch's gradient by itself, dropout off."""
    model.eval()
    found = []
    for batch in batches():
        parameters = [getattr(row[name], kind) for row in linears_of(model)]
        found.append(torch.stack(torch.autograd.grad(mean_loss(model)(batch)[0], parameters)))
    return torch.stack(found)


@pytest.mark.parametrize(
    ("metric", "formula"),
    [
        ("gradient", lambda g: g.abs().mean(0)),
        ("fisher", lambda g: (g * g).mean(0)),
        ("consistent", lambda g: g.mean(0).abs()),
    ],
)
def test_equals_the_formula_on_whole_gradients(metric, formula):
    found = measured(metric)
    assert (found.shape, found.metric, found.examples) == (SHAPE, metric, 6)
    for name in MATRICES:
        weight = formula(whole_gradients(make_model(), name, "weight")).sum(1)  # (layers, in_features)
        bias = formula(whole_gradients(make_model(), name, "bias")).sum(1)
        torch.testing.assert_close(found.scores[name], torch.cat([weight, bias[:, None]], 1), rtol=1e-9, atol=1e-14)


def test_gradient_equals_finite_differences():
    model, found, h = make_model().eval(), measured("gradient"), 1e-5
    for name, layer, column in (("v_proj", 0, 3), ("out_proj", 1, EMBED), ("fc1", 2, 7), ("fc2", 1, 11)):
        linear = linears_of(model)[layer][name]
        place = linear.bias if column == linear.in_features else linear.weight[:, column]
        expected = 0.0
        for batch in batches():
            for row in range(linear.out_features):
                values = []
                for step in (h, -h):
                    with torch.no_grad():
                        place[row] += step
                        values.append(mean_loss(model)(batch)[0].item())
                        place[row] -= step
                expected += abs(values[0] - values[1]) / (2 * h) / 2  # two batches
        assert float(found.scores[name][layer, column]) == pytest.approx(expected, rel=1e-6)


def test_activation_is_the_root_mean_square_of_every_input_of_every_token():
    # Sentence by sentence, each layer written out; all sentences count by their tokens.
    model = make_model().eval()
    inputs = [{name: [] for name in MATRICES} for _ in range(LAYERS)]
    for tokens, _ in make_examples():
        x = model.embed_tokens(torch.tensor(tokens)) + model.embed_positions(torch.arange(len(tokens)))
        for layer, seen in zip(model.layers, inputs):
            attention, width = layer.self_attn, EMBED // HEADS
            for name in ("q_proj", "k_proj", "v_proj"):
                seen[name].append(x)
            q, k, v = (getattr(attention, name)(x) for name in ("q_proj", "k_proj", "v_proj"))
            mixed = []
            for head in range(HEADS):
                part = slice(head * width, (head + 1) * width)
                mixed.append((q[:, part] @ k[:, part].T / math.sqrt(width)).softmax(-1) @ v[:, part])
            seen["out_proj"].append(torch.cat(mixed, 1))
            x = layer.self_attn_layer_norm(x + attention.out_proj(seen["out_proj"][-1]))
            seen["fc1"].append(x)
            seen["fc2"].append(F.gelu(layer.fc1(x)))
            x = layer.final_layer_norm(x + layer.fc2(seen["fc2"][-1]))
    found = measured("activation", data=[collate([example]) for example in make_examples()])
    for name in MATRICES:
        for layer in range(LAYERS):
            rms = torch.cat(inputs[layer][name]).square().mean(0).sqrt()
            torch.testing.assert_close(found.scores[name][layer], torch.cat([rms, torch.ones(1)]).double())


def test_consistent_is_the_same_in_several_passes(monkeypatch):
    once = measured("consistent")
    monkeypatch.setattr(module, "ACCUMULATED_BYTES", 1)  # a pass a layer
    again = measured("consistent")
    for name in MATRICES:
        torch.testing.assert_close(again.scores[name], once.scores[name], rtol=1e-12, atol=1e-15)
    assert again.examples == once.examples


@pytest.mark.parametrize("metric", METRICS)
def test_the_model_is_as_it_was(metric):
    model = make_model().train()
    model.classifier.weight.requires_grad_(False)
    model.layers[1].fc1.weight.grad = torch.ones(FFN, EMBED, dtype=torch.float64)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    measured(metric, model)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert model.training and all(module.training for module in model.modules())
    assert [name for name, p in model.named_parameters() if not p.requires_grad] == ["classifier.weight"]
    assert [name for name, p in model.named_parameters() if p.grad is not None] == ["layers.1.fc1.weight"]
    assert not any(module._forward_pre_hooks or "forward" in vars(module) for module in model.modules())
    assert not any(layer.recompute_activation or layer.self_attn.recompute == "always" for layer in model.layers)


@pytest.mark.parametrize("metric", ["gradient", "fisher"])
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_one_gradient_at_a_time(metric, precision, monkeypatch):
    # While one matrix's gradient is reduced, those before it are gone, and no parameter holds one.
    model, before, held = make_model(torch.float32), [], []
    reduce = getattr(module, f"{metric}_salience")

    def watching(gradient):
        held.append(sum(one() is not None for one in before))
        held.append(sum(p.grad is not None for p in model.parameters()))
        if gradient.dim() == 2:
            before.append(weakref.ref(gradient))
        return reduce(gradient)

    monkeypatch.setattr(module, f"{metric}_salience", watching)
    amp_dtype = precision if precision == torch.bfloat16 else None
    dimension_salience(model, linears_of(model), HEADS, batches(), mean_loss(model), metric, amp_dtype)
    assert len(before) == 2 * LAYERS * len(MATRICES)
    # A bias is reduced while its weight's gradient is still there.
    assert max(held) == 1 and len(held) == 2 * 2 * 2 * LAYERS * len(MATRICES)


@pytest.mark.parametrize("metric", ["gradient", "fisher", "consistent"])
def test_bf16_equals_whole_gradients_under_autocast(metric):
    model = make_model(torch.float32)
    found = dimension_salience(
        model, linears_of(model), HEADS, batches(), mean_loss(model), metric, amp_dtype=torch.bfloat16
    )
    formula = {
        "gradient": lambda g: g.abs().mean(0),
        "fisher": lambda g: (g * g).mean(0),
        "consistent": lambda g: g.mean(0).abs(),
    }[metric]
    model = make_model(torch.float32)
    for name in MATRICES:
        with torch.autocast("cpu", torch.bfloat16):
            gradients = whole_gradients(model, name, "weight").double()
        torch.testing.assert_close(found.scores[name][:, :-1], formula(gradients).sum(1), rtol=1e-4, atol=1e-9)


def test_no_lower_copy_of_a_weight_is_kept():
    """Between the passes autograd holds activations and the weights themselves; in the backward pass each weight is
    converted once more."""
    model, kept = make_model(torch.float32), []
    sizes = {linear.weight.numel() for row in linears_of(model) for linear in row.values()}

    def pack(tensor):
        kept.append((tensor.dtype, tensor.numel()))
        return tensor

    def loss_fn(batch):
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            return mean_loss(model)(batch)

    data = [collate(make_examples()[:4])]
    assert data[0][0].numel() * EMBED not in sizes  # an activation could else be taken for a weight
    with Operations() as operations:
        dimension_salience(model, linears_of(model), HEADS, data, loss_fn, amp_dtype=torch.bfloat16)
    assert [one for one in kept if one[0] == torch.bfloat16 and one[1] in sizes] == []
    lowered = [copy for copy in operations.copies_of((FFN, EMBED)) if copy.dtype == torch.bfloat16]
    assert len(lowered) == 2 * 2 * LAYERS  # of fc1 and fc2, which is the other way round


def test_a_matrix_that_runs_twice_is_refused():
    # Its gradient would be a sum, whose absolute value is not the sum of absolute values.
    model = make_model()
    twice = model.layers[2]

    def loss_fn(batch):
        loss, count = mean_loss(model)(batch)
        return loss + twice.fc1(torch.ones(1, EMBED, dtype=torch.float64)).sum(), count

    with pytest.raises(UserError, match="layer 2, fc1 runs 2 times"):
        dimension_salience(model, linears_of(model), HEADS, batches(), loss_fn)
    assert "forward" not in vars(twice.fc1)


def salience(metric="gradient"):
    """3, 1, 4, 2, ... in every matrix, so that a mixed-up order shows; the bias of W^O is the largest of all."""
    scores = {}
    for name in MATRICES:
        width = SHAPE.in_features(name) + 1
        scores[name] = torch.tensor([[(3 * j + 1) % width for j in range(width)]] * LAYERS, dtype=torch.float64)
    scores["out_proj"][:, -1] = 100.0
    return Salience(SHAPE, metric, scores, 6)


def test_top_k_of_every_matrix():
    ticket = salient_ticket(salience(), 2)
    # EMBED + 1 = 9 values (3j + 1) % 9 = 1 4 7 1 4 7 1 4 7: the first 7 at 2, then at 5
    assert ticket.dimensions["q_proj"] == [[2, 5]] * LAYERS
    assert ticket.dimensions["out_proj"] == [[8, 2]] * LAYERS  # the bias first
    # FFN + 1 = 14 values: 13 at j = 4, 12 at j = 13, the bias
    assert ticket.dimensions["fc2"] == [[4, 13]] * LAYERS
    assert ticket.provenance == {"method": "salience", "metric": "gradient", "top_k": 2, "examples": 6}


def test_sizes_of_another_ticket():
    sizes = {name: [[0], [], [1, 2]] for name in MATRICES}
    ticket = salient_ticket_like(salience(), DominantTicket(SHAPE, sizes))
    assert ticket.dimensions["q_proj"] == [[2], [], [2, 5]]


def test_budget_of_the_whole_model():
    # Per parameter: W^O's biases (100 / 8) first, then those of W^FC2 (13 / 8, its out_features are EMBED)
    ticket = salient_ticket_of_budget(salience(), LAYERS + 1)
    assert ticket.dimensions["out_proj"] == [[8]] * LAYERS
    assert ticket.dimensions["fc2"] == [[4], [], []]
    assert sum(len(row) for _, _, row in ticket.items()) == LAYERS + 1


def test_zeros_never_enter():
    found = salience()
    found.scores["k_proj"].zero_()
    assert salient_ticket(found, 1).dimensions["k_proj"] == [[]] * LAYERS


@pytest.mark.parametrize("k", [0, EMBED + 2, True])
def test_k_out_of_range(k):
    with pytest.raises(UserError, match=f"top_k is {k}; it must be 1 to {EMBED + 1}"):
        salient_ticket(salience(), k)


@pytest.mark.parametrize("budget", [0, 10_000])
def test_budget_out_of_range(budget):
    with pytest.raises(UserError, match=f"budget is {budget}; it must be 1 to"):
        salient_ticket_of_budget(salience(), budget)


@pytest.mark.parametrize("metric", METRICS)
def test_no_examples(metric):
    with pytest.raises(UserError, match="no examples"):
        measured(metric, data=[])


@pytest.mark.parametrize("metric", METRICS)
def test_not_finite(metric):
    model = make_model()
    with torch.no_grad():
        model.layers[1].fc1.weight[2, 3] = math.nan
    with pytest.raises(UserError, match="not finite"):
        measured(metric, model)


def test_a_gradient_that_is_not_finite_is_named():
    model = make_model()
    model.layers[0].self_attn.v_proj.register_forward_hook(
        lambda linear, x, y: y.register_hook(lambda gradient: gradient * math.inf) and None
    )
    with pytest.raises(UserError, match="layer 0, v_proj: a gradient"):
        measured("gradient", model)


def test_a_pruned_model_is_refused():
    model = make_model()
    model.layers[1].prune_([0], True)
    with pytest.raises(UserError, match="layer 1, q_proj: the model is pruned"):
        measured("gradient", model)
