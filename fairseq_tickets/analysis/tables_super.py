"""Result tables of paper S: single-task (1), predictions (2), multi-task (3), domain adaptation (4).

Scores are points out of 100, means over seeds ± sample deviation. A dash is a cell without results; notes
name them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path

from fairseq_tickets.analysis.markup import Cell, Table, cells, columns
from fairseq_tickets.analysis.results import Result, select, signature
from fairseq_tickets.analysis.statistics import average_score, average_weight_remaining, paired_t_test, spread
from fairseq_tickets.analysis.table_parts import (
    NOT_MEASURED,
    best_runs,
    by_sharing,
    by_task,
    embolden,
    in_points,
    missing_note,
    models_in,
    need,
    score_cell,
    task_heading,
    task_mean,
    tasks_in,
    uneven_note,
    weight_remaining,
    whole_runs,
)
from fairseq_tickets.errors import UserError

Rows = dict[str, dict[str, list[Result]]]  # row name -> task -> runs
ADAPTED = ("SNLI", "SciTail")  # section 7: the tasks that multi-task models are adapted to
SPLIT_NAMES = {"all": "all of dev", "report": "90% of dev not used for selection"}


def single_task(results: Sequence[Result]) -> Table:
    """Table 1: full model against super tickets on all of dev and on the unseen 90 %, with paired t-tests
    over seeds.
    """
    results = whole_runs(results, ["full", "winning"])
    rows: Rows = {}
    for model in models_in(results):
        for label, method in (("ST-DNN", "full"), ("SuperT", "winning")):
            rows[f"{label} {model}"] = by_task(best_runs(select(results, model=model), method))
    table = _score_table("Single-task fine-tuning", rows, ("all", "report"), group=2)
    for model in models_in(results):
        full, tickets = rows[f"ST-DNN {model}"], rows[f"SuperT {model}"]
        for split, name in SPLIT_NAMES.items():
            tests = [_test_text(tickets.get(task, []), full.get(task, []), split) for task in tasks_in(results)]
            table.rows.append(cells(f"SuperT - ST-DNN {model}, {name}: paired t-test", *tests, "-", "-"))
    table.notes.append(
        "t-test: two-sided, paired by seed, on the task score (mean of a task's two metrics); gain, p, n"
    )
    return table


def predictions(results: Sequence[Result]) -> Table:
    """Table 2's input: which run's test predictions to send to the GLUE server.

    As in appendix A.1.3: one seed, that with the best task-average development score, for each row.
    """
    results = whole_runs(results, ["full", "winning"])
    rows = []
    used: list[Result] = []
    for model in models_in(results):
        for label, method in (("ST-DNN", "full"), ("SuperT", "winning")):
            runs = best_runs(select(results, model=model), method)
            if not runs:
                continue
            seed = _best_seed(runs)
            for run in sorted(select(runs, seed=seed), key=lambda r: tasks_in(runs).index(r.task)):
                used.append(run)
                level = "-" if run.level is None else f"{run.level:g}"
                rows.append(cells(f"{label} {model}", run.task, str(seed), level, run.key, _file(run)))
    header = columns("", "Task", "Seed", "Level", "Run", "Test predictions")
    notes = ["test scores come from the GLUE server only; the seed is the one with the best task-average on dev"]
    return Table("Test-set predictions to submit", header, rows, notes, signature(used))


def multi_task(results: Sequence[Result]) -> Table:
    """Table 3: MT-DNN and Ticket-Share, each with and without single-task fine-tuning."""
    names = {
        "mt_dnn": "MT-DNN {}",
        "mt_dnn+st": "MT-DNN {} + ST fine-tuning",
        "ticket_share": "Ticket-Share {}",
        "ticket_share+st": "Ticket-Share {} + ST fine-tuning",
    }
    results = select(results, method=set(names), train_fraction=1.0, source_task=None)
    results = [result for result in results if result.task not in ADAPTED]
    need(results, "mt_dnn or ticket_share")
    rows: Rows = {}
    for model in models_in(results):
        for method, name in names.items():
            for shared, runs in by_sharing(select(results, model=model, method=method)):
                rows[name.format(model) + shared] = by_task(best_runs(runs, method))
    return _score_table("Multi-task learning", rows, ("all",), group=len(names))


def adaptation(results: Sequence[Result]) -> Table:
    """Table 4: accuracy on SNLI and SciTail after training on 0.1, 1, 10 and 100 % of their data."""
    names = {"full": "{}-ST-DNN", "winning": "{}-SuperT", "mt_dnn": "MT-DNN", "ticket_share": "Ticket-Share"}
    names.update({f"{method}+st": names[method] for method in ("mt_dnn", "ticket_share")})
    results = [
        r
        for r in results
        if r.method in names
        and (r.source_task is not None or (r.task in ADAPTED and r.method not in ("full", "winning")))
    ]
    need(results, "adaptation (source_task)")
    fractions = sorted({r.train_fraction for r in results})
    rows: list[list[Cell]] = []
    notes = []
    for model in models_in(results):
        for task in tasks_in(results):
            rows += _counts(task, select(results, model=model, task=task), fractions)
            block, values = [], []
            for method, name in names.items():
                own = select(results, model=model, task=task, method=method)
                sources = sorted({run.source_task or "" for run in own})
                for source, (shared, runs) in product(sources, by_sharing(own)):
                    row, numbers = [Cell(f"{task}: {name.format(source)} {model}{shared}")], []
                    for fraction in fractions:
                        chosen = best_runs(select(runs, source_task=source or None, train_fraction=fraction), method)
                        row.append(score_cell(task, chosen))
                        numbers.append(task_mean(chosen) if chosen else math.nan)
                        if not chosen:
                            notes.append(f"no results for {row[0].text} at {100 * fraction:g}%")
                    block.append(row)
                    values.append(numbers)
            embolden(block, values)
            rows += block
    header = columns("Model", *(f"{100 * fraction:g}%" for fraction in fractions))
    return Table("Domain adaptation, dev scores by share of the training data", header, rows, notes, signature(results))


def _counts(task: str, results: Sequence[Result], fractions: Sequence[float]) -> list[list[Cell]]:
    """The line "# Training Data", where result files know it."""
    line = [Cell(f"{task}: # training examples")]
    for fraction in fractions:
        runs = select(results, train_fraction=fraction)
        counts = sorted({run.train_examples for run in runs if run.train_examples is not None})
        line.append(Cell(" / ".join(f"{count:,}" for count in counts)) if counts else NOT_MEASURED)
    return [line] if any(cell is not NOT_MEASURED for cell in line[1:]) else []


def _score_table(title: str, rows: Rows, splits: Sequence[str], group: int) -> Table:
    used = [run for row in rows.values() for runs in row.values() for run in runs]
    tasks = tasks_in(used)
    out: list[list[Cell]] = []
    names = list(rows)
    for start in range(0, len(names), group):
        for split in splits:
            block, values = [], []
            for name in names[start : start + group]:
                label = name if len(splits) == 1 else f"{name}, {SPLIT_NAMES[split]}"
                row, numbers = _score_row(label, rows[name], tasks, split)
                block.append(row)
                values.append(numbers)
            embolden(block, values)
            out += block
    header = columns("", *(task_heading(task, used) for task in tasks), "Average Score", "Average Weight Remaining")
    notes = [*missing_note(rows, tasks), *uneven_note(rows)]
    return Table(title, header, out, notes, signature(used))


def _score_row(
    name: str, row: Mapping[str, Sequence[Result]], tasks: Sequence[str], split: str
) -> tuple[list[Cell], list[float]]:
    line = [Cell(name)]
    values = []
    for task in tasks:
        runs = row.get(task, [])
        line.append(score_cell(task, runs, split))
        values.append(task_mean(runs, split) if runs else math.nan)
    if any(math.isnan(value) for value in values):
        return [*line, NOT_MEASURED, NOT_MEASURED], [*values, math.nan]
    average = average_score([[value] for value in values])
    kept = average_weight_remaining(
        [spread([weight_remaining(r, "encoder") for r in row[task]]).mean for task in tasks]
    )
    return [*line, Cell(in_points(average)), Cell(f"{in_points(kept)}%")], [*values, average]


def _test_text(treated: Sequence[Result], control: Sequence[Result], split: str) -> str:
    by_seed = {run.seed: run.score(split) for run in control}
    pairs = [(run.score(split), by_seed[run.seed]) for run in treated if run.seed in by_seed]
    if len(pairs) < 2:
        return "-"
    test = paired_t_test([a for a, _ in pairs], [b for _, b in pairs])
    sign = "+" if test.difference >= 0 else ""
    return f"{sign}{in_points(test.difference)}, p={test.p:.3g}, n={test.n}"


def _best_seed(runs: Sequence[Result]) -> int:
    tasks = tasks_in(runs)
    complete = [s for s in sorted({r.seed for r in runs}) if {r.task for r in select(runs, seed=s)} == set(tasks)]
    if not complete:
        raise UserError(f"no seed has results for all of {', '.join(tasks)}: one seed's predictions are submitted")
    return max(complete, key=lambda s: average_score([[r.score()] for r in select(runs, seed=s)]))


def _file(run: Result) -> str:
    """What the result names, else the `*test.tsv` files in the run's own folder, KEY/, beside or above the result."""
    named = run.predictions.get("file") if isinstance(run.predictions, Mapping) else run.predictions
    if named:
        return str(named)
    above = Path(run.path).parent
    for folder in (above, above.parent / run.key):
        if folder.name == run.key:
            found = [f"{run.key}/{path.name}" for path in sorted(folder.glob("*test.tsv"))]
            if found:
                return " ".join(found)
    return "-"
