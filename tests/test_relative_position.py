"""MPNet's position bias: its buckets by hand and as transformers has them, and the attention that uses it."""

from __future__ import annotations

import math

import torch

from fairseq_tickets.encoder_layer import TicketEncoderLayer
from fairseq_tickets.relative_position import RelativePositionBias, distance_buckets, relative_position_bias


def test_buckets_by_hand() -> None:
    # 8 buckets: 4 for keys to the left or at 0, 4 for those to the right; distances 0 and 1 have their own; 2 on:
    # 2 + floor(ln(d / 2) / ln(64) * 2), so 2 to 15 share 2, since ln(16 / 2) / ln(64) is 1/2, and 16 on share 3.
    distances = torch.tensor([0, -1, -2, -15, -17, -500, 1, 2, 15, 17, 500])
    assert distance_buckets(distances, 8).tolist() == [0, 1, 2, 2, 3, 3, 5, 6, 6, 7, 7]


def test_buckets_are_those_of_transformers() -> None:
    from transformers.models.mpnet.modeling_mpnet import MPNetEncoder

    distances = torch.arange(-300, 301)
    theirs = MPNetEncoder.relative_position_bucket(distances, num_buckets=32)
    assert distance_buckets(distances, 32).tolist() == theirs.tolist()


def test_bias_is_read_by_query_and_key() -> None:
    table = torch.arange(6.0).view(2, 3)  # 2 buckets: to the left or 0, to the right; 3 heads
    bias = relative_position_bias(torch.cat([table, table + 10]), 2)  # 4 buckets: 0 | left | right, near | far
    assert bias.shape == (1, 3, 2, 2)
    assert bias[0, 1].tolist() == [[1.0, 14.0], [4.0, 1.0]]  # query 0 sees key 1 to its right; query 1 sees key 0


def test_attention_adds_it_before_the_softmax() -> None:
    torch.manual_seed(0)
    layer = TicketEncoderLayer(6, 5, 2).double()
    bias = torch.randn(1, 2, 4, 4, dtype=torch.float64)
    x, padding = torch.randn(3, 4, 6, dtype=torch.float64), torch.zeros(3, 4, dtype=torch.bool)
    padding[1, 3] = True
    attention = layer.self_attn
    attention.position_bias = bias
    for kept in ([0, 1], [1]):
        attention.prune_(kept)
        expected = torch.zeros(3, 4, 6, dtype=torch.float64)
        for example in range(3):
            parts = []
            for position, head in enumerate(kept):
                rows = slice(3 * position, 3 * position + 3)
                q, k, v = (getattr(attention, name)(x[example])[:, rows] for name in ("q_proj", "k_proj", "v_proj"))
                scores = q @ k.T / math.sqrt(3) + bias[0, head]
                scores[:, padding[example]] = -math.inf
                parts.append(scores.softmax(-1) @ v)
            expected[example] = attention.out_proj(torch.cat(parts, 1))
        torch.testing.assert_close(attention(x, padding), expected)
        torch.testing.assert_close(attention(x, padding, 1), expected[:, :1])


def test_a_gradient_reaches_the_table() -> None:
    module = RelativePositionBias(8, 2)
    module(5).square().sum().backward()
    assert module.weight.grad is not None
