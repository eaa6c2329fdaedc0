"""Why these dimensions: out-weighted counts beside the size of each input and the gain of the layer norm before it.

The gradient of W_ij is Σ_t δ_t,i x_t,j, so the root mean square of x_j should rank the columns as L1 fine-tuning moves
them (paper D leaves the question open); and behind a layer norm x_j is γ_j times a number of about unit size, so |γ_j|
should too. Two statistics over the dimensions of a matrix put both to the test, each the mean over layers with a
percentile bootstrap over dimensions: Spearman's rank correlation, which stays small where most counts are 0, so tied;
and the AUC, the chance that a dimension with out-weighted parameters has the larger predictor than one without.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fairseq_tickets.arrays import FloatArray
from fairseq_tickets.counts import DimensionCounts
from fairseq_tickets.errors import UserError
from fairseq_tickets.parameters import MATRICES
from fairseq_tickets.saliences import DimensionSalience

DRAWS, SEED, LEVEL = 1000, 1, 0.95


class Correlation(NamedTuple):
    """Of one matrix and one predictor ("input" or "gain").

    Attributes:
        rho, rho_interval: mean over layers of Spearman's ρ, and its 95 % interval.
        auc, auc_interval: the same of the AUC; 0.5 = no relation.
        layers: how many had out-weighted parameters, and so a ranking.
        found: how many of the layers' dominant dimensions (the most out-weighted, not the bias) are the predictor's
            first, over `layers`.
    """

    matrix: str
    predictor: str
    rho: float
    rho_interval: tuple[float, float]
    auc: float
    auc_interval: tuple[float, float]
    layers: int
    found: int


def correlations(counts: DimensionCounts, salience: DimensionSalience) -> list[Correlation]:
    """Every matrix's correlation of its counts with the inputs and, behind a layer norm, with the gains.

    Raises:
        UserError: the two files belong to models of different sizes, or the salience is no activation.
    """
    if salience.provenance.get("metric") != "activation":
        raise UserError("the explanation needs a salience file of --metric activation")
    rows = []
    for matrix in MATRICES:
        table = counts.counts[matrix]
        if table.shape != salience.scores[matrix].shape:
            raise UserError(f"counts and salience belong to models of different sizes ({matrix})")
        for predictor, values in (("input", salience.scores[matrix][:, :-1]), ("gain", salience.gain(matrix))):
            if values is not None:
                rows.append(_correlation(matrix, predictor, values, table[:, :-1].astype(np.float64)))
    return rows


def mean_rank_correlation(x: FloatArray, y: FloatArray, times: FloatArray | None = None) -> FloatArray:
    """Mean over rows of Spearman's ρ, ties given their mean rank; rows without two different values are left out.

    Args:
        x, y: (rows, n).
        times: (draws, n), how often each of the n is in each draw; None = once.

    Returns:
        (draws,); NaN where no row has two different values.
    """
    times = np.ones((1, x.shape[1])) if times is None else times
    found = []
    for own, other in zip(x, y):
        a, b = _ranks(own, times), _ranks(other, times)
        middle = (times.sum(1, keepdims=True) + 1) / 2
        a, b = a - middle, b - middle
        scale = np.sqrt((times * a * a).sum(1) * (times * b * b).sum(1))
        found.append(np.divide((times * a * b).sum(1), scale, out=np.full(len(times), np.nan), where=scale > 0))
    return _mean(found)


def mean_auc(x: FloatArray, y: FloatArray, times: FloatArray | None = None) -> FloatArray:
    """Mean over rows of the chance that x is larger where y is above 0 than where it is 0, a tie counting half.

    Mann and Whitney's U over the number of pairs; rows where y is 0 everywhere, or nowhere, are left out. Arguments
    and result are those of `mean_rank_correlation`.
    """
    times = np.ones((1, x.shape[1])) if times is None else times
    found = []
    for own, other in zip(x, y):
        moved = times * (other > 0)
        m = moved.sum(1)
        pairs = m * (times.sum(1) - m)
        u = (_ranks(own, times) * moved).sum(1) - m * (m + 1) / 2
        found.append(np.divide(u, pairs, out=np.full(len(times), np.nan), where=pairs > 0))
    return _mean(found)


def _correlation(matrix: str, predictor: str, x: FloatArray, y: FloatArray) -> Correlation:
    moved = y.max(1) > y.min(1)
    x, y = x[moved], y[moved]
    if not len(x):
        return Correlation(matrix, predictor, np.nan, (np.nan, np.nan), np.nan, (np.nan, np.nan), 0, 0)
    n = x.shape[1]
    times = np.random.Generator(np.random.PCG64(SEED)).multinomial(n, np.full(n, 1 / n), DRAWS).astype(np.float64)
    found = int((x.argmax(1) == y.argmax(1)).sum())
    (rho, rho_interval), (auc, auc_interval) = (
        (float(statistic(x, y)[0]), _interval(statistic(x, y, times)))
        for statistic in (mean_rank_correlation, mean_auc)
    )
    return Correlation(matrix, predictor, rho, rho_interval, auc, auc_interval, len(x), found)


def _interval(drawn: FloatArray) -> tuple[float, float]:
    low, high = np.nanquantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _mean(found: list[FloatArray]) -> FloatArray:
    """Mean over rows, those that are NaN left out; NaN where all are."""
    table = np.stack(found)
    told = np.isfinite(table)
    total = np.where(told, table, 0).sum(0)
    return np.divide(total, told.sum(0), out=np.full(table.shape[1], np.nan), where=told.any(0))


def _ranks(values: FloatArray, times: FloatArray) -> FloatArray:
    """Mean rank of each value, from 1, in draws that hold it so many times: (n,), (draws, n) -> (draws, n)."""
    _, starts, groups = np.unique(np.sort(values), return_index=True, return_inverse=True)
    order = np.argsort(values, kind="stable")
    sizes = np.add.reduceat(times[:, order], starts, axis=1)  # (draws, different values)
    of_sorted = (sizes.cumsum(1) - (sizes - 1) / 2)[:, groups]
    ranks = np.empty_like(of_sorted)
    ranks[:, order] = of_sorted
    return ranks
