"""Files as text for a terminal: a small map of kept heads, the top dimensions, scores, and where all comes from."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from fairseq_tickets.analysis.dimensions import layer_table
from fairseq_tickets.analysis.markup import Table, cells, columns, render
from fairseq_tickets.analysis.results import Result
from fairseq_tickets.analysis.shares import unit_norm
from fairseq_tickets.analysis.table_parts import in_points
from fairseq_tickets.arrays import FloatArray
from fairseq_tickets.counts import DimensionCounts
from fairseq_tickets.parameters import MATRICES, PAPER_NAMES
from fairseq_tickets.saliences import DimensionSalience
from fairseq_tickets.scores import ImportanceScores
from fairseq_tickets.tickets import SuperTicket, Ticket, ticket_from_json

SHADES = " .:-=+*#%@"  # from nothing to the largest
_TOP = 3  # dimensions a cell
_LONGEST = 300  # characters of a value of the provenance
_RESULTS = 40  # lines of a file of many results


def ticket_text(ticket: Ticket) -> str:
    """A ticket of either kind."""
    if isinstance(ticket, SuperTicket):
        kept = [[f"{'#' if v else '.'}" for v in (*row, ffn)] for row, ffn in zip(ticket.heads, ticket.ffn)]
        key = "heads by layer (# kept, . pruned), the FFN on the right"
        return "\n".join([ticket.describe(), "", key, _map(kept), "", provenance_text(ticket.provenance)])
    table = layer_table(ticket, popular=0)
    return "\n".join([ticket.describe(), "", render(table, "markdown"), provenance_text(ticket.provenance)])


def scores_text(scores: ImportanceScores) -> str:
    """Importance scores, normalised as for pruning."""
    heads, ffn = _scaled(unit_norm(scores.heads, 1)), _scaled(unit_norm(scores.ffn, 0))
    shades = [[_shade(v) for v in (*row, last)] for row, last in zip(heads, ffn)]
    order = np.argsort(-heads, axis=None, kind="stable")[:10]
    best = ", ".join(f"{i // heads.shape[1]}.{i % heads.shape[1]}" for i in order.tolist())
    return "\n".join(
        [
            f"importance scores: {heads.shape[0]} layers x {heads.shape[1]} heads, {scores.examples:,} examples",
            "",
            f"heads by layer, the FFN on the right; from unimportant to the largest: '{SHADES}'",
            _map(shades),
            "",
            f"most important heads (layer.head): {best}",
            "",
            provenance_text(scores.provenance),
        ]
    )


def dimensions_text(kind: str, values: Mapping[str, Any], provenance: Mapping[str, Any]) -> str:
    """Counts or saliences: the top dimensions of every matrix and layer with their values."""
    rows = []
    for layer in range(len(values["q_proj"])):
        row = [str(layer)]
        for matrix in MATRICES:
            own = values[matrix][layer]
            top = [j for j in np.argsort(-own, kind="stable")[:_TOP].tolist() if own[j] > 0]
            names = ["bias" if j == len(own) - 1 else str(j) for j in top]
            row.append(" ".join(f"{name}({own[j]:.3g})" for name, j in zip(names, top)) or "-")
        rows.append(cells(*row))
    table = Table(
        f"Top {_TOP} dimensions with their {kind}", columns("Layer", *(PAPER_NAMES[m] for m in MATRICES)), rows
    )
    return "\n".join([f"{kind} of {len(rows)} layers", "", render(table, "markdown"), provenance_text(provenance)])


def counts_text(counts: DimensionCounts) -> str:
    """Counts of out-weighted parameters."""
    return dimensions_text("counts", counts.counts, counts.provenance)


def salience_text(salience: DimensionSalience) -> str:
    """Salience of the input dimensions."""
    return dimensions_text("saliences", salience.scores, salience.provenance)


def result_text(result: Result) -> str:
    """One run: what it was, its scores, its ticket."""
    names = ("experiment", "model", "task", "method", "level", "top_k", "source_task", "train_fraction", "seed")
    facts = [f"{name}: {vars(result)[name]}" for name in names if vars(result)[name] is not None]
    if result.shared_tasks:
        facts.append(f"shared_tasks: {', '.join(result.shared_tasks)}")
    if result.partial_data:
        facts.append("data: PARTIAL")
    scores = [
        cells(split, *(in_points(value, 2) for _, value in sorted(metrics.items())))
        for split, metrics in result.scores.items()
        if set(metrics) == set(result.scores["all"])
    ]
    table = Table("Scores, points out of 100", columns("dev", *sorted(result.scores["all"])), scores)
    parts = ["result of one training run", "", *facts, "", render(table, "markdown")]
    if result.ticket is not None:
        parts.append(ticket_text(ticket_from_json(result.ticket, result.path)))
    more: dict[str, Any] = {"config": dict(result.config), "versions": dict(result.versions), "key": result.key}
    for name in ("wall_seconds", "ticket_seconds"):
        if vars(result)[name] is not None:
            more[name] = vars(result)[name]
    return "\n".join([*parts, "", provenance_text(more)])


def results_text(results: Sequence[Result]) -> str:
    """Many runs: a line each."""
    rows = [
        cells(
            r.experiment,
            r.model,
            r.task,
            r.method,
            "-" if r.level is None else f"{r.level:g}",
            "-" if r.top_k is None else str(r.top_k),
            str(r.seed),
            in_points(r.score()),
        )
        for r in results[:_RESULTS]
    ]
    header = columns("experiment", "model", "task", "method", "level", "k", "seed", "score")
    left = len(results) - len(rows)
    notes = [f"{left} more; `fairseq-tickets report` shows them all"] if left else []
    return render(Table(f"{len(results)} runs", header, rows, notes), "markdown")


def provenance_text(provenance: Mapping[str, Any]) -> str:
    """Where a file comes from, a line a fact; texts are escaped, so that none can move a terminal's cursor."""
    if not provenance:
        return "provenance: none"
    return "\n".join(["provenance:", *_lines(provenance, "  ")])


def _lines(facts: Mapping[str, Any], indent: str) -> Iterable[str]:
    for name, value in facts.items():
        label = json.dumps(str(name))[1:-1]
        if isinstance(value, Mapping) and value:
            yield f"{indent}{label}:"
            yield from _lines(value, indent + "  ")
        else:
            text = json.dumps(value)
            yield f"{indent}{label}: {text if len(text) <= _LONGEST else text[:_LONGEST] + ' ...'}"


def _map(rows: Sequence[Sequence[str]]) -> str:
    """Layers from the last to the first; the last column, the FFN, stands apart."""
    heads = len(rows[0]) - 1
    width = len(str(heads - 1))
    lines = [
        f"layer {layer:>3}  {' '.join(mark.rjust(width) for mark in rows[layer][:-1])}   {rows[layer][-1]}"
        for layer in reversed(range(len(rows)))
    ]
    return "\n".join([*lines, f"     head  {' '.join(str(h).rjust(width) for h in range(heads))}   FFN"])


def _scaled(values: FloatArray) -> FloatArray:
    top = float(values.max())
    result: FloatArray = values / top if top > 0 else values
    return result


def _shade(value: float) -> str:
    return SHADES[min(len(SHADES) - 1, int(value * len(SHADES)))]
