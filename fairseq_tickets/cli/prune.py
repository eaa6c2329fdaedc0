"""`fairseq-tickets prune`: scores -> super ticket."""

from __future__ import annotations

import argparse
from typing import Any

from fairseq_tickets.cli.numbers import LARGEST_SEED, whole

DESCRIPTION = """Prune a fraction of the attention heads and of the FFNs, at once, by their importance scores.

Head scores are divided by their layer's l2 norm and ranked over all layers; FFNs are ranked among FFNs; a
fraction p prunes floor(p x count). `winning` keeps the highest scores, `losing` the lowest, `random` a
uniform sample of the same numbers. A higher level's ticket is always part of a lower level's.

  fairseq-tickets prune --scores rte.npz --heads 0.2 --ffn 0.2 --output winning.json
  fairseq-tickets prune --scores rte.npz --heads 0.2 --ffn 0.2 --keep random --seed 1 --output random.json

Then train under it:  fairseq-train ... --ticket winning.json"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Files, fractions, and which tickets to keep."""
    parser.add_argument("--scores", required=True, metavar="FILE", help="scores file, made by `importance`")
    parser.add_argument("--heads", required=True, metavar="P", help="fraction of heads to prune, 0 to less than 1")
    parser.add_argument("--ffn", required=True, metavar="P", help="fraction of FFNs to prune, 0 to less than 1")
    parser.add_argument(
        "--keep",
        choices=("winning", "random", "losing"),
        default="winning",
        help="which structures to keep (default: %(default)s)",
    )
    parser.add_argument(
        "--seed", type=whole("--seed", 0, LARGEST_SEED), default=1, help="seed of --keep random (default: %(default)s)"
    )
    parser.add_argument(
        "--min-heads-per-layer",
        type=whole("--min-heads-per-layer", 0),
        default=0,
        metavar="N",
        help="keep at least N heads in every layer: those that would be pruned last (default: %(default)s)",
    )
    parser.add_argument("--output", required=True, metavar="FILE", help="ticket file to write (.json)")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")


def run(args: argparse.Namespace) -> int:
    """Prune, save, print."""
    import json

    from fairseq_tickets.files import sha256
    from fairseq_tickets.scores import ImportanceScores
    from fairseq_tickets.super_ticket.pruning import super_ticket

    scores = ImportanceScores.load(args.scores)
    ticket = super_ticket(
        scores,
        args.heads,
        args.ffn,
        args.keep,
        args.seed,
        args.min_heads_per_layer,
        scores_sha256=sha256(args.scores),
    )
    ticket.save(args.output)
    pruned = {
        "output": str(args.output),
        "keep": args.keep,
        "pruned_heads": [[head for head, kept in enumerate(row) if not kept] for row in ticket.heads],
        "pruned_ffn": [layer for layer, kept in enumerate(ticket.ffn) if not kept],
        "weight_remaining": ticket.provenance["weight_remaining"],
    }
    print(json.dumps(pruned) if args.json else _text(ticket, pruned, args.ffn, args.heads))
    return 0


def _text(ticket: Any, pruned: dict[str, Any], ffn: str, heads: str) -> str:
    shape = ticket.shape
    lines = ["layer  heads kept  FFN     pruned heads"]
    for layer, row in enumerate(pruned["pruned_heads"]):
        fate = "kept" if ticket.ffn[layer] else "pruned"
        kept = f"{shape.heads - len(row)} of {shape.heads}"
        lines.append(f"{layer:>5}  {kept:>10}  {fate:<6}  {' '.join(map(str, row)) or '-'}")
    lines.append(f"{pruned['keep']} {ticket.describe()}")
    for name, fraction, count, total in (
        ("heads", heads, ticket.provenance["pruned_heads"], shape.layers * shape.heads),
        ("ffn", ffn, ticket.provenance["pruned_ffn"], shape.layers),
    ):
        if count == 0:
            lines.append(f"note: --{name} {fraction} prunes none: floor({fraction} x {total}) is 0")
    remaining = pruned["weight_remaining"]
    parts = [f"{100 * remaining['without_embeddings']:.1f} % of the layers"]
    if "encoder" in remaining:
        parts.insert(0, f"{100 * remaining['encoder']:.1f} % of the encoder with its embeddings")
    lines.append(f"weight remaining: {', '.join(parts)}")
    lines.append(f"wrote {pruned['output']}")
    return "\n".join(lines)
