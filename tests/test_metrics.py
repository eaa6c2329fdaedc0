"""Metrics equal scikit-learn's and SciPy's, also where they are degenerate."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as reference

from fairseq_tickets import metrics
from fairseq_tickets.glue import TASK_METRICS

CASES = [
    pytest.param(classes, size, seed, id=f"{classes} classes, {size} examples, seed {seed}")
    for classes in (2, 3, 5)
    for size in (1, 2, 7, 200)
    for seed in range(3)
]
DEGENERATE = [
    pytest.param([0, 0, 0], [0, 0, 0], id="all right, one class"),
    pytest.param([1, 1, 1], [1, 1, 1], id="all right, the positive class"),
    pytest.param([0, 0, 0], [1, 1, 1], id="all wrong"),
    pytest.param([0, 0, 0, 0], [0, 1, 0, 1], id="constant predictions"),
    pytest.param([0, 1, 0, 1], [1, 1, 1, 1], id="constant targets"),
    pytest.param([1, 0, 1, 0], [0, 1, 0, 1], id="inverted"),
    pytest.param([2, 2, 2], [0, 1, 0], id="a class that is nobody's target"),
]


@pytest.mark.parametrize(("classes", "size", "seed"), CASES)
def test_classification_on_random_predictions(classes: int, size: int, seed: int) -> None:
    generator = np.random.default_rng([classes, size, seed])
    targets = generator.integers(0, classes, size)
    right = generator.random(size) < 0.6
    check_classification(np.where(right, targets, generator.integers(0, classes, size)), targets)


@pytest.mark.parametrize(("predictions", "targets"), DEGENERATE)
def test_classification_where_it_degenerates(predictions: list[int], targets: list[int]) -> None:
    check_classification(np.array(predictions), np.array(targets))


def check_classification(predictions: np.ndarray, targets: np.ndarray) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn warns about single labels
        f1 = reference.f1_score(targets == 1, predictions == 1, zero_division=0)
        mcc = reference.matthews_corrcoef(targets, predictions)
    assert metrics.accuracy(predictions, targets) == pytest.approx(reference.accuracy_score(targets, predictions))
    assert metrics.f1(predictions, targets) == pytest.approx(f1)
    assert metrics.mcc(predictions, targets) == pytest.approx(mcc, abs=1e-12)


@pytest.mark.parametrize("decimals", [8, 0], ids=["distinct values", "many ties"])
@pytest.mark.parametrize("size", [2, 3, 50])
def test_correlations_on_random_scores(size: int, decimals: int) -> None:
    generator = np.random.default_rng(size)
    targets = np.round(generator.normal(2.5, 2, size), decimals)
    predictions = np.round(targets + generator.normal(0, 2, size), decimals)
    assert len(set(targets)) > 1 and len(set(predictions)) > 1
    assert metrics.pearson(predictions, targets) == pytest.approx(np.corrcoef(predictions, targets)[0, 1], abs=1e-12)
    by_ranks = np.corrcoef(stats.rankdata(predictions), stats.rankdata(targets))[0, 1]
    assert metrics.spearman(predictions, targets) == pytest.approx(by_ranks, abs=1e-12)


@pytest.mark.parametrize("metric", [metrics.pearson, metrics.spearman])
@pytest.mark.parametrize(
    ("predictions", "targets"),
    [([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]), ([1.0, 2.0], [3.0, 3.0]), ([1.0], [2.0])],
    ids=["constant predictions", "constant targets", "one example"],
)
def test_correlations_without_spread_are_zero(metric: object, predictions: list[float], targets: list[float]) -> None:
    assert callable(metric)
    assert metric(predictions, targets) == 0.0


def test_mcc_by_hand() -> None:
    # true positives 3, true negatives 2, false positives 1, false negatives 2:
    # (3·2 - 1·2) / sqrt(4·5·3·4) = 4 / sqrt(240)
    predictions, targets = [1, 1, 1, 0, 0, 1, 0, 0], [1, 1, 1, 0, 0, 0, 1, 1]
    assert metrics.mcc(predictions, targets) == pytest.approx(4 / 240**0.5)
    assert metrics.f1(predictions, targets) == pytest.approx(2 * 3 / (4 + 5))


def test_nearly_constant_predictions_still_have_a_correlation() -> None:
    targets = np.arange(5.0)
    assert metrics.pearson(1 + 1e-6 * targets, targets) == pytest.approx(1.0, abs=1e-6)


def test_score_is_the_mean_of_a_tasks_metrics() -> None:
    assert metrics.task_score({"accuracy": 0.8, "f1": 0.9, "mcc": 0.1}, ("accuracy", "f1")) == pytest.approx(0.85)


def test_every_task_has_known_metrics() -> None:
    assert {name for names in TASK_METRICS.values() for name in names} <= set(metrics.METRICS)
