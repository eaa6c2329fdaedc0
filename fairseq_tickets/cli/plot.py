"""`fairseq-tickets plot`: the papers' figures."""

from __future__ import annotations

import argparse

from fairseq_tickets.cli.numbers import whole

DESCRIPTION = """Make a figure of the papers, as PDF, PNG or SVG by the output's suffix.

  from result files (files or folders):
    phase-transition  score against weight remaining: winning, random, losing, full (paper S, Figures 1, 4, 7)
    gain              gain of super tickets and their weight remaining, by task (S, Figure 3)
    subsets           phase transition on shares of the training data (S, Figure 5)
    curves            training loss, training accuracy, validation score against updates (D, Figure 3)
  from scores files, one a task (NAME=FILE or FILE):
    importance        ticket importance and task shares (S, Figure 6): --style pies or map
  from counts files of `extract`, one a task:
    out-weighted      where parameters moved beyond sigma, by matrix, layer, dimension (D, Figure 2)
  from dominant tickets:
    skeleton          which dimensions recur through the layers

  fairseq-tickets plot phase-transition runs/results --output phase.pdf
  fairseq-tickets plot importance RTE=rte.npz MRPC=mrpc.npz --style map --output importance.png"""


def add_arguments(parser: argparse.ArgumentParser, name: str | None = None) -> None:
    """Name, inputs and output; `name` is given where a program of scripts/ makes this one only."""
    if name is None:
        parser.add_argument("name", metavar="NAME", help="which figure, from the list above")
    else:
        parser.set_defaults(name=name)
    parser.add_argument("inputs", nargs="+", metavar="FILE", help="what the figure is made from")
    parser.add_argument(
        "--output", required=True, action="append", metavar="FILE", help=".pdf, .png or .svg; may be repeated"
    )
    parser.add_argument("--split", default="all", help="dev scores: all, or report, the 90%% not selected on")
    parser.add_argument("--style", default="pies", help="importance: pies or map (default: %(default)s)")
    parser.add_argument(
        "--at-least", type=whole("--at-least", 1), default=2, help="skeleton: layers that count as recurring"
    )
    parser.add_argument("--task", action="append", default=[], help="only this task's results; may be repeated")
    parser.add_argument("--model", help="only results of this model")
    parser.add_argument("--experiment", help="only results of this experiment")


def run(args: argparse.Namespace) -> int:
    """Draw and save."""
    from pathlib import Path

    from fairseq_tickets.analysis import figure_style, figures_dominant, figures_shares, figures_super, output
    from fairseq_tickets.analysis.results import signature
    from fairseq_tickets.analysis.shares import task_shares
    from fairseq_tickets.errors import UserError

    from_results = {
        "phase-transition": lambda results: figures_super.phase_transition(results, args.split),
        "gain": lambda results: figures_super.gain(results, args.split),
        "subsets": lambda results: figures_super.training_subsets(results, args.split),
        "curves": figures_dominant.training_curves,
    }
    styles = {"pies": figures_shares.importance_pies, "map": figures_shares.importance_map}
    if args.split not in ("all", "report"):
        raise UserError(f"--split {args.split}: must be all or report")
    if args.style not in styles:
        raise UserError(f"--style {args.style}: must be pies or map")
    for path in args.output:
        if Path(path).suffix.lower() not in figure_style.SUFFIXES:
            raise UserError(f"--output {path}: {figure_style.SUFFIX_RULE}")
    if args.name in from_results:
        results = output.filtered_results(args.inputs, args.model, args.experiment, args.task)
        figure, source = from_results[args.name](results), signature(results)
    elif args.name == "importance":
        figure = styles[args.style](task_shares(output.named_scores(args.inputs)))
        source = output.ticket_signature(args.inputs)
    elif args.name == "out-weighted":
        figure = figures_dominant.out_weighted(output.named_counts(args.inputs))
        source = output.ticket_signature(args.inputs)
    elif args.name == "skeleton":
        figure = figures_dominant.skeleton(output.named_dominant_tickets(args.inputs), args.at_least)
        source = output.ticket_signature(args.inputs)
    else:
        known = [*from_results, "importance", "out-weighted", "skeleton"]
        raise UserError(f"plot {args.name}: must be one of {', '.join(known)}")
    for path in args.output:
        figure_style.save(figure, path, source)
    return 0
