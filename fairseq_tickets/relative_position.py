"""MPNet's learned relative position bias: one number a head and bucket of distances, added to attention scores.

Song et al. 2020, with the buckets of T5 (Raffel et al. 2020, section 2.1): half of them for keys to the right; in each
half, distances below half of its buckets have one each, larger ones share the others by the logarithm of the distance
up to `FARTHEST`, and all beyond share the last. One table serves all layers.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

FARTHEST = 128


class RelativePositionBias(nn.Module):
    """The table, `weight` (buckets, heads)."""

    def __init__(self, buckets: int, heads: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(buckets, heads))

    def forward(self, tokens: int) -> Tensor:
        """What is added to the scores of sequences of so many tokens: (1, heads, queries, keys)."""
        return relative_position_bias(self.weight, tokens)


def relative_position_bias(weight: Tensor, tokens: int) -> Tensor:
    """`RelativePositionBias` as a function of its table, (buckets, heads) -> (1, heads, tokens, tokens)."""
    places = torch.arange(tokens, device=weight.device)
    buckets = distance_buckets(places[None, :] - places[:, None], weight.shape[0])
    return weight[buckets].permute(2, 0, 1).unsqueeze(0)


def distance_buckets(distances: Tensor, buckets: int) -> Tensor:
    """Bucket of every distance (key position minus query position), int64, same shape."""
    half = buckets // 2
    exact = half // 2
    size = distances.abs()
    far = torch.log(size.clamp(min=1).float() / exact) / math.log(FARTHEST / exact) * (half - exact)
    shared = (exact + far.long()).clamp(max=half - 1)
    return torch.where(size < exact, size, shared) + half * (distances > 0)
