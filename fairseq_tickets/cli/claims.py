"""`fairseq-tickets claims`: which of the papers' claims do results support?"""

from __future__ import annotations

import argparse

DESCRIPTION = """Hold the claims of both papers against finished runs, one by one: effect, 95 % interval, verdict.

  fairseq-tickets claims runs/results
  fairseq-tickets claims examples/*/results examples/*/results/counts/*.npz --output RESULTS.md

Results of one experiment and model are judged by themselves, or those of one NAME where NAME=FILE gives them one; two
models are compared where both have a task. Two claims about the shape of dominant tickets are measured on counts of
out-weighted parameters (.npz, from `extract`; NAME=FILE). Tasks that the full model has not learnt are left out, by
name."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Inputs and output."""
    parser.add_argument("inputs", nargs="+", metavar="FILE", help="result files or folders of them; files of counts")
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    parser.add_argument("--output", metavar="FILE", help="write here instead of standard output")


def run(args: argparse.Namespace) -> int:
    """Measure and print."""
    import json

    from fairseq_tickets.analysis.claims.page import judge, markdown, settings_of, to_json
    from fairseq_tickets.analysis.output import emit, experiment_counts, named_results, split_name

    counts = [argument for argument in args.inputs if split_name(argument)[1].endswith(".npz")]
    results = named_results([argument for argument in args.inputs if argument not in counts])
    settings, notes = settings_of(results, experiment_counts(counts))
    judged = judge(settings)
    text = json.dumps(to_json(judged), indent=1) if args.json else markdown(judged, notes, results, args.inputs)
    emit(text, args.output)
    return 0
