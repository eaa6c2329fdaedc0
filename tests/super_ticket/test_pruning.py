"""Pruning by hand-worked rankings, exact counts, nesting, and the paper's weight remaining."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from fairseq_tickets.errors import UserError
from fairseq_tickets.parameters import ModelShape
from fairseq_tickets.scores import ImportanceScores
from fairseq_tickets.super_ticket.pruning import (
    normalise_heads,
    prune_count,
    pruning_orders,
    super_ticket,
    weight_remaining,
)
from fairseq_tickets.tickets import SuperTicket, load_super_ticket

BERT_BASE = ModelShape(12, 12, 768, 3072)


def scores_of(heads, ffn) -> ImportanceScores:
    layers, count = np.shape(heads)
    model = {"layers": layers, "heads": count, "embed_dim": 4 * count, "ffn_dim": 7}
    return ImportanceScores(np.array(heads, float), np.array(ffn, float), 9, {"model": model, "task": "RTE"})


# Layers with l2 norms 5, 13, 0 and 10: normalised
#   layer 0: 3/5 = .6    4/5 = .8      layer 1: 5/13 = .385   12/13 = .923
#   layer 2: 0           0             layer 3: 8/10 = .8     6/10 = .6
# Raw scores would rank otherwise: layer 0's 3 and 4 below layer 3's 6 and 8.
BY_HAND = scores_of([[3, 4], [5, 12], [0, 0], [8, 6]], [0.4, 0.1, 0.1, 0.7])


@pytest.mark.parametrize(
    "keep, heads, ffn",
    [
        # Lowest first, ties by (layer, head): zeros 4, 5; .385 = 2; .6 = 0 and 7; .8 = 1 and 6; .923 = 3.
        ("winning", [4, 5, 2, 0, 7, 1, 6, 3], [1, 2, 0, 3]),
        # Highest first, ties by (layer, head) too.
        ("losing", [3, 1, 6, 0, 7, 2, 4, 5], [3, 0, 1, 2]),
    ],
)
def test_order_by_hand(keep, heads, ffn):
    assert pruning_orders(BY_HAND, keep, seed=0) == (heads, ffn)


def test_ticket_by_hand():
    ticket = super_ticket(BY_HAND, heads=0.5, ffn=0.25)
    assert ticket.heads == [[0, 1], [0, 1], [0, 0], [1, 1]]
    assert ticket.ffn == [1, 0, 1, 1]
    ticket = super_ticket(BY_HAND, heads=0.5, ffn=0.25, keep="losing")
    assert ticket.heads == [[0, 0], [1, 0], [1, 1], [0, 1]]
    assert ticket.ffn == [1, 1, 1, 0]


def test_normalisation_has_norm_one_zeros_for_zeros_and_no_nan():
    normalised = normalise_heads(np.array([[3, 4.0], [0, 0], [3e-200, 4e-200], [3e200, 4e200]]))
    np.testing.assert_allclose(normalised, [[0.6, 0.8], [0, 0], [0.6, 0.8], [0.6, 0.8]])


@pytest.mark.parametrize(
    "fraction, count, expected",
    [
        (0.3, 10, 3),  # also 0.3 * 10 in floats, but
        (0.29, 100, 29),  # 0.29 * 100 = 28.999999999999996
        (0.57, 100, 57),  # 0.57 * 100 = 56.99999999999999
        (0.1, 144, 14),  # 14.4: BERT-base's heads
        (0.1, 12, 1),  # 1.2: BERT-base's FFNs
        (0.1, 6, 0),  # 0.6: MiniLM's FFNs
        (0.8, 24, 19),  # 19.2
        ("0.7", 10, 7),
        (Fraction(1, 3), 9, 3),
        (np.float64(0.7), 10, 7),
        (0, 10, 0),
    ],
)
def test_count_is_the_exact_floor(fraction, count, expected):
    assert prune_count(fraction, count, "heads") == expected


@pytest.mark.parametrize("fraction", [1, 1.0, 1.5, -0.1, float("nan"), float("inf"), "a lot", "1/0", None])
def test_fractions_out_of_range_are_refused_by_name(fraction):
    with pytest.raises(UserError, match=r"^ffn is .*; it must be .*0 to less than 1"):
        super_ticket(BY_HAND, heads=0.5, ffn=fraction)


@pytest.mark.parametrize("heads, ffn", [(0, 0), (0.1, 0.2), (0.12, 0)])
def test_a_level_that_prunes_nothing_is_refused(heads, ffn):
    with pytest.raises(UserError, match="prune nothing: .* 8 heads and for its 4 FFNs"):
        super_ticket(BY_HAND, heads, ffn)


@pytest.mark.parametrize(
    "option, text",
    [
        ({"keep": "best"}, "keep is 'best'; it must be one of winning, random, losing"),
        ({"keep": "random", "seed": -1}, "seed is -1"),
        ({"keep": "random", "seed": 1.5}, "seed is 1.5"),
        ({"min_heads_per_layer": 3}, "min_heads_per_layer is 3; it must be from 0 to the model's 2 heads"),
        ({"min_heads_per_layer": -1}, "min_heads_per_layer is -1"),
        ({"min_heads_per_layer": 1, "heads": 0.7}, "leaves 4 heads to prune; this level prunes 5"),
    ],
)
def test_other_options_out_of_range_are_refused(option, text):
    with pytest.raises(UserError, match=text):
        super_ticket(BY_HAND, **{"heads": 0.5, "ffn": 0.25, **option})


@pytest.mark.parametrize("keep", ["winning", "random", "losing"])
@pytest.mark.parametrize("minimum", [0, 1, 2])
def test_levels_are_nested_and_prune_exactly(keep, minimum):
    generator = np.random.default_rng(1)
    scores = scores_of(generator.random((7, 5)) ** 3, generator.random(7))
    levels = [i / 100 for i in range(3, 60)]
    tickets = [super_ticket(scores, p, p, keep, seed=4, min_heads_per_layer=minimum) for p in levels]
    for p, ticket in zip(levels, tickets):
        assert sum(map(sum, ticket.heads)) == 35 - int(Fraction(str(p)) * 35)
        assert sum(ticket.ffn) == 7 - int(Fraction(str(p)) * 7)
        assert min(map(sum, ticket.heads)) >= minimum
    for larger, smaller in zip(tickets, tickets[1:]):
        assert all(np.less_equal(smaller.heads, larger.heads).ravel())
        assert all(np.less_equal(smaller.ffn, larger.ffn))


def test_protection_follows_the_order_in_use():
    # Half of 8 heads, each layer keeps one: winning keeps each layer's best, losing its lowest; in the layer
    # of zeros the first is pruned first.
    assert super_ticket(BY_HAND, 0.5, 0.25, "winning", min_heads_per_layer=1).heads == [[0, 1]] * 3 + [[1, 0]]
    assert super_ticket(BY_HAND, 0.5, 0.25, "losing", min_heads_per_layer=1).heads == [
        [1, 0],
        [1, 0],
        [0, 1],
        [0, 1],
    ]


def test_protection_changes_nothing_where_it_is_not_needed():
    scores = scores_of([[1, 2, 3], [3, 1, 2]], [1, 2])
    plain, protected = (super_ticket(scores, 0.5, 0.5, min_heads_per_layer=n) for n in (0, 1))
    assert plain.heads == protected.heads


def test_random_is_uniform_without_replacement_and_seeded():
    # 4 of 8 heads and 1 of 4 FFNs: over 4,000 seeds each head is pruned with p = 1/2 (sd 31.6), each FFN with
    # 1/4.
    pruned_heads, pruned_ffn = np.zeros((4, 2)), np.zeros(4)
    both = 0
    for seed in range(4000):
        ticket = super_ticket(BY_HAND, 0.5, 0.25, "random", seed)
        assert sum(map(sum, ticket.heads)) == 4 and sum(ticket.ffn) == 3
        pruned_heads += 1 - np.array(ticket.heads)
        pruned_ffn += 1 - np.array(ticket.ffn)
        both += (ticket.heads[0][0] == 0) and (ticket.ffn[0] == 0)
    assert np.abs(pruned_heads - 2000).max() < 5 * 31.6
    assert np.abs(pruned_ffn - 1000).max() < 5 * 27.4
    assert abs(both - 500) < 5 * 20.9  # heads and FFNs are drawn independently: 1/2 * 1/4
    once, again = (super_ticket(BY_HAND, 0.5, 0.25, "random", 11) for _ in range(2))
    assert once == again


def test_random_stays_the_same_over_versions():
    # Golden, made with NumPy 2.4; NumPy's compatibility policy guarantees PCG64's raw stream.
    assert pruning_orders(BY_HAND, "random", 7) == ([6, 3, 4, 0, 2, 7, 5, 1], [3, 2, 1, 0])


def test_random_ignores_the_scores_and_winning_ignores_the_seed():
    other = scores_of(BY_HAND.heads[::-1] + 1, BY_HAND.ffn[::-1])
    assert super_ticket(other, 0.5, 0.25, "random", 3).heads == super_ticket(BY_HAND, 0.5, 0.25, "random", 3).heads
    assert super_ticket(BY_HAND, 0.5, 0.25, "winning", 3) == super_ticket(BY_HAND, 0.5, 0.25, "winning", 4)


def test_provenance_says_where_the_ticket_came_from(tmp_path):
    ticket = super_ticket(BY_HAND, "0.5", 0.25, "random", 3, 1, scores_sha256="abc")
    ticket.save(tmp_path / "t.json")
    provenance = load_super_ticket(tmp_path / "t.json").provenance
    assert {k: provenance[k] for k in ("keep", "heads", "ffn", "seed", "pruned_heads", "pruned_ffn")} == {
        "keep": "random",
        "heads": 0.5,
        "ffn": 0.25,
        "seed": 3,
        "pruned_heads": 4,
        "pruned_ffn": 1,
    }
    assert provenance["scores"]["sha256"] == "abc" and provenance["scores"]["task"] == "RTE"
    assert provenance["scores"]["examples"] == 9


@pytest.mark.parametrize("level, heads, ffn, encoder", [(0.1, 14, 1, 0.93), (0.2, 28, 2, 0.86)])
def test_weight_remaining_of_bert_base_is_the_papers(level, heads, ffn, encoder):
    # By hand, BERT-base: a head is 3 (768 * 64 + 64) + 64 * 768 = 196,800; an FFN 768 * 3072 + 3072 + 3072 *
    # 768 + 768 = 4,722,432; a layer has 12 heads, an FFN, W^O's 768 biases and 2 * 1536 in layer norms:
    # 7,087,872. Embeddings: (30,522 + 512) * 768 + 1536 = 23,835,648. All: 12 * 7,087,872 + 23,835,648 =
    # 108,890,112. 10 %: 14 * 196,800 + 4,722,432 = 7,477,632 pruned = 6.87 %. Table 7: QNLI, QQP, MNLI at 10
    # % give 0.93 +- 0.00.
    ticket = SuperTicket.full(BERT_BASE)
    for index in range(heads):
        ticket.heads[index // 12][index % 12] = 0
    for layer in range(ffn):
        ticket.ffn[layer] = 0
    assert (prune_count(level, 144, "heads"), prune_count(level, 12, "ffn")) == (heads, ffn)
    remaining = weight_remaining(BERT_BASE, ticket, vocab_size=30522, positions=512)
    pruned = heads * 196_800 + ffn * 4_722_432
    assert remaining["encoder"] == pytest.approx(1 - pruned / 108_890_112, abs=1e-12)
    assert round(remaining["encoder"], 2) == encoder
    assert remaining["without_embeddings"] == pytest.approx(1 - pruned / (12 * 7_087_872), abs=1e-12)


def test_weight_remaining_counts_what_compact_layers_hold():
    from torch import nn

    from fairseq_tickets.encoder_layer import TicketEncoderLayer

    shape, vocab, positions = ModelShape(3, 2, 8, 13), 17, 11
    ticket = SuperTicket(shape, [[1, 0], [0, 0], [1, 1]], [1, 1, 0])
    layers = [TicketEncoderLayer(8, 13, 2) for _ in range(3)]
    embeddings = [nn.Embedding(vocab, 8), nn.Embedding(positions, 8), nn.LayerNorm(8)]

    def count(modules):
        return sum(p.numel() for m in modules for p in m.parameters())

    before, before_layers = count([*layers, *embeddings]), count(layers)
    for index, layer in enumerate(layers):
        layer.prune_(ticket.kept_heads(index), bool(ticket.ffn[index]))
    assert weight_remaining(shape, ticket, vocab, positions) == {
        "encoder": pytest.approx(count([*layers, *embeddings]) / before, abs=1e-12),
        "without_embeddings": pytest.approx(count(layers) / before_layers, abs=1e-12),
    }
    with pytest.raises(UserError, match="another model size"):
        weight_remaining(BERT_BASE, ticket, vocab, positions)
