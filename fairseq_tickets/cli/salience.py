"""`fairseq-tickets salience`: a pre-trained checkpoint and some examples -> dominant ticket, without an L1 run."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from fairseq_tickets.cli.numbers import LARGEST_SEED, whole
from fairseq_tickets.cli.workers import on_workers, writable

if TYPE_CHECKING:
    from collections.abc import Callable

    from fairseq_tickets.dominant_ticket.salience import Salience
    from fairseq_tickets.saliences import DimensionSalience

DESCRIPTION = """Find a dominant ticket in seconds: rank the input dimensions of every matrix of the pre-trained
model by how strongly some examples of the task pull at them, and keep the first ones. No fine-tuning, no L1 run.

  fairseq-tickets salience --pretrained models/minilm/model.pt --data data/SST-2 --top-k 1 --output salient.json
  fairseq-train data/SST-2 ... --finetune-from-model models/minilm/model.pt --ticket salient.json

Metrics, of dimension j of a matrix, with g the gradient of a batch's mean loss and x the matrix's input:
  gradient    sum over outputs of the mean |g|        consistent  sum over outputs of |mean g|
  fisher      sum over outputs of the mean g^2        activation  root mean square of x; needs no labels
The bias counts as one more dimension, with x = 1.

How many: --top-k K a matrix; or --budget B dimensions in the whole model; or --like TICKET.json, as many of every
matrix as that ticket has.

On several GPUs or processes:  torchrun --nproc-per-node 2 --no-python fairseq-tickets salience ..."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Files, the metric, how many dimensions, and how to run."""
    parser.add_argument("--pretrained", required=True, metavar="FILE", help="checkpoint before fine-tuning (theta0)")
    parser.add_argument("--data", required=True, metavar="DIR", help="binarised data folder, made by `prepare`")
    parser.add_argument("--output", required=True, metavar="FILE", help="ticket file to write (.json)")
    parser.add_argument(
        "--metric",
        choices=("gradient", "fisher", "consistent", "activation"),
        default="gradient",
        help="what a dimension is ranked by (default: %(default)s)",
    )
    size = parser.add_mutually_exclusive_group()
    size.add_argument(
        "--top-k", type=whole("--top-k", 1), default=1, metavar="K", help="dimensions a matrix (default: %(default)s)"
    )
    size.add_argument("--budget", type=whole("--budget", 1), metavar="B", help="dimensions in the whole model")
    size.add_argument("--like", metavar="TICKET", help="as many dimensions of every matrix as this ticket has")
    parser.add_argument(
        "--examples",
        type=whole("--examples", 1),
        default=512,
        metavar="N",
        help="a random sample, always the same (default: %(default)s)",
    )
    parser.add_argument(
        "--batch-size",
        type=whole("--batch-size", 1),
        default=8,
        metavar="N",
        help="examples behind one gradient (default: %(default)s)",
    )
    parser.add_argument(
        "--head",
        choices=("random", "probe"),
        default="random",
        help="the task head: random weights (default), or fitted first to the sample with the encoder frozen",
    )
    parser.add_argument(
        "--seed", type=whole("--seed", 0, LARGEST_SEED), default=1, help="of the random head (default: %(default)s)"
    )
    parser.add_argument("--split", default="train", help="split of the data (default: %(default)s)")
    parser.add_argument(
        "--separator-token",
        type=whole("--separator-token", 0),
        metavar="N",
        help="token before the second sentence: 2 for RoBERTa, none for BERT",
    )
    parser.add_argument(
        "--salience", metavar="FILE", help="also write the salience of every dimension (.npz), for `plot explain`"
    )
    parser.add_argument("--cpu", action="store_true", help="run on the CPU where there is a GPU")
    parser.add_argument(
        "--precision",
        choices=("float32", "bf16"),
        default="float32",
        help="what the model runs in (default: %(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")


def run(args: argparse.Namespace) -> int:
    """Measure, choose, save, print."""
    from fairseq_tickets.tickets import load_dominant_ticket

    output = writable(args.output)
    beside = writable(args.salience, "--salience") if args.salience else None
    other = load_dominant_ticket(args.like) if args.like else None

    def work(device: str, progress: Callable[[int, int], None]) -> tuple[Salience, DimensionSalience]:
        from fairseq_tickets.plugin.salience import checkpoint_salience

        return checkpoint_salience(
            args.pretrained,
            args.data,
            args.metric,
            args.examples,
            args.batch_size,
            args.head,
            args.seed,
            args.split,
            args.separator_token,
            device,
            args.precision,
            progress,
        )

    measurement = on_workers("salience", args.cpu, work)
    if measurement is None:
        return 0
    from fairseq_tickets.dominant_ticket.salience import (
        salient_ticket,
        salient_ticket_like,
        salient_ticket_of_budget,
    )

    found, measured = measurement
    if other is not None:
        ticket = salient_ticket_like(found, other)
    elif args.budget is not None:
        ticket = salient_ticket_of_budget(found, args.budget)
    else:
        ticket = salient_ticket(found, args.top_k)
    ticket.provenance.update(measured.provenance)
    ticket.save(output)
    if beside is not None:
        measured.save(beside)
    if args.json:
        figures = {
            "output": str(output),
            "dimensions": sum(len(dims) for _, _, dims in ticket.items()),
            "trainable_parameters": ticket.trainable_parameters(),
            "ticket": ticket.to_json(),
        }
        print(json.dumps(figures, indent=1))
    else:
        print(f"{found.examples:,} examples of {args.split}, metric {args.metric}; wrote {output}: {ticket.describe()}")
    return 0
