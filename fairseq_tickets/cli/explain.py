"""`fairseq-tickets explain`: is a dimension dominant because its input is large?"""

from __future__ import annotations

import argparse

DESCRIPTION = """Why these dimensions? Compare where L1 fine-tuning moved a model with how large its inputs are.

  fairseq-tickets extract ... --counts counts.npz
  fairseq-tickets salience --pretrained BASE --data DATA --metric activation --output t.json --salience inputs.npz
  fairseq-tickets explain counts.npz inputs.npz --plot explain.pdf

For every matrix: the rank correlation (Spearman, mean over layers, 95 % bootstrap interval over dimensions) of the
out-weighted counts with the root mean square of the input and, where a layer norm feeds the matrix, with its gain; and
in how many layers the largest input is the dominant dimension."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Two files and what to make."""
    parser.add_argument("counts", metavar="COUNTS", help="counts file of `extract --counts`")
    parser.add_argument("salience", metavar="SALIENCE", help="file of `salience --metric activation --salience`")
    parser.add_argument("--plot", action="append", default=[], metavar="FILE", help="figure to draw; may be repeated")
    parser.add_argument("--format", default="markdown", help="markdown, csv or latex (default: %(default)s)")
    parser.add_argument("--output", metavar="FILE", help="write the table here instead of to standard output")


def run(args: argparse.Namespace) -> int:
    """Correlate, print, draw."""
    from fairseq_tickets.analysis import figure_style
    from fairseq_tickets.analysis.explain import correlations
    from fairseq_tickets.analysis.explain_table import explain_table
    from fairseq_tickets.analysis.figures_explain import explain
    from fairseq_tickets.analysis.markup import render
    from fairseq_tickets.analysis.output import emit, ticket_signature
    from fairseq_tickets.counts import DimensionCounts
    from fairseq_tickets.saliences import DimensionSalience

    counts, salience = DimensionCounts.load(args.counts), DimensionSalience.load(args.salience)
    found = correlations(counts, salience)
    source = ticket_signature([args.counts, args.salience])
    text = render(explain_table(found, source), args.format)
    for path in args.plot:
        figure_style.save(explain(counts, salience, found), path, source)
    emit(text, args.output)
    return 0
