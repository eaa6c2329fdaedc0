"""A step: one call of a function with plain arguments, done once and found again by its key for ever.

The key is the hash of the function's name, its arguments and the checksums of its inputs, and of nothing else: no path,
no time, no version of other packages. Raise RESULT_VERSION when a change to this package changes results. What a step
writes is in the folder of its key.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fairseq_tickets.errors import UserError

if TYPE_CHECKING:
    from fairseq_tickets.protocol.plan import Plan

RESULT_VERSION = 1
KEY_LENGTH = 20
NOTHING = object()
# Names of outputs
RESULT, CHECKPOINT, TICKET, TRAINING = "result.json", "checkpoint.pt", "ticket.json", "training.json"
SCORES, COUNTS, PREDICTIONS, DATA = "scores.npz", "counts.npz", "test.tsv", "data"
SALIENCE = "salience.npz"


@dataclass(frozen=True)
class Given:
    """An argument that is not what is hashed of it.

    Attributes:
        value: what the function gets, such as a path.
        hashed: what stands for it in the key, such as a checksum; NOTHING = it is no part of the key.
        step, file: the output that must be there before the function can be called, where there is one.
    """

    value: Any
    hashed: Any = NOTHING
    step: Step | None = None
    file: str = ""

    def unhashed(self) -> Given:
        """The same, but no part of the key."""
        return replace(self, hashed=NOTHING)


class Step:
    """A handle on one call; made by `Plan.step`.

    Attributes:
        key: see the head of this file.
        kind: name of the function in keys: short for this package's own.
        function: its import path, "package.module:name"; it is called with the folder to write in and the arguments.
        arguments: by name; a `Given` may stand anywhere in them.
        needs: outputs of other steps among the arguments: (step, file).
        folder: where its outputs are once it is done.
        label: a few words for people.
        makes_result: whether it writes a result file.
        lazy: whether it is done only where a missing step needs it; other steps are wanted for themselves.
        predicts: whether it is to write predictions for the test split.
        order: place among the steps of its experiment.
    """

    def __init__(
        self,
        plan: Plan,
        function: Callable[..., None],
        arguments: Mapping[str, Any],
        label: str,
        makes_result: bool = False,
        lazy: bool = False,
        predicts: bool = False,
    ) -> None:
        module, name = function.__module__, function.__qualname__
        if module == "__main__":
            raise UserError(f"the step {name} is defined in a program; a step must be in a module")
        self.function = f"{module}:{name}"
        self.kind = name if module.startswith("fairseq_tickets.protocol.") else f"{module}.{name}"
        self.arguments = arguments
        self.key = step_key(self.kind, arguments)
        self.folder: Path = plan.folder / self.key
        self.label, self.makes_result, self.lazy, self.predicts = label, makes_result, lazy, predicts
        self.needs = needs_of(arguments)
        self.order = 0
        self._plan = plan

    def result(self) -> Any:
        """Wait until the step is done; its `Result`, or its folder where it makes none."""
        return self._plan.wait([self])[0]

    def file(self, name: str) -> Given:
        """One of its outputs, as an argument of another step; the key of this step stands for it."""
        return Given(str(self.folder / name), self.key, self, name)

    def given(self) -> dict[str, Any]:
        """Arguments as the function gets them: plain values, JSON; an argument `about` tells the key too."""
        arguments: dict[str, Any] = _with(self.arguments, lambda given: given.value)
        if "about" in arguments:
            arguments["about"] = {**arguments["about"], "key": self.key}
        return arguments

    def __getitem__(self, name: str) -> Any:
        """An argument as it is hashed."""
        return hashed(self.arguments[name])

    def get(self, name: str, default: Any = None) -> Any:
        """An argument as it is hashed, `default` where the function isn't given it."""
        return self[name] if name in self.arguments else default


def step_key(kind: str, arguments: Mapping[str, Any]) -> str:
    """Hex key of a call."""
    content = {"result_version": RESULT_VERSION, "kind": kind, **hashed(arguments)}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:KEY_LENGTH]


def hashed(value: Any) -> Any:
    """A value as it stands in a key."""
    return _with(value, lambda given: given.hashed)


def needs_of(value: Any) -> tuple[tuple[Step, str], ...]:
    """The outputs that an argument holds: (step, file)."""
    found: list[Given] = []
    _with(value, found.append)
    return tuple((given.step, given.file) for given in found if given.step is not None)


def behind(value: Any) -> list[Step]:
    """The steps whose outputs an argument holds, and those behind these, each once."""
    found = [step for step, _ in needs_of(value)]
    for step in found:
        found += [parent for parent, _ in step.needs if parent not in found]
    return found


def _with(value: Any, change: Callable[[Given], Any]) -> Any:
    """A value with something in place of every `Given`; entries of mappings that become NOTHING are left out."""
    if isinstance(value, Given):
        return change(value)
    if isinstance(value, Mapping):
        pairs = ((name, _with(item, change)) for name, item in value.items())
        return {name: item for name, item in pairs if item is not NOTHING}
    if isinstance(value, (list, tuple)):
        return [_with(item, change) for item in value]
    return value
