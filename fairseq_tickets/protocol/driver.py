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
from fairseq_tickets.protocol.demand import Demand, wanted
from fairseq_tickets.protocol.engines import Engine
from fairseq_tickets.protocol.estimate import Estimate, total
from fairseq_tickets.protocol.lease import Claim, Watch, read_claim
from fairseq_tickets.protocol.plan import Plan
from fairseq_tickets.protocol.status import Progress
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
        self.plan, self.store, self.engine, self.tell, self._memory = plan, plan.store, engine, tell, memory
        self._keep = keep_checkpoints
        self.demand = Demand(self.store)
        self._events: queue.SimpleQueue[tuple[Step, Future[Outcome]] | None] = queue.SimpleQueue()
        self._running: dict[str, Step] = {}
        self._elsewhere: dict[str, tuple[Step, Claim]] = {}
        self._watch = Watch()
        self._seen = self._done = 0
        self._ended: list[Step] = []
        self._told: list[str] = []
        self._failure: tuple[Step, str] | None = None
        self._estimate = Estimate()
        self._seconds: float | None = None
        self._next_estimate = 0.0

    def drive(self, recipe: Callable[[Any], None]) -> None:
        """Do all that a recipe asks for."""
        self.begin(recipe)
        while True:
            with self.plan.turn:
                self._take_new()
                self._look_elsewhere()
                self._submit()
                self._report()
                self._drop_unneeded()
                if self.plan.errors:
                    raise self.plan.errors[0]
                if not self._running and (self._failure is not None or not self._more()):
                    break
            self._wait()
        if self._failure is not None:
            step, message = self._failure
            log = self.store.folder / step.key / LOG
            raise UserError(
                f"the run {step.label} failed: {message} (log: {log}); finished runs are untouched, call again to go on"
            )

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
        for key in self.plan.waited_for:
            self.demand.want(self.plan.steps[key])
        self.plan.waited_for.clear()

    def _more(self) -> bool:
        """Whether something is left to do, or may come."""
        if (
            self.demand.todo
            or self._seen < len(self.plan.steps)
            or any(not branch.ended for branch in self.plan.branches)
        ):
            return True
        for step in wanted(self.plan.steps):
            self.demand.want(step)
        if self.demand.todo:
            self._events.put(None)
        return bool(self.demand.todo)

    def _submit(self) -> None:
        if self._failure is not None:
            return
        calls: list[Call] = []
        steps: list[Step] = []
        left: list[Step] = []
        for step in self.demand.ready():
            if len(self._running) + len(steps) >= self.engine.at_once:
                left.append(step)
                break
            claim = read_claim(self.store.folder / step.key)
            stale = claim is not None and self._watch.stale(self.store.folder / step.key, claim)
            if claim is not None and not stale:
                self._elsewhere[step.key] = (step, claim)
                continue
            if claim is not None:
                self._told.append(
                    f"taken over: {step.label}, from {claim.name()}, which ended or gives no sign of life"
                )
            call = self._call(step, claim.number if claim is not None else None)
            steps.append(step)
            calls.append(call)
        for step in left:
            self.demand.put_back(step)
        for step, future in zip(steps, self.engine.submit(calls) if calls else []):
            self._running[step.key] = step
            future.add_done_callback(lambda future, step=step: self._events.put((step, future)))  # type: ignore[misc]

    def _call(self, step: Step, stale: int | None) -> Call:
        resources = resources_of(step, self._memory)
        self.engine.check(resources)
        return Call(str(self.store.folder), step.told(), resources, stale, self.demand.seen[step.key])

    def _wait(self) -> None:
        """Until something happens; then deal with all that has happened."""
        try:
            event = self._events.get(timeout=POLL if self._elsewhere else None)
        except queue.Empty:
            return
        with self.plan.turn:
            while True:
                if event is not None:
                    self._ended_step(*event)
                try:
                    event = self._events.get_nowait()
                except queue.Empty:
                    break
            self.plan.turn.notify_all()

    def _ended_step(self, step: Step, future: Future[Outcome]) -> None:
        del self._running[step.key]
        error = future.exception()
        outcome = Outcome(FAILED, str(error)) if error is not None else future.result()
        self.store.forget(step.key)
        if outcome.status == FINISHED and not self.store.done(step.key):
            outcome = Outcome(FAILED, "it ended well, but left nothing")
        if outcome.status == FINISHED:
            self.demand.finished(step)
            self._ended.append(step)
            self._note(step)
            self._told.append(f"done: {step.label}")
        elif outcome.status == FAILED:
            self._failure = self._failure or (step, outcome.message)
        elif outcome.status == GONE:
            for parent, _ in step.needs:
                self.store.forget(parent.key)
            self.demand.again(step)
            if not self.demand.waits(step):  # it would only find the same again
                self._failure = self._failure or (step, outcome.message)
        else:  # taken by another process
            self.demand.again(step)

    def _look_elsewhere(self) -> None:
        """Steps that other processes have claimed: done, given up, or still going on."""
        for key, (step, _) in list(self._elsewhere.items()):
            folder = self.store.folder / key
            claim = read_claim(folder)
            if claim is None or self._watch.stale(folder, claim):
                del self._elsewhere[key]
                self.store.forget(key)
                self.demand.again(step)
                if self.store.done(key):
                    self._note(step)
                    self.plan.turn.notify_all()
                    self._told.append(f"done by another process: {step.label}")

    def _note(self, step: Step) -> None:
        self._done += 1
        seconds = self.store.seconds(step.key)
        if seconds is not None:
            self._estimate.add(step, seconds)

    def drop_checkpoints(self) -> None:
        """Delete the checkpoints of all steps, where they are not to be kept; called when nothing is left to do."""
        for key in self.plan.steps if not self._keep else ():
            self.store.drop(key)

    def _drop_unneeded(self) -> None:
        """Delete checkpoints that nobody needs any more: of steps that have ended, and of what they were made from."""
        if self._keep or any(not branch.ended for branch in self.plan.branches):
            return
        for step in self._ended:
            for other in (step, *(parent for parent, _ in step.needs)):
                if not self.demand.used(other) and other.key not in self._running:
                    self.store.drop(other.key)
        self._ended.clear()

    def _report(self) -> None:
        began = time.monotonic()
        if began >= self._next_estimate:
            self._seconds = total(self._estimate(step) for step in self.demand.todo.values())
            self._next_estimate = time.monotonic() + 1.0 + 50 * (time.monotonic() - began)
        running = {step.label: "" for step in self._running.values()}
        running.update({step.label: claim.name() for step, claim in self._elsewhere.values()})
        undecided = sum(not branch.ended for branch in self.plan.branches)
        seconds = None if undecided else self._seconds
        now = Progress(self._done, len(self.demand.todo), running, undecided, seconds, self._told)
        self.tell(now)
        self._told = []


def resources_of(step: Step, memory: int = 0) -> Resources:
    """What a step needs, by its settings."""
    config = step.get("config", {})
    return Resources(int(config.get("threads", 1)), int(config.get("device") == "cuda"), memory)
