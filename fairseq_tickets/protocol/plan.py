"""Steps as recipes ask for them, and how recipes wait.

A recipe is an ordinary function that is read from top to bottom, like the paper. It asks for steps, which it gets at
once, and waits where the next line depends on a result: `step.result()`. What can go on meanwhile is a branch: a recipe
beside others, in a thread that runs alone until it waits. In a plan that does nothing (`--dry-run`) a branch ends where
it would wait for a result that is not there.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from fairseq_tickets.protocol.steps import Step
from fairseq_tickets.protocol.store import Store


class NotKnown(Exception):
    """What a branch waits for will not come: nothing is being done, or a step failed."""


class Branch:
    """A recipe beside others: `ended`, it goes on no more; `known`, it came to its end, and no steps will follow."""

    def __init__(self, plan: Plan, recipe: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        self._plan, self._recipe, self._arguments = plan, recipe, arguments
        self.ended = self.known = False
        self._returned: Any = None

    def run(self) -> None:
        """Called once, by the plan."""
        with self._plan.turn:
            try:
                self._returned = self._recipe(self._plan, *self._arguments)
                self.known = True
            except NotKnown:
                pass
            except BaseException as error:
                self._plan.errors.append(error)
            self.ended = True
            self._plan.changed()

    def result(self) -> Any:
        """Wait until the recipe has ended; what it returned."""
        self._plan.wait_until(lambda: self.ended)
        if not self.known:
            raise NotKnown
        return self._returned


class Plan:
    """Steps of one experiment.

    Args:
        store: where they are.
        acts: whether steps will be done; else branches end where they would wait.

    Attributes:
        steps: by key, in the order in which recipes asked.
        waited_for: keys of steps that recipes wait for, since the driver has looked last.
        turn: held by the branch, or the driver, that runs.
        changed: called where there is something new for the driver.
        errors: that recipes ended with.
    """

    def __init__(self, store: Store, acts: bool = False) -> None:
        self.store, self.folder = store, store.folder
        self.steps: dict[str, Step] = {}
        self.branches: list[Branch] = []
        self.errors: list[BaseException] = []
        self.turn = threading.Condition()
        self.ended = not acts
        self.waited_for: set[str] = set()
        self.changed: Callable[[], None] = lambda: None

    def step(self, function: Callable[..., None], arguments: Mapping[str, Any], label: str, **options: Any) -> Step:
        """The step of a call; asked for again, it is the same one."""
        step = Step(self, function, arguments, label, **options)
        known = self.steps.setdefault(step.key, step)
        if known is step:
            step.order = len(self.steps)
            self.changed()
        known.predicts |= step.predicts
        return known

    def branch(self, recipe: Callable[..., Any], *arguments: Any) -> Branch:
        """Go on with `recipe(plan, *arguments)` beside what comes next."""
        branch = Branch(self, recipe, arguments)
        self.branches.append(branch)
        if self.ended:
            branch.run()
        else:
            threading.Thread(target=branch.run, daemon=True).start()
        return branch

    def undecided(self) -> int:
        """How many branches wait for results, so that more steps may come."""
        return sum(not branch.known for branch in self.branches)

    def wanted(self) -> list[Step]:
        """Steps that are wanted for themselves: those that aren't lazy, and in the end those that no other needs."""
        needed = {parent.key for step in self.steps.values() for parent, _ in step.needs}
        ended = not self.undecided()
        return [step for step in self.steps.values() if not step.lazy or (ended and step.key not in needed)]

    def wait(self, steps: Iterable[Step]) -> list[Any]:
        """Wait until steps are done; their results, or folders where they make none.

        Raises:
            NotKnown: they will not be done, in this call.
        """
        steps = list(steps)
        missing = [step.key for step in steps if not self.store.done(step.key)]
        if missing:
            self.waited_for.update(missing)
            self.changed()
        self.wait_until(lambda: all(self.store.done(step.key) for step in steps))
        return [self.store.result(step.key) if step.makes_result else step.folder for step in steps]

    def wait_until(self, there: Callable[[], bool]) -> None:
        """Let others run until something is there.

        Raises:
            NotKnown: it will not be.
        """
        self.turn.wait_for(lambda: there() or self.ended)
        if not there():
            raise NotKnown

    def end(self) -> None:
        """Nothing will be done any more: branches that wait end."""
        with self.turn:
            self.ended = True
            self.turn.notify_all()
