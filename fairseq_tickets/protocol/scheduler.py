"""Runs in dependency order on any `concurrent.futures.Executor`.

An executor gets `run_worker` and plain arguments, and gives back a Future: a cluster engine's executor can take the
place of the default one, a thread for each of N processes, without a change elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from pathlib import Path

from fairseq_tickets.errors import UserError
from fairseq_tickets.protocol.plan import Plan
from fairseq_tickets.protocol.processes import STOP, run_worker
from fairseq_tickets.protocol.runs import PREPARE, Run
from fairseq_tickets.protocol.store import Store

Replan = Callable[[], Plan]
Report = Callable[[Plan, int, int, "Run | None"], None]


def default_executor(workers: int) -> Executor:
    """N workers at a time, each a process that a thread waits for."""
    return ThreadPoolExecutor(max_workers=workers, thread_name_prefix="run")


def run_all(
    replan: Replan,
    store: Store,
    executor: Executor,
    workers: int,
    report: Report,
    lock: int | None = None,
    keep_checkpoints: bool = False,
) -> Plan:
    """Do all runs that are missing; returns the last plan.

    Args:
        replan: the plan as of the results there are now.
        workers: most runs at a time.
        report: told after every change: plan, finished, running, and the run just finished, if any.

    Raises:
        UserError: a run failed. No new ones are started then, running ones are waited for, finished ones stay.
    """
    (store.folder / STOP).unlink(missing_ok=True)
    running: dict[Future[None], Run] = {}
    failure: tuple[Run, BaseException] | None = None
    plan = replan()
    try:
        while True:
            todo = missing(plan, store)
            if not keep_checkpoints:
                store.drop_checkpoints(_needed(plan, todo, running.values()))
            if failure is None:
                active = {run.key for run in running.values()}
                for run in ready(todo, active):
                    if len(running) >= workers:
                        break
                    folder = store.folder / run.key
                    if run.kind != PREPARE or not folder.exists():
                        folder = store.start(run)
                    threads = int(run.what["config"]["threads"]) if "config" in run.what else 1
                    running[executor.submit(run_worker, str(folder / "spec.json"), threads, lock)] = run
            report(plan, len(plan.runs) - len(todo), len(running), None)
            if not running:
                break
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                run, error = running.pop(future), future.exception()
                if error is not None:
                    failure = failure or (run, error)
                    continue
                report(plan, len(plan.runs) - len(todo) + 1, len(running), run)
            plan = replan()
    except BaseException:
        _stop(store.folder / STOP, running)
        raise
    if failure is not None:
        run, error = failure
        raise UserError(
            f"the run {run.label()} failed: {error}; finished runs are untouched, call again to go on"
        ) from error
    return plan


def _stop(stop: Path, running: Mapping[Future[None], Run]) -> None:
    """End all running workers and wait for them."""
    try:
        stop.touch()
        for future in running:
            future.cancel()
        wait([future for future in running if not future.cancelled()])
    finally:
        stop.unlink(missing_ok=True)


def missing(plan: Plan, store: Store) -> dict[str, Run]:
    """Runs still to do, in order: unfinished ones, and finished ones whose deleted checkpoint one of those needs."""
    todo = {key for key, run in plan.runs.items() if not store.finished(run)}
    while True:
        again = {
            parent
            for key in todo
            for parent in plan.runs[key].takes_checkpoint
            if parent not in todo and not store.has_checkpoint(parent)
        }
        if not again:
            return {key: run for key, run in plan.runs.items() if key in todo}
        todo |= again


def ready(todo: Mapping[str, Run], active: set[str]) -> list[Run]:
    """Runs that can start now; those that others wait for come first."""
    waited_for = {parent for run in todo.values() for parent in run.needs}
    able = [run for key, run in todo.items() if key not in active and not any(need in todo for need in run.needs)]
    return sorted(able, key=lambda run: run.key not in waited_for)


def _needed(plan: Plan, todo: Mapping[str, Run], running: object) -> set[str]:
    needed = {parent for run in todo.values() for parent in run.takes_checkpoint}
    if plan.undecided:  # any run that saves may yet be chosen
        needed |= {key for key, run in plan.runs.items() if run.saves}
    return needed | set(todo)
