"""Figure: out-weighted parameters against the size of the input, dimension by dimension (see explain.py)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fairseq_tickets.analysis.explain import Correlation
from fairseq_tickets.analysis.figure_style import BLACK, PAGE, VERMILION, new_figure, styled
from fairseq_tickets.arrays import FloatArray
from fairseq_tickets.counts import DimensionCounts
from fairseq_tickets.parameters import MATRICES, PAPER_NAMES
from fairseq_tickets.saliences import DimensionSalience

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_NAMES = ("root mean square of the input", "|γ| of the layer norm before it")


def explain(counts: DimensionCounts, salience: DimensionSalience, found: Sequence[Correlation]) -> Figure:
    """Share of a dimension's parameters beyond σ against its input's size (above) and its gain (below).

    A column of panels a matrix; a dot a dimension and layer, coloured by layer; a ring marks the most out-weighted
    dimension of a layer, a diamond its bias. AUC is `found`'s, with its 95 % interval.
    """
    layers = len(counts.counts["q_proj"])
    figure = new_figure(PAGE, 4.0)
    with styled():
        grid = figure.subplots(2, len(MATRICES), sharey=True)
        colours = _colours(layers)
        for column, matrix in enumerate(MATRICES):
            share = counts.counts[matrix] / counts.out_features(matrix)
            for row, predictor in enumerate(("input", "gain")):
                axis = grid[row, column]
                values = salience.scores[matrix] if predictor == "input" else salience.gain(matrix)
                own = next((c for c in found if (c.matrix, c.predictor) == (matrix, predictor)), None)
                if values is None or own is None:
                    axis.text(
                        0.5,
                        0.5,
                        "no layer norm\nbefore it",
                        ha="center",
                        va="center",
                        fontsize=6.5,
                        transform=axis.transAxes,
                    )
                    axis.set_xticks([])
                    continue
                _dots(axis, values, share, colours)
                axis.set_title(_title(matrix if row == 0 else "", own), fontsize=7)
        grid[0, 0].set_ylabel("share beyond σ")
        grid[1, 0].set_ylabel("share beyond σ")
        for row, name in enumerate(_NAMES):
            grid[row, 1].set_xlabel(name)
        import matplotlib

        scale = matplotlib.cm.ScalarMappable(matplotlib.colors.Normalize(0, max(1, layers - 1)), "viridis")
        figure.colorbar(scale, ax=grid, fraction=0.02, pad=0.01, label="layer")
    return figure


def _dots(axis: Any, values: FloatArray, share: FloatArray, colours: FloatArray) -> None:
    width = share.shape[1] - 1
    for layer, (x, y) in enumerate(zip(values, share)):
        colour = [colours[layer]]
        axis.scatter(x[:width], y[:width], s=3, c=colour, linewidths=0, rasterized=True)
        if y[:width].any():
            top = int(y[:width].argmax())
            axis.scatter(x[top], y[top], s=22, facecolors="none", edgecolors=VERMILION, linewidths=0.7)
        if len(x) > width:
            axis.scatter(x[width], y[width], s=14, marker="D", c=colour, edgecolors=BLACK, linewidths=0.4)
    axis.set_xscale("log")
    axis.set_yscale("symlog", linthresh=0.5 / max(share.shape[1], 2))
    axis.set_ylim(0, 1)
    axis.xaxis.set_minor_formatter("")
    axis.tick_params(labelsize=6)


def _title(matrix: str, own: Correlation) -> str:
    name = f"$W^{{\\mathrm{{{PAPER_NAMES[matrix][2:]}}}}}$\n" if matrix else ""
    low, high = own.auc_interval
    return f"{name}AUC {own.auc:.2f}\n[{low:.2f}, {high:.2f}]" if own.layers else f"{name}nothing moved"


def _colours(layers: int) -> FloatArray:
    import matplotlib

    return np.asarray(matplotlib.colormaps["viridis"](np.linspace(0, 1, layers)))
