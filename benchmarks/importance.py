"""Importance scores against plain forward and backward with weight gradients: time and peak memory.

Both sides take the same batch through the same model (random weights, dropout off); see sides.py for what is measured.

    python benchmarks/importance.py --layers 24 --repeats 7 --output i.json  # RoBERTa-large's shape
    python benchmarks/importance.py --layers 4 --batch-size 4              # reduced, a minute on a CPU
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
import torch.nn.functional as F
from measure import autocast
from sides import CLASSES, PAD, Sides, amp_dtype, built, compare, parser
from torch import Tensor

from fairseq_tickets.super_ticket.importance import importance_scores

SIDES = ("weight_gradients", "importance", "importance_token")


def main() -> None:
    """Measure and print."""
    compare("importance", parser(__doc__, SIDES, tokens=128, repeats=5).parse_args(), build)


def build(args: argparse.Namespace) -> Sides:
    """A function for each side that takes one batch through the model."""
    model = built(args)
    tokens = torch.randint(4, args.vocab_size, (args.batch_size, args.tokens), device=args.device)
    for row in range(args.batch_size):  # lengths from a half to the whole
        tokens[row, args.tokens - (args.tokens * row) // (2 * args.batch_size) :] = PAD
    labels = torch.randint(CLASSES, (args.batch_size,), device=args.device)

    def loss_fn(batch: tuple[Tensor, Tensor]) -> Tensor:
        return F.cross_entropy(model(batch[0]).float(), batch[1], reduction="none")

    def weight_gradients() -> None:
        with autocast(args.precision, args.device):
            loss = loss_fn((tokens, labels)).mean()
        loss.backward()
        model.zero_grad(set_to_none=True)

    def importance(granularity: str) -> Callable[[], None]:
        def score() -> None:
            importance_scores(model, [(tokens, labels)], loss_fn, granularity, amp_dtype(args.precision))

        return score

    return dict(zip(SIDES, (weight_gradients, importance("example"), importance("token"))))


if __name__ == "__main__":
    main()
