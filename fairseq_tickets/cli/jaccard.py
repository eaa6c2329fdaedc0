"""`fairseq-tickets jaccard`: how alike tickets are."""

from __future__ import annotations

import argparse

from fairseq_tickets.cli.numbers import LARGEST_SEED, whole

DESCRIPTION = """Compare tickets: pairwise Jaccard, its mean, and random tickets of the same sizes.

Dominant tickets get three measures: over (layer, matrix, dimension) triples, weighted by parameters,
and the mean of single matrices. Super tickets are compared by kept and pruned heads and FFNs.

  fairseq-tickets jaccard mnli.json qnli.json sst2.json
  fairseq-tickets jaccard --group seeds s1.json s2.json --group tasks mnli.json qnli.json"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Tickets, groups, measures, the random baseline and the output."""
    parser.add_argument("tickets", nargs="*", metavar="TICKET", help="ticket files, compared as one group")
    parser.add_argument(
        "--group",
        nargs="+",
        action="append",
        default=[],
        metavar=("NAME", "TICKET"),
        help="a named group of tickets, compared within itself; may be given several times",
    )
    parser.add_argument("--by", action="append", default=[], metavar="MEASURE", help="only this measure (default: all)")
    parser.add_argument(
        "--draws",
        type=whole("--draws", 1, 100_000),
        default=100,
        help="random draws for the baseline (default: %(default)s)",
    )
    parser.add_argument(
        "--seed", type=whole("--seed", 0, LARGEST_SEED), default=1, help="seed of the baseline (default: %(default)s)"
    )
    parser.add_argument("--format", default="markdown", help="markdown, csv or latex (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("--output", metavar="FILE", help="write here instead of standard output")


def run(args: argparse.Namespace) -> int:
    """Compare and print."""
    import json

    from fairseq_tickets.analysis.markup import render_all
    from fairseq_tickets.analysis.output import emit, named_tickets, ticket_signature
    from fairseq_tickets.analysis.overlap import DOMINANT_MEASURES, SUPER_MEASURES
    from fairseq_tickets.analysis.overlap_tables import compare, similarity_tables
    from fairseq_tickets.errors import UserError

    for measure in args.by:
        if measure not in DOMINANT_MEASURES + SUPER_MEASURES:
            raise UserError(f"--by {measure}: must be one of {', '.join(DOMINANT_MEASURES + SUPER_MEASURES)}")
    files = {"tickets": list(args.tickets)} if args.tickets else {}
    for name, *group in args.group:
        if name in files:
            raise UserError(f"--group {name}: this name is given twice")
        files[name] = group
    if not files:
        raise UserError("give at least two ticket files, or --group NAME TICKET TICKET ...")
    groups = {name: named_tickets(group) for name, group in files.items()}
    found = compare(groups, args.draws, args.seed, args.by)
    if not found:
        raise UserError(f"--by {', '.join(args.by)}: no such measure for tickets of this kind")
    everything = [path for group in files.values() for path in group]
    signature = f"{ticket_signature(everything)}|draws={args.draws}|seed={args.seed}"
    if args.json:
        emit(
            json.dumps({"signature": signature, "similarities": [s.to_json() for s in found]}, indent=1),
            args.output,
        )
    else:
        emit(render_all(similarity_tables(found, signature), args.format), args.output)
    return 0
