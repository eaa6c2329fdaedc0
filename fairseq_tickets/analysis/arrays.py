"""The old place of `fairseq_tickets.scores` and `fairseq_tickets.counts`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fairseq_tickets.counts import DimensionCounts
from fairseq_tickets.files import PathLike


def save_counts(path: PathLike, counts: Mapping[str, Any], provenance: Mapping[str, Any]) -> None:
    """Write a counts file."""
    DimensionCounts(dict(counts), dict(provenance)).save(path)
