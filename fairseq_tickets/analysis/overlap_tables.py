"""Tables of Jaccard similarities: pairwise matrices, means, groups and the random baseline (paper D, section
4.3).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from fairseq_tickets.analysis.markup import Cell, Table, cells, columns
from fairseq_tickets.analysis.overlap import (
    Baseline,
    mean_similarity,
    measures_for,
    pairwise,
    random_baseline,
)
from fairseq_tickets.tickets import Ticket

MEANING = {
    "dimension": "Jaccard over (layer, matrix, dimension) triples",
    "parameters": "Jaccard weighted by parameters: a dimension weighs its matrix's out_features",
    "matrix": "mean of the Jaccard values of single matrices, those empty in both tickets left out",
    "kept heads": "Jaccard over the attention heads kept",
    "kept FFNs": "Jaccard over the FFNs kept",
    "pruned heads": "Jaccard over the attention heads pruned",
    "pruned FFNs": "Jaccard over the FFNs pruned",
}


class Similarity(NamedTuple):
    """One measure over one group of tickets."""

    group: str
    measure: str
    names: list[str]
    matrix: list[list[float]]
    mean: float
    random: Baseline

    def to_json(self) -> dict[str, Any]:
        """Content for --json."""
        return {**self._asdict(), "random": self.random._asdict()}


def compare(
    groups: Mapping[str, Mapping[str, Ticket]], draws: int, seed: int, only: Sequence[str] = ()
) -> list[Similarity]:
    """Every measure over every group.

    Args:
        groups: group name -> ticket name -> ticket.
        draws: random draws for the baseline.
        seed: of the baseline.
        only: measures wanted; empty for all.

    Raises:
        UserError: a group with fewer than two tickets, or with tickets that cannot be compared.
    """
    found = []
    for group, tickets in groups.items():
        for measure in measures_for(tickets):
            if only and measure not in only:
                continue
            matrix = pairwise(tickets, measure)
            random = random_baseline(tickets, measure, draws, seed)
            found.append(Similarity(group, measure, list(tickets), matrix, mean_similarity(matrix), random))
    return found


def similarity_tables(found: Sequence[Similarity], signature: str = "") -> list[Table]:
    """One summary with a row for each group and measure, then each pairwise matrix."""
    rows = [
        [
            *cells(s.group, s.measure, str(len(s.names))),
            Cell(f"{s.mean:.3f}", bold=True),
            *cells(f"{s.random.mean:.3f} ± {s.random.sd:.3f}", f"{s.random.expected:.3f}"),
        ]
        for s in found
    ]
    notes = [f"{m}: {MEANING[m]}" for m in dict.fromkeys(s.measure for s in found)]
    draws = sorted({s.random.draws for s in found})
    notes.append(
        f"random: tickets of the same sizes in every matrix, mean ± deviation over "
        f"{'/'.join(map(str, draws))} draws, beside the exact expectation"
    )
    header = columns("group", "measure", "tickets", "mean Jaccard", "random, drawn", "random, exact")
    tables = [Table("Jaccard similarity of tickets, mean over pairs", header, rows, notes, signature)]
    for s in found:
        grid = [[Cell(name), *(Cell(f"{v:.3f}") for v in row)] for name, row in zip(s.names, s.matrix)]
        tables.append(Table(f"{s.group}, {s.measure}", columns("ticket", *s.names), grid, [], signature))
    return tables
