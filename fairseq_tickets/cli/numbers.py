"""Numbers on the command line: argparse types with a range, whose errors are one line like all others."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

from fairseq_tickets.documents import shown
from fairseq_tickets.errors import UserError

MANY = 1 << 31  # no count of examples, tokens or dimensions is larger
LARGEST_SEED = 2**32 - 1  # NumPy's old generator, which fairseq seeds, takes no more


def whole(option: str, low: int, high: int = MANY) -> Callable[[str], int]:
    """A whole number from `low` to `high`, written in decimal digits; UserError names `option`."""

    def read(text: str) -> int:
        if not re.fullmatch(r"[+-]?[0-9]{1,20}", text.strip()):
            raise UserError(f"{option} is {shown(text)}; it must be a whole number")
        return int(_ranged(option, text, int(text), low, high))

    return read


def number(option: str, low: float, high: float) -> Callable[[str], float]:
    """A number from `low` to `high`; UserError names `option`."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value) or "_" in text:
            raise UserError(f"{option} is {shown(text)}; it must be a number")
        return _ranged(option, text, value, low, high)

    return read


def _ranged(option: str, text: str, value: float, low: float, high: float) -> float:
    if value < low:
        raise UserError(f"{option} is {shown(text).strip(chr(39))}; it must be at least {low}")
    if value > high:
        raise UserError(f"{option} is {shown(text).strip(chr(39))}; it must be at most {high}")
    return value
