"""Which steps are to be done, and when each can be: those that are missing, and what these need.

A lazy step (scores, extraction, prepared data) is done where a missing one needs it; a deleted checkpoint is made again
only then. A lazy one that nobody needs at all, like a ticket that no run trains under, is wanted for itself once the
recipes have ended.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator

from fairseq_tickets.protocol.marks import Content
from fairseq_tickets.protocol.steps import Step
from fairseq_tickets.protocol.store import Store


class Demand:
    """Steps to be done, kept as steps come in and are done.

    Attributes:
        todo: by key; those that are being done are among them.
        seen: key of a step to be done -> what its `done.json` said when that was found, see `work.Call`.
    """

    def __init__(self, store: Store) -> None:
        self.todo: dict[str, Step] = {}
        self.seen: dict[str, Content | None] = {}
        self._store = store
        self._missing: dict[str, set[str]] = {}  # key -> keys of steps that it waits for
        self._waiting: dict[str, set[str]] = {}  # key -> keys of steps that wait for it
        self._ready: list[tuple[bool, int, str]] = []
        self._users: dict[str, set[str]] = {}  # key -> steps to be done that read its outputs

    def want(self, step: Step) -> None:
        """A step is to be done, unless it is done, and what it needs before it."""
        if step.key not in self.todo and not done(self._store, step):
            self._add(step)

    def again(self, step: Step) -> None:
        """A step that was handed out has not been done here: look again at whether it is, and at what it needs."""
        self._store.forget(step.key)
        if self.settled(step):
            self.finished(step)
        else:
            self._add(step)

    def waits(self, step: Step) -> bool:
        """Whether a step that is to be done waits for another one."""
        return bool(self._missing.get(step.key))

    def settled(self, step: Step) -> bool:
        """Whether a step is done, with all outputs that others wait for."""
        waiting = [self.todo[key] for key in self._waiting.get(step.key, ())]
        files = {file for other in waiting for parent, file in other.needs if parent.key == step.key}
        return done(self._store, step) and all(self._store.has(step.key, file) for file in files)

    def finished(self, step: Step) -> None:
        """A step has been done."""
        del self.todo[step.key]
        for parent, _ in step.needs:
            self._users[parent.key].discard(step.key)
        for key in self._waiting.pop(step.key, ()):
            self._missing[key].discard(step.key)
            self._offer(key)

    def ready(self) -> Iterator[Step]:
        """Take steps that can be done now; those that others wait for come first, then in order of the recipes."""
        while self._ready:
            yield self.todo[heapq.heappop(self._ready)[2]]

    def put_back(self, step: Step) -> None:
        """A step taken from `ready` was not handed out."""
        self._offer(step.key)

    def used(self, step: Step) -> bool:
        """Whether a step that is to be done reads outputs of this one."""
        return bool(self._users.get(step.key))

    def _add(self, step: Step) -> None:
        self.todo[step.key] = step
        stack = [step]
        while stack:
            step = stack.pop()
            self.seen[step.key] = self._store.last_seen(step.key)
            missing = self._missing[step.key] = set()
            for parent, file in step.needs:
                self._users.setdefault(parent.key, set()).add(step.key)
                if parent.key in self.todo or not self._store.has(parent.key, file):
                    missing.add(parent.key)
                    self._waiting.setdefault(parent.key, set()).add(step.key)
                    if parent.key not in self.todo:  # once, though a step may need several of its outputs
                        self.todo[parent.key] = parent
                        stack.append(parent)
            self._offer(step.key)

    def _offer(self, key: str) -> None:
        if not self._missing[key]:
            heapq.heappush(self._ready, (not self._waiting.get(key), self.todo[key].order, key))


def done(store: Store, step: Step) -> bool:
    """Whether a step's outcome is there, with predictions where it is to make them and its data have a test split."""
    if not store.done(step.key):
        return False
    return not step.predicts or store.predicted(step)


def wanted(steps: dict[str, Step]) -> list[Step]:
    """Steps that are wanted for themselves: those that aren't lazy, and those that no other needs."""
    needed = {parent.key for step in steps.values() for parent, _ in step.needs}
    return [step for step in steps.values() if not step.lazy or step.key not in needed]
