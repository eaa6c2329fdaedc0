"""A folder that `prepare` wrote: what its task.json says, every field checked, and whether its files are still those.

task.json is written last and records the size and SHA-256 of every other file (from version 2 on). Whatever reads the
data asks `check_files` first, so a cut file, a changed bit or a file of another folder never becomes a number.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fairseq_tickets.errors import UserError
from fairseq_tickets.files import file_digest, read_json, sha256
from fairseq_tickets.metrics import CLASSIFICATION, REGRESSION

TASK_FILE = "task.json"
TASK_FORMAT = "fairseq-tickets/task"
VERSION = 2  # 1: without checksums
AGAIN = "make the folder again with `fairseq-tickets prepare`"
_NAME = re.compile(r"(input\d/|label/)?[\w-]+(\.[\w-]+)?")
_SHA256 = re.compile(r"[0-9a-f]{64}")


def read_task(folder: Path) -> dict[str, Any] | None:
    """Content of a folder's task.json, None where there is none (data made by fairseq-preprocess).

    Raises:
        UserError: the file can't be read, or a field is missing, of the wrong kind or contradicts another.
    """
    path = folder / TASK_FILE
    if not path.is_file():
        return None
    content = read_json(path, "task")
    if not isinstance(content, dict) or content.get("format") != TASK_FORMAT:
        raise UserError(f"{path} is not a {TASK_FORMAT} file; {AGAIN}")
    if type(content.get("version")) is not int or not 1 <= content["version"] <= VERSION:
        raise UserError(f"{path}: version is {content.get('version')!r}; this package reads 1 to {VERSION}")
    for field, rule, holds in (
        ("name", "a name", isinstance(content.get("name"), str) and content["name"]),
        ("kind", "classification or regression", content.get("kind") in ("classification", "regression")),
        ("labels", "a list of different names", _different_names(content.get("labels"))),
        ("num_classes", "the number of labels, 1 for regression", _fitting_classes(content)),
        ("metrics", "a list of metrics that fit the kind", _fitting_metrics(content)),
        ("regression_range", "nothing, or two finite numbers, the lower first", _is_range(content)),
        ("splits", "one object a split", _objects(content.get("splits", {}))),
        ("files", "size and SHA-256 of every file", _fitting_files(content)),
    ):
        if not holds:
            raise UserError(f"{path}: {field} is {str(content.get(field))[:80]!r}; it must be {rule}; {AGAIN}")
    return content


def check_files(folder: Path, names: Iterable[str]) -> None:
    """Raise UserError unless the named files ("input0/train.bin") are those that `prepare` wrote.

    Names that neither exist nor are recorded are passed over; data without records too.
    """
    files = (read_task(folder) or {}).get("files")
    if files is None:
        return
    for name in names:
        path = folder / name
        if name not in files:
            if path.exists():
                raise UserError(f"{path} is not among the files that {folder / TASK_FILE} records; {AGAIN}")
            continue
        try:
            found = path.stat()
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror or error}") from error
        if found.st_size != files[name]["bytes"]:
            raise UserError(
                f"{path} has {found.st_size} bytes, but {folder / TASK_FILE} says {files[name]['bytes']}; {AGAIN}"
            )
        if file_digest(path) != files[name]["sha256"]:
            raise UserError(f"{path} is damaged or exchanged: its SHA-256 is not that of {folder / TASK_FILE}; {AGAIN}")


def file_records(folder: Path) -> dict[str, dict[str, Any]]:
    """Size and SHA-256 of every file of a folder, by relative name."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {p.relative_to(folder).as_posix(): {"bytes": p.stat().st_size, "sha256": sha256(p)} for p in paths}


def _different_names(labels: Any) -> bool:
    return (
        isinstance(labels, list) and all(isinstance(x, str) and x for x in labels) and len(set(labels)) == len(labels)
    )


def _fitting_classes(content: Mapping[str, Any]) -> bool:
    count, labels = content.get("num_classes"), content["labels"]
    if type(count) is not int:
        return False
    return count == 1 and not labels if content["kind"] == "regression" else count == len(labels) >= 2


def _fitting_metrics(content: Mapping[str, Any]) -> bool:
    metrics, known = content.get("metrics"), REGRESSION if content["kind"] == "regression" else CLASSIFICATION
    if not _different_names(metrics) or not metrics or not set(metrics) <= set(known):
        return False
    return content.get("metric", metrics[0]) == metrics[0]


def _is_range(content: Mapping[str, Any]) -> bool:
    limits = content.get("regression_range")
    if limits is None:
        return True
    numbers = isinstance(limits, list) and all(type(limit) in (int, float) and math.isfinite(limit) for limit in limits)
    return numbers and content["kind"] == "regression" and len(limits) == 2 and limits[0] < limits[1]


def _fitting_files(content: Mapping[str, Any]) -> bool:
    files = content.get("files")
    if files is None:
        return bool(content["version"] == 1)
    return _objects(files) and all(
        _NAME.fullmatch(name) and type(record.get("bytes")) is int and _SHA256.fullmatch(str(record.get("sha256")))
        for name, record in files.items()
    )


def _objects(content: Any) -> bool:
    return isinstance(content, dict) and all(isinstance(value, dict) for value in content.values())
