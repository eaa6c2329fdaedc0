"""Multi-head scaled dot-product attention (Vaswani et al. 2017, section 3.2.1), with dropout of its weights.

    O = D V / s,   D = P ∘ M,   P = softmax(Q Kᵀ / √d + B)

M is a random mask of 0 and 1, s the probability of 1; B, where there is one, depends on the positions alone (see
relative_position.py). On a CPU PyTorch has no fast kernel with dropout: its general one takes, in bf16, as long as all
other products of the layer. Here each product is one batched product over contiguous heads, and the backward pass is
written out. Without gradients, and on GPUs, PyTorch's fused kernels do the work.
"""

from __future__ import annotations

from typing import Any, Optional

import torch
import torch.nn.functional as F
from torch import Tensor

from fairseq_tickets.dropout import keep_mask, kept_share
from fairseq_tickets.heap import block


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    heads: int,
    padding_mask: Optional[Tensor],
    bias: Optional[Tensor],
    dropout: float,
    recompute: bool,
) -> Tensor:
    """Attend with every head.

    Args:
        q: (batch, queries, heads * head_dim).
        k, v: (batch, tokens, heads * head_dim).
        heads: number of heads.
        padding_mask: (batch, tokens), True where the token is padding; None = no padding.
        bias: (1, heads, queries, tokens), B, in q's type; None = 0.
        dropout: probability that an attention weight is dropped; 0 in evaluation.
        recompute: on a CPU, keep nothing of size (tokens, tokens) for the backward pass but work it out again.

    Returns:
        (batch, queries, heads * head_dim).
    """
    wants_gradient = torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v, bias) if x is not None)
    if q.device.type != "cpu" or not (wants_gradient or dropout):
        attend = None if padding_mask is None else padding_mask.logical_not()[:, None, None, :]
        if bias is not None:
            attend = bias if attend is None else bias.masked_fill(attend.logical_not(), float("-inf"))
        split_q, split_k, split_v = (_heads(x, heads) for x in (q, k, v))
        found = F.scaled_dot_product_attention(split_q, split_k, split_v, attn_mask=attend, dropout_p=dropout)
        return _joined(found, len(q))
    out: Tensor = _Attention.apply(  # type: ignore[no-untyped-call]
        q, k, v, bias, heads, padding_mask, dropout, recompute
    )
    return out


class _Attention(torch.autograd.Function):
    """The equations above and their derivatives. Inside, a batch of heads is one axis: (batch * heads, tokens, d)."""

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        bias: Optional[Tensor],
        heads: int,
        padding_mask: Optional[Tensor],
        dropout: float,
        recompute: bool,
    ) -> Tensor:
        batch = q.shape[0]
        q, k, v = (_apart(x, heads) for x in (q, k, v))
        state = torch.get_rng_state() if recompute and dropout else None
        p = _weights(q, k, bias, padding_mask)
        d = _dropped(p, dropout, in_place=recompute)
        ctx.heads, ctx.dropout, ctx.state, ctx.padding_mask = heads, dropout, state, padding_mask
        ctx.save_for_backward(q, k, v, bias, *(() if recompute else (p, d)))
        return _joined(_product(d, v, _scale(dropout)), batch)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Optional[Tensor], ...]:
        q, k, v, bias, *kept = ctx.saved_tensors
        p, d = kept or _weights_again(ctx, q, k, bias)
        batch = gradient.shape[0]
        gradient = _heads(gradient, ctx.heads).reshape(q.shape)
        for_v = _product(d.transpose(1, 2), gradient, _scale(ctx.dropout))
        for_d = _product(gradient, v.transpose(1, 2), _scale(ctx.dropout))
        # ∂S = P ∘ (∂P - Σ_j P ∘ ∂P) with ∂P = M ∘ ∂D, where P ∘ M = D
        through = for_d.mul_(d)
        for_scores = through.addcmul_(p, through.sum(-1, keepdim=True), value=-1)
        root = q.shape[-1] ** -0.5
        for_q, for_k = _product(for_scores, k, root), _product(for_scores.transpose(1, 2), q, root)
        for_bias = for_scores.view(batch, ctx.heads, *p.shape[1:]).sum(0, True) if ctx.needs_input_grad[3] else None
        return (*(_joined(x, batch) for x in (for_q, for_k, for_v)), for_bias, *[None] * 4)


def _weights(q: Tensor, k: Tensor, bias: Optional[Tensor], padding_mask: Optional[Tensor]) -> Tensor:
    """P, (batch * heads, queries, tokens)."""
    scores = _product(q, k.transpose(1, 2), q.shape[-1] ** -0.5)
    if bias is not None:
        scores.view(-1, *bias.shape[1:]).add_(bias)
    if padding_mask is not None:
        batch, tokens = padding_mask.shape
        out = scores.new_zeros(batch, 1, 1, tokens).masked_fill_(padding_mask[:, None, None, :], float("-inf"))
        scores.view(batch, -1, scores.shape[1], tokens).add_(out)
    weights: Tensor = torch.softmax(scores, -1, out=scores)
    return weights


def _dropped(p: Tensor, dropout: float, in_place: bool = False) -> Tensor:
    """P ∘ M with a mask that is drawn now; P itself without dropout."""
    if not dropout:
        return p
    mask = keep_mask(p.shape, dropout).to(p.dtype)
    return p.mul_(mask) if in_place else p * mask


def _weights_again(ctx: Any, q: Tensor, k: Tensor, bias: Optional[Tensor]) -> tuple[Tensor, Tensor]:
    """P and P ∘ M once more, with the mask that was drawn before."""
    p = _weights(q, k, bias, ctx.padding_mask)
    if ctx.state is None:
        return p, p
    with torch.random.fork_rng(devices=[]):
        torch.set_rng_state(ctx.state)
        return p, _dropped(p, ctx.dropout)


def _product(a: Tensor, b: Tensor, factor: float) -> Tensor:
    """factor · a b, without a pass for the factor."""
    return torch.baddbmm(a.new_empty(()), a, b, beta=0, alpha=factor)


def _scale(dropout: float) -> float:
    """1 / s."""
    share = kept_share(dropout)
    return 1.0 / share if share > 0.0 else 0.0


def _heads(x: Tensor, heads: int) -> Tensor:
    """(batch, tokens, heads * d) -> (batch, heads, tokens, d), a view."""
    return x.reshape(*x.shape[:2], heads, -1).transpose(1, 2)


def _apart(x: Tensor, heads: int) -> Tensor:
    """(batch, tokens, heads * d) -> (batch * heads, tokens, d), a copy to keep."""
    split = _heads(x, heads)
    return block(x, split.shape).copy_(split).flatten(0, 1)


def _joined(x: Tensor, batch: int) -> Tensor:
    """(batch, heads, tokens, d), or the first two as one axis -> (batch, tokens, heads * d)."""
    return x.reshape(batch, -1, *x.shape[-2:]).transpose(1, 2).flatten(2)
