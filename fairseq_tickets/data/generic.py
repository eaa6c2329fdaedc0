"""A task from the user's own TSV or JSON-lines files, with named columns, or numbered ones without a header."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from fairseq_tickets.data.readers import read_examples
from fairseq_tickets.data.tasks import TaskSpec
from fairseq_tickets.dictionary import SPECIALS
from fairseq_tickets.errors import UserError

CLASS_METRICS = ("accuracy", "f1", "mcc")
SCORE_METRICS = ("pearson", "spearman")
ANY_SCORE = (float("-inf"), float("inf"))
MOST_CLASSES = 1000


def generic_task(
    name: str,
    files: Mapping[str, Path],
    columns: Sequence[str],
    label: str,
    labels: Sequence[str] | None = None,
    score_range: tuple[float, float] | None = None,
    metrics: Sequence[str] | None = None,
    header: bool = True,
) -> TaskSpec:
    """Describe a task.

    Args:
        name: its name, for task.json.
        files: split -> file.
        columns: names of one or two sentence columns; without a header their numbers, from 1.
        label: name (or number) of the column of labels or scores.
        labels: the classes in order; None takes those of the training file, sorted.
        score_range: lowest and highest score; makes it a regression task.
        metrics: the main one first; None for accuracy, or pearson and spearman.
        header: False when the TSV files begin with an example.

    Raises:
        UserError: see the messages below.
    """
    if not 1 <= len(columns) <= 2 or len({*columns, label}) != len(columns) + 1:
        raise UserError(
            f"--columns {','.join(columns)} --label {label}: give one or two sentence columns and another label"
        )
    headerless: Mapping[int, tuple[str, ...]] = {}
    if not header:
        headerless = _numbered(files, [*columns, label])
        columns, label = [f"column {number}" for number in columns], f"column {label}"
    allowed = CLASS_METRICS if score_range is None else SCORE_METRICS
    chosen = tuple(metrics) if metrics else allowed[:1] if score_range is None else SCORE_METRICS
    wrong = [metric for metric in chosen if metric not in allowed]
    if wrong:
        raise UserError(f"--metrics {','.join(chosen)}: {wrong[0]} is not one of {', '.join(allowed)}")
    classes: tuple[str, ...] = ()
    if score_range is None:
        classes = tuple(labels) if labels else _found_labels(files, columns, label, headerless)
        _check_classes(classes)
        if len(classes) != 2 and not {"f1", "mcc"}.isdisjoint(chosen):
            raise UserError(f"--metrics {','.join(chosen)}: F1 and MCC are for 2 classes; here are {len(classes)}")
    return TaskSpec(name, tuple(columns), classes, label, score_range, chosen, headerless=headerless)


def _numbered(files: Mapping[str, Path], numbers: Sequence[str]) -> dict[int, tuple[str, ...]]:
    wrong = [number for number in numbers if not number.isdigit() or number == "0"]
    if wrong:
        raise UserError(f"--no-header: columns are then numbers from 1, not {wrong[0]}")
    layouts = {}
    for path in files.values():
        if path.suffix == ".jsonl":
            raise UserError(f"--no-header: {path} is JSON lines, whose columns have names")
        try:
            with path.open("rb") as handle:
                count = handle.readline().count(b"\t") + 1
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror or error}") from error
        layouts[count] = tuple(f"column {number}" for number in range(1, count + 1))
    return layouts


def _found_labels(
    files: Mapping[str, Path], columns: Sequence[str], label: str, headerless: Mapping[int, Sequence[str]]
) -> tuple[str, ...]:
    path = files.get("train") or next(iter(files.values()))
    examples = read_examples(path, columns, label, headerless=headerless)
    found = sorted(set(examples.labels))
    if not found:
        raise UserError(f"--label {label}: {path} has no such column")
    if len(found) > min(MOST_CLASSES, max(2, len(examples) // 2)):
        raise UserError(
            f"--label {label}: {len(found)} different labels in {len(examples)} lines of {path};"
            " is it the right column, or a score (--regression)?"
        )
    return tuple(sorted(found, key=int)) if all(name.isdecimal() for name in found) else tuple(found)


def _check_classes(classes: Sequence[str]) -> None:
    if len(classes) < 2 or len(set(classes)) != len(classes):
        raise UserError(f"labels {', '.join(classes)}: at least two different ones are needed")
    for name in classes:
        if name in (*SPECIALS, "<mask>") or name.endswith("#fairseq:overwrite") or len(name.splitlines()) != 1:
            raise UserError(f"label {name!r}: fairseq's label dictionary cannot hold it; rename it")
