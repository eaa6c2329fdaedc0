"""How alike tickets are: Jaccard similarity J(A, B) = |A ∩ B| / |A ∪ B| (paper D, section 4.3, equation 4).

The paper does not say over which sets. Three are computed for dominant tickets, each under its name:
`dimension` over (layer, matrix, dimension) triples; `parameters` over the trainable parameters, so that a
dimension of FC1 weighs its out_features; `matrix` the mean of the values of single matrices, leaving out
those empty in both tickets. For super tickets: kept heads, kept FFNs, pruned heads, pruned FFNs. Two empty
sets are the same set: J = 1.

The baseline are random tickets of the same sizes in every matrix, drawn without replacement over in_features
+ 1 (the bias included), both simulated and exact: an intersection of random sets is hypergeometric, matrices
are independent.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from fairseq_tickets.analysis.statistics import spread
from fairseq_tickets.errors import UserError
from fairseq_tickets.tickets import DominantTicket, SuperTicket, Ticket

DOMINANT_MEASURES = ("dimension", "parameters", "matrix")
SUPER_MEASURES = ("kept heads", "kept FFNs", "pruned heads", "pruned FFNs")


class Block(NamedTuple):
    """One place where a set is chosen: `chosen` out of `universe` numbered things, each weighing `weight`
    parameters.
    """

    chosen: frozenset[int]
    universe: int
    weight: int


Blocks = Sequence[Block]


class Baseline(NamedTuple):
    """Similarity of random tickets: mean and deviation over simulated draws, and the exact expectation."""

    mean: float
    sd: float
    expected: float
    draws: int


def jaccard(a: Blocks, b: Blocks, measure: str) -> float:
    """Similarity of two tickets given as blocks in the same order; `measure` is one of the names above."""
    if measure == "matrix":
        values = [len(x.chosen & y.chosen) / len(x.chosen | y.chosen) for x, y in zip(a, b) if x.chosen or y.chosen]
        return math.fsum(values) / len(values) if values else 1.0
    weights = [x.weight if measure == "parameters" else 1 for x in a]
    common = sum(w * len(x.chosen & y.chosen) for w, x, y in zip(weights, a, b))
    either = sum(w * len(x.chosen | y.chosen) for w, x, y in zip(weights, a, b))
    return common / either if either else 1.0


def blocks_of(ticket: Ticket, measure: str) -> list[Block]:
    """The sets that `measure` compares."""
    if isinstance(ticket, DominantTicket):
        shape = ticket.shape
        return [
            Block(frozenset(dims), shape.in_features(matrix) + 1, shape.out_features(matrix))
            for _, matrix, dims in ticket.items()
        ]
    flags = [v for row in ticket.heads for v in row] if measure.endswith("heads") else list(ticket.ffn)
    wanted = 1 if measure.startswith("kept") else 0
    return [Block(frozenset(i for i, v in enumerate(flags) if v == wanted), len(flags), 1)]


def measures_for(tickets: Mapping[str, Ticket]) -> tuple[str, ...]:
    """The measures for these tickets.

    Raises:
        UserError: fewer than two tickets, tickets of both kinds, or of different model sizes (named).
    """
    if len(tickets) < 2:
        raise UserError(f"a comparison needs at least 2 tickets, got {len(tickets)}")
    (first_name, first), *others = tickets.items()
    for name, ticket in others:
        if type(ticket) is not type(first):
            raise UserError(f"{first_name} and {name} are tickets of different kinds; they cannot be compared")
        ticket.validate_for(first.shape, name)
    return DOMINANT_MEASURES if isinstance(first, DominantTicket) else SUPER_MEASURES


def pairwise(tickets: Mapping[str, Ticket], measure: str) -> list[list[float]]:
    """Square matrix of similarities, in the order of `tickets`; 1 on the diagonal."""
    blocks = [blocks_of(ticket, measure) for ticket in tickets.values()]
    return [[jaccard(a, b, measure) for b in blocks] for a in blocks]


def similarity(a: Ticket, b: Ticket) -> dict[str, float]:
    """How alike two tickets are: the Jaccard similarity by every measure of their kind.

    Raises:
        UserError: they are of different kinds or model sizes.
    """
    tickets = {"the first ticket": a, "the second ticket": b}
    return {measure: pairwise(tickets, measure)[0][1] for measure in measures_for(tickets)}


def mask_distance(a: SuperTicket, b: SuperTicket) -> dict[str, float]:
    """Hamming distance of the masks of two super tickets, of "heads" and of "FFNs": the part of them that one keeps and
    the other prunes, 0 to 1 (You et al. 2020, "Drawing early-bird tickets", section 3).

    Raises:
        UserError: they are of different model sizes.
    """
    b.validate_for(a.shape, "the second ticket")
    masks = {"heads": (sum(a.heads, []), sum(b.heads, [])), "FFNs": (a.ffn, b.ffn)}
    return {kind: sum(x != y for x, y in zip(one, other)) / len(one) for kind, (one, other) in masks.items()}


def mean_similarity(matrix: Sequence[Sequence[float]]) -> float:
    """Mean over the pairs above the diagonal."""
    return spread([matrix[i][j] for i in range(len(matrix)) for j in range(i + 1, len(matrix))]).mean


def random_baseline(tickets: Mapping[str, Ticket], measure: str, draws: int, seed: int) -> Baseline:
    """Mean pairwise similarity of random tickets with the sizes of `tickets`.

    Args:
        tickets: name -> ticket, at least two of one kind and model size.
        measure: name of the measure.
        draws: how many times a whole set of random tickets is drawn, at least 1.
        seed: of the random generator; the same seed gives the same numbers.

    Raises:
        UserError: draws below 1.
    """
    if draws < 1:
        raise UserError(f"--draws {draws}: must be at least 1")
    blocks = [blocks_of(ticket, measure) for ticket in tickets.values()]
    generator = np.random.default_rng(seed)
    means = []
    for _ in range(draws):
        drawn = [[_redraw(block, generator) for block in ticket] for ticket in blocks]
        means.append(mean_similarity([[jaccard(a, b, measure) for b in drawn] for a in drawn]))
    exact = [
        expected_jaccard(blocks[i], blocks[j], measure) for i in range(len(blocks)) for j in range(i + 1, len(blocks))
    ]
    found = spread(means)
    return Baseline(found.mean, 0.0 if math.isnan(found.sd) else found.sd, spread(exact).mean, draws)


def expected_jaccard(a: Blocks, b: Blocks, measure: str) -> float:
    """Exact expectation of `jaccard` for two independent random tickets with the sizes of `a` and `b`."""
    sizes = tuple((len(x.chosen), len(y.chosen), x.universe, x.weight) for x, y in zip(a, b))
    return _expected(sizes, measure)


@lru_cache(maxsize=64)
def _expected(sizes: tuple[tuple[int, int, int, int], ...], measure: str) -> float:
    """The same from (size in a, size in b, universe, weight) of every block; most pairs of tickets share it."""
    if measure == "matrix":
        values = [
            sum(p * k / (m + n - k) for k, p in _common(m, n, universe).items())
            for m, n, universe, _ in sizes
            if m or n
        ]
        return math.fsum(values) / len(values) if values else 1.0
    weights = [weight if measure == "parameters" else 1 for *_, weight in sizes]
    total = sum(w * (m + n) for w, (m, n, _, _) in zip(weights, sizes))
    if not total:
        return 1.0
    overlap = {0: 1.0}  # weight of the intersection -> probability, one block after the other
    for w, (m, n, universe, _) in zip(weights, sizes):
        grown: dict[int, float] = {}
        for k, p in _common(m, n, universe).items():
            for common, q in overlap.items():
                grown[common + w * k] = grown.get(common + w * k, 0.0) + p * q
        overlap = grown
    return math.fsum(p * common / (total - common) for common, p in overlap.items())


def _common(m: int, n: int, universe: int) -> dict[int, float]:
    """Hypergeometric: probability of k common elements of random sets of m and n out of `universe`."""
    ways = math.comb(universe, n)
    return {
        k: math.comb(m, k) * math.comb(universe - m, n - k) / ways
        for k in range(max(0, m + n - universe), min(m, n) + 1)
    }


def _redraw(block: Block, generator: np.random.Generator) -> Block:
    drawn = generator.choice(block.universe, size=len(block.chosen), replace=False)
    return block._replace(chosen=frozenset(int(i) for i in drawn))
