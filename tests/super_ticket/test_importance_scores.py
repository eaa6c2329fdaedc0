"""Importance against finite differences, by hand, and its invariances."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from fairseq_tickets.encoder_layer import TicketEncoderLayer
from fairseq_tickets.errors import UserError
from fairseq_tickets.super_ticket.importance import importance_scores

from .conftest import EMBED, FFN, HEADS, LAYERS, collate, loss_of, make_model


def finite_difference(model, example, scale_structure) -> float:
    """Five-point derivative, at 1, of one example's loss, unpadded, in a model whose weights are scaled."""
    loss_fn, batch, h = loss_of(model), collate([example]), 1e-3

    def loss(value: float) -> float:
        saved = copy.deepcopy(model.state_dict())
        scale_structure(value)
        with torch.no_grad():
            result = loss_fn(batch).item()
        model.load_state_dict(saved)
        return result

    return (8 * (loss(1 + h) - loss(1 - h)) - (loss(1 + 2 * h) - loss(1 - 2 * h))) / (12 * h)


def test_equals_finite_differences_of_each_example(model, examples):
    # A mask on a head's output is a factor on its columns of W^O; a mask on the FFN is one on W^FC2 and its
    # bias. So the reference scales weights, one example at a time, without padding, and never touches a gate.
    scores = importance_scores(model, [collate(examples[:4]), collate(examples[4:])], loss_of(model))
    model.eval()
    per_head = EMBED // HEADS
    expected_heads, expected_ffn = np.zeros((LAYERS, HEADS)), np.zeros(LAYERS)
    for index, layer in enumerate(model.layers):
        for head in range(HEADS):
            columns = slice(head * per_head, (head + 1) * per_head)

            def scale_head(value, layer=layer, columns=columns):
                with torch.no_grad():
                    layer.self_attn.out_proj.weight[:, columns] *= value

            expected_heads[index, head] = np.mean([abs(finite_difference(model, e, scale_head)) for e in examples])

        def scale_ffn(value, layer=layer):
            with torch.no_grad():
                layer.fc2.weight.mul_(value)
                layer.fc2.bias.mul_(value)

        expected_ffn[index] = np.mean([abs(finite_difference(model, e, scale_ffn)) for e in examples])
    np.testing.assert_allclose(scores.heads, expected_heads, rtol=1e-6)
    np.testing.assert_allclose(scores.ffn, expected_ffn, rtol=1e-6)
    assert expected_heads.min() > 1e-3 and expected_ffn.min() > 1e-3  # the comparison was of real numbers
    assert scores.examples == len(examples)
    assert scores.shape == (LAYERS, HEADS, EMBED, FFN)


@pytest.mark.parametrize(
    "batching",
    [
        pytest.param(lambda e: [collate([one]) for one in e], id="one by one"),
        pytest.param(lambda e: [collate(e[:5]), collate(e[5:])], id="unequal batches"),
        pytest.param(lambda e: [collate(e[::-1])], id="reversed"),
        pytest.param(lambda e: [collate([e[i] for i in (3, 0, 5)]), collate([e[i] for i in (4, 1, 2)])], id="mixed"),
        pytest.param(lambda e: [collate(e, pad_to=12)], id="more padding"),
    ],
)
@pytest.mark.parametrize("granularity", ["example", "token"])
def test_batch_size_order_and_padding_do_not_matter(model, examples, batching, granularity):
    reference = importance_scores(model, [collate(examples)], loss_of(model), granularity)
    other = importance_scores(model, batching(examples), loss_of(model), granularity)
    np.testing.assert_allclose(other.heads, reference.heads, rtol=1e-10)
    np.testing.assert_allclose(other.ffn, reference.ffn, rtol=1e-10)


def hand_layer() -> nn.Sequential:
    """One layer of width 2 whose output is a formula.

    Each token attends to itself or to its equal. With u = residual + attention and y = (u0 - u1)/2, layer
    norm with ε = 1 gives ±y/√(y²+1). Here the input (1, 0) gives 1/2, head 0 adds 1/8 and head 1 adds 1/8:
    y = 3/4, so the first norm gives 3/5. The FFN is a constant, 3/20, in the same difference: 3/4 again, and
    the output is ±3/5.
    """
    layer = TicketEncoderLayer(2, 3, 2, layer_norm_eps=1.0, activation="relu").double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.zero_()
        layer.self_attn_layer_norm.weight.fill_(1)
        layer.final_layer_norm.weight.fill_(1)
        layer.self_attn.v_proj.weight.copy_(torch.tensor([[1.0, 0.0], [0.5, 0.0]]))  # head 0: 1, head 1: 1/2
        layer.self_attn.out_proj.weight.copy_(torch.tensor([[0.25, 0.25], [0.0, -0.25]]))  # differences 1/4 and 1/2
        layer.fc2.bias.copy_(torch.tensor([0.3, 0.0]))
    return nn.Sequential(layer)


@pytest.mark.parametrize(
    "granularity, factor",
    [
        pytest.param("example", 1.0, id="|+1| and |-1| over two examples"),
        pytest.param("batch", 0.0, id="the derivatives cancel before the absolute value"),
        pytest.param("token", 1.0, id="only the first of two equal tokens is read"),
    ],
)
def test_worked_by_hand(granularity, factor):
    # Slope of y/√(y²+1) at 3/4: (25/16)^(-3/2) = 64/125.
    # ∂output/∂ξ_h = 64/125 · 64/125 · 1/8 for both heads;  ∂output/∂ν = 64/125 · 3/20.
    model = hand_layer()
    signs = torch.tensor([1.0, -1.0], dtype=torch.float64)

    def loss_fn(x):
        out = model(x)
        assert torch.allclose(out[0, 0], torch.tensor([0.6, -0.6], dtype=torch.float64))
        return out[0, :, 0] * signs

    x = torch.tensor([1.0, 0.0], dtype=torch.float64).expand(2, 2, 2)  # two equal tokens, two equal examples
    scores = importance_scores(model, [x], loss_fn, granularity)
    np.testing.assert_allclose(scores.heads, [[factor * (64 / 125) ** 2 / 8] * 2], atol=1e-12)
    np.testing.assert_allclose(scores.ffn, [factor * 64 / 125 * 3 / 20], atol=1e-12)


def test_token_granularity_adds_absolute_values_of_tokens():
    # loss = output of token 0 minus output of token 1, equal tokens: per example 0, per token twice the
    # derivative. (Attention is to two equal tokens, so a head's mask at one token acts on that token alone.)
    model = hand_layer()
    x = torch.tensor([1.0, 0.0], dtype=torch.float64).expand(2, 1, 2)

    def loss_fn(batch):
        out = model(batch)
        return out[0, :, 0] - out[1, :, 0]

    np.testing.assert_allclose(importance_scores(model, [x], loss_fn).heads, [[0, 0]], atol=1e-12)
    token = importance_scores(model, [x], loss_fn, "token")
    np.testing.assert_allclose(token.heads, [[2 * (64 / 125) ** 2 / 8] * 2])
    np.testing.assert_allclose(token.ffn, [2 * 64 / 125 * 3 / 20])


def state_of(model):
    return (
        [parameter.requires_grad for parameter in model.parameters()],
        [parameter.grad for parameter in model.parameters()],
        [module.training for module in model.modules()],
        [(layer.head_gate, layer.ffn_gate, len(layer._forward_pre_hooks)) for layer in model.layers],
    )


@pytest.mark.parametrize("fail", [False, True])
def test_the_model_is_as_before_also_after_an_error(model, examples, fail):
    model.embed_tokens.weight.requires_grad_(False)
    model.layers[1].eval()
    before, weights = state_of(model), copy.deepcopy(model.state_dict())
    loss_fn = loss_of(model)

    def loss(batch):
        assert not any(parameter.requires_grad for parameter in model.parameters())
        if fail:
            loss_fn(batch)
            raise RuntimeError("the cable is out")
        return loss_fn(batch)

    if fail:
        with pytest.raises(RuntimeError, match="cable"):
            importance_scores(model, [collate(examples)], loss)
    else:
        importance_scores(model, [collate(examples)], loss)
    assert state_of(model) == before
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


def test_works_where_gradients_are_off(model, examples):
    with torch.no_grad():
        scores = importance_scores(model, [collate(examples)], loss_of(model))
    assert scores.heads.min() > 0


@pytest.mark.parametrize("dtype, tolerance", [(torch.bfloat16, 0.1), (torch.float16, 0.01)])
def test_autocast_is_close_to_float32(examples, dtype, tolerance):
    model = make_model(torch.float32)
    reference = importance_scores(model, [collate(examples)], loss_of(model))
    mixed = importance_scores(model, [collate(examples)], loss_of(model), amp_dtype=dtype)
    assert not np.array_equal(mixed.heads, reference.heads)  # autocast was on
    np.testing.assert_allclose(mixed.heads, reference.heads, atol=tolerance * reference.heads.max())
    np.testing.assert_allclose(mixed.ffn, reference.ffn, atol=tolerance * reference.ffn.max())


def test_progress_is_told_each_batch(model, examples):
    told: list = []
    importance_scores(model, [collate(examples[:4]), collate(examples[4:])], loss_of(model), progress=told.append)
    assert told == [4, 2]


def test_two_workers_give_what_one_gives(model, examples, tmp_path):
    # Unequal parts, 4 and 2 examples: a mean of the workers' means would be wrong.
    root = Path(__file__).parents[2]
    code = (
        "import sys, torch; from tests.super_ticket.conftest import *; "
        "from fairseq_tickets.super_ticket.importance import importance_scores; rank = int(sys.argv[1]); "
        "torch.distributed.init_process_group("
        f"'gloo', init_method='file://{tmp_path}/meet', rank=rank, world_size=2); "
        "model = make_model(); part = make_examples()[:4] if rank == 0 else make_examples()[4:]; "
        f"importance_scores(model, [collate(part)], loss_of(model)).save(f'{tmp_path}/{{rank}}.npz'); "
        "torch.distributed.destroy_process_group()"
    )
    workers = [subprocess.Popen([sys.executable, "-c", code, str(rank)], cwd=root) for rank in (0, 1)]
    assert [worker.wait(timeout=60) for worker in workers] == [0, 0]
    from fairseq_tickets.scores import ImportanceScores

    one = importance_scores(model, [collate(examples)], loss_of(model))
    for rank in (0, 1):
        two = ImportanceScores.load(tmp_path / f"{rank}.npz")
        np.testing.assert_allclose(two.heads, one.heads, rtol=1e-12)
        np.testing.assert_allclose(two.ffn, one.ffn, rtol=1e-12)
        assert two.examples == one.examples == 6


@pytest.mark.parametrize(
    "spoil, error, text",
    [
        (lambda m, f: (m, [], f, "example"), UserError, "no examples"),
        (lambda m, f: (m, None, lambda b: f(b).mean(), "example"), ValueError, "one loss per example"),
        (lambda m, f: (m, None, lambda b: f(b)[:3], "example"), ValueError, "3 losses for a batch of 6"),
        (
            lambda m, f: (m, None, lambda b: f(b) / 0, "example"),
            UserError,
            "loss of an example is not finite",
        ),
        (lambda m, f: (m, None, f, "sentence"), ValueError, "'sentence'; it must be one of example"),
        (lambda m, f: (nn.Linear(2, 3), None, f, "example"), UserError, "no ticket encoder layers"),
        (lambda m, f: (prune(m), None, f, "example"), UserError, "layer 1 is already pruned"),
        (lambda m, f: (gate(m), None, f, "example"), UserError, "layer 2 is under a ticket"),
    ],
)
def test_what_cannot_be_scored_is_refused(model, examples, spoil, error, text):
    scored, batches, loss_fn, granularity = spoil(model, loss_of(model))
    with pytest.raises(error, match=text):
        importance_scores(scored, [collate(examples)] if batches is None else batches, loss_fn, granularity)


def prune(model):
    model.layers[1].prune_([1], True)
    return model


def gate(model):
    model.layers[2].ffn_gate = torch.zeros(1, 1, dtype=torch.float64)
    return model
