"""`fairseq-tickets report`: every experiment as one page for the browser."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fairseq_tickets.errors import UserError

if TYPE_CHECKING:
    from fairseq_tickets.analysis.report.explorers import Order
    from fairseq_tickets.analysis.report.gather import Material

DESCRIPTION = """Write one self-contained page: phase transitions, ticket explorers, sharing, costs, tables, runs.

  fairseq-tickets report runs/demo --output report.html
  fairseq-tickets report runs/results --tickets tickets/*.json --scores RTE=rte.npz --counts counts/* --output r.html

Inputs are result files (.json, .jsonl), tickets, scores, counts and saliences, or folders that are searched for them.
The page needs no network and no server. A file that is damaged or of another kind is named and left out, and the exit
code is then 1; it is 2 when nothing was written. Needs the extra: pip install 'fairseq_tickets[report]'"""
SOME_LEFT_OUT = 1
KINDS = ("tickets", "counts", "scores", "saliences")  # options that name files of one kind


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to show, and where to."""
    parser.add_argument("inputs", nargs="*", metavar="FILE", help="result files and others, or folders of them")
    for option in KINDS:
        parser.add_argument(
            f"--{option}", nargs="+", default=[], metavar="FILE", help=f"{option} files; NAME=FILE names one"
        )
    parser.add_argument("--title", default="Tickets", help="of the page (default: %(default)s)")
    parser.add_argument("--output", required=True, metavar="FILE", help="the page, for example report.html")


def run(args: argparse.Namespace) -> int:
    """Read, write the page, and say what was left out."""
    named = {kind: getattr(args, kind) for kind in KINDS}
    if not (args.inputs or any(named.values())):
        options = ", ".join(f"--{kind}" for kind in KINDS)
        raise UserError(f"nothing to report on: name result files, or one of {options}")
    warnings = write_report(args.inputs, args.output, args.title, **named)
    for warning in warnings:
        print(f"fairseq-tickets: left out: {warning}", file=sys.stderr)
    print(f"report: {args.output}")
    return SOME_LEFT_OUT if warnings else 0


def write_report(inputs: Sequence[str], output: str, title: str, **named: Sequence[str]) -> list[str]:
    """Write the page; returns a line for each file that was left out.

    Args:
        named: files of one kind each: see `gather.gather`.

    Raises:
        UserError: nothing to show, the extra is missing, or the page can't be written.
    """
    from fairseq_tickets.analysis.report import charts
    from fairseq_tickets.analysis.report.gather import gather
    from fairseq_tickets.analysis.report.page import write_page

    charts.library()
    found = gather(inputs, **named)
    write_page(output, found, orders_of(found), title)
    return found.warnings


def end_with_report(folder: Path, output: Path) -> None:
    """The report at the end of `run` and `demo`: one line says where it is, or why there is none."""
    try:
        for warning in write_report([str(folder)], str(output), f"Tickets of {folder.name}"):
            print(f"fairseq-tickets: left out of the report: {warning}", file=sys.stderr)
    except UserError as error:
        print(f"no report: {error}", file=sys.stderr)
    else:
        print(f"report: {output}", file=sys.stderr)


def orders_of(found: Material) -> dict[str, Order]:
    """How `prune` cuts by each of the scores."""
    from fairseq_tickets.analysis.report.explorers import Order
    from fairseq_tickets.super_ticket.pruning import prune_count, pruning_orders

    orders = {}
    for name, scores in found.scores.items():
        heads, ffn = pruning_orders(scores, "winning", 0)
        cuts = [
            [prune_count(f"{percent / 100:.2f}", n, "level") for percent in range(100)] for n in (len(heads), len(ffn))
        ]
        orders[name] = Order(heads, ffn, *cuts)
    return orders
