"""`fairseq-tickets claims`: which of the papers' claims do results support?"""

from __future__ import annotations

import argparse

DESCRIPTION = """Hold the claims of both papers against finished runs, one by one: effect, 95 % interval, verdict.

  fairseq-tickets claims runs/demo
  fairseq-tickets claims runs/a/results b=runs/b/results --counts b=runs/b/counts --output RESULTS.md

Results of one experiment and model are judged by themselves, or those of one NAME where NAME=FILE gives them one; two
models are compared where both have a task. Tasks that the full model has not learnt are left out, by name. Two claims
about the shape of dominant tickets are measured on counts of out-weighted parameters, from `extract --counts`."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Inputs and output."""
    parser.add_argument("inputs", nargs="+", metavar="FILE", help="result files or folders of them, or NAME=FILE")
    parser.add_argument(
        "--counts", nargs="+", metavar="FILE", default=[], help="counts of these results, or folders of them; NAME=FILE"
    )
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    parser.add_argument("--output", metavar="FILE", help="write here instead of standard output")


def run(args: argparse.Namespace) -> int:
    """Measure and print."""
    import json

    from fairseq_tickets.analysis.claims.page import judge, markdown, settings_of, to_json
    from fairseq_tickets.analysis.output import emit, experiment_counts, named_results

    results = named_results(args.inputs)
    settings, notes = settings_of(results, experiment_counts(args.counts))
    judged = judge(settings)
    made_from = [*args.inputs, *(["--counts", *args.counts] if args.counts else [])]
    text = json.dumps(to_json(judged), indent=1) if args.json else markdown(judged, notes, results, made_from)
    emit(text, args.output)
    return 0
