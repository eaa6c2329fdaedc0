"""Runs held against each other, seed by seed: what the claims about scores are measured with.

Scores are those on the part of dev that no choice has seen (`report`), in points out of 100.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

from fairseq_tickets.analysis.claims.claim import Finding, Setting
from fairseq_tickets.analysis.effects import mean_effect, slope
from fairseq_tickets.analysis.results import Result, select, tuned
from fairseq_tickets.analysis.statistics import spread
from fairseq_tickets.analysis.table_parts import best_runs

Values = dict[tuple[str, int], float]  # (task, seed) -> a value
ByTask = dict[str, list[float]]
SPLIT = "report"


def points(run: Result) -> float:
    """Task score on the part of dev that no choice has seen, in points."""
    return 100 * run.score(SPLIT)


def single_task(setting: Setting) -> list[Result]:
    """Runs on all data of a task from the pre-trained weights."""
    return select(setting.runs, train_fraction=1.0, source_task=None)


def scores(setting: Setting, method: str, top_k: int | None = None, of: Callable[[Result], float] = points) -> Values:
    """A method's value for each task and seed at its best searched options; for "winning" the super ticket's."""
    runs = [run for run in single_task(setting) if top_k is None or run.top_k == top_k]
    return {(run.task, run.seed): of(run) for run in best_runs(runs, method)}


def at_levels(setting: Setting, methods: Sequence[str], above: float, up_to: float) -> list[Values]:
    """Of each kind of ticket the mean over the levels in that range that all of these kinds have in a task.

    Of the seeds that have all of these levels.
    """
    runs = tuned(single_task(setting))
    kinds = [
        {(run.task, run.seed, run.level): points(run) for run in runs if run.method == kind and run.level is not None}
        for kind in methods
    ]
    shared = set.intersection(*({(task, level) for task, _, level in found} for found in kinds))
    wanted = {(task, level) for task, level in shared if above + 1e-9 < level <= up_to + 1e-9}
    count = Counter(task for task, _ in wanted)
    values: list[Values] = []
    for found in kinds:
        rows: dict[tuple[str, int], list[float]] = {}
        for (task, seed, level), value in found.items():
            if (task, level) in wanted:
                rows.setdefault((task, seed), []).append(value)
        values.append({place: spread(row).mean for place, row in rows.items() if len(row) == count[place[0]]})
    return values


def difference(treated: Values, control: Values) -> Values:
    """The differences in the places that both have."""
    return {place: treated[place] - control[place] for place in sorted(treated) if place in control}


def by_task(values: Values) -> ByTask:
    """Task -> its seeds' values."""
    found: ByTask = {}
    for (task, _), value in sorted(values.items()):
        found.setdefault(task, []).append(value)
    return found


def means(values: Values) -> dict[str, float]:
    """Task -> mean."""
    return {task: spread(found).mean for task, found in by_task(values).items()}


def finding(setting: str, values: Values) -> Finding | None:
    """Mean over tasks, whose runs are independent of each other; None without values."""
    return Finding(setting, mean_effect(by_task(values)), means(values)) if values else None


def joined_finding(setting: str, values: Values) -> Finding | None:
    """The same where the tasks of a seed share a model: a seed is one value, its mean over tasks.

    Seeds that lack a task which another has are left out.
    """
    seeds: dict[int, dict[str, float]] = {}
    for (task, seed), value in values.items():
        seeds.setdefault(seed, {})[task] = value
    if not seeds:
        return None
    most = max(len(found) for found in seeds.values())
    rows = [spread(list(found.values())).mean for found in seeds.values() if len(found) == most]
    return Finding(setting, mean_effect({"all": rows})._replace(tasks=most), means(values))


def along(setting: str, values: Values, at: Mapping[str, float]) -> Finding | None:
    """Slope over the tasks' places; None where they aren't at two different ones."""
    known = {task: found for task, found in by_task(values).items() if task in at}
    if len({at[task] for task in known}) < 2:
        return None
    return Finding(setting, slope(known, at), {task: spread(found).mean for task, found in known.items()})


def examples(runs: Iterable[Result]) -> dict[str, int]:
    """Task -> number of training examples, where the results say it."""
    found: dict[str, int] = {}
    for run in runs:
        count = run.train_examples if run.train_examples is not None else run.config.get("subset")
        if isinstance(count, int) and run.train_fraction == 1.0:
            found[run.task] = count
    return found
