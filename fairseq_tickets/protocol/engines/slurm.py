"""Steps as Slurm jobs, by submitit: an array where many are ready at once.

A job that is preempted or reaches its time limit goes back to the queue by itself. A driver may be killed while jobs
wait or run: the next one finds them in the queue by what the step's folder says, and waits for them. The folder of a
driver's jobs is its own, since a cluster that was made anew counts jobs from 1 again.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import subprocess
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from fairseq_tickets.errors import UserError
from fairseq_tickets.files import read_json, write_json
from fairseq_tickets.protocol.engines import Engine, Options
from fairseq_tickets.protocol.work import FAILED, TAKEN, Call, Outcome, Resources

JOB = "job.json"  # in a step's folder: the job that it was given to
POLL = 2.0  # seconds between two looks at the queue
REQUEUES = 10  # how often a job goes back that was preempted or reached its time limit
DEFAULT_TIME = 24 * 60  # minutes
NOTICE = 20  # seconds before its time limit that a job is told, to put itself back: nothing is to be saved


class SlurmEngine(Engine):
    """Jobs of this driver, and those that a driver before it has left in the queue.

    Args:
        folder: of the experiment; jobs' own files go to its folder `.jobs`.

    Raises:
        UserError: submitit or Slurm's commands are not there, or no cluster answers.
    """

    at_once = 100_000  # Slurm queues what there is no room for, and refuses what it can't give

    def __init__(self, options: Options, folder: Path) -> None:
        try:
            import submitit
        except ImportError as error:
            raise UserError("--engine slurm needs submitit: pip install 'fairseq_tickets[slurm]'") from error
        for command in ("sbatch", "squeue", "sacct"):
            if shutil.which(command) is None:
                raise UserError(f"--engine slurm: there is no {command} here; call it where Slurm's commands are")
        self._options, self._submitit = options, submitit
        self._name = f"tickets-{secrets.token_hex(4)}"
        self._folder = folder / ".jobs" / self._name
        self._jobs: dict[str, tuple[Future[Outcome], Any]] = {}  # by id, with submitit's job if this driver made it
        self._ended = threading.Event()
        queue()  # an answer, or an error, before anything is done
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def submit(self, calls: Sequence[Call]) -> list[Future[Outcome]]:
        waiting = queue()
        futures: dict[Path, Future[Outcome]] = {}
        new: dict[Resources, list[Call]] = {}
        for call in calls:
            job = _known_job(call, waiting)
            if job is None:
                new.setdefault(call.resources, []).append(call)
            else:
                futures[call.folder] = self._follow(job, None)
        for resources, alike in new.items():
            for call, job in zip(alike, self._send(alike, resources)):
                write_json(call.folder / JOB, {"id": str(job.job_id), "name": self._name})
                futures[call.folder] = self._follow(str(job.job_id), job)
        return [futures[call.folder] for call in calls]

    def close(self, kill: bool) -> None:
        self._ended.set()
        if kill:
            subprocess.run(["scancel", "--name", self._name], capture_output=True, check=False)
        self._thread.join()
        if not kill:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _send(self, calls: Sequence[Call], needed: Resources) -> list[Any]:
        options, gpus = self._options, needed.gpus if self._options.gpus is None else self._options.gpus
        executor = self._submitit.SlurmExecutor(folder=self._folder / secrets.token_hex(4), max_num_timeout=REQUEUES)
        parameters: dict[str, Any] = {"job_name": self._name, "time": options.time or DEFAULT_TIME}
        parameters["signal_delay_s"] = NOTICE
        parameters.update(nodes=1, ntasks_per_node=1, cpus_per_task=needed.cpus, array_parallelism=len(calls))
        if options.partition is not None:
            parameters["partition"] = options.partition
        if gpus:
            parameters["gpus_per_node"] = gpus
        if needed.memory:
            parameters["mem"] = f"{-(-needed.memory // 2**20)}M"
        executor.update_parameters(**parameters, additional_parameters=dict(options.extra), stderr_to_stdout=True)
        try:
            with executor.batch():
                return [executor.submit(Job(call)) for call in calls]
        except self._submitit.core.utils.FailedJobError as error:
            raise UserError(f"--engine slurm: sbatch refuses the job: {error}") from error

    def _follow(self, identity: str, job: Any) -> Future[Outcome]:
        future: Future[Outcome] = Future()
        self._jobs[identity] = (future, job)
        return future

    def _watch(self) -> None:
        """Look at the queue again and again; a job that has left it has ended."""
        while not self._ended.wait(POLL):
            jobs = self._jobs.copy()
            try:
                waiting = queue() if jobs else {}
            except UserError:  # Slurm's controller may be away for a while
                continue
            for identity in jobs.keys() - waiting.keys():
                future, job = self._jobs.pop(identity)
                # of another driver's job only the step's own folder tells how it ended
                future.set_result(Outcome(TAKEN) if job is None else _outcome(job))


class Job:
    """What a job calls: the step, in a process of its own; submitit asks `checkpoint` what to do after a time-out."""

    def __init__(self, call: Call) -> None:
        self.call = call

    def __call__(self) -> Outcome:
        """Do the step."""
        from fairseq_tickets.protocol.engines import local

        local.PRELOADED.clear()  # a job does one step, which loads what it needs
        try:
            return local.do_in_child(self.call, set())
        finally:
            local.end_spares()

    def checkpoint(self) -> Any:
        """The same again: a step is done whole or not at all."""
        import submitit

        return submitit.helpers.DelayedSubmission(Job(self.call))


def queue() -> dict[str, str]:
    """Names of all jobs of this user that wait or run, by id; those of an array one by one.

    Raises:
        UserError: Slurm doesn't answer.
    """
    command = ["squeue", "--array", "--noheader", "--user", str(os.getuid()), "--format", "%i %j"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        reason = getattr(error, "stderr", None) or error
        raise UserError(f"--engine slurm: squeue gives no answer: {reason}") from error
    pairs = (line.split(maxsplit=1) for line in found.stdout.splitlines() if line.strip())
    return {pair[0]: pair[-1].strip() for pair in pairs}


def _known_job(call: Call, waiting: dict[str, str]) -> str | None:
    """The job in the queue that does this step, if a driver before this one has sent it."""
    path = call.folder / JOB
    if not path.is_file():
        return None
    with contextlib.suppress(UserError):
        said = read_json(path, "job")
        identity = str(said["id"])
        if waiting.get(identity) == said["name"]:
            return identity
    return None


def _outcome(job: Any) -> Outcome:
    """What an ended job of this driver left."""
    try:
        if job.paths.result_pickle.exists():
            outcome: Outcome = job.result()
            return outcome
    except Exception as error:  # submitit's errors, and whatever the job could not be unpickled for
        return Outcome(FAILED, str(error))
    return Outcome(FAILED, f"Slurm's job {job.job_id} ended without a result: {job.state}")
