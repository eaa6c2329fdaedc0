"""Result tables by name: `S1` to `S8` of paper S, `D2` and `D3` of paper D, and `levels`, `early` and `iterative`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fairseq_tickets.analysis import tables_dominant, tables_finding, tables_levels, tables_spread, tables_super
from fairseq_tickets.analysis.markup import Table
from fairseq_tickets.analysis.results import Result
from fairseq_tickets.errors import UserError

RESULT_TABLES: dict[str, tuple[Callable[[Sequence[Result]], Table], str]] = {
    "S1": (tables_super.single_task, "single-task scores, full model against super tickets, with t-tests"),
    "S2": (tables_super.predictions, "which runs' test predictions to send to the GLUE server"),
    "S3": (tables_super.multi_task, "multi-task learning: MT-DNN against Ticket-Share"),
    "S4": (tables_super.adaptation, "domain adaptation by share of training data"),
    "S5": (tables_spread.seed_deviation, "standard deviation over seeds, method by method"),
    "S6": (tables_spread.ticket_deviation, "standard deviation over seeds of the super tickets"),
    "S7": (tables_spread.weights, "weight remaining in the super tickets"),
    "S8": (tables_spread.learning_rate_deviation, "standard deviation over learning rates"),
    "D2": (
        tables_dominant.dominant_against_random,
        "Dominant-k against Random-k, BitFit and full fine-tuning",
    ),
    "D3": (tables_dominant.random_elements, "a random 5 % of elements against full fine-tuning"),
    "levels": (tables_levels.levels, "winning, random and losing tickets by level, against the full model"),
    "early": (tables_finding.early, "tickets found after a part of fine-tuning, against those of the whole"),
    "iterative": (tables_finding.iterative, "tickets pruned in steps, against those pruned at once"),
}


def result_table(name: str, results: Sequence[Result]) -> Table:
    """Build one table from results.

    Raises:
        UserError: unknown name, or no results of the kind the table is made of.
    """
    if name not in RESULT_TABLES:
        raise UserError(f"table {name}: must be one of {', '.join(RESULT_TABLES)}")
    return _warned(RESULT_TABLES[name][0](results), results)


def tables_of(paper: str, results: Sequence[Result]) -> tuple[list[Table], list[str]]:
    """Every table of a paper ("S" or "D") that the results allow, and for each of the others why not.

    Raises:
        UserError: no table can be made.
    """
    made, left_out = [], []
    for name, (build, _) in RESULT_TABLES.items():
        if name.startswith(paper):
            try:
                table = build(results)
            except UserError as error:
                left_out.append(f"{name} left out: {error}")
                continue
            table.title = f"{name}: {table.title}"
            _warned(table, results)
            made.append(table)
    if not made:
        raise UserError(f"no table of paper {paper} can be made: {'; '.join(left_out)}")
    return made, left_out


def _warned(table: Table, results: Sequence[Result]) -> Table:
    """Note runs whose model says the same of every example: their scores say nothing about a ticket."""
    single = [result for result in results if result.single_class_prediction]
    if single:
        levels = ["" if result.level is None else f" {result.level:g}" for result in single]
        shown = ", ".join(f"{r.task} {r.method}{level} seed {r.seed}" for r, level in zip(single[:3], levels))
        table.notes.append(
            f"{len(single)} of {len(results)} runs predict one class only (MCC is 0 there by definition): {shown}"
            + (", ..." if len(single) > 3 else "")
        )
    return table
