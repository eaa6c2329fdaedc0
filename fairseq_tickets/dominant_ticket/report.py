"""How |Δθ| is distributed, so that a user can choose σ (Gong et al. 2022, section 3.2).

The paper reports that after L1 fine-tuning 99 % of the parameters have moved by less than 1e-5. Shares are counted
exactly. Quantiles come from a histogram over the bit patterns of the float32 |Δθ|, exponent and the first ten bits of
the mantissa: streamed, and at most 0.1 % too high (`RESOLUTION`), never too low.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Optional

import torch
from torch import Tensor

from fairseq_tickets.dominant_ticket.extraction import Progress, check_pair, deltas
from fairseq_tickets.errors import UserError
from fairseq_tickets.parameters import MATRICES, PAPER_NAMES

QUANTILES = (0.5, 0.9, 0.99, 0.999, 0.9999)
SMALL = 1e-5
RESOLUTION = 2.0**-10
BLOCK = 1 << 22  # elements; larger than a histogram
_SHIFT = 13  # 23 bits of mantissa, 10 kept
_BINS = 0x7F800000 >> _SHIFT  # up to infinity


class Distribution(NamedTuple):
    """|Δθ| over a group of parameters.

    Attributes:
        parameters: how many there are.
        below_small: share with |Δθ| < 1e-5.
        above_sigma: share with |Δθ| > σ.
        quantiles: quantile -> |Δθ| which that share of the parameters does not exceed.
        largest: max |Δθ|.
    """

    parameters: int
    below_small: float
    above_sigma: float
    quantiles: dict[float, float]
    largest: float


def report(
    pretrained: Mapping[str, Tensor],
    finetuned: Mapping[str, Tensor],
    heads: int,
    sigma: float,
    progress: Optional[Progress] = None,
) -> dict[str, Distribution]:
    """Distribution of |Δθ| by matrix name ("q_proj", ...) over all layers, and over everything ("all").

    Weights and biases of the encoder layers' six matrices; arguments as for `extraction.extract`.

    Raises:
        UserError: the checkpoints don't belong together, are in half precision, or hold NaN.
    """
    shape = check_pair(pretrained, finetuned, heads)
    tallies = {matrix: _Tally() for matrix in MATRICES}
    for layer in range(shape.layers):
        for matrix in MATRICES:
            for part in deltas(pretrained, finetuned, layer, matrix, BLOCK):
                for delta in part:
                    if not torch.isfinite(delta).all():
                        raise UserError(f"layer {layer}, {matrix}: a checkpoint holds NaN or infinity")
                    tallies[matrix].add(delta, sigma)
            if progress is not None:
                progress(layer * len(MATRICES) + MATRICES.index(matrix) + 1, shape.layers * len(MATRICES))
    return {
        "all": sum(tallies.values(), _Tally()).result(),
        **{m: tally.result() for m, tally in tallies.items()},
    }


def format_report(distributions: Mapping[str, Distribution], sigma: float) -> str:
    """The report as an aligned text table."""
    quantiles = [f"{100 * q:g} %" for q in QUANTILES]
    head = ["|Δθ|", "parameters", f"< {SMALL:g}", f"> σ={sigma:g}", *quantiles, "max"]
    rows = [head]
    for name, d in distributions.items():
        numbers = [f"{d.quantiles[q]:.2e}" for q in QUANTILES]
        shares = [f"{100 * d.below_small:.2f} %", f"{100 * d.above_sigma:.4f} %"]
        rows.append([PAPER_NAMES.get(name, name), f"{d.parameters:,}", *shares, *numbers, f"{d.largest:.2e}"])
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    return "\n".join(
        "  ".join(cell.rjust(w) if i else cell.ljust(w) for i, (cell, w) in enumerate(zip(row, widths))) for row in rows
    )


class _Tally:
    """Histogram and exact counts of |Δθ|; adds up over matrices."""

    def __init__(self) -> None:
        self.bins = torch.zeros(_BINS, dtype=torch.int64)
        self.parameters = self.below = self.above = 0
        self.largest = 0.0

    def add(self, delta: Tensor, sigma: float) -> None:
        size = delta.abs()
        self.bins += torch.bincount((size.view(torch.int32) >> _SHIFT).flatten(), minlength=_BINS).cpu()
        self.parameters += size.numel()
        self.below += int(torch.count_nonzero(size < SMALL))
        self.above += int(torch.count_nonzero(size > sigma))
        self.largest = max(self.largest, float(size.max()))

    def __add__(self, other: _Tally) -> _Tally:
        both = _Tally()
        both.bins = self.bins + other.bins
        both.parameters, both.below = self.parameters + other.parameters, self.below + other.below
        both.above, both.largest = self.above + other.above, max(self.largest, other.largest)
        return both

    def result(self) -> Distribution:
        cumulated = self.bins.cumsum(0)
        quantiles = {}
        for q in QUANTILES:
            rank = torch.tensor([q * self.parameters], dtype=torch.float64).ceil().long().clamp(min=1)
            bin_ = torch.searchsorted(cumulated, rank)
            upper = ((bin_.int() + 1) << _SHIFT) - 1  # the largest number in the bin
            quantiles[q] = min(float(upper.view(torch.float32)), self.largest) if bin_.item() else 0.0
        n = self.parameters
        return Distribution(n, self.below / n, self.above / n, quantiles, self.largest)
