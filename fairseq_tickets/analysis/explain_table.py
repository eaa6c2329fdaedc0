"""Table of the correlations behind `fairseq-tickets explain`."""

from __future__ import annotations

import math
from collections.abc import Sequence

from fairseq_tickets.analysis.explain import DRAWS, Correlation
from fairseq_tickets.analysis.markup import Table, cells, columns
from fairseq_tickets.parameters import PAPER_NAMES


def explain_table(found: Sequence[Correlation], signature: str) -> Table:
    """A row a matrix and predictor."""
    rows = [
        cells(
            PAPER_NAMES[row.matrix],
            {"input": "rms of the input", "gain": "gain of the layer norm"}[row.predictor],
            _with_interval(row.rho, row.rho_interval),
            _with_interval(row.auc, row.auc_interval),
            str(row.layers),
            f"{row.found} of {row.layers}" if row.layers else "-",
        )
        for row in found
    ]
    notes = [
        "ρ: Spearman's, with the out-weighted counts; AUC: chance that a dimension with out-weighted parameters has "
        "the larger predictor than one without; means over the layers where any parameter moved",
        f"in brackets: 95 % of {DRAWS} bootstrap draws of dimensions; ρ is small where most counts are 0 and tied",
        "first in both: layers in which the most out-weighted input dimension is the one with the largest predictor",
    ]
    header = columns("matrix", "predictor", "ρ", "AUC", "layers", "first in both")
    return Table("What the dominant dimensions have in common", header, rows, notes, signature)


def _with_interval(value: float, interval: tuple[float, float]) -> str:
    return "-" if math.isnan(value) else f"{value:.2f} [{interval[0]:.2f}, {interval[1]:.2f}]"
