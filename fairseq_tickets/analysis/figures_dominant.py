"""Figures of paper D: out-weighted parameters (2), the skeleton through the layers, training curves (3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fairseq_tickets.analysis.figure_style import (
    BLACK,
    BLUE,
    DASHES,
    GREEN,
    MARKERS,
    ORANGE,
    PAGE,
    PURPLE,
    SKY,
    VERMILION,
    YELLOW,
    new_figure,
    styled,
)
from fairseq_tickets.analysis.glue_tasks import metrics_of, task_score
from fairseq_tickets.analysis.results import Result, tuned
from fairseq_tickets.analysis.statistics import spread
from fairseq_tickets.analysis.table_parts import tasks_in
from fairseq_tickets.arrays import FloatArray, IntArray
from fairseq_tickets.counts import DimensionCounts
from fairseq_tickets.errors import UserError
from fairseq_tickets.parameters import MATRICES, PAPER_NAMES
from fairseq_tickets.tickets import DominantTicket

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_BINS = 64
_LINES: dict[str, tuple[str, str, Any]] = {
    "full": (BLACK, "full", DASHES[3]),
    "dominant": (BLUE, "Dominant", DASHES[0]),
    "random_dimensions": (ORANGE, "Random", DASHES[1]),
    "bitfit": (GREEN, "BitFit", DASHES[2]),
    "random_elements": (VERMILION, "random elements", DASHES[4]),
    "salience": (PURPLE, "Salience", DASHES[5]),
}
_SECOND = {BLUE: SKY, ORANGE: VERMILION, PURPLE: YELLOW}


def out_weighted(counts: Mapping[str, DimensionCounts]) -> Figure:
    """Figure 2: where parameters moved beyond σ. Rows are tasks, columns matrices; in each, layer against
    input dimension.

    Darkness is the share of a dimension's parameters that moved, on a root scale so that rare ones show.
    Dimensions are gathered into at most 64 bins that show their largest member, so that a single dimension
    stays visible; the bias is the strip on the right. A dimension that dominates layer after layer is an
    upright line.

    Args:
        counts: task -> counts file.

    Raises:
        UserError: no counts, or counts of models of different sizes.
    """
    if not counts:
        raise UserError("the heat map needs at least one counts file")
    first_name, first = next(iter(counts.items()))
    for name, other in counts.items():
        for matrix in MATRICES:
            if other.counts[matrix].shape != first.counts[matrix].shape:
                raise UserError(f"the counts of {first_name} and {name} belong to models of different sizes ({matrix})")
    layers = len(first.counts["q_proj"])
    height = max(0.9, min(1.8, 0.07 * layers + 0.3))
    figure = new_figure(PAGE, height * len(counts) + 0.75)
    with styled():
        grid = figure.subplots(len(counts), len(MATRICES), squeeze=False, sharey=True)
        for row, (name, own) in zip(grid, counts.items()):
            for axis, matrix in zip(row, MATRICES):
                picture, edge = _binned(own.counts[matrix] / own.out_features(matrix))
                image = axis.imshow(
                    np.sqrt(picture),
                    cmap="magma_r",
                    vmin=0,
                    vmax=1,
                    origin="lower",
                    aspect="auto",
                    interpolation="none",
                )
                axis.axvline(edge - 0.5, color="0.5", linewidth=0.5)
                axis.set_xticks([0, edge - 1], ["0", str(own.counts[matrix].shape[1] - 2)])
                axis.get_xticklabels()[1].set_horizontalalignment("right")
                axis.spines[:].set_visible(True)
                if axis.get_subplotspec().is_first_row():
                    axis.set_title(_tex(matrix))
                if not axis.get_subplotspec().is_last_row():
                    axis.tick_params(labelbottom=False)
            row[0].set_ylabel(f"{name}\nlayer", fontsize=8 * min(1.0, 14 / len(name)))
            row[0].set_yticks(range(0, layers, max(1, layers // 4)))
        bar = figure.colorbar(image, ax=grid, fraction=0.03, pad=0.01, aspect=30)
        bar.set_ticks([0, 0.1, 0.316, 0.5477, 0.775, 1], labels=["0", "1%", "10%", "30%", "60%", "100%"])
        bar.set_label("share beyond σ")
        about = "colour: share of a dimension's parameters that moved beyond σ"
        figure.supxlabel(f"input dimension; right of the line: bias; {about}", fontsize=8)
    return figure


def skeleton(tickets: Mapping[str, DominantTicket], at_least: int = 2) -> Figure:
    """Which dimensions recur: dimension (y, only those in `at_least` layers) against layer (x), one panel a
    matrix.

    Darkness is the share of the tickets that have the dimension in that layer; the number behind a name is
    its layers.

    Raises:
        UserError: no tickets, or of different model sizes.
    """
    if not tickets:
        raise UserError("the skeleton needs at least one ticket")
    shape = next(iter(tickets.values())).shape
    for name, ticket in tickets.items():
        ticket.validate_for(shape, name)
    pictures = {m: _recurring(list(tickets.values()), m, at_least) for m in MATRICES}
    tallest = [max(3, *(len(pictures[m][0]) for m in half)) for half in (MATRICES[:3], MATRICES[3:])]
    figure = new_figure(PAGE, 0.125 * sum(tallest) + 1.5)
    with styled():
        grid = figure.subplots(2, 3, squeeze=False, height_ratios=tallest)
        for number, (axis, matrix) in enumerate(zip(grid.flat, MATRICES)):
            dims, picture = pictures[matrix]
            axis.set_title(_tex(matrix))
            axis.set_xlim(-0.5, shape.layers - 0.5)
            axis.set_xticks(range(0, shape.layers, max(1, shape.layers // 6)))
            axis.spines["left"].set_visible(False)
            if axis.get_subplotspec().is_last_row():
                axis.set_xlabel("Layer")
            if not dims:
                axis.set_yticks([])
                axis.text(
                    0.5,
                    0.5,
                    f"nothing in {at_least} layers",
                    ha="center",
                    va="center",
                    transform=axis.transAxes,
                )
                continue
            axis.pcolormesh(
                np.arange(shape.layers + 1) - 0.5,
                np.arange(len(dims) + 1) - 0.5,
                picture,
                cmap="Blues",
                vmin=-0.15,
                vmax=1,
                edgecolors="white",
                linewidth=0.6,
            )
            names = ["bias" if d == shape.in_features(matrix) else str(d) for d in dims]
            totals = (picture > 0).sum(axis=1)
            axis.set_yticks(range(len(dims)), [f"{n} ({t})" for n, t in zip(names, totals)], fontsize=6)
            axis.set_ylim(tallest[number // 3] - 0.5, -0.5)
            axis.tick_params(axis="y", length=0)
        figure.supylabel("dimension (number of layers)", fontsize=7.5)
        figure.supxlabel(f"darkness: share of tickets with the dimension, of {len(tickets)}", fontsize=7.5)
    return figure


def training_curves(results: Sequence[Result]) -> Figure:
    """Figure 3: training loss, training accuracy and validation score against updates, a row a task, mean
    over seeds.

    Raises:
        UserError: no run has a curve or epochs.
    """
    runs = [r for r in tuned(r for r in results if r.method in _LINES) if r.curve or r.epochs]
    if not runs:
        raise UserError("no result file has a curve or epochs of a method of paper D (full, dominant, ...)")
    tasks = tasks_in(runs)
    figure = new_figure(PAGE, 1.75 * len(tasks) + 0.5)
    methods = sorted({(r.method, r.top_k) for r in runs}, key=lambda m: (list(_LINES).index(m[0]), -(m[1] or 0)))
    with styled():
        grid = figure.subplots(len(tasks), 3, squeeze=False)
        for row, task in zip(grid, tasks):
            for method, top_k in methods:
                own = [r for r in runs if (r.task, r.method, r.top_k) == (task, method, top_k)]
                _curves(row, own, _line(method, top_k, [k for m, k in methods if m == method]))
            for axis, name in zip(row, ("Training loss", "Training accuracy (%)", "Validation score (%)")):
                axis.set_ylabel(name)
                axis.ticklabel_format(axis="x", style="sci", scilimits=(0, 4), useMathText=True)
                axis.xaxis.get_major_locator().set_params(integer=True)
                if not axis.get_lines():
                    axis.text(0.5, 0.5, "not logged", ha="center", va="center", transform=axis.transAxes)
            row[1].set_title(task, fontweight="bold")
        for axis in grid[-1]:
            axis.set_xlabel("Updates")
        seen = {label: handle for axis in grid.flat for handle, label in zip(*axis.get_legend_handles_labels())}
        figure.legend(seen.values(), seen.keys(), loc="outside upper center", ncols=min(6, len(seen)))
    return figure


def _line(method: str, top_k: int | None, all_k: Sequence[int | None]) -> dict[str, Any]:
    colour, name, dash = _LINES[method]
    number = sorted((k or 0 for k in all_k), reverse=True).index(top_k or 0)
    style = {"color": _SECOND.get(colour, colour) if number else colour, "linestyle": dash}
    marker = MARKERS[(2 * list(_LINES).index(method) + number) % len(MARKERS)]
    return {**style, "marker": marker, "label": f"{name}-{top_k}" if top_k else name}


def _curves(axes: Sequence[Any], runs: Sequence[Result], style: dict[str, Any]) -> None:
    for axis, name in zip(axes, ("train_loss", "train_accuracy")):
        scale = 1 if name == "train_loss" else 100
        _plot(axis, [[(p["update"], scale * p[name]) for p in r.curve if name in p] for r in runs], style)
    _plot(axes[2], [_validation(run) for run in runs], style)


def _validation(run: Result) -> list[tuple[float, float]]:
    """Updates and task score (points) of the epochs that were validated."""
    names = metrics_of(run.task, run.scores["all"])
    logged = [e for e in run.epochs if "updates" in e and all(name in e.get("valid", {}) for name in names)]
    return [(e["updates"], 100 * task_score(run.task, {n: e["valid"][n] for n in names})) for e in logged if names]


def _plot(axis: Any, lines: Sequence[Sequence[tuple[float, float]]], style: dict[str, Any]) -> None:
    values: dict[float, list[float]] = {}
    for line in lines:
        for x, y in line:
            values.setdefault(x, []).append(y)
    most = max((len(v) for v in values.values()), default=0)
    points = [(x, spread(v).mean) for x, v in sorted(values.items()) if len(v) == most]  # where every seed still trains
    if points:
        xs, ys = zip(*points)
        axis.plot(xs, ys, markevery=max(1, len(xs) // 6), linewidth=1.0, **style)


def _binned(share: FloatArray) -> tuple[FloatArray, int]:
    """Bins with the largest share in each, and the bias as a strip of 3 bins; (layers, bins + 3) and the
    edge.
    """
    weight, bias = share[:, :-1], share[:, -1:]
    bins = np.array_split(np.arange(weight.shape[1]), min(_BINS, weight.shape[1]))
    gathered = np.column_stack([weight[:, part].max(axis=1) for part in bins])
    wide = max(1, len(bins) // 24)
    return np.column_stack([gathered, np.repeat(bias, wide, axis=1)]), len(bins)


def _recurring(tickets: Sequence[DominantTicket], matrix: str, at_least: int) -> tuple[list[int], FloatArray]:
    shape = tickets[0].shape
    share = np.zeros((shape.in_features(matrix) + 1, shape.layers))
    for ticket in tickets:
        for layer, dims in enumerate(ticket.dimensions[matrix]):
            share[dims, layer] += 1 / len(tickets)
    layers: IntArray = (share > 0).sum(axis=1)
    order = sorted(np.flatnonzero(layers >= at_least).tolist(), key=lambda d: (-int(layers[d]), d))
    return order, share[order]


def _tex(matrix: str) -> str:
    return f"$W^{{\\mathrm{{{PAPER_NAMES[matrix][2:]}}}}}$"
