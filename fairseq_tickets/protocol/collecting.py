"""What people look at, side by side: one file of all results, the scores, the tickets, the test predictions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from fairseq_tickets.analysis.results import Result, select, super_tickets, tuned
from fairseq_tickets.protocol.lab import Lab
from fairseq_tickets.protocol.steps import COUNTS, SALIENCE, SCORES, TICKET, Step
from fairseq_tickets.protocol.store import Store, check_output


def collect(lab: Lab) -> int:
    """Write `results/runs.jsonl`, and copy `scores` of importance, the `super_tickets` chosen, dominant `tickets` and
    their `counts` or `saliences`, and `predictions`; returns the number of results.

    Raises:
        UserError: what is to be copied was changed after it was written, or the disk is full.
    """
    done = [step for step in lab.steps.values() if lab.store.done(step.key)]
    runs = {step.key: lab.store.result(step.key) for step in done if step.makes_result}
    count = lab.store.write_lines(sorted(runs, key=lambda key: (lab.steps[key].label, key)))
    chosen = chosen_runs([step for step in lab.steps.values() if step.kind == "train"], runs)
    of_whole_runs = [step for step in done if all(parent.kind != "train_part" for parent, _ in step.needs)]
    for name, output, steps in (
        ("scores", SCORES, [step for step in of_whole_runs if step.kind == "score"]),
        ("super_tickets", TICKET, [step for step in done if step.key in chosen]),
        ("tickets", TICKET, [step for step in done if step.kind in ("extract", "salience")]),
        ("counts", COUNTS, [step for step in done if step.kind == "extract"]),
        ("saliences", SALIENCE, [step for step in done if step.kind == "salience"]),
    ):
        lab.store.collect(name, _named([step for step in steps if lab.store.has(step.key, output)], lab.store, output))
    section = lab.protocol.super_tickets
    if section is not None and section.predictions:
        for name, files in predictions(list(runs.values()), lab.store, section.tasks).items():
            lab.store.collect(f"predictions/{name}", files)
    return count


def chosen_runs(steps: Sequence[Step], results: dict[str, Result]) -> set[str]:
    """Keys of the runs whose tickets are the super tickets, by task, seed, learning rate and batch size.

    On all of the training data; none where a level isn't finished.
    """
    rivals: dict[tuple[Any, ...], list[str]] = {}
    for step in steps:
        if step["method"] == "winning" and step["start"] is None and step["fraction"] == 1.0:
            config = step["config"]
            rivals.setdefault((step["task"], step["seed"], config["lr"], config["batch_size"]), []).append(step.key)
    finished = [keys for keys in rivals.values() if all(key in results for key in keys)]
    return {ticket.key for keys in finished for ticket in super_tickets(results[key] for key in keys)}


def predictions(results: Iterable[Result], store: Store, tasks: Sequence[str]) -> dict[str, dict[str, Path]]:
    """Files of test predictions for the GLUE server by their names there: of "full" models and of "super" tickets.

    Liang et al. 2021, appendix A.1.3: the server limits submissions, so one seed is submitted; here that with the best
    mean score of all `tasks` on dev. Runs on a part of the data or adapted are passed over; where no seed has all
    tasks, there are no files.
    """
    whole = select(results, train_fraction=1.0, source_task=None)
    found: dict[str, dict[str, Path]] = {}
    full, winning = select(whole, method="full"), super_tickets(select(whole, method="winning"))
    for name, runs in (("full", tuned(full)), ("super", tuned(winning))):
        files = found[name] = {}
        for run in select(runs, seed=best_seed(runs, tasks)):
            for file in (run.predictions or {}).get("files", []):
                check_output(store.folder / run.key, file, store.facts(run.key))
                files[file.replace("-test", "")] = store.folder / run.key / file
    return found


def best_seed(runs: Sequence[Result], tasks: Sequence[str]) -> int | None:
    """The seed with the best mean score over all tasks on dev, the smallest of equals; None if none has all tasks."""
    scores: dict[int, dict[str, float]] = {}
    for run in runs:
        scores.setdefault(run.seed, {})[run.task] = run.score("all")
    complete = {seed: sum(found.values()) for seed, found in scores.items() if set(found) >= set(tasks)}
    return min(complete, key=lambda seed: (-complete[seed], seed)) if complete else None


def _named(steps: Sequence[Step], store: Store, output: str) -> dict[str, Path]:
    """Outputs by the name of their copy, after a look at their checksums."""
    names = [f"{step['task']}{'-salience' * (step.kind == 'salience')}-seed{step['seed']}" for step in steps]
    files = {}
    for step, stem in zip(steps, names):
        check_output(step.folder, output, store.facts(step.key))
        own = stem if names.count(stem) == 1 else f"{stem}-{step.key[:8]}"
        files[own + Path(output).suffix] = step.folder / output
    return files
