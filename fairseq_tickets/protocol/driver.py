"""Doing what recipes ask for, on any engine: what can be done is handed over, recipes that wait are woken.

A step that another process does is waited for; a claim without sign of life is taken over. After a failure no new step
is started, running ones are waited for, and what is finished stays.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from fairseq_tickets.errors import UserError
from fairseq_tickets.protocol.demand import Demand
from fairseq_tickets.protocol.engines import Engine
from fairseq_tickets.protocol.lease import Claim, Watch, read_claim
from fairseq_tickets.protocol.plan import Plan
from fairseq_tickets.protocol.status import Estimate, Progress, total
from fairseq_tickets.protocol.steps import Step
from fairseq_tickets.protocol.work import FAILED, FINISHED, GONE, LOG, Call, Outcome, Resources

POLL = 0.5  # seconds between two looks at steps that other processes do


class Driver:
    """Hands steps to an engine as their needs are done, and wakes the recipes that wait for them.

    Args:
        tell: told after every change.
        memory: bytes to ask the engine for, for each step; 0 = nothing said.
        keep_checkpoints: also those that no step needs any more.
    """

    def __init__(
        self,
        plan: Plan,
        engine: Engine,
        tell: Callable[[Progress], None] = lambda progress: None,
        memory: int = 0,
        keep_checkpoints: bool = False,
    ) -> None:
        self.plan, self.store, self.engine, self.tell = plan, plan.store, engine, tell
        self._memory, self._keep = memory, keep_checkpoints
        self.demand = Demand(self.store)
        self._events: queue.SimpleQueue[tuple[Step, Future[Outcome]] | None] = queue.SimpleQueue()
        self._running: dict[str, Step] = {}
        self._elsewhere: dict[str, tuple[Step, Claim]] = {}
        self._watch = Watch()
        self._seen = self._done = 0
        self._ended: list[Step] = []
        self._news: list[str] = []
        self._failure: BaseException | None = None
        self._estimate = Estimate()
        self._seconds: float | None = None
        self._next_estimate = 0.0

    def drive(self, recipe: Callable[[Any], None]) -> None:
        """Do all that a recipe asks for, and delete the checkpoints that nobody needs any more.

        Raises:
            UserError: a step failed or can't be done by the engine, or a recipe ended with this.
        """
        try:
            self.begin(recipe)
            while True:
                with self.plan.turn:
                    self._take_new()
                    self._look_elsewhere()
                    self._submit()
                    self._report()
                    self._drop_unneeded()
                    if not self._running and (self._failure is not None or not self._more()):
                        break
                self._wait()
        finally:
            self.plan.end()
        if self._failure is not None:
            raise self._failure
        for key in self.plan.steps if not self._keep else ():
            self.store.drop(key)

    def begin(self, recipe: Callable[[Any], None]) -> None:
        """Let a recipe ask for steps, find which are to be done, and hand over those that can be."""
        self.plan.changed = lambda: self._events.put(None)
        with self.plan.turn:
            recipe(self.plan)
            self._take_new()
            self._submit()

    def _take_new(self) -> None:
        """Want what recipes have asked for since the last time."""
        steps = list(self.plan.steps.values())
        for step in steps[self._seen :]:
            if self.store.done(step.key):
                self._note(step)
            if not step.lazy:
                self.demand.want(step)
        self._seen = len(steps)
        if self.plan.errors:
            self._fail(self.plan.errors[0])
        for key in self.plan.waited_for:
            self.demand.want(self.plan.steps[key])
        self.plan.waited_for.clear()

    def _more(self) -> bool:
        """Whether something is left to do, or may come."""
        going_on = self._seen < len(self.plan.steps) or self.plan.undecided() > 0
        if not (self.demand.todo or going_on):
            for step in self.plan.wanted():
                self.demand.want(step)
            self._events.put(None)  # look at once at what this has brought
        return bool(self.demand.todo) or going_on

    def _submit(self) -> None:
        """Hand over what can be done, as far as there is room."""
        steps: list[Step] = []
        calls: list[Call] = []
        while self._failure is None and len(self._running) + len(steps) < self.engine.at_once:
            step = self.demand.take()
            if step is None:
                break
            claim = read_claim(step.folder)
            if claim is not None and not self._watch.stale(step.folder, claim):
                self._elsewhere[step.key] = (step, claim)
                continue
            if claim is not None:
                self._news.append(
                    f"taken over: {step.label}, from {claim.name()}, which ended or gives no sign of life"
                )
            resources = resources_of(step, self._memory)
            try:
                self.engine.check(resources)
            except UserError as error:
                self._fail(error)
                break
            needs = [(parent.folder, file) for parent, file in step.needs]
            number, seen = None if claim is None else claim.number, self.demand.seen[step.key]
            calls.append(Call(step.folder, step.function, step.given(), needs, step.label, resources, number, seen))
            steps.append(step)
        for step, future in zip(steps, self.engine.submit(calls) if calls else []):
            self._running[step.key] = step
            future.add_done_callback(lambda future, step=step: self._events.put((step, future)))  # type: ignore[misc]

    def _wait(self) -> None:
        """Until something happens; then deal with all that has happened."""
        try:
            event = self._events.get(timeout=POLL if self._elsewhere else None)
        except queue.Empty:
            return
        with self.plan.turn:
            while True:
                if event is not None:
                    self._end(*event)
                if self._events.empty():
                    break
                event = self._events.get()
            self.plan.turn.notify_all()

    def _end(self, step: Step, future: Future[Outcome]) -> None:
        """A step that was handed over has ended."""
        del self._running[step.key]
        error = future.exception()
        outcome = future.result() if error is None else Outcome(FAILED, str(error))
        self.store.forget(step.key)
        if outcome.status == FINISHED and not self.store.done(step.key):
            outcome = Outcome(FAILED, "it ended well, but left nothing")
        if outcome.status == FINISHED:
            self.demand.finished(step)
            self._ended.append(step)
            self._note(step)
            self._news.append(f"done: {step.label}")
            return
        for parent, _ in step.needs:
            self.store.forget(parent.key)
        changed = outcome.status != FAILED and self.demand.again(step)
        if outcome.status == FAILED or (outcome.status == GONE and not changed):  # it would only miss the same again
            what = f"the run {step.label} failed: {outcome.message} (log: {step.folder / LOG})"
            self._fail(UserError(f"{what}; finished runs are untouched, call again to go on"))

    def _fail(self, error: BaseException) -> None:
        """Start nothing new; the first failure is told when what runs has ended."""
        self._failure = self._failure or error

    def _look_elsewhere(self) -> None:
        """Steps that other processes have claimed: done, given up, or still going on."""
        for key, (step, _) in list(self._elsewhere.items()):
            claim = read_claim(step.folder)
            if claim is None or self._watch.stale(step.folder, claim):
                del self._elsewhere[key]
                self.demand.again(step)
                if self.store.done(key):
                    self._note(step)
                    self.plan.turn.notify_all()
                    self._news.append(f"done by another process: {step.label}")

    def _note(self, step: Step) -> None:
        self._done += 1
        self._estimate.add(step, self.store.seconds(step.key))

    def _drop_unneeded(self) -> None:
        """Delete checkpoints that nobody needs any more: of steps that have ended, and of what they were made from."""
        if self._keep or self.plan.undecided():
            return
        for step in self._ended:
            for other in (step, *(parent for parent, _ in step.needs)):
                if not self.demand.used(other) and other.key not in self._running:
                    self.store.drop(other.key)
        self._ended.clear()

    def _report(self) -> None:
        began, undecided = time.monotonic(), self.plan.undecided()
        if began >= self._next_estimate:  # it takes its time where many steps are left
            self._seconds = total(self._estimate(step) for step in self.demand.todo.values())
            self._next_estimate = time.monotonic() + 1.0 + 50 * (time.monotonic() - began)
        running = {step.label: "" for step in self._running.values()}
        running.update({step.label: claim.name() for step, claim in self._elsewhere.values()})
        seconds = None if undecided else self._seconds
        self.tell(Progress(self._done, len(self.demand.todo), running, undecided, seconds, self._news))
        self._news = []


def resources_of(step: Step, memory: int = 0) -> Resources:
    """What a step needs, by its settings."""
    config = step.get("config", {})
    return Resources(int(config.get("threads", 1)), int(config.get("device") == "cuda"), memory)
