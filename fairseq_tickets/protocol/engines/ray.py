"""Steps on a Ray cluster: each a Ray task with its CPUs, GPUs and memory.

A step runs in a process of its own below Ray's worker, so that whatever ends that process is the step's own failure and
told as such, once; what Ray sees fail is a node, and Ray does that task again elsewhere. The lease of the lost attempt
keeps the new one from starting while the old one lives.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import time
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from fairseq_tickets.errors import UserError, short
from fairseq_tickets.protocol.engines import Engine
from fairseq_tickets.protocol.work import Call, Outcome, Resources

RETRIES = 3  # how often a task is done again whose node was lost
PROBE = 60.0  # seconds for all nodes to answer
KNOCK = 10.0  # seconds to wait for a connection to a cluster's address
_QUIET = {"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0", "RAY_DEDUP_LOGS": "0", "RAY_USAGE_STATS_ENABLED": "0"}


class RayEngine(Engine):
    """A cluster to join, or one started here and ended with the engine.

    Args:
        address: of the cluster: HOST:PORT, ray://HOST:PORT, auto; None = start one on this machine.
        workers: CPUs of one started here, at least.
        folder: of the experiment.

    Raises:
        UserError: Ray isn't installed, nothing answers, or a node can't see the folder.
    """

    at_once = 10_000  # Ray queues what there is no room for

    def __init__(self, address: str | None, workers: int, folder: Path) -> None:
        try:
            import ray
        except ImportError as error:
            raise UserError("--engine ray needs Ray: pip install 'fairseq_tickets[ray]'") from error
        os.environ.update({name: value for name, value in _QUIET.items() if name not in os.environ})
        self._ray: Any = ray
        _connect(ray, address, workers)
        self._task = ray.remote(max_retries=RETRIES, retry_exceptions=False)(_do)
        self._tasks: dict[Future[Outcome], Any] = {}
        try:
            _probe(ray, folder)
        except BaseException:
            ray.shutdown()
            raise

    def check(self, needed: Resources) -> None:
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        if needed.gpus and not any(node.get("GPU", 0) >= needed.gpus for node in nodes):
            raise UserError("training: device is 'cuda', but no node of the Ray cluster has a GPU; use `device: cpu`")
        if not any(node.get("CPU", 0) >= needed.cpus for node in nodes):
            raise UserError(f"training: threads is {needed.cpus}, but no node of the Ray cluster has so many CPUs")
        if needed.memory and not any(node.get("memory", 0) >= needed.memory for node in nodes):
            raise UserError(f"--memory {needed.memory / 2**30:g}: no node of the Ray cluster has so much")

    def submit(self, calls: Sequence[Call]) -> list[Future[Outcome]]:
        futures: list[Future[Outcome]] = []
        for call in calls:
            needed = call.resources
            options: dict[str, Any] = {"num_cpus": needed.cpus, "num_gpus": needed.gpus, "name": call.label}
            if needed.memory:
                options["memory"] = needed.memory
            task = self._task.options(**options).remote(call)
            futures.append(task.future())
            self._tasks[futures[-1]] = task
            futures[-1].add_done_callback(lambda future: self._tasks.pop(future, None))
        return futures

    def close(self, kill: bool) -> None:
        if kill:
            for task in list(self._tasks.values()):
                with contextlib.suppress(self._ray.exceptions.RayError):
                    self._ray.cancel(task, force=True)
        self._ray.shutdown()


def _do(call: Call) -> Outcome:
    """A Ray task."""
    from fairseq_tickets.protocol.engines.local import do_in_child

    return do_in_child(call, set())


def _connect(ray: Any, address: str | None, workers: int) -> None:
    where = "no Ray could be started here" if address is None else f"--engine ray:{address}: no answer"
    options: dict[str, Any] = {"address": address or "local", "configure_logging": False}
    if address is None:
        options.update(include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        options["num_cpus"] = max(workers, os.cpu_count() or 1)
    host, _, port = (address or "").rpartition(":")
    try:
        if host and "/" not in host and port.isdigit():  # where nothing listens, Ray itself would try for minutes
            socket.create_connection((host, int(port)), timeout=KNOCK).close()
        ray.init(**options)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError, OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or short(error) or type(error).__name__
        raise UserError(f"{where} ({reason})") from error


def _probe(ray: Any, folder: Path) -> None:
    """See that every node reads in the experiment's folder what was written here, and the other way round.

    Raises:
        UserError: naming the node that doesn't.
    """
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    place = folder.resolve() / f".probe-{secrets.token_hex(8)}"
    try:
        place.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"cannot write {place}: {error.strerror or error}") from error
    try:
        asked = {}
        for number, node in enumerate(node for node in ray.nodes() if node["Alive"]):
            here = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            task = ray.remote(num_cpus=0, max_retries=0)(_answer).options(scheduling_strategy=here)
            name = f"node {node.get('NodeManagerHostname', '?')} of the Ray cluster"
            asked[task.remote(str(place / str(number)))] = (number, name)
        ended, late = ray.wait(list(asked), num_returns=len(asked), timeout=PROBE)
        for answer in late:
            raise UserError(f"{asked[answer][1]} gave no answer in {PROBE:g} seconds")
        for answer in ended:
            number, name = asked[answer]
            try:
                ray.get(answer)
            except ray.exceptions.RayError as error:
                raise UserError(f"{name} can't do steps: {error}") from error
            if not (place / str(number)).is_file():
                raise UserError(f"{name} doesn't see {folder}; --output must be a shared folder")
    finally:
        for path in place.iterdir():
            path.unlink(missing_ok=True)
        place.rmdir()


def _answer(path: str) -> None:
    """On a node: write this file, in a folder that the driver has made."""
    limit = time.monotonic() + 5.0
    while not Path(path).parent.is_dir() and time.monotonic() < limit:  # a network file system may take a moment
        time.sleep(0.2)
    with contextlib.suppress(OSError):
        Path(path).touch()
