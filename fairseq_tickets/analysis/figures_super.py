"""Figures of paper S made from result files: phase transition (1, 4, 7), gain (3), subsets (5)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fairseq_tickets.analysis.figure_style import (
    BLACK,
    BLUE,
    COLUMN,
    DASHES,
    GREEN,
    HATCHES,
    MARKERS,
    ORANGE,
    PAGE,
    caption,
    new_figure,
    seeds_in_words,
    styled,
)
from fairseq_tickets.analysis.glue_tasks import METRICS, heading, metrics_of
from fairseq_tickets.analysis.results import Result, select, tuned
from fairseq_tickets.analysis.statistics import Spread, spread
from fairseq_tickets.analysis.table_parts import best_runs, models_in, tasks_in
from fairseq_tickets.errors import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KINDS: tuple[tuple[str, str, str, Any], ...] = (
    ("winning", BLUE, MARKERS[0], DASHES[0]),
    ("random", ORANGE, MARKERS[1], DASHES[1]),
    ("losing", GREEN, MARKERS[2], DASHES[2]),
)
_PANELS_A_ROW = 3


def phase_transition(results: Sequence[Result], split: str = "all") -> Figure:
    """Score against weight remaining: winning, random and losing tickets, mean ± deviation over seeds; full
    model as a line.

    One panel a task and model, as Figures 1 (left), 4 and 7. Weight remaining falls from left to right, as in
    the paper.

    Raises:
        UserError: no winning, random or losing runs on whole training data.
    """
    whole = select(results, train_fraction=1.0, source_task=None)
    panels = [(m, t, 1.0) for m in models_in(whole) for t in tasks_in(select(whole, model=m))]
    return _phase_panels(whole, panels, split)


def training_subsets(results: Sequence[Result], split: str = "all") -> Figure:
    """Figure 5: the phase transition of a task on each share of its training data, one panel a share.

    Raises:
        UserError: no task has runs on more than one share.
    """
    own = select(results, source_task=None)
    panels = []
    for model in models_in(own):
        for task in tasks_in(select(own, model=model)):
            fractions = sorted({r.train_fraction for r in select(own, model=model, task=task)}, reverse=True)
            panels += [(model, task, f) for f in fractions] if len(fractions) > 1 else []
    if not panels:
        raise UserError("no task has results for more than one share of its training data (train_fraction)")
    return _phase_panels(own, panels, split)


def gain(results: Sequence[Result], split: str = "all") -> Figure:
    """Figure 3: gain of the super tickets over the full model (upper) and their weight remaining (lower), by
    task.

    Bars are means over the seeds both have; whiskers are sample deviations.

    Raises:
        UserError: no task has both.
    """
    whole = select(results, train_fraction=1.0, source_task=None)
    models = models_in(whole)
    tasks = tasks_in(whole)
    gains: dict[tuple[str, str], Spread] = {}
    weights: dict[tuple[str, str], Spread] = {}
    for model in models:
        for task in tasks:
            own = select(whole, model=model, task=task)
            full = {run.seed: run.score(split) for run in best_runs(own, "full")}
            tickets = [run for run in best_runs(own, "winning") if run.seed in full]
            if tickets:
                gains[model, task] = spread([100 * (run.score(split) - full[run.seed]) for run in tickets])
                weights[model, task] = spread([100 * _weight(run) for run in tickets])
    if not gains:
        raise UserError("no task has both full and winning runs with the same seed: there is no gain to show")
    shown = [task for task in tasks if any((model, task) in gains for model in models)]
    figure = new_figure(max(COLUMN, 0.62 * len(shown) + 0.9), 3.2)
    with styled():
        upper, lower = figure.subplots(2, 1, sharex=True)
        _bars(upper, gains, models, shown)
        _bars(lower, weights, models, shown)
        upper.axhline(0, color=BLACK, linewidth=0.6)
        upper.set_ylabel("Gain (points)")
        lower.set_ylabel("Weight remaining (%)")
        lower.set_ylim(0, 100)
        lower.set_xticks(range(len(shown)), shown, rotation=0 if len(shown) < 6 else 30)
        numbers = seeds_in_words(found.n for found in gains.values())
        caption(figure, f"bars: means of {numbers}; whiskers: ± 1 standard deviation")
        if len(models) > 1:
            figure.legend(*upper.get_legend_handles_labels(), ncols=len(models), loc="outside upper center")
    return figure


def _bars(axis: Any, values: dict[tuple[str, str], Spread], models: Sequence[str], tasks: Sequence[str]) -> None:
    width = 0.7 / len(models)
    for number, model in enumerate(models):
        at = [i for i, task in enumerate(tasks) if (model, task) in values]
        found = [values[model, tasks[i]] for i in at]
        axis.bar(
            [i + (number - (len(models) - 1) / 2) * width for i in at],
            [f.mean for f in found],
            width,
            yerr=[f.sd for f in found],  # NaN, of a single seed: no whisker
            color=(BLUE, ORANGE, GREEN)[number % 3],
            hatch=HATCHES[number % len(HATCHES)],
            edgecolor="white" if number else BLUE,
            linewidth=0,
            error_kw={"elinewidth": 0.8, "capsize": 2, "ecolor": "0.25"},
            label=model,
        )


def _phase_panels(results: Sequence[Result], panels: Sequence[tuple[str, str, float]], split: str) -> Figure:
    drawn = [p for p in panels if _of(results, p, {kind for kind, *_ in KINDS})]
    if not drawn:
        raise UserError("there are no winning, random or losing runs to draw")
    columns = 2 if len(drawn) == 4 else min(_PANELS_A_ROW, len(drawn))
    rows = math.ceil(len(drawn) / columns)
    figure = new_figure(COLUMN if columns == 1 else PAGE, 2.15 * rows + (0.7 if columns == 1 else 0.35))
    with styled():
        grid = figure.subplots(rows, columns, squeeze=False)
        for number, axis in enumerate(grid.flat):
            if number >= len(drawn):
                axis.axis("off")
                continue
            _phase(axis, results, drawn[number], split)
            if number + columns >= len(drawn):
                axis.set_xlabel("Weight remaining (%)")
        _titles(list(grid.flat), drawn)
        caption(figure, f"lines: means of {_seeds(results, drawn)}; bands: ± 1 standard deviation")
        seen = {label: handle for axis in grid.flat for handle, label in zip(*axis.get_legend_handles_labels())}
        figure.legend(seen.values(), seen.keys(), loc="outside upper center", ncols=2 if columns == 1 else len(seen))
    return figure


def _seeds(results: Sequence[Result], panels: Sequence[tuple[str, str, float]]) -> str:
    kinds = ({"full"}, *({kind} for kind, *_ in KINDS))
    runs = [_of(results, panel, kind) for panel in panels for kind in kinds]
    return seeds_in_words(number for own in runs for number in Counter(run.level for run in own).values())


def _phase(axis: Any, results: Sequence[Result], panel: tuple[str, str, float], split: str) -> None:
    full = _of(results, panel, {"full"})
    if full:
        found = spread([100 * run.score(split) for run in full])
        axis.axhline(found.mean, color=BLACK, linewidth=0.9, linestyle=DASHES[3], label="full model", zorder=1)
        if found.n > 1:
            axis.axhspan(found.mean - found.sd, found.mean + found.sd, color="0.85", linewidth=0, zorder=0)
    for kind, colour, marker, dash in KINDS:
        levels: dict[float, list[Result]] = {}
        for run in _of(results, panel, {kind}):
            levels.setdefault(run.level or 0.0, []).append(run)
        if not levels:
            continue
        points = []
        for level in sorted(levels):
            scores = spread([100 * run.score(split) for run in levels[level]])
            points.append((spread([100 * _weight(run) for run in levels[level]]).mean, scores))
        x = [weight for weight, _ in points]
        y = [scores.mean for _, scores in points]
        sd = [0 if math.isnan(scores.sd) else scores.sd for _, scores in points]
        axis.plot(x, y, color=colour, marker=marker, linestyle=dash, label=f"{kind} tickets", zorder=3)
        axis.fill_between(
            x,
            [a - b for a, b in zip(y, sd)],
            [a + b for a, b in zip(y, sd)],
            color=colour,
            alpha=0.18,
            linewidth=0,
        )
    axis.invert_xaxis()
    metrics = next(run.scores["all"] for run in results if run.task == panel[1])
    names = metrics_of(panel[1], metrics)
    label = heading(panel[1], names).replace(panel[1], "", 1).removeprefix("-m/mm").strip()
    axis.set_ylabel(f"{label if panel[1] in METRICS else 'Score'} (points)")
    axis.margins(x=0.04)


def _titles(axes: Sequence[Any], panels: Sequence[tuple[str, str, float]]) -> None:
    several_models = len({model for model, _, _ in panels}) > 1
    several_shares = len({share for _, _, share in panels}) > 1
    for axis, (model, task, share) in zip(axes, panels):
        parts = [
            task,
            *([model] if several_models else []),
            *([f"{100 * share:g}% of training data"] if several_shares else []),
        ]
        axis.set_title(", ".join(parts))


def _of(results: Sequence[Result], panel: tuple[str, str, float], methods: set[str]) -> list[Result]:
    model, task, share = panel
    return tuned(select(results, model=model, task=task, train_fraction=share, method=methods))


def _weight(run: Result) -> float:
    if "encoder" not in run.weight_remaining:
        raise UserError(f"result file {run.path} lacks weight_remaining.encoder")
    return run.weight_remaining["encoder"]
