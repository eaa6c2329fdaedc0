"""What a fine-tuned checkpoint records of its sentence task: how sentences were joined, and what its classes mean."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fairseq_tickets import recorded
from fairseq_tickets.errors import UserError
from fairseq_tickets.files import read_json

RUN_STATE = "fairseq_tickets.run"  # where task_state has the record of a run; see plugin/run_record.py
DICTIONARY = "fairseq_tickets.dictionary"  # where extra_state of an imported model has the digest of its words


@dataclass(frozen=True)
class TaskRecord:
    """A sentence task, in fairseq's numbers.

    Attributes:
        init_token: put before each example; None = nothing.
        separator_token: put before the second sentence; None = nothing.
        max_positions: tokens that an example was cut to; None = not known.
        regression: True for real-valued targets; None = not known.
        labels: names of the classes in order; None = not known.
    """

    init_token: int | None = 0
    separator_token: int | None = None
    max_positions: int | None = None
    regression: bool | None = None
    labels: tuple[str, ...] | None = None

    def to_json(self) -> dict[str, Any]:
        """The fields by name."""
        return asdict(self)


def recorded_task(checkpoint: Mapping[str, Any], head: str | None = None) -> TaskRecord | None:
    """The task that a checkpoint was fine-tuned on; None where it says nothing, as a pre-trained model's.

    Label names are those of the run's record; older checkpoints have none, and then the data folder is asked, where it
    still exists.

    Args:
        checkpoint: content of a checkpoint, as `checkpoint.load` gives it.
        head: of several tasks, the one with this classification head.
    """
    options = recorded.options(checkpoint, "task")
    if "classification_head_name" not in options and "tasks_resolved" not in options:
        return None
    data, regression = options.get("data"), bool(options.get("regression_target"))
    tasks = ((checkpoint.get("task_state") or {}).get(RUN_STATE) or {}).get("tasks") or {}
    labels = tuple((tasks.get(head) or tasks.get("") or {}).get("labels") or ()) or None
    for entry in _entries(options.get("tasks_resolved")):
        if entry.get("name") == head:
            data, regression = entry.get("data"), bool(entry.get("regression"))
    if data:
        known = _task_json(Path(str(data)) / "task.json")
        regression = known.get("kind") == "regression" if known else regression
        labels = labels or label_names(Path(str(data)))
    separator = options.get("separator_token")
    return TaskRecord(
        options.get("init_token"),
        None if separator is None or separator < 0 else separator,
        options.get("max_positions"),
        regression,
        None if regression else labels,
    )


def dictionary_digest(checkpoint: Mapping[str, Any]) -> str | None:
    """Digest of the words that a checkpoint's rows stand for, by `dictionary.symbols_digest`; None where it says none.

    A run of ours records it, and so does `export`.
    """
    state, extra = checkpoint.get("task_state"), checkpoint.get("extra_state")
    run = state.get(RUN_STATE) if isinstance(state, Mapping) else None
    known = run.get("dictionary") if isinstance(run, Mapping) else None
    if known is None and isinstance(extra, Mapping):
        known = extra.get(DICTIONARY)
    return None if known is None else str(known)


def task_from_json(content: Any) -> TaskRecord | None:
    """The inverse of `TaskRecord.to_json`; None for what is no record, since a delta without one is whole too."""
    if not isinstance(content, Mapping):
        return None
    tokens = [content.get(name) for name in ("init_token", "separator_token", "max_positions")]
    labels = content.get("labels")
    if any(t is not None and (isinstance(t, bool) or not isinstance(t, int) or t < 0) for t in tokens):
        return None
    if labels is not None and not (isinstance(labels, list) and all(isinstance(name, str) for name in labels)):
        return None
    regression = content.get("regression")
    known = (None if regression is None else bool(regression), None if labels is None else tuple(labels))
    return TaskRecord(tokens[0], tokens[1], tokens[2], *known)


def label_names(data: Path) -> tuple[str, ...] | None:
    """Class names of binarised data, in the order of the classes' numbers; fairseq's fillers are no names."""
    try:
        lines = (data / "label" / "dict.txt").read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeError):
        return None
    names = [line.rpartition(" ")[0] for line in lines]
    return tuple(name for name in names if name and not name.startswith("madeupword"))


def _entries(text: Any) -> list[Mapping[str, Any]]:
    try:
        entries = json.loads(text) if isinstance(text, str) else []
    except ValueError:
        return []
    return [entry for entry in entries if isinstance(entry, Mapping)] if isinstance(entries, list) else []


def _task_json(path: Path) -> Mapping[str, Any]:
    try:
        content = read_json(path, "task") if path.is_file() else {}
    except UserError:
        return {}
    return content if isinstance(content, Mapping) else {}
