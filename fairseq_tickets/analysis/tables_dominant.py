"""Result tables of paper D: dominant against random tickets (2), random elements against full (3).

One metric a task, as the paper's caption says: MNLI over matched and mismatched, CoLA Matthews, STS-B
Pearson, else accuracy. Sparsity is the exact number of trained encoder parameters over all; the
classification head is not part of a ticket.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from fairseq_tickets.analysis.glue_tasks import SINGLE_METRIC
from fairseq_tickets.analysis.markup import Cell, Table, columns
from fairseq_tickets.analysis.results import Result, select, signature, tuned
from fairseq_tickets.analysis.statistics import spread
from fairseq_tickets.analysis.table_parts import (
    NOT_MEASURED,
    by_task,
    embolden,
    in_points,
    keys_of,
    missing_note,
    models_in,
    tasks_in,
    uneven_note,
)
from fairseq_tickets.errors import UserError
from fairseq_tickets.tickets import DominantTicket, ticket_from_json

_OF_DIMENSIONS = ("dominant", "random_dimensions", "salience")
_COLUMNS = ("QNLI", "SST-2", "MNLI", "CoLA", "MRPC", "STS-B", "RTE", "QQP")


def dominant_against_random(results: Sequence[Result]) -> Table:
    """Table 2: full fine-tuning, Random-k, Dominant-k for every k found, and BitFit; Salience-k where it was run."""
    wanted = select(results, method={"full", "bitfit", *_OF_DIMENSIONS}, train_fraction=1.0)
    wanted = select(wanted, source_task=None) + [r for r in wanted if r.source_task is not None and r.method != "full"]
    if not select(wanted, method={"bitfit", *_OF_DIMENSIONS}):
        raise UserError(
            "the table needs dominant, random_dimensions, bitfit or salience runs; the result files have none"
        )
    largest_first = sorted({r.top_k for r in wanted if r.top_k is not None}, reverse=True)
    lines: list[tuple[str, str, int | None]] = [("Full-ft", "full", None)]
    for k in largest_first:
        if k == largest_first[-1]:
            lines.append(("BitFit", "bitfit", None))
        lines += [(f"Random-{k}", "random_dimensions", k), (f"Dominant-{k}", "dominant", k)]
        if select(wanted, method="salience", top_k=k):
            lines.append((f"Salience-{k}", "salience", k))
    if not largest_first:
        lines.append(("BitFit", "bitfit", None))
    table = _table("The dominant winning ticket against random tickets", wanted, lines)
    table.notes += _how_salient(select(wanted, method="salience"))
    return table


def random_elements(results: Sequence[Result]) -> Table:
    """Table 3: all weights against a random 5 % of the elements of every matrix (tasks in columns here)."""
    wanted = select(results, method={"full", "random_elements"}, train_fraction=1.0, source_task=None)
    if not select(wanted, method="random_elements"):
        raise UserError("the table needs random_elements runs; the result files have none")
    lines = [("All parameters", "full", None), ("Random elements", "random_elements", None)]
    return _table("Full fine-tuning against random elements", wanted, lines)


def trained_share(run: Result) -> tuple[int, float] | None:
    """Trained encoder parameters and their share of all; None where the file does not say."""
    if run.total_parameters is None:
        return None
    count = run.trainable_parameters
    if run.ticket is not None:
        ticket = ticket_from_json(run.ticket, run.path)
        if isinstance(ticket, DominantTicket):
            count = ticket.trainable_parameters()
    return None if count is None else (count, count / run.total_parameters)


def single_score(run: Result, split: str = "all") -> float:
    """The one metric of paper D's tables for this run's task; MNLI: mean of matched and mismatched."""
    scores = run.scores[split]
    if run.task == "MNLI" and "accuracy_mm" in scores:
        return (scores["accuracy"] + scores["accuracy_mm"]) / 2
    name = SINGLE_METRIC.get(run.task, "accuracy" if "accuracy" in scores else next(iter(sorted(scores))))
    if name not in scores:
        raise UserError(f"result file {run.path}: no {name} among the {split} scores of {run.task}")
    return scores[name]


def _table(title: str, results: Sequence[Result], lines: Sequence[tuple[str, str, int | None]]) -> Table:
    tasks = sorted(tasks_in(results), key=lambda t: _COLUMNS.index(t) if t in _COLUMNS else len(_COLUMNS))
    rows: list[list[Cell]] = []
    runs_by_row: dict[str, dict[str, list[Result]]] = {}
    notes = []
    for model in models_in(results):
        block, values = [], []
        for label, method, top_k in lines:
            found = tuned(select(results, model=model, method=method, top_k=top_k))
            if not found:
                notes.append(f"no results for {label} {model}")
            for suffix, own in _by_source(found):
                name, runs = f"{label}{suffix} {model}", by_task(own)
                runs_by_row[name] = runs
                shares = {trained_share(run) for run in own}
                block.append([Cell(name), *_scores(runs, tasks), _sparsity(shares), _count(shares)])
                values.append([_mean(runs, task) for task in tasks])
                _note_sources(runs, name, notes)
        embolden(block, values)
        rows += block
    used = [run for row in runs_by_row.values() for runs in row.values() for run in runs]
    header = columns("", *tasks, "Sparsity", "Trained parameters")
    gaps = [note for note in missing_note(runs_by_row, tasks) if not note.startswith("averages")]
    return Table(title, header, rows, [*notes, *gaps, *uneven_note(runs_by_row)], signature(used))


def _by_source(runs: Sequence[Result]) -> list[tuple[str, list[Result]]]:
    """One group, unless a task was trained under tickets of several source tasks: then a group a source."""
    pairs = {(run.task, run.source_task or "") for run in runs}
    if len(pairs) == len({task for task, _ in pairs}):
        return [("", list(runs))] if runs else []
    sources = sorted({source for _, source in pairs})
    return [(f" from {source}" if source else "", select(runs, source_task=source or None)) for source in sources]


def _scores(runs: dict[str, list[Result]], tasks: Sequence[str]) -> list[Cell]:
    line = []
    for task in tasks:
        if task not in runs:
            line.append(NOT_MEASURED)
            continue
        found = spread([single_score(run) for run in runs[task]])
        line.append(
            Cell(in_points(found.mean) + (f"±{in_points(found.sd)}" if found.n > 1 else ""), runs=keys_of(runs[task]))
        )
    return line


def _mean(runs: dict[str, list[Result]], task: str) -> float:
    return spread([single_score(run) for run in runs[task]]).mean if task in runs else math.nan


def _sparsity(shares: set[tuple[int, float] | None]) -> Cell:
    known = sorted(share[1] for share in shares if share is not None)
    return _range([f"{100 * share:.3g}%" for share in known])


def _count(shares: set[tuple[int, float] | None]) -> Cell:
    return _range([f"{count:,}" for count in sorted(share[0] for share in shares if share is not None)])


def _range(texts: Sequence[str]) -> Cell:
    if not texts:
        return NOT_MEASURED
    return Cell(texts[0] if texts[0] == texts[-1] else f"{texts[0]} to {texts[-1]}")


def _how_salient(runs: Sequence[Result]) -> list[str]:
    """How the tickets of salience runs were found, as they say."""
    facts = [(run.ticket or {}).get("provenance") or {} for run in runs]
    told = sorted({f"{fact.get('metric')} over {fact.get('examples')} examples" for fact in facts})
    return [f"Salience: tickets of one pass at the pre-trained weights, metric {'; '.join(told)}"] if told else []


def _note_sources(runs: dict[str, list[Result]], row: str, notes: list[str]) -> None:
    sources = sorted({run.source_task for task in runs.values() for run in task if run.source_task})
    if sources:
        notes.append(f"{row}: tickets found on {', '.join(sources)}")
