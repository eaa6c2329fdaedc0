"""The report's figures as objects: one call each, for a notebook or for the page.

    from fairseq_tickets.analysis.report import charts
    from fairseq_tickets.analysis.results import load_results
    charts.phase_transition(load_results(["runs/demo/demo/results"]), "origin")

Each returns an Altair chart (Vega-Lite): Jupyter shows it, `.save("figure.html")` and `.to_dict()` do what Altair says.
Every mark has a name for screen readers; colours are Okabe and Ito's, and no two series differ by colour alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fairseq_tickets.analysis.figure_style import BLUE, GREEN, ORANGE, PURPLE, SKY, VERMILION
from fairseq_tickets.analysis.overlap_tables import MEANING, Similarity
from fairseq_tickets.analysis.phases import KINDS, SCORE, VALIDATION, cost_rows, curve_rows, finding_rows, phase_rows
from fairseq_tickets.analysis.results import Result
from fairseq_tickets.analysis.shares import Shares
from fairseq_tickets.errors import UserError
from fairseq_tickets.parameters import MATRICES, PAPER_NAMES
from fairseq_tickets.tickets import DominantTicket

if TYPE_CHECKING:
    import altair as alt

HEIGHT = 260
COLOURS = {"winning": BLUE, "random": ORANGE, "losing": GREEN, "full": PURPLE}
METHOD_COLOURS = [BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY]


def library() -> Any:
    """Altair; UserError with how to install it where it is missing."""
    try:
        import altair
        import jinja2  # noqa: F401 - the page needs it
        import vl_convert  # noqa: F401 - and the JavaScript that this carries
    except ImportError as error:
        message = f"the report needs Altair, vl-convert and Jinja2 ({error}): pip install 'fairseq_tickets[report]'"
        raise UserError(message) from error
    return altair


def phase_transition(
    results: Sequence[Result], task: str, metric: str = SCORE, against: str = "weight"
) -> alt.LayerChart:
    """Score of winning, random and losing tickets: means and ± 1 deviation over seeds, single runs, super tickets.

    Args:
        results: runs of one experiment and model.
        task: which task.
        metric: "task score", "task score on the 90 % not selected on", or a metric such as "accuracy".
        against: "weight" (remaining, embeddings included), "layers_weight" (without) or "level" (pruned).

    Raises:
        UserError: no such runs, or Altair is missing.
    """
    return phase_chart(phase_rows(results, task), task, metric, against)


def phase_chart(
    rows: tuple[list[dict[str, Any]], list[dict[str, Any]]], task: str, metric: str, against: str
) -> alt.LayerChart:
    """`phase_transition` of rows that `phases.phase_rows` gave."""
    alt = library()
    runs, means = rows
    if not any(row["kind"] in KINDS and row["metric"] == metric for row in runs):
        raise UserError(f"no winning, random or losing runs of {task} with {metric}")
    titles = {
        "weight": "Weight remaining (%), embeddings included",
        "layers_weight": "Weight remaining (%), embeddings left out",
        "level": "Pruned heads and FFNs (%)",
    }
    if against not in titles:
        raise UserError(f"against is {against!r}; it must be one of {', '.join(titles)}")
    x = alt.X(
        f"{against}:Q",
        title=titles[against],
        scale=alt.Scale(zero=False, nice=False, padding=12, reverse=against != "level"),
    )
    y_scale = alt.Scale(zero=False)
    kinds = [kind for kind in (*KINDS, "full") if any(row["kind"] == kind for row in runs)]
    colour = alt.Color(
        "kind:N",
        title=None,
        scale=alt.Scale(domain=kinds, range=[COLOURS[kind] for kind in kinds]),
        legend=alt.Legend(orient="top", symbolOpacity=1),
    )
    chosen = alt.param(name=METRIC, value=metric)
    of_metric = alt.datum.metric == chosen
    tickets = alt.FieldOneOfPredicate(field="kind", oneOf=list(KINDS))
    whole = alt.FieldEqualPredicate(field="kind", equal="full")
    mean = alt.Chart(alt.InlineData(means)).transform_filter(of_metric)
    single = alt.Chart(alt.InlineData(runs)).transform_filter(of_metric)
    y = alt.Y("mean:Q", title="Score (points)", scale=y_scale)
    told = [
        alt.Tooltip("kind:N"),
        alt.Tooltip("level:Q", title="pruned %"),
        alt.Tooltip("weight:Q", title="weight remaining %", format=".1f"),
    ]
    of_mean = [
        *told,
        alt.Tooltip("mean:Q", title="mean", format=".1f"),
        alt.Tooltip("sd:Q", title="deviation", format=".1f"),
        alt.Tooltip("n:Q", title="runs"),
    ]
    of_run = [*told, alt.Tooltip("seed:Q"), alt.Tooltip("score:Q", format=".1f"), alt.Tooltip("key:N", title="run")]
    dash = alt.StrokeDash(
        "kind:N", title=None, scale=alt.Scale(domain=kinds, range=[[1, 0], [6, 3], [2, 2], [8, 3, 2, 3]][: len(kinds)])
    )
    shape = alt.Shape(
        "kind:N",
        title=None,
        scale=alt.Scale(domain=kinds, range=["circle", "square", "triangle-up", "diamond"][: len(kinds)]),
    )
    base = mean.transform_filter(tickets)
    layers = [
        base.mark_area(opacity=0.15, aria=False).encode(
            x=x, y=alt.Y("low:Q", scale=y_scale), y2="high:Q", color=colour
        ),
        base.mark_line(aria=False).encode(x=x, y=y, color=colour, strokeDash=dash),
        base.mark_point(filled=True, size=55).encode(x=x, y=y, color=colour, shape=shape, tooltip=of_mean),
        mean.transform_filter(whole)
        .mark_rule(strokeDash=[8, 3, 2, 3], strokeWidth=1.5)
        .encode(y=y, color=colour, tooltip=of_mean),
        single.transform_filter(tickets)
        .mark_point(size=22, opacity=0.7)
        .encode(x=x, y=alt.Y("score:Q", scale=y_scale), color=colour, shape=shape, tooltip=of_run),
        single.transform_filter(alt.FieldEqualPredicate(field="super", equal=True))
        .mark_point(shape=STAR, size=90, filled=True, color=VERMILION, opacity=1)
        .encode(x=x, y=alt.Y("score:Q", scale=y_scale), tooltip=of_run),
    ]
    text = f"{task}: score against {titles[against].lower()}; stars are the seeds' super tickets"
    return alt.layer(*layers, description=text).add_params(chosen).properties(width="container", height=HEIGHT)


METRIC = "metric"  # name of the chart's parameter
STAR = (
    "M0,-1L0.235,-0.324L0.951,-0.309L0.38,0.124L0.588,0.809L0,0.4L-0.588,0.809L-0.38,0.124L-0.951,-0.309L-0.235,-0.324Z"
)


def score_against_parameters(results: Sequence[Result], task: str) -> alt.LayerChart:
    """Paper D's Table 2 as a picture: mean score ± 1 deviation over seeds against trained parameters, a point a method.

    Raises:
        UserError: no runs that say how many parameters they trained, or Altair is missing.
    """
    alt = library()
    rows = [row for row in cost_rows(results) if row["task"] == task]
    if not rows:
        raise UserError(f"no runs of {task} that say how many parameters they trained")
    base = alt.Chart(alt.InlineData(rows))
    x = alt.X("share:Q", title="Trained encoder parameters (% of all, log scale)", scale=alt.Scale(type="log"))
    y = alt.Y("mean:Q", title="Score (points)", scale=alt.Scale(zero=False))
    colour = _methods(alt, rows)
    told = [
        alt.Tooltip("method:N"),
        alt.Tooltip("mean:Q", title="score", format=".1f"),
        alt.Tooltip("n:Q", title="runs"),
        alt.Tooltip("parameters:Q", title="trained parameters", format=",.0f"),
        alt.Tooltip("share:Q", title="% of all", format=".3g"),
        alt.Tooltip("seconds:Q", title="seconds a run", format=".0f"),
        alt.Tooltip("ticket_seconds:Q", title="seconds to find its ticket", format=".1f"),
    ]
    bars = base.mark_rule(strokeWidth=2).encode(
        x=x, y=alt.Y("low:Q", scale=alt.Scale(zero=False)), y2="high:Q", color=colour
    )
    points = base.mark_point(filled=True, size=110, opacity=1).encode(
        x=x,
        y=y,
        color=colour,
        shape=alt.Shape("method:N", title=None, scale=_names(alt, rows), legend=_legend(alt)),
        tooltip=told,
    )
    text = f"{task}: mean score against the share of parameters trained, by method"
    return alt.layer(bars, points, description=text).properties(width="container", height=HEIGHT)


def run_costs(results: Sequence[Result], task: str) -> alt.Chart:
    """Mean seconds of a training run by method; UserError where no run says."""
    alt = library()
    rows = [row for row in cost_rows(results) if row["task"] == task and row["seconds"] is not None]
    if not rows:
        raise UserError(f"no runs of {task} that say how long they took")
    told = [alt.Tooltip("method:N"), alt.Tooltip("seconds:Q", format=".0f"), alt.Tooltip("megabytes:Q", format=",.0f")]
    return (
        alt.Chart(alt.InlineData(rows), description=f"{task}: mean seconds of a training run by method")
        .mark_bar()
        .encode(
            y=alt.Y("method:N", title=None, sort="x", axis=alt.Axis(labelLimit=220)),
            x=alt.X("seconds:Q", title="Seconds of a training run (mean)"),
            color=_methods(alt, rows, legend=False),
            tooltip=told,
        )
        .properties(width="container", height=26 * len(rows))
    )


def finding_costs(results: Sequence[Result], task: str) -> alt.LayerChart:
    """Mean seconds that finding a ticket took, by way to find it, with the least and the most of a seed.

    Raises:
        UserError: no run says, or Altair is missing.
    """
    alt = library()
    rows = [row for row in finding_rows(results) if row["task"] == task]
    if not rows:
        raise UserError(f"no runs of {task} that say how long finding their tickets took")
    told = [
        alt.Tooltip("method:N"),
        *(alt.Tooltip(f"{name}:Q", title=title, format=".1f") for name, title in SECONDS.items()),
        alt.Tooltip("n:Q", title="tickets"),
    ]
    base = alt.Chart(alt.InlineData(rows))
    y = alt.Y("method:N", title=None, sort=[row["method"] for row in rows], axis=alt.Axis(labelLimit=240))
    x = alt.X("seconds:Q", title="Seconds to find a ticket (mean; least to most)")
    bars = base.mark_bar(color=SKY).encode(y=y, x=x, tooltip=told)
    spans = base.mark_rule(strokeWidth=2, color=VERMILION, aria=False).encode(y=y, x="least:Q", x2="most:Q")
    text = f"{task}: mean seconds that finding a ticket took, by way to find it"
    return alt.layer(bars, spans, description=text).properties(width="container", height=26 * len(rows))


SECONDS = {"seconds": "seconds, mean", "least": "least", "most": "most"}


def learning_curves(results: Sequence[Result], task: str, quantity: str = "training loss") -> alt.Chart:
    """Paper D's Figure 3: training loss, training accuracy or validation score against updates, a line a run.

    Raises:
        UserError: no runs that recorded it, or Altair is missing.
    """
    alt = library()
    rows = curve_rows(results, task)
    if not any(row["quantity"] == quantity for row in rows):
        raise UserError(f"no runs of {task} that recorded {quantity}")
    told = [
        alt.Tooltip("method:N"),
        alt.Tooltip("seed:Q"),
        alt.Tooltip("update:Q"),
        alt.Tooltip("value:Q", format=".3f"),
    ]
    unit = "" if quantity == "training loss" else " (points)"
    return (
        alt.Chart(alt.InlineData(rows), description=f"{task}: {quantity} against updates, a line a run")
        .transform_filter(alt.FieldEqualPredicate(field="quantity", equal=quantity))
        .mark_line(point=quantity == VALIDATION, opacity=0.8)
        .encode(
            x=alt.X("update:Q", title="Updates"),
            y=alt.Y("value:Q", title=f"{quantity[0].upper()}{quantity[1:]}{unit}", scale=alt.Scale(zero=False)),
            color=_methods(alt, rows),
            strokeDash=alt.StrokeDash("method:N", title=None, scale=_names(alt, rows), legend=_legend(alt)),
            detail="key:N",
            tooltip=told,
        )
        .properties(width="container", height=HEIGHT)
    )


def share_map(shares: Shares, task: str | None = None) -> alt.LayerChart:
    """Paper S's Figure 6 as a heat map: the largest task share of every head and FFN, or one task's share.

    Raises:
        UserError: another task than those of `shares`, or Altair is missing.
    """
    alt = library()
    if task is not None and task not in shares.tasks:
        raise UserError(f"task {task}: must be one of {', '.join(shares.tasks)}")
    layers, heads = shares.head_importance.shape
    rows = []
    for layer in range(layers):
        places = [(str(h), shares.head_importance[layer, h], shares.head_shares[:, layer, h]) for h in range(heads)]
        places.append(("FFN", shares.ffn_importance[layer], shares.ffn_shares[:, layer]))
        for column, (name, importance, values) in enumerate(places):
            which = int(values.argmax()) if task is None else shares.tasks.index(task)
            rows.append(
                {
                    "layer": layer,
                    "place": column,
                    "head": name,
                    "importance": float(importance),
                    "task": shares.tasks[which],
                    "share": float(values[which]),
                }
            )
    even = 1 / len(shares.tasks)
    what = "largest task share" if task is None else f"share of {task}"
    base = alt.Chart(alt.InlineData(rows))
    x = alt.X("head:N", title="Head", sort=[*map(str, range(heads)), "FFN"], axis=alt.Axis(labelAngle=0))
    y = alt.Y("layer:O", title="Layer", sort="descending")
    told = [
        alt.Tooltip("layer:O"),
        alt.Tooltip("head:N"),
        alt.Tooltip("task:N"),
        alt.Tooltip("share:Q", format=".2f"),
        alt.Tooltip("importance:Q", format=".3f"),
    ]
    cells = base.mark_rect().encode(
        x=x,
        y=y,
        color=alt.Color("share:Q", title="share", scale=alt.Scale(scheme="cividis", domainMin=0)),
        tooltip=told,
    )
    text = f"{what} of every head and FFN; all tasks alike would be {even:.2f}"
    return alt.layer(cells, description=text).properties(width="container", height=22 * layers)


def similarity_map(found: Similarity) -> alt.LayerChart:
    """Pairwise Jaccard similarities as a heat map with the numbers in it; the random baseline is in its title."""
    alt = library()
    rows = [
        {"a": a, "b": b, "jaccard": found.matrix[i][j]}
        for i, a in enumerate(found.names)
        for j, b in enumerate(found.names)
    ]
    base = alt.Chart(alt.InlineData(rows))
    axis = {"sort": found.names, "title": None}
    x, y = alt.X("a:N", axis=alt.Axis(labelAngle=-40, labelLimit=140), **axis), alt.Y("b:N", **axis)
    told = [alt.Tooltip("a:N"), alt.Tooltip("b:N"), alt.Tooltip("jaccard:Q", format=".3f")]
    cells = base.mark_rect().encode(
        x=x,
        y=y,
        color=alt.Color("jaccard:Q", title="J", scale=alt.Scale(scheme="cividis", domain=[0, 1])),
        tooltip=told,
    )
    layers = [cells]
    if len(found.names) <= 12:
        ink = alt.condition(alt.FieldGTPredicate(field="jaccard", gt=0.6), alt.value("#111"), alt.value("#fff"))
        layers.append(
            base.mark_text(fontSize=10, aria=False).encode(
                x=x, y=y, text=alt.Text("jaccard:Q", format=".2f"), color=ink
            )
        )
    text = f"{MEANING[found.measure]}; mean {found.mean:.3f}, random tickets of these sizes {found.random.expected:.3f}"
    return alt.layer(*layers, description=text).properties(width="container", height=26 * len(found.names))


def skeleton(tickets: Mapping[str, DominantTicket], matrix: str = "v_proj") -> alt.Chart:
    """Where each dimension of one matrix stands: dimensions x layers, coloured by how many of the tickets have it.

    Raises:
        UserError: unknown matrix, no tickets, tickets of different model sizes, or Altair is missing.
    """
    alt = library()
    if matrix not in MATRICES:
        raise UserError(f"matrix is {matrix!r}; it must be one of {', '.join(MATRICES)}")
    if not tickets:
        raise UserError("a skeleton needs at least one dominant ticket")
    shape = next(iter(tickets.values())).shape
    places: dict[tuple[int, int], list[str]] = {}
    for name, ticket in tickets.items():
        ticket.validate_for(shape, name)
        for layer, dims in enumerate(ticket.dimensions[matrix]):
            for index in dims:
                places.setdefault((index, layer), []).append(name)
    bias = shape.in_features(matrix)
    rows = [
        {"dimension": "bias" if i == bias else str(i), "layer": layer, "tickets": len(names), "in": ", ".join(names)}
        for (i, layer), names in sorted(places.items())
    ]
    return (
        alt.Chart(alt.InlineData(rows), description=f"{PAPER_NAMES[matrix]}: dimensions through the layers")
        .mark_rect()
        .encode(
            x=alt.X(
                "layer:O", title="Layer", axis=alt.Axis(labelAngle=0), scale=alt.Scale(domain=list(range(shape.layers)))
            ),
            y=alt.Y(
                "dimension:N",
                title="Dimension",
                sort=alt.EncodingSortField(field="tickets", op="sum", order="descending"),
            ),
            color=alt.Color("tickets:Q", scale=alt.Scale(scheme="cividis", domainMin=0), title="tickets"),
            tooltip=[alt.Tooltip("dimension:N"), alt.Tooltip("layer:O"), alt.Tooltip("tickets:Q"), alt.Tooltip("in:N")],
        )
        .properties(width="container", height=14 * len({row["dimension"] for row in rows}))
    )


def _methods(alt: Any, rows: Sequence[Mapping[str, Any]], legend: bool = True) -> Any:
    names = sorted({row["method"] for row in rows})
    colours = [METHOD_COLOURS[i % len(METHOD_COLOURS)] for i in range(len(names))]
    scale = alt.Scale(domain=names, range=colours)
    return alt.Color("method:N", title=None, scale=scale, legend=_legend(alt) if legend else None)


def _names(alt: Any, rows: Sequence[Mapping[str, Any]]) -> Any:
    """Scale with the domain that the colours have, so that the legends become one."""
    return alt.Scale(domain=sorted({row["method"] for row in rows}))


def _legend(alt: Any) -> Any:
    """The same for colour, shape and dash, so that they become one."""
    return alt.Legend(orient="top", columns=3, symbolOpacity=1)
