"""Attention against its equations written out with PyTorch's own operations, and against finite differences."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from fairseq_tickets.attention import attention
from fairseq_tickets.dropout import keep_mask, kept_share

BATCH, TOKENS, QUERIES, HEADS, HEAD = 3, 5, 2, 4, 6
P = 0.3


def inputs(queries: int = TOKENS) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    torch.manual_seed(2)
    q, k, v = (torch.randn(BATCH, n, HEADS * HEAD, dtype=torch.float64) for n in (queries, TOKENS, TOKENS))
    padding = torch.zeros(BATCH, TOKENS, dtype=torch.bool)
    padding[1, 3:] = padding[2, 4:] = True
    return q.requires_grad_(), k.requires_grad_(), v.requires_grad_(), padding


def position_bias(queries: int) -> Tensor:
    return torch.randn(1, HEADS, queries, TOKENS, dtype=torch.float64).requires_grad_()


def written_out(
    q: Tensor, k: Tensor, v: Tensor, padding: Tensor | None, bias: Tensor | None, mask: Tensor | None
) -> Tensor:
    """Example by example and head by head; `mask` is (batch * heads, queries, tokens)."""
    rows = []
    for b in range(BATCH):
        heads = []
        for h in range(HEADS):
            part = slice(h * HEAD, (h + 1) * HEAD)
            scores = q[b, :, part] @ k[b, :, part].T / math.sqrt(HEAD)
            if bias is not None:
                scores = scores + bias[0, h]
            if padding is not None:
                scores = scores.masked_fill(padding[b], -math.inf)
            weights = scores.softmax(-1)
            if mask is not None:
                weights = weights * mask[b * HEADS + h] / kept_share(P)
            heads.append(weights @ v[b, :, part])
        rows.append(torch.cat(heads, -1))
    return torch.stack(rows)


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("dropout", [0.0, P])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("queries", [QUERIES, TOKENS])
def test_values_and_gradients(queries: int, padded: bool, biased: bool, dropout: float, recompute: bool) -> None:
    q, k, v, padding = inputs(queries)
    bias = position_bias(queries) if biased else None
    torch.manual_seed(7)
    mask = keep_mask((BATCH * HEADS, queries, TOKENS), P).double() if dropout else None
    torch.manual_seed(7)
    found = attention(q, k, v, HEADS, padding if padded else None, bias, dropout, recompute)
    expected = written_out(q, k, v, padding if padded else None, bias, mask)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    weights, leaves = torch.randn_like(found), [q, k, v, *([] if bias is None else [bias])]
    state = torch.get_rng_state()
    ours, theirs = (torch.autograd.grad((y * weights).sum(), leaves) for y in (found, expected))
    assert torch.equal(torch.get_rng_state(), state)  # drawing the mask again leaves the generator alone
    for one, other in zip(ours, theirs):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


@pytest.mark.parametrize("recompute", [False, True])
def test_gradcheck(recompute: bool) -> None:
    q, k, v, padding = inputs(QUERIES)

    def run(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        torch.manual_seed(3)
        return attention(q, k, v, HEADS, padding, bias, P, recompute)

    assert torch.autograd.gradcheck(run, (q, k, v, position_bias(QUERIES)))


def test_without_gradients_it_is_the_same_function() -> None:
    q, k, v, padding = inputs()
    for bias in (None, position_bias(TOKENS)):
        with torch.no_grad():
            fused = attention(q, k, v, HEADS, padding, bias, 0.0, False)
        torch.testing.assert_close(fused, attention(q, k, v, HEADS, padding, bias, 0.0, False), rtol=0, atol=1e-12)


def test_bfloat16_is_near_float64() -> None:
    """Three roundings of 2⁻⁹ of numbers of about 1."""
    q, k, v, padding = inputs()
    rounded = [x.detach().bfloat16().requires_grad_() for x in (q, k, v)]
    found = attention(*rounded, HEADS, padding, None, 0.0, False)
    assert found.dtype == torch.bfloat16
    expected = attention(q, k, v, HEADS, padding, None, 0.0, False)
    assert float((found - expected).detach().abs().max()) < 0.03
    found.sum().backward()
    assert all(x.grad is not None and x.grad.dtype == torch.bfloat16 for x in rounded)


def kept(**options: Any) -> int:
    """Bytes that are held for the backward pass."""
    q, k, v, _ = inputs()
    seen: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        seen[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        attention(q, k, v, HEADS, None, None, P, **options)
    return sum(seen.values())


def test_what_is_kept() -> None:
    inputs_alone = 3 * BATCH * TOKENS * HEADS * HEAD * 8
    assert kept(recompute=True) == inputs_alone
    assert kept(recompute=False) == inputs_alone + 2 * BATCH * HEADS * TOKENS * TOKENS * 8  # P and P ∘ M
