"""What the claims about the shape of dominant tickets are measured with: overlap, recurrence, concentration.

Everything is held against random tickets of the same sizes. Tickets are those in the results of Dominant-k runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from fairseq_tickets.analysis.claims.claim import Finding, Setting
from fairseq_tickets.analysis.claims.pairs import Values, finding, joined_finding, single_task
from fairseq_tickets.analysis.dimensions import SPACES
from fairseq_tickets.analysis.effects import pseudo_values
from fairseq_tickets.analysis.overlap import blocks_of, expected_jaccard, jaccard
from fairseq_tickets.analysis.results import select
from fairseq_tickets.analysis.statistics import spread
from fairseq_tickets.counts import DimensionCounts
from fairseq_tickets.parameters import MATRICES
from fairseq_tickets.tickets import DominantTicket, ticket_from_json

Tickets = dict[tuple[str, int], DominantTicket]  # (task, seed) -> ticket
DRAWS = 200
MEASURE = "dimension"


def tickets_of(setting: Setting, method: str = "dominant") -> Tickets:
    """Each task's and seed's ticket with the most dimensions a matrix."""
    runs = [run for run in select(single_task(setting), method=method) if run.ticket is not None]
    found: Tickets = {}
    for run in sorted(runs, key=lambda run: run.top_k or 0):
        ticket = ticket_from_json(run.ticket, run.path)
        if isinstance(ticket, DominantTicket):
            found[run.task, run.seed] = ticket
    return found


def beyond_chance(a: DominantTicket, b: DominantTicket) -> float:
    """Jaccard similarity of two tickets less what two random ones of these sizes have."""
    one, other = blocks_of(a, MEASURE), blocks_of(b, MEASURE)
    return jaccard(one, other, MEASURE) - expected_jaccard(one, other, MEASURE)


def across_seeds(setting: Setting) -> Finding | None:
    """Similarity over the pairs of a task's seeds; at least 3 seeds."""
    tickets = tickets_of(setting)
    values: Values = {}
    for task in sorted({task for task, _ in tickets}):
        own = {seed: ticket for (t, seed), ticket in tickets.items() if t == task}
        if len(own) > 2:
            pairs = [[beyond_chance(a, b) for b in own.values()] for a in own.values()]
            values.update({(task, seed): value for seed, value in zip(own, pseudo_values(pairs))})
    return finding(setting.name, values)


def across_tasks(setting: Setting) -> Finding | None:
    """Similarity over the pairs of a seed's tasks."""
    tickets = tickets_of(setting)
    values: Values = {}
    for (task, seed), ticket in tickets.items():
        for (other, same), twin in tickets.items():
            if same == seed and task < other:
                values[f"{task} and {other}", seed] = beyond_chance(ticket, twin)
    return joined_finding(setting.name, values)


def like_salience(setting: Setting) -> Finding | None:
    """Similarity of the ticket of one pass and that of the L1 run, same task and seed, at the latter's sizes."""
    found, known = tickets_of(setting, "salience"), tickets_of(setting)
    values = {p: beyond_chance(_as_large(found[p], known[p]), known[p]) for p in sorted(found) if p in known}
    return finding(setting.name, values)


def _as_large(ticket: DominantTicket, as_this: DominantTicket) -> DominantTicket:
    """The first dimensions of each matrix, no more of them than `as_this` has there."""
    rows = {
        matrix: [dims[: len(kept)] for dims, kept in zip(ticket.dimensions[matrix], as_this.dimensions[matrix])]
        for matrix in MATRICES
    }
    return DominantTicket(ticket.shape, rows)


def recurring(ticket: DominantTicket) -> float:
    """Share of the matrices that read the residual stream and aren't empty which have the commonest dimension."""
    rows = [dims for _, matrix, dims in ticket.items() if SPACES[matrix] == "residual stream" and dims]
    return _commonest(rows, ticket.shape.embed_dim)


def _commonest(rows: Sequence[Iterable[int]], bias: int) -> float:
    seen = np.zeros(bias + 1, dtype=np.int64)
    for dims in rows:
        seen[list(dims)] += 1
    return float(seen[:bias].max()) / len(rows) if rows else 0.0


def recurs(setting: Setting) -> Finding | None:
    """`recurring`, less its mean for random tickets of the same sizes."""
    draw = np.random.default_rng(1)
    values: Values = {}
    for place, ticket in sorted(tickets_of(setting).items()):
        width = ticket.shape.embed_dim
        sizes = [len(dims) for _, m, dims in ticket.items() if SPACES[m] == "residual stream" and dims]
        drawn = [
            _commonest([draw.choice(width + 1, size, replace=False) for size in sizes], width) for _ in range(DRAWS)
        ]
        values[place] = recurring(ticket) - spread(drawn).mean
    return finding(setting.name, values)


def bias_in(matrices: Sequence[str], setting: Setting) -> Finding | None:
    """Share of these matrices, of those that have dimensions at all, whose dimensions include the bias, less chance."""
    values: Values = {}
    for place, ticket in tickets_of(setting).items():
        rows = [(ticket.shape.in_features(m), dims) for _, m, dims in ticket.items() if m in matrices and dims]
        if rows:
            values[place] = spread([(width in dims) - len(dims) / (width + 1) for width, dims in rows]).mean
    return finding(setting.name, values)


def correlated(setting: Setting) -> Finding | None:
    """Correlation over all dimensions of all matrices of how many parameters moved, over pairs of a seed's tasks."""
    vectors = {place: _vector(counts) for place, counts in setting.counts.items()}
    values: Values = {}
    for (task, seed), vector in vectors.items():
        for (other, same), twin in vectors.items():
            if same == seed and task < other and vector.shape == twin.shape and vector.any() and twin.any():
                values[f"{task} and {other}", seed] = float(np.corrcoef(vector, twin)[0, 1])
    return joined_finding(setting.name, values)


def _vector(counts: DimensionCounts) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    return np.concatenate([counts.counts[matrix].ravel() for matrix in MATRICES]).astype(np.float64)


def concentrated(setting: Setting, top: int = 3) -> Finding | None:
    """Share of the parameters that moved which lie in the first `top` dimensions of their matrix, less that of as many
    parameters strewn over the matrix at random."""
    draw = np.random.default_rng(1)
    values = {
        place: value
        for place, counts in sorted(setting.counts.items())
        if (value := _concentration(counts, top, draw)) is not None
    }
    return finding(setting.name, values)


def _concentration(counts: DimensionCounts, top: int, draw: np.random.Generator) -> float | None:
    moved, first, strewn = 0, 0.0, 0.0
    for matrix in MATRICES:
        out = counts.out_features(matrix)
        for row in counts.counts[matrix]:
            total = int(row.sum())
            if total:
                drawn = draw.multivariate_hypergeometric([out] * len(row), total, size=DRAWS, method="marginals")
                moved += total
                first += float(np.sort(row)[-top:].sum())
                strewn += float(np.sort(drawn, axis=1)[:, -top:].sum(axis=1).mean())
    return (first - strewn) / moved if moved else None
