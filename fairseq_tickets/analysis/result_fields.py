"""What a result file must hold: every field's rule, and scores that its own epochs back."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from fairseq_tickets.analysis.glue_tasks import KNOWN_METRICS, is_number
from fairseq_tickets.documents import is_whole, shown
from fairseq_tickets.errors import UserError
from fairseq_tickets.tickets import ticket_from_json

METHODS = (
    "full",
    "winning",
    "random",
    "losing",
    "early",
    "iterative",
    "dominant",
    "random_dimensions",
    "bitfit",
    "random_elements",
    "salience",
    "mt_dnn",
    "ticket_share",
    "mt_dnn+st",
    "ticket_share+st",
)
SPLITS = ("all", "select", "report")
# Options of `config` that the papers search over: of runs that differ in nothing else, the best are shown.
SEARCHED = ("lr", "batch_size", "head_dropout")
Rules = Mapping[str, tuple[str, Callable[[Any], bool]]]
_MANY = 1 << 53
_AGREES = 1e-3  # scores may have been rounded for the log of epochs, to this at the most


def check_fields(content: Mapping[str, Any], source: str) -> None:
    """Check a result file's content; `source` names it in errors.

    Raises:
        UserError: naming the first field that is missing or wrong, or a score that the best epoch does not back.
    """
    for name in FIELDS:
        if name not in content:
            raise UserError(f"result file {source} lacks {name!r}")
    for name, (rule, check) in {**FIELDS, **OPTIONAL}.items():
        value = content.get(name)
        if not check(value) and not (value is None and name in OPTIONAL):
            raise UserError(f"result file {source}: {name} is {shown(value)}; it must be {rule}")
    for place, epoch in enumerate(content["epochs"]):
        _check_record(epoch, EPOCH, f"result file {source}: epochs/{place}")
    for place, point in enumerate(content.get("curve") or ()):
        _check_record(point, POINT, f"result file {source}: curve/{place}")
    if content.get("ticket") is not None:
        ticket_from_json(content["ticket"], f"result file {source}: its ticket")
    _check_scores(content, source)


def _check_record(record: Any, rules: Rules, place: str) -> None:
    """Check an entry of `epochs` or `curve`; fields without a rule must be numbers, and only the first is needed."""
    if not isinstance(record, Mapping) or next(iter(rules)) not in record:
        raise UserError(f"{place} is {shown(record)}; it must be an object with {next(iter(rules))}")
    for name, value in record.items():
        rule, check = rules.get(name, ("a number", _finite))
        if not check(value):
            raise UserError(f"{place}: {name} is {shown(value)}; it must be {rule}")


def _check_scores(content: Mapping[str, Any], source: str) -> None:
    for split, metrics in content["scores"].items():
        if split not in SPLITS or not isinstance(metrics, Mapping) or not metrics:
            raise UserError(f"result file {source}: scores may hold {', '.join(SPLITS)} with metrics, not {split!r}")
        for name, value in metrics.items():
            if name in KNOWN_METRICS and not _score(value):
                raise UserError(
                    f"result file {source}: {split} {name} is {shown(value)}; a score must be between -1 and 1"
                )
    if "all" not in content["scores"]:
        raise UserError(f"result file {source} has no scores for all of the development set")
    epochs = {epoch["epoch"]: epoch for epoch in content["epochs"]}
    if not epochs:
        return
    if content["best_epoch"] not in epochs:
        raise UserError(f"result file {source}: best_epoch {content['best_epoch']!r} is not among its epochs (edited?)")
    logged = epochs[content["best_epoch"]].get("valid", {})
    for split, suffix in (("all", ""), ("select", "_select"), ("report", "_report")):
        for name, value in content["scores"].get(split, {}).items():
            seen = logged.get(name + suffix)
            if is_number(seen) and is_number(value) and abs(seen - value) > _AGREES:
                raise UserError(f"result file {source}: {split} {name} is {value}, its best epoch has {seen} (edited?)")


def _finite(value: Any) -> bool:
    return is_number(value) and math.isfinite(value)


def _score(value: Any) -> bool:
    return is_number(value) and -1 <= value <= 1


def _text(value: Any) -> bool:
    return isinstance(value, str) and value != "" and value.isprintable() and len(value) <= 1000


def _fraction(value: Any) -> bool:
    return is_number(value) and 0 < value <= 1


def _count(value: Any) -> bool:
    return is_whole(value, 0, _MANY)


def _positive(value: Any) -> bool:
    return is_whole(value, 1, _MANY)


def _config(value: Any) -> bool:
    """Options: searched ones are numbers, sizes of subsets are numbers or texts, others may be anything."""
    if not isinstance(value, Mapping) or not all(_finite(value[name]) for name in SEARCHED if name in value):
        return False
    subsets = [value.get("subset"), value.get("dev_subset")]
    return all(subset is None or _text(subset) or _finite(subset) for subset in subsets)


def _valid(value: Any) -> bool:
    """Numbers of an epoch's evaluation: metrics by name and split are scores, losses any number."""
    if not isinstance(value, Mapping) or not all(map(_finite, value.values())):
        return False
    return all(_score(number) for name, number in value.items() if name in KNOWN_METRICS)


def _predictions(value: Any) -> bool:
    return _text(value) or (isinstance(value, Mapping) and (value.get("file") is None or _text(value["file"])))


def _fractions(value: Any) -> bool:
    return isinstance(value, Mapping) and all(map(_fraction, value.values()))


def _texts(value: Any) -> bool:
    return isinstance(value, Mapping) and all(map(_text, value.values()))


FIELDS: Rules = {
    "key": ("a printable text", _text),
    "experiment": ("a printable text", _text),
    "model": ("a printable text", _text),
    "task": ("a printable text", _text),
    "method": (f"one of {', '.join(METHODS)}", lambda v: v in METHODS),
    "level": ("null or between 0 and 1", lambda v: v is None or (is_number(v) and 0 <= v <= 1)),
    "top_k": ("null or a whole number of at least 1", lambda v: v is None or _positive(v)),
    "seed": ("a whole number of at least 0", lambda v: is_whole(v, 0, 2**64)),
    "train_fraction": ("above 0 and at most 1", _fraction),
    "source_task": ("null or a text", lambda v: v is None or _text(v)),
    "config": (f"an object whose {', '.join(SEARCHED)} are numbers, and its subsets numbers or texts", _config),
    "epochs": ("a list", lambda v: isinstance(v, list)),
    "best_epoch": ("null or a whole number", lambda v: v is None or _count(v)),
    "scores": ("an object", lambda v: isinstance(v, Mapping)),
    "versions": ("an object of texts", _texts),
    "partial_data": ("true or false", lambda v: isinstance(v, bool)),
}
OPTIONAL: Rules = {
    "weight_remaining": ("an object of numbers above 0 and at most 1", _fractions),
    "trainable_parameters": ("a whole number of at least 0", _count),
    "total_parameters": ("a whole number of at least 1", _positive),
    "train_examples": ("a whole number of at least 1", _positive),
    "curve": ("a list", lambda v: isinstance(v, list)),
    "shared_tasks": ("a list of texts", lambda v: isinstance(v, list) and all(map(_text, v))),
    "predictions": ("a text or an object with a file", _predictions),
    "inputs": ("an object", lambda v: isinstance(v, Mapping)),
    "wall_seconds": ("a number of at least 0", lambda v: _finite(v) and v >= 0),
    "ticket_seconds": ("a number of at least 0", lambda v: _finite(v) and v >= 0),
    "peak_memory_bytes": ("a whole number of at least 0", _count),
}
EPOCH: Rules = {
    "epoch": ("a whole number of at least 0", _count),
    "updates": ("a whole number of at least 0", _count),
    "valid": ("an object of numbers, its metrics between -1 and 1", _valid),
}
POINT: Rules = {"update": ("a whole number of at least 0", _count)}
