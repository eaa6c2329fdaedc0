"""Which runs' test predictions go to the GLUE server, and their files side by side.

Liang et al. 2021, appendix A.1.3: the server limits submissions, so one seed is submitted, that with the best
task-average on dev; for each task the full model's file and the super ticket's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from fairseq_tickets.analysis.results import Result, select, super_tickets, tuned
from fairseq_tickets.protocol.marks import check_output
from fairseq_tickets.protocol.store import Store


def gather(results: Iterable[Result], store: Store, tasks: Sequence[str]) -> None:
    """Copy the files to `predictions/full` and `predictions/super`; none where no seed has all tasks.

    Args:
        results: finished runs; those trained on a part of the data or adapted are passed over.
        store: of the experiment; its folder gets the files.
        tasks: tasks that must all be there.
    """
    whole = select(results, train_fraction=1.0, source_task=None)
    for name, runs in (
        ("full", tuned(select(whole, method="full"))),
        ("super", tuned(super_tickets(select(whole, method="winning")))),
    ):
        seed, files = best_seed(runs, tasks), {}
        for run in [] if seed is None else select(runs, seed=seed):
            for file in (run.predictions or {}).get("files", []):
                check_output(store.folder / run.key, file, store.facts(run.key))
                files[file.replace("-test", "")] = store.folder / run.key / file
        store.collect(f"predictions/{name}", files)


def best_seed(runs: Sequence[Result], tasks: Sequence[str]) -> int | None:
    """The seed with the best mean score over all tasks on dev, the smallest of equals; None if none has all tasks."""
    scores: dict[int, dict[str, float]] = {}
    for run in runs:
        scores.setdefault(run.seed, {})[run.task] = run.score("all")
    complete = {seed: sum(found.values()) for seed, found in scores.items() if set(found) >= set(tasks)}
    return min(complete, key=lambda seed: (-complete[seed], seed)) if complete else None
