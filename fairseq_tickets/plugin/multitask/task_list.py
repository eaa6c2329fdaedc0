"""The file that lists the tasks of `ticket_multitask`: read, checked, and written into the checkpoint.

    tasks:
      - name: RTE                   # of its head, its metrics and its losses
        data: data/rte              # a folder of `fairseq-tickets prepare`
        ticket: tickets/rte.json    # a super ticket; left out = the whole encoder
      - name: STS-B
        data: data/stsb
        head_dropout: 0.05          # default: the model's --pooler-dropout
        metric: pearson,spearman    # default: what task.json says
        weight: 2                   # examples are seen so many times an epoch; default 1
        train_examples: 6000        # a random part of the training split; default all
        valid_examples: 1000        # a random part of the validation split; default all
        regression: true            # only where data has no task.json; or `classes: 3`

Relative paths are relative to the file's own folder, since hydra changes the current one.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Optional

from fairseq_tickets.documents import parse_json, shown
from fairseq_tickets.errors import UserError
from fairseq_tickets.files import read_yaml

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


@dataclass(frozen=True)
class TaskEntry:
    """One task of the list.

    Attributes:
        name: of the task and its head.
        data: folder of binarised data.
        ticket: super ticket file; None = no ticket.
        metric: comma-separated metrics; None = those of task.json.
        head_dropout: of the head, 0 to less than 1; None = the model's.
        weight: how many times an epoch sees the task's examples, above 0.
        train_examples: size of the random part to train on; None = all.
        valid_examples: size of the random part to evaluate on; None = all.
        classes: number of classes; None = that of task.json.
        regression: True for real-valued targets; None = what task.json says.
    """

    name: str
    data: str
    ticket: Optional[str] = None
    metric: Optional[str] = None
    head_dropout: Optional[float] = None
    weight: float = 1.0
    train_examples: Optional[int] = None
    valid_examples: Optional[int] = None
    classes: Optional[int] = None
    regression: Optional[bool] = None


def read_tasks(path: str) -> list[TaskEntry]:
    """The tasks that a file lists.

    Raises:
        UserError: no such file, no YAML, no tasks, an unknown key, a value of the wrong kind, or a name used twice.
    """
    content = read_yaml(path, "--tasks")
    if isinstance(content, Mapping) and set(content) == {"tasks"}:
        content = content["tasks"]
    if not isinstance(content, list) or not content:
        raise UserError(f"--tasks {path} must be a list of tasks under the key `tasks`")
    folder = Path(path).resolve().parent
    entries = [_entry(item, f"--tasks {path}: task {place}", folder) for place, item in enumerate(content, start=1)]
    seen: set[str] = set()
    for entry in entries:
        if entry.name in seen:
            raise UserError(f"--tasks {path}: two tasks have the name {entry.name}; names must differ")
        seen.add(entry.name)
    return entries


def entries_to_text(entries: Sequence[TaskEntry]) -> str:
    """For the checkpoint; paths are absolute."""
    return json.dumps([asdict(entry) for entry in entries])


def entries_from_text(text: str) -> list[TaskEntry]:
    """The inverse of `entries_to_text`."""
    place = "the tasks that the checkpoint records"
    content = parse_json(text, place)
    if not isinstance(content, list) or not content:
        raise UserError(f"{place} are {shown(content)}; they must be a list")
    return [_entry(item, f"{place}: task {number}", Path("/")) for number, item in enumerate(content, start=1)]


def _entry(item: Any, place: str, folder: Path) -> TaskEntry:
    if not isinstance(item, Mapping):
        raise UserError(f"{place} is {shown(item)}; it must be a mapping with at least name and data")
    known = [f.name for f in fields(TaskEntry)]
    for key in item:
        if key not in known:
            raise UserError(f"{place}: unknown key {shown(key)}; the keys of a task are {', '.join(known)}")
    given = {key: value for key, value in item.items() if value is not None}
    name = given.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise UserError(f"{place}: name is {shown(name)}; it must be letters, digits, - and _")
    place = f"{place} ({name})"
    for key in ("data", "ticket", "metric"):
        if key in given and not isinstance(given[key], str):
            raise UserError(f"{place}: {key} is {shown(given[key])}; it must be a text")
    if "data" not in given:
        raise UserError(f"{place} has no data: the folder that `fairseq-tickets prepare` made")
    for key in ("data", "ticket"):
        if key in given:
            given[key] = str(folder / _expanded(given[key], f"{place}: {key}"))
    for key in ("train_examples", "valid_examples", "classes"):
        if key in given and (isinstance(given[key], bool) or not isinstance(given[key], int) or given[key] < 1):
            raise UserError(f"{place}: {key} is {shown(given[key])}; it must be a whole number of at least 1")
    if "regression" in given and not isinstance(given["regression"], bool):
        raise UserError(f"{place}: regression is {given['regression']!r}; it must be true or false")
    if "weight" in given and not (_is_number(given["weight"]) and 0 < given["weight"] < math.inf):
        raise UserError(f"{place}: weight is {given['weight']!r}; it must be a number above 0")
    if "head_dropout" in given and not (_is_number(given["head_dropout"]) and 0 <= given["head_dropout"] < 1):
        raise UserError(f"{place}: head_dropout is {given['head_dropout']!r}; it must be from 0 to less than 1")
    return TaskEntry(**given)


def _expanded(text: str, place: str) -> str:
    expanded = os.path.expanduser(os.path.expandvars(text))
    missing = re.search(r"\$(\w+|\{\w+\})", expanded)
    if missing:
        raise UserError(f"{place} is {text!r}: the environment variable {missing[1].strip('{}')} is not set")
    return expanded


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
