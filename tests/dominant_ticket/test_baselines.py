"""Baselines: sizes, ranges and seeds, and RoBERTa-large's counts by hand arithmetic."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from fairseq_tickets.dominant_ticket.baselines import (
    bitfit_ticket,
    random_elements,
    random_like,
)
from fairseq_tickets.errors import UserError
from fairseq_tickets.parameters import MATRICES, ModelShape
from fairseq_tickets.tickets import DominantTicket
from tests.dominant_ticket.toy import SHAPE, random_ticket

LARGE = ModelShape(24, 16, 1024, 4096)


def test_roberta_larges_counts_by_hand():
    # A dimension holds out_features numbers: 4 · 1024 for q, k, v, o, 4096 for fc1, 1024 for fc2; 24 layers.
    assert 24 * (4 * 1024 + 4096 + 1024) == 221_184
    assert random_ticket(LARGE, 1, seed=0).trainable_parameters() == 221_184
    assert random_ticket(LARGE, 3, seed=0).trainable_parameters() == 663_552
    assert bitfit_ticket(LARGE).trainable_parameters() == 221_184
    # A layer: 4 (1024² + 1024) + 2 · 1024 · 4096 + 4096 + 1024 + two norms of 2048 = 12,596,224;
    # embeddings (50265 + 514) · 1024 = 51,997,696; their norm 2048.
    total = 24 * 12_596_224 + 51_997_696 + 2_048
    assert total == 354_309_120
    assert f"{100 * 221_184 / total:.3f} %" == "0.062 %"
    assert f"{100 * 663_552 / total:.2f} %" == "0.19 %"  # the paper's Dominant-3


def test_random_like_has_the_same_sizes():
    ticket = DominantTicket(SHAPE, {m: [[3, 1], [], [0, 2, 4]] for m in MATRICES})
    drawn = random_like(ticket, seed=7)
    assert [len(dims) for *_, dims in drawn.items()] == [len(dims) for *_, dims in ticket.items()]
    assert drawn.trainable_parameters() == ticket.trainable_parameters()
    assert drawn.dimensions == random_like(ticket, seed=7).dimensions
    assert drawn.dimensions != random_like(ticket, seed=8).dimensions


def test_random_dimensions_are_uniform_and_reach_the_bias():
    seen = {m: Counter() for m in MATRICES}
    for seed in range(400):
        for _, matrix, dims in random_ticket(SHAPE, 2, seed).items():
            assert len(set(dims)) == 2
            seen[matrix].update(dims)
    for matrix in MATRICES:
        possible = SHAPE.in_features(matrix) + 1
        assert sorted(seen[matrix]) == list(range(possible))  # 0 to in_features, the bias included
        expected = 400 * SHAPE.layers * 2 / possible
        assert all(abs(count - expected) < 5 * expected**0.5 for count in seen[matrix].values())


def test_all_dimensions_at_most():
    for _, matrix, dims in random_ticket(SHAPE, 7, 0).items():
        assert len(dims) == 7 and max(dims) <= SHAPE.in_features(matrix)


def test_bitfit_is_the_bias_everywhere():
    ticket = bitfit_ticket(SHAPE)
    assert {dims[0] for _, matrix, dims in ticket.items() if matrix == "fc2"} == {10}
    assert {dims[0] for _, matrix, dims in ticket.items() if matrix != "fc2"} == {6}
    assert ticket.trainable_parameters() == 3 * (5 * 6 + 10)


def test_random_elements():
    chosen = random_elements(SHAPE, 0.05, seed=1)
    assert len(chosen) == 18
    assert len(chosen[0, "q_proj"]) == 1 and len(chosen[2, "fc1"]) == 3  # floor of 5 % of 36 and 60
    again = random_elements(SHAPE, 0.05, seed=1)
    assert all(torch.equal(chosen[key], again[key]) for key in chosen)
    half = random_elements(SHAPE, 0.5, seed=1)
    assert all(len(set(index.tolist())) == len(index) for index in half.values())
    assert max(int(index.max()) for (_, m), index in half.items() if m == "fc1") < 60
    assert len({tuple(half[layer, "q_proj"].tolist()) for layer in range(3)}) == 3
    for fraction in (0.0, -0.1, 1.1, float("nan")):
        with pytest.raises(UserError, match="fraction is"):
            random_elements(SHAPE, fraction, 0)
