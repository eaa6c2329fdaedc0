"""Salience of input dimensions against plain forward and backward of the same examples: time and peak memory.

Each side takes the same batches through the same model (random weights, dropout off); sides.py says what is measured.

    python benchmarks/salience.py --batches 32 --tokens 64 --repeats 3 --output s.json   # RoBERTa-large, 256 sentences
    python benchmarks/salience.py --layers 4 --batches 2                                 # reduced, a minute on a CPU
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
import torch.nn.functional as F
from measure import autocast
from sides import CLASSES, Sides, amp_dtype, built, compare, parser
from torch import Tensor

from fairseq_tickets.dominant_ticket.salience import METRICS, dimension_salience
from fairseq_tickets.parameters import MATRICES

BASE = "forward-backward"


def main() -> None:
    """Measure and print."""
    options = parser(__doc__, (BASE, *METRICS), tokens=64, repeats=3)
    options.add_argument("--batches", type=int, default=4, help="batches of a turn")
    compare("salience", options.parse_args(), build)


def build(args: argparse.Namespace) -> Sides:
    """A function for each side that takes all batches through the model."""
    model = built(args)
    size = (args.batches, args.batch_size, args.tokens)
    tokens = torch.randint(4, args.vocab_size, size, device=args.device)
    labels = torch.randint(CLASSES, size[:2], device=args.device)
    batches = list(zip(tokens, labels))
    linears = [
        {name: getattr(layer.self_attn if name.endswith("_proj") else layer, name) for name in MATRICES}
        for layer in model.layers
    ]

    def loss_fn(batch: tuple[Tensor, Tensor]) -> tuple[Tensor, int]:
        return F.cross_entropy(model(batch[0]).float(), batch[1]), len(batch[1])

    def forward_backward() -> None:
        for batch in batches:
            with autocast(args.precision, args.device):
                loss, _ = loss_fn(batch)
            loss.backward()
            model.zero_grad(set_to_none=True)

    def salience(metric: str) -> Callable[[], None]:
        def measure() -> None:
            dimension_salience(model, linears, args.heads, batches, loss_fn, metric, amp_dtype(args.precision))

        return measure

    return {BASE: forward_backward, **{metric: salience(metric) for metric in METRICS}}


if __name__ == "__main__":
    main()
