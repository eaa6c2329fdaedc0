"""A situation that once broke a command: what the command finds, the command, and what is right.

Rows stand in `rows_*.py`, a file a kind of input, each with a tuple `CASES`; `test_cases.py` runs them all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

Toy = Path
"""The folder of good inputs made once for all rows: model.pt, data/, tuned.pt, scores.npz; rows never write there."""


@dataclass(frozen=True)
class Case:
    """One row.

    Attributes:
        name: the kind of fault, in words.
        make: writes what the command reads into an empty folder (second argument); the first is the toy folder.
        command: program and arguments, run in that folder; `{toy}` stands for the toy folder.
        code: the exit code that is right.
        says: regular expression that the error line (code not 0) or the output (code 0) holds.
        check: looks at the folder afterwards, for commands that must succeed with the right value.
        leaves: names that may be in the folder afterwards beside those that `make` wrote; nothing else, hidden or not.
    """

    name: str
    make: Callable[[Toy, Path], None]
    command: tuple[str, ...]
    says: str = ""
    code: int = 2
    check: Optional[Callable[[Path], None]] = None
    leaves: tuple[str, ...] = ()
