"""`fairseq-tickets user-dir`: the folder for --user-dir."""

from __future__ import annotations

import argparse
from pathlib import Path

DESCRIPTION = """Print the folder that fairseq takes as --user-dir.

  fairseq-train --user-dir "$(fairseq-tickets user-dir)" --task ticket_sentence_prediction ..."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No options."""


def run(args: argparse.Namespace) -> int:
    """Print the package's own folder."""
    print(Path(__file__).resolve().parent.parent)
    return 0
