"""What a result file must hold: every field's rule, and scores that its own epochs back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from fairseq_tickets.analysis.glue_tasks import KNOWN_METRICS, is_number
from fairseq_tickets.errors import UserError

METHODS = (
    "full",
    "winning",
    "random",
    "losing",
    "dominant",
    "random_dimensions",
    "bitfit",
    "random_elements",
    "mt_dnn",
    "ticket_share",
    "mt_dnn+st",
    "ticket_share+st",
)
SPLITS = ("all", "select", "report")
_AGREES = 1e-3  # scores may have been rounded for the log of epochs, to this at the most


def check_fields(content: Mapping[str, Any], source: str) -> None:
    """Check a result file's content; `source` names it in errors.

    Raises:
        UserError: naming the first field that is missing or wrong, or a score that the best epoch does not back.
    """
    for name, (rule, check) in FIELDS.items():
        if name not in content:
            raise UserError(f"result file {source} lacks {name!r}")
        if not check(content[name]):
            raise UserError(f"result file {source}: {name} is {_short(content[name])}; it must be {rule}")
    _check_scores(content, source)


def _check_scores(content: Mapping[str, Any], source: str) -> None:
    for split, metrics in content["scores"].items():
        if split not in SPLITS or not isinstance(metrics, Mapping) or not metrics:
            raise UserError(f"result file {source}: scores may hold {', '.join(SPLITS)} with metrics, not {split!r}")
        for name, value in metrics.items():
            if name in KNOWN_METRICS and not (is_number(value) and -1 <= value <= 1):
                raise UserError(f"result file {source}: {split} {name} is {value!r}; a score must be between -1 and 1")
    if "all" not in content["scores"]:
        raise UserError(f"result file {source} has no scores for all of the development set")
    epochs = {epoch.get("epoch"): epoch for epoch in content["epochs"] if isinstance(epoch, Mapping)}
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


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _text(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _fraction(value: Any) -> bool:
    return is_number(value) and 0 < value <= 1


FIELDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "key": ("a text", _text),
    "experiment": ("a text", _text),
    "model": ("a text", _text),
    "task": ("a text", _text),
    "method": (f"one of {', '.join(METHODS)}", lambda v: v in METHODS),
    "level": ("null or between 0 and 1", lambda v: v is None or (is_number(v) and 0 <= v <= 1)),
    "top_k": ("null or a whole number of at least 1", lambda v: v is None or (_whole(v) and v >= 1)),
    "seed": ("a whole number", _whole),
    "train_fraction": ("above 0 and at most 1", _fraction),
    "source_task": ("null or a text", lambda v: v is None or _text(v)),
    "config": ("an object", lambda v: isinstance(v, Mapping)),
    "epochs": ("a list", lambda v: isinstance(v, list)),
    "best_epoch": ("null or a whole number", lambda v: v is None or _whole(v)),
    "scores": ("an object", lambda v: isinstance(v, Mapping)),
    "versions": ("an object", lambda v: isinstance(v, Mapping)),
    "partial_data": ("true or false", lambda v: isinstance(v, bool)),
}
