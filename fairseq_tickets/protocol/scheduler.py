"""Runs in dependency order on any `concurrent.futures.Executor`.

An executor gets `run_worker` and plain arguments, and gives back a Future: a cluster engine's executor can take the
place of the default one, a thread for each of N subprocesses, without a change elsewhere. Workers are fresh processes;
when the process that started them ends, however it ends, they end too: the pipe on their standard input closes.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from pathlib import Path

from fairseq_tickets.errors import UserError
from fairseq_tickets.protocol.plan import Plan
from fairseq_tickets.protocol.runs import PREPARE, Run
from fairseq_tickets.protocol.store import LOG, Store

STOP = ".stop"  # while a file of this name is in the experiment's folder, workers are ended
ERROR_MARK = "fairseq-tickets: error: "
Replan = Callable[[], Plan]
Report = Callable[[Plan, int, int, "Run | None"], None]


def run_worker(spec: str, threads: int, lock: int | None = None) -> None:
    """Do one run in a fresh process.

    Args:
        spec: path of the run's specification; its folder gets log and result.
        threads: for PyTorch and its libraries.
        lock: file descriptor that the process inherits, see `Store.lock`.

    Raises:
        UserError: the run failed; says why, or where the log is.
    """
    folder = Path(spec).parent
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    environment["TOKENIZERS_PARALLELISM"] = "false"
    command = [sys.executable, "-m", "fairseq_tickets.protocol.worker", spec]
    try:
        with (
            open(folder / LOG, "wb") as log,
            subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                pass_fds=() if lock is None else (lock,),
            ) as process,
        ):
            code = _wait(process, folder.parent / STOP)
    except OSError as error:
        raise UserError(f"cannot start the run in {folder}: {error.strerror or error}") from error
    if code != 0:
        raise UserError(_why(folder / LOG, code))


def _wait(process: subprocess.Popen[bytes], stop: Path) -> int:
    """Exit code of a process; it is killed once the file `stop` exists."""
    while True:
        try:
            return process.wait(timeout=0.5)
        except subprocess.TimeoutExpired:
            if stop.exists():
                process.kill()


def default_executor(workers: int) -> Executor:
    """N workers at a time, each a subprocess that a thread waits for."""
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


def _why(log: Path, code: int) -> str:
    """The error line of a log, or its end."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    told = [line[len(ERROR_MARK) :] for line in lines if line.startswith(ERROR_MARK)]
    if told:
        return f"{told[-1]} (log: {log})"
    if code < 0:
        return f"it was ended by signal {-code} (log: {log})"
    last = next((line.strip() for line in reversed(lines) if line.strip()), "no message")
    return f"{last} (log: {log})"
