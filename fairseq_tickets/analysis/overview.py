"""What an experiment was: tasks, seeds, budget and whether data were partial as facts, the best rows as a table."""

from __future__ import annotations

from collections.abc import Sequence

from fairseq_tickets.analysis.markup import Cell, Table, columns
from fairseq_tickets.analysis.results import Result, select, signature
from fairseq_tickets.analysis.table_parts import (
    best_runs,
    by_sharing,
    by_task,
    embolden,
    score_cell,
    task_heading,
    task_mean,
    tasks_in,
)

ROWS = {
    "full": "All weights",
    "winning": "Super tickets",
    "mt_dnn": "MT-DNN",
    "mt_dnn+st": "MT-DNN + ST",
    "ticket_share": "Ticket-Share",
    "ticket_share+st": "Ticket-Share + ST",
    "dominant": "Dominant tickets",
    "salience": "Salience tickets",
    "random_dimensions": "Random dimensions",
    "bitfit": "BitFit",
    "random_elements": "Random elements",
}


def groups_of(results: Sequence[Result]) -> dict[tuple[str, str], list[Result]]:
    """(experiment, model) -> its results, sorted by name: numbers of two models or experiments are never mixed."""
    groups: dict[tuple[str, str], list[Result]] = {}
    for result in sorted(results, key=lambda r: (r.experiment, r.model)):
        groups.setdefault((result.experiment, result.model), []).append(result)
    return groups


def best_rows(results: Sequence[Result]) -> Table:
    """A row a method at its best searched options (k apart), a column a task; the best of each column is bold.

    Super tickets are each seed's winning ticket with the best `select` score; scores are those on all of dev.
    """
    whole = select(results, train_fraction=1.0, source_task=None)
    tasks = tasks_in(whole)
    rows, values = [], []
    for method, name in ROWS.items():
        of_method = select(whole, method=method)
        for k in sorted({r.top_k for r in of_method}, key=lambda k: k or 0):
            for shared, runs in by_sharing(select(of_method, top_k=k)):
                own = by_task(best_runs(runs, method))
                row = Cell(f"{name}, k = {k}" if k else name + shared)
                rows.append([row, *(score_cell(t, own.get(t, [])) for t in tasks)])
                values.append([task_mean(own[t]) if t in own else float("nan") for t in tasks])
    embolden(rows, values)
    notes = ["points on all of dev, mean ± sample deviation over seeds; super tickets are selected on a tenth of dev"]
    left = len(results) - len(whole)
    if left:
        notes.append(
            f"{left} runs on a part of the training data, or under another task's ticket, are in the tables below"
        )
    return Table("Best rows", columns("", *(task_heading(t, whole) for t in tasks)), rows, notes, signature(results))


def facts(results: Sequence[Result]) -> list[tuple[str, str]]:
    """Pairs of a name and a text: tasks, methods, runs, seeds, budget, data, versions."""
    methods = sorted({r.method for r in results}, key=lambda m: list(ROWS).index(m) if m in ROWS else len(ROWS))
    examples = sorted({r.train_examples for r in results if r.train_examples is not None})
    updates = sorted(
        {e["updates"] for r in results for e in r.epochs if e.get("epoch") == r.best_epoch and "updates" in e}
    )
    epochs = sorted({len(r.epochs) for r in results if r.epochs})
    hours = sum(r.wall_seconds or 0.0 for r in results) / 3600
    partial = sorted({r.task for r in results if r.partial_data or r.train_fraction < 1 or _subset(r)})
    versions = sorted({f"{name} {version}" for r in results for name, version in r.versions.items()})
    budget = [
        f"{_range(epochs)} epochs" if epochs else "",
        f"{_range(updates)} updates to the best epoch" if updates else "",
        f"{_range(examples)} training examples" if examples else "",
        f"{hours:.1f} hours of training in all" if hours else "",
    ]
    return [
        ("Tasks", ", ".join(tasks_in(results))),
        ("Methods", ", ".join(methods)),
        ("Runs", f"{len(results):,}"),
        ("Seeds", ", ".join(map(str, sorted({r.seed for r in results})))),
        ("Budget", "; ".join(filter(None, budget)) or "not recorded"),
        ("Data", f"PARTIAL for {', '.join(partial)}" if partial else "whole"),
        ("Versions", ", ".join(versions)),
    ]


def _subset(run: Result) -> bool:
    return run.config.get("subset") is not None or run.config.get("dev_subset") is not None


def _range(numbers: Sequence[int]) -> str:
    return f"{numbers[0]:,}" if numbers[0] == numbers[-1] else f"{numbers[0]:,} to {numbers[-1]:,}"
