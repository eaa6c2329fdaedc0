"""Where steps are done: this machine, a Ray cluster, a Slurm cluster.

An engine takes calls and gives a future for each: its result is an `Outcome`. What to do, in what order, and what to do
again is the experiment's business.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

from fairseq_tickets.errors import UserError
from fairseq_tickets.protocol.work import Call, Outcome, Resources

NAMES = ("local", "ray", "ray:ADDRESS", "slurm")


class Engine:
    """What the driver asks of an engine; left as a context, it ends, by itself after a UserError, else at once.

    Attributes:
        at_once: most calls to hand over that have not ended.
    """

    at_once: int

    def check(self, needed: Resources) -> None:
        """Refuse, before anything is done, what this engine can't give.

        Raises:
            UserError: saying what.
        """

    def submit(self, calls: Sequence[Call]) -> list[Future[Outcome]]:
        """Do these calls, in any order, as soon as there is room."""
        raise NotImplementedError

    def close(self, kill: bool) -> None:
        """End; with `kill` also what still runs."""

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        self.close(kill=kind is not None and not issubclass(kind, UserError))


@dataclass(frozen=True)
class Options:
    """What the command line says about engines.

    Attributes:
        workers: steps at a time on this machine.
        memory: bytes a step.
        partition, time, gpus, extra: Slurm's; time in minutes; `extra` are options of sbatch by name.
    """

    workers: int = 1
    memory: int = 0
    partition: str | None = None
    time: int | None = None
    gpus: int | None = None
    extra: tuple[tuple[str, str], ...] = ()


def check_name(name: str) -> None:
    """Refuse a name that no engine has."""
    kind, colon, address = name.partition(":")
    if kind not in ("local", "ray", "slurm") or (colon and (kind != "ray" or not address)):
        raise UserError(f"--engine {name}: it must be one of {', '.join(NAMES)}")


def start_engine(name: str, options: Options, folder: Path) -> Engine:
    """The engine that `--engine` names.

    Raises:
        UserError: no such engine, the extra that it needs is not installed, or nothing answers.
    """
    check_name(name)
    kind, _, address = name.partition(":")
    if kind == "ray":
        from fairseq_tickets.protocol.engines.ray import RayEngine

        return RayEngine(address or None, options.workers, folder)
    if kind == "slurm":
        from fairseq_tickets.protocol.engines.slurm import SlurmEngine

        return SlurmEngine(options, folder)
    from fairseq_tickets.protocol.engines.local import LocalEngine

    return LocalEngine(options.workers)
