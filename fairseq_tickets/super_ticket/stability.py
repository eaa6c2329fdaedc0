"""How many examples does importance need? Until the tickets no longer hang on which examples were drawn.

Paper S averages |∂L(x)/∂ξ| over the whole training set, but a ticket is only an order of heads and FFNs. The examples
are scored in random blocks of equal size. A bootstrap draws as many blocks again, with replacement, and prunes
by their mean; what then differs from the ticket of all blocks is what another sample of this size would change by
chance. `agreement` is the Jaccard similarity of the pruned structures of both, the mean over draws; scoring may stop
when it is at least a given level for every wanted ticket.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence, Set
from typing import Any, NamedTuple

import numpy as np

from fairseq_tickets.arrays import FloatArray
from fairseq_tickets.errors import UserError
from fairseq_tickets.scores import ImportanceScores
from fairseq_tickets.super_ticket.pruning import Level, super_ticket
from fairseq_tickets.tickets import SuperTicket

DRAWS, SEED, FIRST_LOOK = 200, 1, 8


class Look(NamedTuple):
    """What was known after so many examples: level as written -> agreement of its pruned heads and FFNs, 0 to 1."""

    examples: int
    agreement: dict[str, tuple[float, float]]

    @property
    def least(self) -> float:
        """The agreement of the least certain ticket."""
        return min(min(pair) for pair in self.agreement.values())


def mean_scores(blocks: Sequence[ImportanceScores]) -> ImportanceScores:
    """Scores over the examples of all blocks: each block counts by its examples; provenance is the first's."""
    sizes = np.array([block.examples for block in blocks], dtype=np.float64)
    heads = np.tensordot(sizes, np.stack([block.heads for block in blocks]), 1) / sizes.sum()
    ffn = sizes @ np.stack([block.ffn for block in blocks]) / sizes.sum()
    return ImportanceScores(heads, ffn, int(sizes.sum()), dict(blocks[0].provenance))


def agreement(
    blocks: Sequence[ImportanceScores], levels: Sequence[Level], min_heads_per_layer: int = 0
) -> dict[str, tuple[float, float]]:
    """Level -> mean Jaccard of (pruned heads, pruned FFNs) between the ticket of all blocks and those of re-drawn ones.

    Where a level prunes none, there is nothing to disagree on: 1.
    """
    own = mean_scores(blocks)
    tickets = [super_ticket(own, level, level, min_heads_per_layer=min_heads_per_layer) for level in levels]
    generator = np.random.Generator(np.random.PCG64(SEED))
    found: FloatArray = np.zeros((len(levels), 2))
    for _ in range(DRAWS):
        drawn = mean_scores([blocks[index] for index in generator.integers(len(blocks), size=len(blocks))])
        for row, level, ticket in zip(found, levels, tickets):
            again = super_ticket(drawn, level, level, min_heads_per_layer=min_heads_per_layer)
            row += [_jaccard(_pruned_heads(ticket), _pruned_heads(again)), _jaccard(_pruned(ticket), _pruned(again))]
    return {str(level): (float(row[0]), float(row[1])) for level, row in zip(levels, found / DRAWS)}


def score_until_stable(
    blocks: Iterable[ImportanceScores],
    levels: Sequence[Level],
    wanted: float,
    min_heads_per_layer: int = 0,
    told: Callable[[Look], None] = lambda look: None,
) -> tuple[ImportanceScores, list[Look]]:
    """Take blocks of scores until the tickets of all levels agree, looking after 8 blocks, 16, 32, ... and the last.

    Args:
        blocks: scores of equally large random parts of the examples, made as they are taken.
        levels: parts of heads and FFNs that the tickets will prune.
        wanted: agreement that is enough, above 0 and at most 1.
        told: called at each look.

    Returns:
        the scores over all examples taken, and every look.

    Raises:
        UserError: no block, `wanted` or a level out of range.
    """
    if not 0 < wanted <= 1:
        raise UserError(f"the wanted agreement is {wanted:g}; it must be above 0 and at most 1")
    taken: list[ImportanceScores] = []
    looks: list[Look] = []
    next_look = FIRST_LOOK
    for block in blocks:
        taken.append(block)
        if len(taken) == next_look:
            next_look *= 2
            looks.append(_look(taken, levels, min_heads_per_layer))
            told(looks[-1])
            if looks[-1].least >= wanted:
                break
    if not taken:
        raise UserError("importance: there are no examples to score; at least 1 is needed")
    scores = mean_scores(taken)
    if len(taken) > 1 and (not looks or looks[-1].examples != scores.examples):  # one block can't be drawn anew
        looks.append(_look(taken, levels, min_heads_per_layer))
        told(looks[-1])
    return scores, looks


def _look(blocks: Sequence[ImportanceScores], levels: Sequence[Level], min_heads_per_layer: int) -> Look:
    return Look(sum(block.examples for block in blocks), agreement(blocks, levels, min_heads_per_layer))


def _pruned_heads(ticket: SuperTicket) -> set[tuple[int, int]]:
    return {(layer, head) for layer, row in enumerate(ticket.heads) for head, kept in enumerate(row) if not kept}


def _pruned(ticket: SuperTicket) -> set[int]:
    return {layer for layer, kept in enumerate(ticket.ffn) if not kept}


def _jaccard(a: Set[Any], b: Set[Any]) -> float:
    return len(a & b) / len(a | b) if a | b else 1.0
