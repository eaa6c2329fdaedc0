"""`fairseq-tickets dimensions`: the dimension tables of dominant tickets."""

from __future__ import annotations

import argparse

from fairseq_tickets.cli.numbers import whole

DESCRIPTION = """Print which input dimensions a dominant ticket trains, in the layouts of the paper.

One ticket: a row a layer, a column group a matrix (the paper's Table 1). Several tickets: one table a
matrix, a column group a ticket (Tables 5 to 10). --bias: W^O and W^FC2 with the bias highlighted (Table 4).
--recurrence: which dimensions return through the layers, the skeleton as numbers.

  fairseq-tickets dimensions mnli.json
  fairseq-tickets dimensions mnli.json qnli.json sst2.json --matrix v_proj --format latex"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Tickets, layout and output."""
    parser.add_argument("tickets", nargs="+", metavar="TICKET", help="dominant ticket files; NAME=FILE names a column")
    parser.add_argument(
        "--matrix", action="append", default=[], help="only this matrix: q_proj, k_proj, ... (default: all)"
    )
    layout = parser.add_mutually_exclusive_group()
    layout.add_argument("--bias", action="store_true", help="W^O and W^FC2 with the bias highlighted, for each ticket")
    layout.add_argument("--recurrence", action="store_true", help="dimensions that recur through the layers")
    parser.add_argument(
        "--sort", help="count (most out-weighted first) or index (default: count for one ticket, else index)"
    )
    parser.add_argument(
        "--popular",
        type=whole("--popular", 0),
        default=6,
        help="how many recurrent dimensions to highlight (default: %(default)s)",
    )
    parser.add_argument(
        "--at-least",
        type=whole("--at-least", 1),
        default=2,
        help="layers that count as recurring (default: %(default)s)",
    )
    parser.add_argument("--format", default="markdown", help="markdown, csv or latex (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print the recurrence of every dimension as JSON")
    parser.add_argument("--output", metavar="FILE", help="write here instead of standard output")


def run(args: argparse.Namespace) -> int:
    """Make the tables asked for and print them."""
    import json
    import sys

    from fairseq_tickets.analysis import dimensions
    from fairseq_tickets.analysis.markup import render_all
    from fairseq_tickets.analysis.output import emit, named_dominant_tickets, ticket_signature
    from fairseq_tickets.errors import UserError
    from fairseq_tickets.parameters import MATRICES

    for matrix in args.matrix:
        if matrix not in MATRICES:
            raise UserError(f"--matrix {matrix}: must be one of {', '.join(MATRICES)}")
    tickets = named_dominant_tickets(args.tickets)
    matrices = args.matrix or list(MATRICES)
    sort = args.sort or ("count" if len(tickets) == 1 else "index")
    if args.json:
        found = {
            name: {matrix: dimensions.recurrence(ticket, matrix) for matrix in matrices}
            for name, ticket in tickets.items()
        }
        emit(json.dumps({"signature": ticket_signature(args.tickets), "layers": found}, indent=1), args.output)
        return 0
    if args.recurrence:
        tables = [dimensions.recurrence_table(tickets, args.at_least)]
    elif args.bias:
        tables = [dimensions.bias_table(ticket, sort, name) for name, ticket in tickets.items()]
    elif len(tickets) == 1:
        ((name, ticket),) = tickets.items()
        tables = [dimensions.layer_table(ticket, matrices, sort, args.popular, name)]
    else:
        tables = [dimensions.comparison_table(tickets, matrix, sort, args.popular) for matrix in matrices]
    for table in tables:
        table.signature = ticket_signature(args.tickets)
    colour = args.output is None and sys.stdout.isatty()
    emit(render_all(tables, args.format, colour), args.output)
    return 0
