"""Which steps are to be done, and when each can be: those that are missing, and what these need.

A lazy step (scores, extraction, prepared data) is done where a missing one needs it; a deleted checkpoint is made again
only then. A lazy one that nobody needs at all, like a ticket that no run trains under, is wanted for itself once the
recipes have ended.
"""

from __future__ import annotations

import heapq

from fairseq_tickets.protocol.steps import Step
from fairseq_tickets.protocol.store import Content, Store


class Demand:
    """Steps to be done, kept as steps come in and are done.

    Attributes:
        todo: by key; those that have been taken are among them.
        seen: key of a step to be done -> what its `done.json` said when that was found, see `work.Call`.
    """

    def __init__(self, store: Store) -> None:
        self.todo: dict[str, Step] = {}
        self.seen: dict[str, Content | None] = {}
        self._store = store
        self._users: dict[str, dict[str, Step]] = {}  # key -> steps to be done that read its outputs, by key
        self._ready: list[tuple[bool, int, str]] = []  # a heap; what has changed since is seen by `take`
        self._taken: set[str] = set()

    def want(self, step: Step) -> None:
        """A step is to be done, unless it is done, and what it needs before it."""
        if step.key not in self.todo and not done(self._store, step):
            self._add(step)

    def take(self) -> Step | None:
        """A step that can be done now; those that others wait for come first, then in order of the recipes."""
        while self._ready:
            step = self.todo.get(heapq.heappop(self._ready)[-1])
            if step is not None and step.key not in self._taken and not self._waits(step):
                self._taken.add(step.key)
                return step
        return None

    def finished(self, step: Step) -> None:
        """A step has been done."""
        del self.todo[step.key]
        self._taken.discard(step.key)
        for parent, _ in step.needs:
            self._users[parent.key].pop(step.key, None)
        for user in self._users.get(step.key, {}).values():
            self._offer(user)

    def again(self, step: Step) -> bool:
        """A step that was taken has not been done here: look again at it, and at what it needs.

        Returns:
            whether something has changed: it is done, with all outputs that others wait for, or waits for others.
        """
        self._store.forget(step.key)
        self._taken.discard(step.key)
        files = {
            file for user in self._users.get(step.key, {}).values() for parent, file in user.needs if parent is step
        }
        if done(self._store, step) and all(self._store.has(step.key, file) for file in files):
            self.finished(step)
            return True
        self._add(step)
        return self._waits(step)

    def used(self, step: Step) -> bool:
        """Whether a step that is to be done reads outputs of this one."""
        return bool(self._users.get(step.key))

    def _add(self, step: Step) -> None:
        stack = [step]
        while stack:
            step = stack.pop()
            self.todo[step.key] = step
            self.seen[step.key] = self._store.seen(step.key)
            for parent, file in step.needs:
                self._users.setdefault(parent.key, {})[step.key] = step
                if parent.key not in self.todo and not self._store.has(parent.key, file):
                    self.todo[parent.key] = parent  # once, though a step may need several of its outputs
                    stack.append(parent)
            self._offer(step)

    def _offer(self, step: Step) -> None:
        if not self._waits(step):
            heapq.heappush(self._ready, (not self.used(step), step.order, step.key))

    def _waits(self, step: Step) -> bool:
        return any(parent.key in self.todo for parent, _ in step.needs)


def done(store: Store, step: Step) -> bool:
    """Whether a step's outcome is there, with predictions where it is to make them and its data have a test split."""
    return store.done(step.key) and (not step.predicts or store.predicted(step))
