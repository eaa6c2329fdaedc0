"""When scoring may stop: agreement by hand, where it must be 1, and where it must stay low."""

from __future__ import annotations

import numpy as np
import pytest

from fairseq_tickets.errors import UserError
from fairseq_tickets.scores import ImportanceScores
from fairseq_tickets.super_ticket.stability import agreement, mean_scores, score_until_stable

LAYERS, HEADS = 4, 5
SHAPE = {"layers": LAYERS, "heads": HEADS, "embed_dim": 10, "ffn_dim": 14}


def blocks(count: int, noise: float, seed: int = 0, size: int = 10) -> list[ImportanceScores]:
    """Scores of blocks around fixed means, with so much noise."""
    random = np.random.default_rng(seed)
    heads, ffn = np.arange(1.0, 21).reshape(LAYERS, HEADS), np.arange(1.0, LAYERS + 1)
    return [
        ImportanceScores(
            np.abs(heads + noise * random.standard_normal(heads.shape)),
            np.abs(ffn + noise * random.standard_normal(ffn.shape)),
            size,
            {"model": SHAPE},
        )
        for _ in range(count)
    ]


def test_the_mean_counts_every_example_once() -> None:
    one, two = blocks(2, 1.0)
    two.examples = 30
    mean = mean_scores([one, two])
    np.testing.assert_allclose(mean.heads, (one.heads * 10 + two.heads * 30) / 40)
    np.testing.assert_allclose(mean.ffn, (one.ffn * 10 + two.ffn * 30) / 40)
    assert mean.examples == 40


def test_without_noise_everything_agrees() -> None:
    assert agreement(blocks(8, 0.0), ["0.2", "0.5"]) == {"0.2": (1.0, 1.0), "0.5": (1.0, 1.0)}


def test_two_ffns_that_change_places_by_hand() -> None:
    # Two blocks, FFN 0 least in one, FFN 1 in the other, by so much that a mean follows the majority; the rest is far.
    first, second = blocks(2, 0.0)
    first.ffn, second.ffn = np.array([0.0, 1.0, 50, 50]), np.array([1.0, 0.1, 50, 50])
    # The ticket of both prunes FFN 0 (0.5 against 0.55). Of the four equally likely draws of two blocks only (2, 2)
    # prunes FFN 1: Jaccard 0 there, 1 elsewhere, so 3/4, within three deviations of 200 draws.
    heads, ffn = agreement([first, second], [0.25])["0.25"]
    assert heads == 1.0 and abs(ffn - 0.75) < 3 * (0.75 * 0.25 / 200) ** 0.5


def test_it_stops_at_the_first_look_that_agrees() -> None:
    taken = []

    def source():
        for block in blocks(100, 0.02):
            taken.append(block)
            yield block

    told: list[int] = []
    scores, looks = score_until_stable(source(), [0.25], 0.95, told=lambda look: told.append(look.examples))
    assert (len(taken), scores.examples, told) == (8, 80, [80])
    assert looks[-1].least >= 0.95


def test_noise_takes_everything_there_is() -> None:
    scores, looks = score_until_stable(blocks(20, 30.0), [0.25], 1.0)
    assert scores.examples == 200
    assert [look.examples for look in looks] == [80, 160, 200] and looks[-1].least < 0.9


def test_more_examples_agree_better() -> None:
    _, looks = score_until_stable(blocks(64, 8.0), [0.4], 1.0)
    agreements = [look.agreement["0.4"][0] for look in looks]
    assert agreements[0] < agreements[-1]


@pytest.mark.parametrize("wanted", [0.0, 1.5, -1.0])
def test_agreement_out_of_range(wanted: float) -> None:
    with pytest.raises(UserError, match="the wanted agreement is"):
        score_until_stable(blocks(8, 0.0), [0.2], wanted)


def test_no_blocks() -> None:
    with pytest.raises(UserError, match="no examples"):
        score_until_stable([], [0.2], 0.9)
