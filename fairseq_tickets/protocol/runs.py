"""A run and its key: the hash of all that determines its result, and of nothing else.

Keys hold configs, seeds, checksums of inputs, keys of the runs a run builds on, and RESULT_VERSION; no paths, no time,
no version of other packages. Raise RESULT_VERSION when a change to this package changes results.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

RESULT_VERSION = 1
KEY_LENGTH = 20
TRAIN, SCORE, L1, EXTRACT, PREPARE, SHARE, PART = "train", "score", "l1", "extract", "prepare", "share", "part"
MAKE_RESULTS = (TRAIN, PART)


@dataclass(frozen=True)
class Run:
    """One run.

    Attributes:
        key: hash of `what`.
        kind: TRAIN (makes a result file), SCORE (importance scores), L1 and EXTRACT (dominant ticket), PREPARE (data),
            SHARE (several tasks on one encoder), PART (makes the result file of one of its tasks).
        what: all that determines the result.
        told: what else a worker must know: paths, what to keep.
        needs: keys of runs that must be finished first.
        takes_checkpoint: of those, the runs whose checkpoint is read.
        saves: whether its best checkpoint is kept until nobody needs it.
        predicts: whether it writes predictions for the test split, where there is one.
    """

    key: str
    kind: str
    what: Mapping[str, Any]
    told: Mapping[str, Any] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    takes_checkpoint: tuple[str, ...] = ()
    saves: bool = False
    predicts: bool = False

    def spec(self) -> dict[str, Any]:
        """What the worker is given, JSON."""
        return {
            "key": self.key,
            "kind": self.kind,
            "what": dict(self.what),
            "told": {**self.told, "save_checkpoint": self.saves, "predict": self.predicts},
        }

    def label(self) -> str:
        """A few words for people: "RTE winning 0.2 seed 1"."""
        if self.kind == PREPARE:
            return f"prepare {self.what['task']}"
        what = self.what
        words = [str(what["task"]), str(what["method"]) if "method" in what else self.kind]
        if what.get("top_k"):
            words.append(f"k {what['top_k']}")
        if what.get("level") is not None:
            words.append(f"{what['level']:g}")
        if what.get("fraction", 1.0) != 1.0:
            words.append(f"{100 * what['fraction']:g}% of the data")
        if what.get("source_task"):
            words.append(f"from {what['source_task']}")
        words += [f"lr {what['config']['lr']:g}", f"batch {what['config']['batch_size']}", f"seed {what['seed']}"]
        return " ".join(words)


def run_key(what: Mapping[str, Any]) -> str:
    """Hex key of a description made of plain values."""
    content = {"result_version": RESULT_VERSION, **what}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:KEY_LENGTH]


def make_run(kind: str, what: Mapping[str, Any], **options: Any) -> Run:
    """A run with its key."""
    content = {"kind": kind, **what}
    return Run(run_key(content), kind, content, **options)
