"""What people look at, side by side: one file of all results, the scores, the tickets, the test predictions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fairseq_tickets.analysis.results import Result, super_tickets
from fairseq_tickets.protocol.lab import Lab
from fairseq_tickets.protocol.marks import check_output
from fairseq_tickets.protocol.steps import COUNTS, SALIENCE, SCORES, TICKET, Step
from fairseq_tickets.protocol.submission import gather


def collect(lab: Lab) -> int:
    """Write `results/runs.jsonl`, and copy `scores` of importance, the `super_tickets` chosen, dominant `tickets` and
    their `counts` or `saliences`, and `predictions`; returns the number of results.

    Raises:
        UserError: what is to be copied was changed after it was written, or the disk is full.
    """
    done = [step for step in lab.steps.values() if lab.store.done(step.key)]
    runs = {step.key: lab.store.result(step.key) for step in done if step.makes_result}
    count = lab.store.write_lines(sorted(runs, key=lambda key: f"{_stem(runs[key])}-{key[:8]}"))
    chosen = chosen_runs([step for step in lab.steps.values() if step.kind == "train"], runs)
    for name, kinds, output in (
        ("scores", ("score",), SCORES),
        ("super_tickets", ("train",), TICKET),
        ("tickets", ("extract", "salience"), TICKET),
        ("counts", ("extract",), COUNTS),
        ("saliences", ("salience",), SALIENCE),
    ):
        steps = [step for step in done if step.kind in kinds and (step.kind != "train" or step.key in chosen)]
        if name == "scores":  # of whole runs, which the super tickets are made from
            steps = [step for step in steps if all(parent.kind != "train_part" for parent, _ in step.needs)]
        lab.store.collect(name, _named([step for step in steps if lab.store.has(step.key, output)], lab, output))
    section = lab.protocol.super_tickets
    if section is not None and section.predictions:
        gather(list(runs.values()), lab.store, section.tasks)
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


def _named(steps: Sequence[Step], lab: Lab, output: str) -> dict[str, Path]:
    """Outputs by the name of their copy, after a look at their checksums."""
    names = [f"{step['task']}{'-salience' * (step.kind == 'salience')}-seed{step['seed']}" for step in steps]
    files = {}
    for step, stem in zip(steps, names):
        check_output(step.folder, output, lab.store.facts(step.key))
        own = stem if names.count(stem) == 1 else f"{stem}-{step.key[:8]}"
        files[own + Path(output).suffix] = step.folder / output
    return files


def _stem(result: Result) -> str:
    words = [result.task, result.method]
    if result.source_task:
        words.append(f"from-{result.source_task}")
    if result.top_k is not None:
        words.append(f"k{result.top_k}")
    if result.level is not None:
        words.append(f"{result.level:g}")
    if result.train_fraction != 1.0:
        words.append(f"of{result.train_fraction:g}")
    return "-".join([*words, f"seed{result.seed}"])
