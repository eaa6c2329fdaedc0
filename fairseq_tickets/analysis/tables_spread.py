"""Spread and weight tables of paper S: deviation over seeds (5, 6), weight remaining (7), over learning rates (8).

Deviations are sample deviations (n - 1) of the task score, in points out of 100.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fairseq_tickets.analysis.markup import Cell, Table, cells, columns
from fairseq_tickets.analysis.results import Result, select, signature, super_tickets
from fairseq_tickets.analysis.statistics import average_weight_remaining, spread
from fairseq_tickets.analysis.table_parts import (
    NOT_MEASURED,
    best_runs,
    by_sharing,
    by_task,
    in_points,
    models_in,
    tasks_in,
    weight_remaining,
    whole_runs,
)


def seed_deviation(results: Sequence[Result]) -> Table:
    """Table 5: standard deviation over seeds, full against super tickets and MT-DNN against Ticket-Share.

    Single-task rows vary the seed only (at the best searched options); the multi-task rows, fine-tuned,
    average each seed's score over learning rates first (appendix A.4.1).
    """
    names = {
        "full": "ST-DNN",
        "winning": "SuperT",
        "mt_dnn+st": "MT-DNN + ST",
        "ticket_share+st": "Ticket-Share + ST",
    }
    results = whole_runs(results, names)

    def values(runs: Sequence[Result], method: str) -> list[float]:
        if method.endswith("+st"):
            return _mean_by(runs, lambda r: r.seed)
        return [run.score() for run in best_runs(runs, method)]

    return _deviation_table("Standard deviation over seeds, points", results, names, values, "seed")


def ticket_deviation(results: Sequence[Result]) -> Table:
    """Table 6: standard deviation over seeds of the super tickets' scores, every task."""
    results = whole_runs(results, ["winning"])
    return _deviation_table(
        "Standard deviation over seeds of the super tickets' scores, points",
        results,
        {"winning": "SuperT"},
        lambda runs, method: [run.score() for run in best_runs(runs, method)],
        "seed",
    )


def learning_rate_deviation(results: Sequence[Result]) -> Table:
    """Table 8: standard deviation over learning rates, each result averaged over seeds first."""
    names = {
        "mt_dnn+st": "MT-DNN + ST",
        "ticket_share+st": "Ticket-Share + ST",
        "full": "ST-DNN",
        "winning": "SuperT",
    }
    results = whole_runs(results, names)

    def values(runs: Sequence[Result], method: str) -> list[float]:
        return _mean_by(super_tickets(runs) if method == "winning" else runs, lambda r: r.config.get("lr"))

    return _deviation_table("Standard deviation over learning rates, points", results, names, values, "learning rate")


def weights(results: Sequence[Result]) -> Table:
    """Table 7: mean and deviation over seeds of the weight remaining in the selected super tickets."""
    results = whole_runs(results, ["winning"])
    tasks = tasks_in(results)
    rows: list[list[Cell]] = []
    used: list[Result] = []
    for model in models_in(results):
        chosen = by_task(best_runs(select(results, model=model), "winning"))
        used += [run for runs in chosen.values() for run in runs]
        for kind, name in (("encoder", ""), ("without_embeddings", ", embeddings left out")):
            found = {task: spread([weight_remaining(run, kind) for run in runs]) for task, runs in chosen.items()}
            mean = average_weight_remaining([s.mean for s in found.values()])
            average = f"{mean:.3f}" if len(found) == len(tasks) else "-"
            means = [f"{found[t].mean:.2f}" if t in found else "-" for t in tasks]
            deviations = [f"{found[t].sd:.2f}" if t in found and found[t].n > 1 else "-" for t in tasks]
            rows.append(cells(f"SuperT {model}{name} (mean)", *means, average))
            rows.append(cells(f"SuperT {model}{name} (std dev)", *deviations, "-"))
    header = columns("Weight remaining", *tasks, "Average")
    notes = ["share of the encoder's weights, embeddings included unless the row says otherwise"]
    return Table("Weight remaining in the super tickets", header, rows, notes, signature(used))


def _deviation_table(
    title: str,
    results: Sequence[Result],
    names: Mapping[str, str],
    values: Callable[[Sequence[Result], str], list[float]],
    unit: str,
) -> Table:
    tasks = tasks_in(results)
    rows, notes = [], []
    for model in models_in(results):
        for method, name in names.items():
            for shared, own in by_sharing(select(results, model=model, method=method)):
                if not own:
                    continue
                row = [Cell(f"{name} {model}{shared}")]
                for task in tasks:
                    found = values(select(own, task=task), method)
                    row.append(Cell(in_points(spread(found).sd, 2)) if len(found) > 1 else NOT_MEASURED)
                    if len(found) < 2:
                        notes.append(f"{row[0].text}, {task}: a deviation needs 2 {unit}s, there is {len(found)}")
                rows.append(row)
    return Table(title, columns("", *tasks), rows, notes, signature(results))


def _mean_by(runs: Sequence[Result], key: Callable[[Result], Any]) -> list[float]:
    groups: dict[Any, list[float]] = {}
    for run in runs:
        groups.setdefault(key(run), []).append(run.score())
    return [spread(scores).mean for _, scores in sorted(groups.items(), key=lambda item: repr(item[0]))]
