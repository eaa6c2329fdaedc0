"""`fairseq-tickets table`: the papers' result tables."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from fairseq_tickets.cli.numbers import whole

if TYPE_CHECKING:
    from fairseq_tickets.analysis.results import Result

DESCRIPTION = """Make a table from finished runs.

  levels  winning, random and losing tickets by level, against the full model (the numbers of S's Figure 4)
  early      super tickets found after a part of fine-tuning: distance to the last ones, scores, what is saved
  iterative  super tickets pruned in steps, against those pruned at once
  S1  single-task scores, full model against super tickets, with paired t-tests
  S2  which runs' test predictions to send to the GLUE server
  S3  multi-task learning: MT-DNN against Ticket-Share
  S4  domain adaptation by share of training data
  S5  standard deviation over seeds, method by method
  S6  standard deviation over seeds of the super tickets
  S7  weight remaining in the super tickets
  S8  standard deviation over learning rates
  D2  Dominant-k against Random-k, BitFit and full fine-tuning
  D3  a random 5 % of elements against full fine-tuning
  S, D        every table of the paper that the results allow
  ownership   super tickets owned by one task, shared by most, by all (from ticket files, NAME=FILE)
  importance  ticket importance and task shares, paper S's Figure 6 in numbers (from scores files, NAME=FILE)

  fairseq-tickets table S1 runs/results --format latex --output table1.tex
  fairseq-tickets table ownership RTE=rte.json MRPC=mrpc.json"""


def add_arguments(parser: argparse.ArgumentParser, name: str | None = None) -> None:
    """Name, inputs, format and output; `name` is given where a program of scripts/ makes this one only."""
    if name is None:
        parser.add_argument("name", metavar="NAME", help="which table, from the list above")
    else:
        parser.set_defaults(name=name)
    parser.add_argument(
        "inputs", nargs="+", metavar="FILE", help="result files or folders of them; tickets; scores files"
    )
    parser.add_argument("--model", help="only results of this model")
    parser.add_argument("--experiment", help="only results of this experiment")
    parser.add_argument("--task", action="append", default=[], help="only this task's results; may be repeated")
    parser.add_argument("--seed", type=whole("--seed", 0), nargs="+", default=[], help="only results of these seeds")
    parser.add_argument("--format", default="markdown", help="markdown, csv or latex (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print the cells as JSON")
    parser.add_argument("--output", metavar="FILE", help="write here instead of standard output")


def run(args: argparse.Namespace) -> int:
    """Build the table and print it."""
    import json
    import sys

    from fairseq_tickets.analysis.markup import render_all
    from fairseq_tickets.analysis.output import (
        emit,
        filtered_results,
        named_scores,
        named_super_tickets,
        ticket_signature,
    )
    from fairseq_tickets.analysis.shares import ownership_table, shares_table, task_shares
    from fairseq_tickets.analysis.tables import RESULT_TABLES, result_table, tables_of
    from fairseq_tickets.errors import UserError

    def results() -> list[Result]:
        return filtered_results(args.inputs, args.model, args.experiment, args.task, args.seed)

    if args.name == "ownership":
        tables = [ownership_table(named_super_tickets(args.inputs))]
    elif args.name == "importance":
        tables = [shares_table(task_shares(named_scores(args.inputs)))]
    elif args.name in RESULT_TABLES:
        tables = [result_table(args.name, results())]
    elif args.name in ("S", "D"):
        tables, left_out = tables_of(args.name, results())
        for reason in left_out:
            print(f"fairseq-tickets: {reason}", file=sys.stderr)
    else:
        known = [*RESULT_TABLES, "S", "D", "ownership", "importance"]
        raise UserError(f"table {args.name}: must be one of {', '.join(known)}")
    if args.name in ("ownership", "importance"):
        tables[0].signature = ticket_signature(args.inputs)
    if args.json:
        emit(json.dumps([table.to_json() for table in tables], indent=1), args.output)
    else:
        emit(render_all(tables, args.format), args.output)
    return 0
