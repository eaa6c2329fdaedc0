"""Super tickets found otherwise than by one scoring of a whole fine-tuning run: early ones, and ones pruned in steps.

Each is compared with the winning ticket of the same task, level, seed and options, whose run differs in its ticket
alone. Updates count as cost; scoring, a forward and backward pass over the training data each time, does not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from fairseq_tickets.analysis.glue_tasks import is_number
from fairseq_tickets.analysis.markup import Cell, Table, cells, columns
from fairseq_tickets.analysis.overlap import blocks_of, expected_jaccard, mask_distance, similarity
from fairseq_tickets.analysis.results import Result, select, signature, tuned
from fairseq_tickets.analysis.statistics import spread
from fairseq_tickets.analysis.table_parts import (
    NOT_MEASURED,
    in_points,
    metric_text,
    models_in,
    need,
    tasks_in,
)
from fairseq_tickets.errors import UserError
from fairseq_tickets.tickets import SuperTicket, ticket_from_json

_DISTANCES = ("Heads that differ", "FFNs that differ", "J of pruned heads", "J of pruned FFNs")
_PRUNED = ("pruned heads", "pruned FFNs")
_DIFFER = "differ: part of the masks (Hamming distance); J: Jaccard similarity; means over seeds"


class Group(NamedTuple):
    """Runs of one model, task and level.

    Attributes:
        winning: by seed.
        found: how the others' tickets were found -> those runs by seed.
    """

    model: str
    task: str
    level: float
    winning: dict[int, Result]
    found: dict[tuple[float, ...], dict[int, Result]]

    def start(self) -> list[Cell]:
        """The first cells of a row."""
        return cells(self.model, self.task, _percent(self.level))


def early(results: Sequence[Result]) -> Table:
    """Rows: a level and the part of fine-tuning after which its tickets were found, up to the whole.

    Raises:
        UserError: no early runs with a winning run to compare with.
    """
    rows, used, chance = [], [], []
    for group in _groups(results, "early", ("found_after",)):
        for (part,), runs in sorted(group.found.items()):
            saved = cells(_percent(1 - part), _percent((1 - part) / 2))
            rows.append([*group.start(), Cell(_percent(part)), *_compared(runs, group.winning), *saved])
            used += list(runs.values())
        rows.append([*group.start(), Cell("100 %"), *_compared(group.winning, group.winning), *cells("0 %", "0 %")])
        used += list(group.winning.values())
        chance.append(_by_chance(group))
    header = columns(
        "Model", "Task", "Pruned", "Found after", *_DISTANCES, "Score", "- last", "Search saved", "... of all"
    )
    notes = [
        f"{_DIFFER}; the ticket after 100 % is the super ticket, of the best epoch",
        "saved: of the updates that find the ticket, and of these and as many again that train it",
        *chance,
    ]
    return Table("Early super tickets", header, rows, notes, signature(used))


def iterative(results: Sequence[Result]) -> Table:
    """Rows: a level, pruned at once and in steps.

    Raises:
        UserError: no iterative runs with a winning run to compare with.
    """
    rows, used, chance = [], [], []
    for group in _groups(results, "iterative", ("prune_step", "stage_budget")):
        rows.append([*group.start(), *cells("at once", "1"), *_compared(group.winning, group.winning)])
        for (step, budget), runs in sorted(group.found.items()):
            cost = round(group.level / step) * budget
            rows.append([*group.start(), *cells(_percent(step), f"{cost:.3g}"), *_compared(runs, group.winning)])
            used += list(runs.values())
        used += list(group.winning.values())
        chance.append(_by_chance(group))
    header = columns("Model", "Task", "Pruned", "In steps of", "Updates to find", *_DISTANCES, "Score", "- at once")
    notes = [f"updates to find: in whole fine-tuning runs; {_DIFFER}, to the ticket pruned at once", *chance]
    return Table("Super tickets pruned in steps", header, rows, notes, signature(used))


def _groups(results: Sequence[Result], method: str, how: Sequence[str]) -> Iterator[Group]:
    """Groups of runs that have a winning run of the same seed and options each, at the best options of these."""
    results = select(results, train_fraction=1.0, source_task=None)
    wanted = select(results, method=method)
    need(wanted, method)
    known = False
    for model in models_in(wanted):
        for task in tasks_in(select(wanted, model=model)):
            own = tuned(select(results, model=model, task=task, method="winning"))
            winning = {(run.level, run.seed, run.searched()): run for run in own}
            pairs = [run for run in select(wanted, model=model, task=task) if _place(run) in winning]
            for level in sorted({run.level for run in pairs if run.level is not None}):
                found: dict[tuple[float, ...], dict[int, Result]] = {}
                for run in select(pairs, level=level):
                    found.setdefault(tuple(_number(run, name) for name in how), {})[run.seed] = run
                known = True
                yield Group(model, task, level, {run.seed: run for run in own if run.level == level}, found)
    if not known:
        raise UserError(f"no {method} run has a winning run of the same level, seed and options to be compared with")


def _place(run: Result) -> tuple[object, ...]:
    return (run.level, run.seed, run.searched())


def _number(run: Result, name: str) -> float:
    value = run.config.get(name)
    if not isinstance(value, (int, float)) or not is_number(value) or not 0 < value <= 1:
        raise UserError(f"result file {run.path}: config {name} is {value!r}; it must be above 0 and at most 1")
    return float(value)


def _compared(runs: dict[int, Result], winning: dict[int, Result]) -> list[Cell]:
    """Distances of tickets, scores, and how much these are above those of the winning runs, seed by seed."""
    both = [(_ticket(run), _ticket(winning[seed])) for seed, run in sorted(runs.items())]
    far = [mask_distance(*pair) for pair in both]
    near = [similarity(*pair) for pair in both]
    distances = [f"{spread([one[kind] for one in far]).mean:.3f}" for kind in ("heads", "FFNs")]
    distances += [f"{spread([one[kind] for one in near]).mean:.2f}" for kind in _PRUNED]
    score = Cell(metric_text(next(iter(runs.values())).task, list(runs.values())))
    if runs is winning:
        return [*cells(*distances), score, NOT_MEASURED]
    gains = spread([run.score() - winning[seed].score() for seed, run in runs.items()])
    spreads = f"±{in_points(gains.sd)}" if gains.n > 1 else ""
    return [*cells(*distances), score, Cell(f"{100 * gains.mean:+.1f}{spreads}")]


def _ticket(run: Result) -> SuperTicket:
    ticket = None if run.ticket is None else ticket_from_json(run.ticket, f"result file {run.path}: its ticket")
    if not isinstance(ticket, SuperTicket):
        raise UserError(f"result file {run.path}: a run of method {run.method} must have a super ticket")
    return ticket


def _by_chance(group: Group) -> str:
    """What random tickets of the same sizes would give."""
    ticket = _ticket(next(iter(group.winning.values())))
    expected = []
    for measure in _PRUNED:
        blocks = blocks_of(ticket, measure)
        expected.append(f"{expected_jaccard(blocks, blocks, measure):.2f}")
    place = f"{group.model} {group.task} {_percent(group.level)}"
    return f"{place}: J of random tickets of the same sizes: heads {expected[0]}, FFNs {expected[1]}"


def _percent(part: float) -> str:
    return f"{100 * part:.4g} %"
