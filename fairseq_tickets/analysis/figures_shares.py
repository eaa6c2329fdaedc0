"""Figure 6 of paper S: importance of every head and FFN and how tasks share it, as pies and as a heat map.

The pies are the paper's picture: size is Ticket Importance, colours are Task Shares. They can be read for a
dozen heads a layer; for 24 x 16 the heat map says the same: importance on the left, the largest task share on
the right, with the task's letter wherever that is at least twice an even share.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from fairseq_tickets.analysis.figure_style import HATCHES, PAGE, PALETTE, new_figure, styled
from fairseq_tickets.analysis.shares import Shares
from fairseq_tickets.arrays import FloatArray
from fairseq_tickets.errors import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def importance_pies(shares: Shares) -> Figure:
    """One pie a head (x) and layer (y), and a column of pies for the FFNs; area in proportion to importance.

    Heads and FFNs are scaled apart, each so that its largest fills its cell.

    Raises:
        UserError: more tasks than there are colours.
    """
    if len(shares.tasks) > len(PALETTE):
        raise UserError(f"the pies tell at most {len(PALETTE)} tasks apart, got {len(shares.tasks)}; use --style map")
    layers, heads = shares.head_importance.shape
    cell = PAGE / (heads + 3.2)
    figure = new_figure(PAGE, cell * layers + 0.8)
    with styled():
        axis = figure.subplots()
        _pies(axis, shares.head_importance, shares.head_shares, 0.0)
        _pies(axis, shares.ffn_importance[:, None], shares.ffn_shares[:, :, None], heads + 0.7)
        axis.set_xlim(-0.6, heads + 1.3)
        axis.set_ylim(-0.6, layers - 0.4)
        axis.set_aspect("equal")
        axis.axvline(heads + 0.1, color="0.7", linewidth=0.6)
        axis.set_xticks([*range(heads), heads + 0.7], [*map(str, range(heads)), "FFN"])
        axis.set_yticks(range(layers))
        axis.set_xlabel("Head")
        axis.set_ylabel("Layer")
        axis.tick_params(length=0)
        axis.spines[:].set_visible(False)
        figure.legend(handles=_keys(shares.tasks), loc="outside upper center", ncols=min(8, len(shares.tasks)))
    return figure


def importance_map(shares: Shares) -> Figure:
    """Two heat maps over layers and heads, the FFN as last column: importance, and the largest share with its
    task.
    """
    layers, heads = shares.head_importance.shape
    importance = np.column_stack([_scaled(shares.head_importance), _scaled(shares.ffn_importance)])
    all_shares = np.concatenate([shares.head_shares, shares.ffn_shares[:, :, None]], axis=2)
    even = 1 / len(shares.tasks)
    largest = np.ceil(10 * max(all_shares.max(), 1.1 * even)) / 10
    figure = new_figure(PAGE, max(2.4, min(6.5, 0.17 * layers + 1.5)))
    letters = _letters(shares.tasks)
    with styled():
        left, right = figure.subplots(1, 2, sharey=True)
        images = [
            left.imshow(importance, cmap="cividis", vmin=0, vmax=1, origin="lower", aspect="auto"),
            right.imshow(all_shares.max(axis=0), cmap="Blues", vmin=even, vmax=largest, origin="lower", aspect="auto"),
        ]
        _dominating(right, all_shares, letters, float(largest))
        left.set_title("Ticket importance (largest = 1)")
        right.set_title(f"Largest task share (all tasks alike: {even:.2g})")
        for axis, image in zip((left, right), images):
            axis.axvline(heads - 0.5, color="white", linewidth=1.5)
            step = 1 if heads <= 12 else 2
            axis.set_xticks([*range(0, heads, step), heads], [*map(str, range(0, heads, step)), "FFN"])
            axis.set_xlabel("Head")
            axis.spines[:].set_visible(False)
            bar = figure.colorbar(image, ax=axis, fraction=0.05, pad=0.02)
            bar.outline.set_visible(False)
        left.set_ylabel("Layer")
        left.set_yticks(range(0, layers, 1 if layers <= 12 else 2))
        key = "   ".join(f"{letter} {task}" for task, letter in letters.items())
        figure.supxlabel(f"the task with at least twice an even share:   {key}", fontsize=7.5)
    return figure


def _pies(axis: Any, importance: FloatArray, shares: FloatArray, offset: float) -> None:
    from matplotlib.patches import Circle, Wedge

    radii = 0.48 * np.sqrt(_scaled(importance))
    for (layer, head), radius in np.ndenumerate(radii):
        centre, start = (head + offset, layer), 90.0
        if radius == 0:
            continue
        for task, share in enumerate(shares[:, layer, head]):
            end = start - 360 * share
            if share > 0:
                style: dict[str, Any] = {
                    "facecolor": PALETTE[task],
                    "hatch": HATCHES[task],
                    "edgecolor": "white",
                    "linewidth": 0.0,
                }
                axis.add_patch(Wedge(centre, radius, end, start, **style))
            start = end
        axis.add_patch(Circle(centre, radius, fill=False, edgecolor="0.3", linewidth=0.3))


def _keys(tasks: list[str]) -> list[Any]:
    from matplotlib.patches import Patch

    return [Patch(facecolor=PALETTE[i], hatch=HATCHES[i] * 2, edgecolor="white", label=t) for i, t in enumerate(tasks)]


def _dominating(axis: Any, shares: FloatArray, letters: dict[str, str], largest: float) -> None:
    names = list(letters.values())
    size = min(7.0, 150 / max(shares.shape[1], 10))
    for layer in range(shares.shape[1]):
        for head in range(shares.shape[2]):
            task = int(shares[:, layer, head].argmax())
            if shares[task, layer, head] >= 2 / len(names) and len(names) > 1:
                axis.text(
                    head,
                    layer,
                    names[task],
                    ha="center",
                    va="center",
                    fontsize=size,
                    color="white" if shares[task, layer, head] > 0.65 * largest else "black",
                    fontweight="bold",
                )


def _letters(tasks: list[str]) -> dict[str, str]:
    """A distinct letter a task: its first letter that is free, else the next free letter of the alphabet."""
    used: dict[str, str] = {}
    for task in tasks:
        wanted = [c.upper() for c in task if c.isalpha()] + [chr(65 + i) for i in range(26)]
        used[task] = next((c for c in wanted if c not in used.values()), "?")
    return used


def _scaled(values: FloatArray) -> FloatArray:
    top = float(values.max())
    result: FloatArray = values / top if top > 0 and math.isfinite(top) else values
    return result
