"""`fairseq-tickets show`: any file of this package, for reading in a terminal."""

from __future__ import annotations

import argparse
from pathlib import Path

from fairseq_tickets.errors import UserError

DESCRIPTION = """Print a file for reading: what it is, a map of kept heads or the top dimensions, provenance.

  fairseq-tickets show ticket.json
  fairseq-tickets show runs/results/RTE-winning-0.2-seed1-fa39f0f1.json

Knows tickets, results (.json; .jsonl of many), scores, counts and saliences (.npz), and deltas (.safetensors)."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The file; there is nothing else to remember."""
    parser.add_argument("file", metavar="FILE", help="ticket, result, scores, counts, salience or delta file")


def run(args: argparse.Namespace) -> int:
    """Find out what the file is and print it."""
    print(text_of(args.file).rstrip("\n"))
    return 0


def text_of(path: str) -> str:
    """The file as text.

    Raises:
        UserError: no such file, damaged, or of a kind that this package does not know.
    """
    from fairseq_tickets.analysis import reading
    from fairseq_tickets.analysis.report.gather import kind_of
    from fairseq_tickets.analysis.results import load_results
    from fairseq_tickets.counts import DimensionCounts
    from fairseq_tickets.saliences import DimensionSalience
    from fairseq_tickets.scores import ImportanceScores
    from fairseq_tickets.tickets import load_ticket

    if Path(path).is_dir():
        raise UserError(f"{path} is a folder; show prints one file (fairseq-tickets report shows a folder of them)")
    if Path(path).suffix == ".safetensors":
        return _delta_text(path)
    kind = kind_of(path)
    if kind in ("super", "dominant"):
        return reading.ticket_text(load_ticket(path))
    if kind == "result":
        return reading.result_text(load_results([path])[0])
    if kind == "results":
        return reading.results_text(load_results([path]))
    if kind == "scores":
        return reading.scores_text(ImportanceScores.load(path))
    if kind == "counts":
        return reading.counts_text(DimensionCounts.load(path))
    if kind == "salience":
        return reading.salience_text(DimensionSalience.load(path))
    raise UserError(f"{path} is no ticket, result, scores, counts, salience or delta file of this package")


def _delta_text(path: str) -> str:
    from fairseq_tickets.analysis.reading import ticket_text
    from fairseq_tickets.dominant_ticket.delta import load_delta

    delta = load_delta(path)
    trained = sum(columns.numel() for columns in delta.columns.values())
    lines = [f"delta: {trained:,} trained values of a base with the fingerprint {delta.base}"]
    lines += [f"  {name}: {' x '.join(map(str, tensor.shape))}" for name, tensor in sorted(delta.heads.items())]
    return "\n".join([*lines, "", ticket_text(delta.ticket)])
