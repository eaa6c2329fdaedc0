"""The phase transition as a table: each level's weight remaining, scores, and gain over the full model.

The numbers behind paper S's Figures 4 and 7.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fairseq_tickets.analysis.markup import Cell, Table, cells, columns
from fairseq_tickets.analysis.results import Result, select, signature, tuned
from fairseq_tickets.analysis.statistics import spread
from fairseq_tickets.analysis.table_parts import (
    NOT_MEASURED,
    best_runs,
    models_in,
    score_cell,
    tasks_in,
    weight_remaining,
)
from fairseq_tickets.errors import UserError

_KINDS = ("winning", "random", "losing")


def levels(results: Sequence[Result]) -> Table:
    """Rows: the full model, then a level each, task by task; the best score of each kind over the full model is bold.

    Raises:
        UserError: no winning, random or losing runs.
    """
    whole = select(results, train_fraction=1.0, source_task=None)
    rows: list[list[Cell]] = []
    for model in models_in(whole):
        for task in tasks_in(select(whole, model=model)):
            rows += _task_rows(select(whole, model=model, task=task), model, task)
    if not rows:
        raise UserError("no winning, random or losing runs: there are no levels to show")
    return Table(
        "Scores of rewound tickets by level, on all of dev",
        columns(
            "Model", "Task", "Pruned heads and FFNs", "Weight remaining", "... of layers", *_KINDS, "Winning - full"
        ),
        rows,
        [
            "Weight remaining: kept heads and FFNs and all that can't be pruned, over the encoder; "
            "the first figure counts the embeddings in, as paper S does, the second leaves them out."
        ],
        signature([run for run in whole if run.method in ("full", *_KINDS)]),
    )


def _task_rows(own: Sequence[Result], model: str, task: str) -> list[list[Cell]]:
    tickets = {kind: tuned(run for run in own if run.method == kind) for kind in _KINDS}
    found = sorted({run.level for runs in tickets.values() for run in runs if run.level is not None})
    if not found:
        return []
    full = best_runs(own, "full")
    baseline = {run.seed: run.score() for run in full}
    score = score_cell(task, full)
    scores = [score if runs else NOT_MEASURED for runs in tickets.values()]
    rows = [[*cells(model, task, "0 % (full)", "100.0 %", "100.0 %"), *scores, Cell("")]]
    for level in found:
        at = {kind: [run for run in runs if run.level == level] for kind, runs in tickets.items()}
        shown = [score_cell(task, runs) for runs in at.values()]
        weights = [_remaining(at, "encoder"), _remaining(at, "without_embeddings")]
        gains = [100 * (run.score() - baseline[run.seed]) for run in at["winning"] if run.seed in baseline]
        gain = spread(gains).mean if gains else None
        rows.append(
            [
                *cells(model, task, f"{100 * level:g} %", *weights),
                *shown,
                NOT_MEASURED if gain is None else Cell(f"{gain:+.1f}", bold=gain > 0),
            ]
        )
    return rows


def _remaining(at: Mapping[str, Sequence[Result]], which: str) -> str:
    return f"{100 * spread([weight_remaining(run, which) for runs in at.values() for run in runs]).mean:.1f} %"
