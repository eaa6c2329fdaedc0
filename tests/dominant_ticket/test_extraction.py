"""Extraction against planted deltas, brute force over every parameter, and every way the input can be wrong."""

from __future__ import annotations

import math

import pytest
import torch

from fairseq_tickets.dominant_ticket import extraction
from fairseq_tickets.dominant_ticket.extraction import count_dimensions, extract, top_dimensions
from fairseq_tickets.dominant_ticket.report import RESOLUTION, format_report, report
from fairseq_tickets.errors import UserError
from fairseq_tickets.parameters import EMBEDDINGS, MATRICES, ModelShape, matrix_name, parse
from tests.dominant_ticket import toy

SIGMA = 5e-5


def test_counts_by_hand():
    delta = torch.tensor([[1e-4, 0.0, -2e-4], [-1e-4, 1e-5, 0.0]])  # 2 outputs, 3 input dimensions
    counted = count_dimensions(delta, torch.tensor([3e-4, -4e-5]), SIGMA)
    assert counted.out_weighted.tolist() == [2, 0, 1, 1]  # columns 0, 1, 2, then the bias
    assert counted.distance.tolist() == pytest.approx([2e-4, 1e-5, 2e-4, 3.4e-4], rel=1e-6)
    assert counted.largest == pytest.approx(3e-4)


def test_order_is_count_then_distance_then_index():
    delta = torch.zeros(3, 5)
    delta[0, 4] = 9.0  # one parameter only, though by far the largest
    delta[:2, 3] = 1.0  # two: ties with 1 in count, and with 0 in count and distance
    delta[:2, 1] = 1.5
    delta[:2, 0] = 1.0
    counted = count_dimensions(delta, torch.zeros(3), 0.5)
    assert top_dimensions(counted, 6) == [1, 0, 3, 4]  # 2 and the bias (5) count nothing and never enter
    assert top_dimensions(counted, 2) == [1, 0]


def test_exactly_sigma_is_not_out_weighted():
    counted = count_dimensions(torch.tensor([[0.25, -0.25, 0.5]]), torch.tensor([0.25]), 0.25)
    assert counted.out_weighted.tolist() == [0, 0, 1, 0]


def planted():
    base, tuned = toy.encoder(), None
    tuned = toy.copy(base)
    tuned[matrix_name(0, "q_proj")][:4, 3] += 1e-3  # 4 of 6
    tuned[matrix_name(0, "q_proj")][:2, 5] -= 1e-3
    tuned[matrix_name(1, "fc1")][:7, 2] += 1e-3
    tuned[matrix_name(1, "fc1", "bias")] += 1e-3  # 10
    tuned[matrix_name(2, "fc2")][:, 9] -= 1e-3  # 6
    tuned[matrix_name(2, "out_proj", "bias")][:1] += 1e-3
    return base, tuned


def test_planted_ticket_with_counts_and_none():
    base, tuned = planted()
    seen: list[tuple[int, int]] = []
    ticket = extract(base, tuned, heads=2, sigma=SIGMA, top_k=2, progress=lambda *step: seen.append(step))
    assert ticket.shape == toy.SHAPE
    assert ticket.dimensions == {
        "q_proj": [[3, 5], [], []],
        "k_proj": [[], [], []],
        "v_proj": [[], [], []],
        "out_proj": [[], [], [6]],
        "fc1": [[], [6, 2], []],
        "fc2": [[], [], [9]],
    }
    assert ticket.counts["q_proj"] == [[4, 2], [], []]
    assert ticket.counts["fc1"] == [[], [10, 7], []]
    assert seen == [(i, 18) for i in range(1, 19)]
    assert extract(base, tuned, heads=2, top_k=1).dimensions["fc1"] == [[], [6], []]


def test_embeddings_norms_and_dead_copies_never_count():
    base, tuned = planted()
    expected = extract(base, tuned, heads=2, top_k=3).dimensions
    for name in tuned:
        if parse(name) is None:
            tuned[name] += 1.0
    assert extract(base, tuned, heads=2, top_k=3).dimensions == expected


@pytest.mark.parametrize("seed, block", [(0, extraction.BLOCK), (1, 1), (1, 30)])
def test_against_brute_force(seed, block, monkeypatch):
    monkeypatch.setattr(extraction, "BLOCK", block)  # elements at a time: all rows, one row, a few rows
    shape = ModelShape(2, 3, 9, 14)
    base = toy.encoder(shape, seed)
    tuned = toy.copy(base)
    random = torch.Generator().manual_seed(seed + 10)
    for name in tuned:
        noise = torch.randn(tuned[name].shape, generator=random) * 5e-5
        tuned[name] += noise
    ticket = extract(base, tuned, heads=3, sigma=SIGMA, top_k=4)
    for layer in range(shape.layers):
        for matrix in MATRICES:
            w0, w1 = (t[matrix_name(layer, matrix)].tolist() for t in (base, tuned))
            b0, b1 = (t[matrix_name(layer, matrix, "bias")].tolist() for t in (base, tuned))
            scored = []
            width = shape.ffn_dim if matrix == "fc2" else shape.embed_dim
            for j in range(width + 1):
                pairs = zip(b1, b0) if j == width else ((w1[i][j], w0[i][j]) for i in range(len(w0)))
                sizes = [abs(new - old) for new, old in pairs]
                scored.append((-sum(size > SIGMA for size in sizes), -sum(sizes), j))
            best = [(j, -count) for count, _, j in sorted(scored)[:4] if count]
            assert ticket.dimensions[matrix][layer] == [j for j, _ in best]
            assert ticket.counts[matrix][layer] == [count for _, count in best]


def refused(base, tuned, **options):
    with pytest.raises(UserError) as error:
        extract(base, tuned, **{"heads": 2, **options})
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("sigma", [-1e-5, 1.0, 3.0, math.nan, math.inf])
def test_absurd_sigma(sigma):
    assert "sigma is" in refused(*planted(), sigma=sigma)


def test_sigma_above_everything_says_how_large_delta_is():
    assert "the largest |Δθ| is 0.001" in refused(*planted(), sigma=0.5)


@pytest.mark.parametrize("top_k, fits", [(0, False), (-1, False), (7, True), (8, False)])
def test_top_k_is_limited_by_the_narrowest_matrix(top_k, fits):
    if fits:
        extract(*planted(), heads=2, top_k=top_k)
    else:
        assert f"top_k is {top_k}; it must be 1 to 7" in refused(*planted(), top_k=top_k)


def test_heads_that_do_not_divide():
    assert "heads is 4" in refused(*planted(), heads=4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("which", [0, 1])
def test_half_precision_is_refused_with_the_reason(dtype, which):
    pair = planted()
    pair[which][matrix_name(2, "v_proj")] = pair[which][matrix_name(2, "v_proj")].to(dtype)
    message = refused(*pair)
    assert "half precision" in message and "6e-5" in message
    assert ("pre-trained", "fine-tuned")[which] in message


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("which", [0, 1])
def test_not_finite_is_named(bad, which):
    pair = planted()
    pair[which][matrix_name(1, "k_proj")][2, 3] = bad
    message = refused(*pair)
    assert "layer 1, k_proj weight: 1 values" in message
    assert ("pre-trained", "fine-tuned")[which] in message


def test_the_same_infinity_in_both_is_found():
    base, tuned = planted()
    for tensors in (base, tuned):
        tensors[matrix_name(1, "k_proj", "bias")][0] = math.inf
    assert "layer 1, k_proj bias" in refused(base, tuned)


def test_nan_outside_the_matrices_is_found():
    base, tuned = planted()
    tuned[EMBEDDINGS[0]][1, 1] = math.nan
    assert "embed_tokens" in refused(base, tuned)


def test_equal_checkpoints():
    base, _ = planted()
    assert "same encoder weights" in refused(base, toy.copy(base))


def test_other_sizes_vocabularies_and_missing_names():
    base, tuned = planted()
    assert "different sizes" in refused(base, toy.encoder(ModelShape(3, 2, 6, 12)))
    assert "different sizes" in refused(toy.encoder(ModelShape(2, 2, 6, 10)), tuned)
    short = {**tuned, EMBEDDINGS[0]: tuned[EMBEDDINGS[0]][:-1]}
    assert "different vocabularies" in refused(base, short)
    assert "12 x 6" in refused(base, short)
    lacking = {name: t for name, t in tuned.items() if name != matrix_name(1, "v_proj", "bias")}
    assert "lacks" in refused(base, lacking)
    pruned = {**tuned, matrix_name(1, "v_proj"): tuned[matrix_name(1, "v_proj")][:3]}
    assert "3 x 6; it must be 6 x 6" in refused(base, pruned)
    assert "no RoBERTa encoder" in refused({}, tuned)


def test_report_against_sorted_values():
    base = toy.encoder(ModelShape(2, 3, 9, 14))
    tuned = {name: t + torch.randn_like(t) * 1e-4 for name, t in base.items()}
    tuned[matrix_name(0, "fc1")] = base[matrix_name(0, "fc1")].clone()  # a group with exact zeros
    result = report(base, tuned, 3, SIGMA)
    assert list(result) == ["all", *MATRICES]
    for group, distribution in result.items():
        names = [n for n in base if (role := parse(n)) and group in ("all", role.matrix)]
        values = sorted(float(v) for n in names for v in (tuned[n] - base[n]).abs().flatten())
        n = len(values)
        assert distribution.parameters == n
        assert distribution.above_sigma == sum(v > SIGMA for v in values) / n
        assert distribution.below_small == sum(v < 1e-5 for v in values) / n
        assert distribution.largest == values[-1]
        for q, estimate in distribution.quantiles.items():
            exact = values[max(0, math.ceil(q * n) - 1)]
            assert exact <= estimate <= exact * (1 + RESOLUTION)
    assert "W^FC1" in format_report(result, SIGMA)


def test_report_of_a_model_that_hardly_moved():
    base, tuned = planted()
    result = report(base, tuned, 2, SIGMA)
    assert result["all"].quantiles[0.5] == 0.0 and result["k_proj"].largest == 0.0
    assert result["fc1"].above_sigma == 17 / (3 * (10 * 6 + 10))


def test_a_sigma_below_the_learning_rate_is_told():
    """The paper's σ 5e-5 fits its learning rates of 1e-5 to 5e-5, and not ten times that."""
    assert extraction.sigma_hint(5e-5, 5e-5) is None and extraction.sigma_hint(5e-5, None) is None
    assert "sigma 5e-05 is below the learning rate 0.0005" in str(extraction.sigma_hint(5e-5, 5e-4))
