"""`fairseq-tickets importance`: scores of every attention head and FFN of a fine-tuned model."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from fairseq_tickets.cli.numbers import number, whole
from fairseq_tickets.cli.workers import on_workers, writable

if TYPE_CHECKING:
    from collections.abc import Callable

    from fairseq_tickets.scores import ImportanceScores

DESCRIPTION = """Score every attention head and FFN of a fine-tuned model: how much would an example's loss
feel it if the head's or FFN's output were scaled?  I = E |dL(x)/dmask|, the mean over the training set of the
absolute derivative of each example's loss; dropout off, one forward and backward pass, no weight gradients.

  fairseq-tickets importance --checkpoint runs/rte/checkpoint_best.pt --data data/RTE --output rte.npz
  fairseq-tickets prune --scores rte.npz --heads 0.2 --ffn 0.2 --output ticket.json

On several GPUs or processes:  torchrun --nproc-per-node 2 --no-python fairseq-tickets importance ..."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Files, what to average over, and how to run."""
    parser.add_argument("--checkpoint", required=True, metavar="FILE", help="fine-tuned model (ticket_roberta*)")
    parser.add_argument("--data", required=True, metavar="DIR", help="binarised data folder, made by `prepare`")
    parser.add_argument("--output", required=True, metavar="FILE", help="scores file to write (.npz)")
    parser.add_argument(
        "--granularity",
        choices=("example", "token", "batch"),
        default="example",
        help="where the absolute value is taken: per example (the paper's formula, default), per token (the "
        "authors' code), or per batch (then the scores depend on --batch-size)",
    )
    parser.add_argument("--split", default="train", help="split of the data (default: %(default)s)")
    parser.add_argument(
        "--limit", type=whole("--limit", 1), metavar="N", help="a random sample of N examples, always the same"
    )
    parser.add_argument(
        "--batch-size", type=whole("--batch-size", 1), default=32, help="examples in a batch (default: %(default)s)"
    )
    parser.add_argument(
        "--max-tokens", type=whole("--max-tokens", 1), metavar="N", help="most tokens in a batch, padding counted"
    )
    parser.add_argument(
        "--until-stable",
        metavar="P,P,...",
        type=lambda text: [part.strip() for part in text.split(",")],
        help="levels of the tickets you will prune; take random examples only until these tickets no longer hang on "
        "which examples were drawn, and say how many it took",
    )
    parser.add_argument(
        "--agreement",
        type=number("--agreement", 0, 1),
        default=0.95,
        metavar="A",
        help="--until-stable: Jaccard of pruned heads and of FFNs between the ticket and those of re-drawn examples "
        "that is enough (default: %(default)s)",
    )
    parser.add_argument("--cpu", action="store_true", help="run on the CPU where there is a GPU")
    parser.add_argument(
        "--precision",
        choices=("float32", "bf16", "float16"),
        default="float32",
        help="what the model runs in; scores stay float32; float16 on GPUs alone (default: %(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="print the scores as JSON")


def run(args: argparse.Namespace) -> int:
    """Score, save, print."""
    output = writable(args.output)

    def work(device: str, progress: Callable[[int, int], None]) -> ImportanceScores:
        from fairseq_tickets.plugin.scoring import score_checkpoint

        return score_checkpoint(
            args.checkpoint,
            args.data,
            args.split,
            args.granularity,
            args.batch_size,
            args.max_tokens,
            args.limit,
            device,
            args.precision,
            progress,
            args.until_stable,
            args.agreement,
        )

    scores = on_workers("importance", args.cpu, work)
    if scores is None:
        return 0
    scores.save(output)
    if args.json:
        content = {
            "output": str(output),
            "examples": scores.examples,
            "heads": scores.heads.tolist(),
            "ffn": scores.ffn.tolist(),
            "provenance": scores.provenance,
        }
        print(json.dumps(content))
    else:
        print(_table(scores))
        for look in scores.provenance.get("until_stable", {}).get("looks", []):
            agreed = ", ".join(f"{p}: {h:.2f} and {f:.2f}" for p, (h, f) in look["levels"].items())
            print(f"after {look['examples']:,} examples, agreement of pruned heads and FFNs at {agreed}")
        print(f"{scores.examples:,} examples of {args.split}, granularity {args.granularity}; wrote {output}")
    return 0


def _table(scores: ImportanceScores) -> str:
    """Scores by layer: heads normalised within the layer, as pruning ranks them; FFNs raw."""
    from fairseq_tickets.super_ticket.pruning import normalise_heads

    heads = normalise_heads(scores.heads)
    lines = ["heads (divided by their layer's l2 norm) and FFN (raw):"]
    lines.append("layer " + "".join(f"{head:>6}" for head in range(heads.shape[1])) + "         FFN")
    for layer, row in enumerate(heads):
        lines.append(f"{layer:>5} " + "".join(f"{value:6.2f}" for value in row) + f"  {scores.ffn[layer]:10.3e}")
    return "\n".join(lines)
