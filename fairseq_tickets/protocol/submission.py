"""Which runs' test predictions go to the GLUE server, and their files side by side.

Liang et al. 2021, appendix A.1.3: the server limits submissions, so one seed is submitted, that with the best
task-average on dev; for each task the full model's file and the super ticket's.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from fairseq_tickets.analysis.results import Result, select, super_tickets, tuned
from fairseq_tickets.files import atomic_write
from fairseq_tickets.protocol.marks import check_output
from fairseq_tickets.protocol.store import Store


def gather(results: Iterable[Result], store: Store, tasks: Sequence[str]) -> list[Path]:
    """Copy the files to folder / "predictions" / {full,super}; nothing where no seed has all tasks.

    Args:
        results: finished runs; those trained on a part of the data or adapted are passed over.
        store: of the experiment; its folder gets the files.
        tasks: tasks that must all be there.
    """
    whole = select(results, train_fraction=1.0, source_task=None)
    written: list[Path] = []
    for name, method in (("full", "full"), ("super", "winning")):
        runs = select(whole, method=method)
        if method == "winning":
            runs = super_tickets(runs)
        runs = tuned(runs)
        seed = best_seed(runs, tasks)
        for run in [] if seed is None else select(runs, seed=seed):
            for file in (run.predictions or {}).get("files", []):
                check_output(store.folder / run.key, file, store.facts(run.key))
                target = store.folder / "predictions" / name / file.replace("-test", "")
                with atomic_write(target) as temporary:
                    shutil.copyfile(store.folder / run.key / file, temporary)
                written.append(target)
    return written


def best_seed(runs: Sequence[Result], tasks: Sequence[str]) -> int | None:
    """The seed with the best mean score over all tasks on dev, the smallest of equals; None if none has all tasks."""
    scores: dict[int, dict[str, float]] = {}
    for run in runs:
        scores.setdefault(run.seed, {})[run.task] = run.score("all")
    complete = {seed: sum(found.values()) for seed, found in scores.items() if set(found) >= set(tasks)}
    return min(complete, key=lambda seed: (-complete[seed], seed)) if complete else None
