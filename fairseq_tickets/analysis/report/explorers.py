"""What the page's ticket explorers show: masks and orders of super tickets, dimensions of dominant ones, shares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from fairseq_tickets.analysis.dimensions import SPACES
from fairseq_tickets.analysis.report.gather import Material, dominant_tickets_of
from fairseq_tickets.analysis.results import Result
from fairseq_tickets.analysis.shares import Shares, task_shares, unit_norm
from fairseq_tickets.counts import DimensionCounts
from fairseq_tickets.parameters import MATRICES, PAPER_NAMES
from fairseq_tickets.saliences import DimensionSalience
from fairseq_tickets.scores import ImportanceScores
from fairseq_tickets.tickets import DominantTicket, SuperTicket, ticket_from_json

MOST_TICKETS = 200  # of one kind in one page, so that it stays small
_WIDE = 8  # dimensions a cell that a counts file shows


class Order(NamedTuple):
    """How `prune` cuts by some scores: who goes first, and how many at 0 %, 1 %, ..., 99 %.

    Attributes:
        heads, ffn: indices (layer · heads + head; layer), the first to be pruned first.
        heads_cut, ffn_cut: how many are pruned at each whole percent.
    """

    heads: list[int]
    ffn: list[int]
    heads_cut: list[int]
    ffn_cut: list[int]


def super_series(found: Material, orders: Mapping[str, Order]) -> tuple[list[dict[str, Any]], list[str]]:
    """Entries of the super-ticket explorer, and notes.

    Each has a name, model size, and steps (label, heads, ffn; masks as texts of 0 and 1). Scores have a step a whole
    percent as `order`; the runs of one task, method and seed have a step a level; a ticket file has one step.
    `importance` is that of the scores, normalised as for pruning, largest 1.
    """
    entries = [_of_scores(name, found.scores[name], order) for name, order in orders.items()]
    entries += [
        {"name": name, "size": _size(t), "steps": [_step("this ticket", t)], "importance": None}
        for name, t in found.tickets.items()
        if isinstance(t, SuperTicket)
    ]
    entries += _of_runs(found.results)
    return _first(entries, "super tickets and scores")


def dominant_entries(found: Material) -> tuple[list[dict[str, Any]], list[str]]:
    """Entries of the dominant-ticket explorer, and notes: dimensions and their values by matrix and layer.

    Each has a name, its `kind` ("ticket", "counts", "salience"), model size, `dimensions` and `values` (None = not
    recorded), the index of each matrix's `bias`, and `most`, what a matrix's values are shown as a part of.
    """
    entries = [_dominant(name, ticket) for name, ticket in dominant_tickets_of(found).items()]
    entries += [_counted(f"counts of {name}", counts) for name, counts in found.counts.items()]
    entries += [_salient(name, salience) for name, salience in found.saliences.items()]
    return _first(entries, "dominant tickets, counts and saliences")


def matrices() -> list[dict[str, str]]:
    """The six matrices with their names and the spaces that their dimensions are in."""
    return [{"id": m, "name": PAPER_NAMES[m], "space": SPACES[m]} for m in MATRICES]


def share_sets(found: Material, tasks: Mapping[str, str], seeds: Mapping[str, Any]) -> dict[str, Shares]:
    """Task shares, one set a seed and model size, wherever two tasks or more have scores.

    Args:
        found: with the scores.
        tasks, seeds: name of scores -> task and seed.
    """
    groups: dict[tuple[Any, ...], dict[str, ImportanceScores]] = {}
    for name, scores in found.scores.items():
        groups.setdefault((seeds[name], scores.heads.shape), {}).setdefault(tasks[name], scores)
    sets: dict[str, Shares] = {}
    for (seed, shape), own in groups.items():
        if len(own) > 1:
            label = "one file a task" if seed is None else f"seed {seed}"
            if label in sets:
                label += f" ({shape[0]} x {shape[1]})"
            sets[label] = task_shares(own)
    return sets


def shares_json(shares: Shares) -> dict[str, Any]:
    """Shares for the page, four digits."""
    return {
        "tasks": shares.tasks,
        "heads": np.round(shares.head_importance, 4).tolist(),
        "headShares": np.round(shares.head_shares, 4).tolist(),
        "ffn": np.round(shares.ffn_importance, 4).tolist(),
        "ffnShares": np.round(shares.ffn_shares, 4).tolist(),
    }


def _of_scores(name: str, scores: ImportanceScores, order: Order) -> dict[str, Any]:
    heads, ffn = unit_norm(scores.heads, axis=1), unit_norm(scores.ffn, axis=0)
    layers, width = scores.heads.shape
    return {
        "name": f"{name}: winning, by scores",
        "size": [layers, width],
        "order": order._asdict(),
        "importance": {
            "heads": np.round(heads / max(heads.max(), 1e-300), 4).ravel().tolist(),
            "ffn": np.round(ffn / max(ffn.max(), 1e-300), 4).tolist(),
        },
    }


def _of_runs(results: Sequence[Result]) -> list[dict[str, Any]]:
    several = len({(r.experiment, r.model) for r in results}) > 1
    series: dict[tuple[Any, ...], dict[str, Any]] = {}
    for run in sorted(results, key=lambda r: (r.level or 0.0, r.key)):
        if run.ticket is None or run.method not in ("winning", "random", "losing") or run.train_fraction != 1:
            continue
        ticket = ticket_from_json(run.ticket, run.path)
        if not isinstance(ticket, SuperTicket):
            continue
        place = f" ({run.experiment}, {run.model})" if several else ""
        source = f" of {run.source_task}" if run.source_task else ""
        name = f"{run.task}{source} seed {run.seed}: {run.method}, of the runs{place}"
        key = (name, tuple(_size(ticket)))
        if key not in series:
            full = SuperTicket.full(ticket.shape)
            series[key] = {"name": name, "size": _size(ticket), "steps": [_step("0 %", full)], "importance": None}
        series[key]["steps"].append(_step(f"{100 * (run.level or 0.0):g} %", ticket))
    return list(series.values())


def _step(label: str, ticket: SuperTicket) -> dict[str, str]:
    return {
        "label": label,
        "heads": "".join(str(v) for row in ticket.heads for v in row),
        "ffn": "".join(map(str, ticket.ffn)),
    }


def _size(ticket: SuperTicket) -> list[int]:
    return [ticket.shape.layers, ticket.shape.heads]


def _dominant(name: str, ticket: DominantTicket) -> dict[str, Any]:
    return {
        "name": name,
        "kind": "ticket",
        "size": [ticket.shape.layers, ticket.shape.embed_dim, ticket.shape.ffn_dim],
        "dimensions": ticket.dimensions,
        "values": ticket.counts,
        "bias": {m: ticket.shape.in_features(m) for m in MATRICES},
        "most": {m: ticket.shape.out_features(m) for m in MATRICES},
    }


def _counted(name: str, counts: DimensionCounts) -> dict[str, Any]:
    return {
        "name": name,
        "kind": "counts",
        **_largest(counts.counts),
        "most": {m: counts.out_features(m) for m in MATRICES},
    }


def _salient(name: str, salience: DimensionSalience) -> dict[str, Any]:
    metric = salience.provenance.get("metric")
    return {
        "name": f"salience of {name}" + (f": {metric}" if metric else ""),
        "kind": "salience",
        **_largest(salience.scores),
        "most": {m: _short(salience.scores[m].max()) for m in MATRICES},
    }


def _largest(tables: Mapping[str, Any]) -> dict[str, Any]:
    """Size, and the largest dimensions above 0 of every matrix and layer with their values."""
    dims: dict[str, list[list[int]]] = {}
    values: dict[str, list[list[float]]] = {}
    for matrix in MATRICES:
        table = tables[matrix]
        order = np.argsort(-table, axis=1, kind="stable")[:, :_WIDE]
        dims[matrix] = [[int(j) for j in row if own[j] > 0] for row, own in zip(order, table)]
        values[matrix] = [[_short(own[j]) for j in row] for row, own in zip(dims[matrix], table)]
    bias = {m: int(tables[m].shape[1]) - 1 for m in MATRICES}
    size = [len(tables["q_proj"]), bias["q_proj"], bias["fc2"]]
    return {"size": size, "dimensions": dims, "values": values, "bias": bias}


def _short(value: Any) -> float:
    """Counts as they are, other numbers to four digits."""
    return int(value) if isinstance(value, np.integer) else float(f"{value:.4g}")


def _first(entries: list[dict[str, Any]], what: str) -> tuple[list[dict[str, Any]], list[str]]:
    if len(entries) <= MOST_TICKETS:
        return entries, []
    return entries[:MOST_TICKETS], [
        f"the first {MOST_TICKETS} of {len(entries)} {what} are shown; name fewer files for others"
    ]


def check_alike(found: Material) -> list[str]:
    """Notes on tickets of different model sizes, which are shown side by side but never compared."""
    shapes = {ticket.shape for ticket in found.tickets.values()}
    if len(shapes) < 2:
        return []
    return [f"tickets of {len(shapes)} model sizes: each is compared with those of its own size only"]
