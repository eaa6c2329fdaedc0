"""Options of `prune`."""

from __future__ import annotations

from pathlib import Path

from .case import Case


def nothing(toy: Path, at: Path) -> None:
    """The command reads the toy folder alone."""


PRUNE = ("fairseq-tickets", "prune", "--scores", "{toy}/scores.npz", "--output", "t.json", "--ffn", "0.4")

CASES = (
    Case("pruning everything", nothing, (*PRUNE, "--heads", "1"), r"heads is 1; it must be"),
    Case("pruning a part", nothing, (*PRUNE, "--heads", "0.3"), code=0, leaves=("t.json",)),
)
