"""Nested random subsets of a training split, for experiments on how much data a ticket needs.

For one seed, a smaller subset is always part of a larger one, whatever lines were rejected: every line of the file has
its own place in a fixed order, from a hash of seed and line number.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

from fairseq_tickets.errors import UserError

_SIZE = re.compile(r"(\d+)|(\d*\.\d+|\d+\.)|(\d+\.?\d*|\.\d+) ?%")


def subset_size(text: str, total: int) -> int:
    """Number of examples that "500" (a count), "0.01" (a fraction) or "1%" mean; fractions round down, at least 1.

    Raises:
        UserError: not a size, a fraction outside (0, 1], or a count outside 1 to `total`.
    """
    found = _SIZE.fullmatch(text.strip())
    if not found:
        raise UserError(
            f"--subset {text}: give a count such as 500, a fraction such as 0.01, or a percentage such as 1%"
        )
    if found[1]:
        count = int(found[1])
        if not 1 <= count <= total:
            raise UserError(f"--subset {text}: a count must be 1 to {total}, the number of training examples")
        return count
    share = float(found[2]) if found[2] else float(found[3]) / 100
    if not 0 < share <= 1:
        raise UserError(f"--subset {text}: a fraction must be above 0 and at most 1 (100 %)")
    return max(1, int(share * total + 1e-9))


def nested_subset(lines: Sequence[int], size: int, seed: int) -> list[int]:
    """Positions of `size` of the examples, in file order; `lines` are the examples' line numbers."""
    order = sorted(range(len(lines)), key=lambda p: hashlib.sha256(f"{seed}:{lines[p]}".encode()).digest())
    return sorted(order[:size])
