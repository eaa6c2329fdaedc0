"""An experiment whose steps take no time and load nothing: what engines, leases and the driver are tried with.

python -m tests.protocol.toy_steps FOLDER ENGINE WORKERS RECIPE
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fairseq_tickets.errors import UserError
from fairseq_tickets.protocol.driver import Driver
from fairseq_tickets.protocol.engines import Engine, Options, local, start_engine
from fairseq_tickets.protocol.plan import Plan
from fairseq_tickets.protocol.status import Progress
from fairseq_tickets.protocol.steps import Step
from fairseq_tickets.protocol.store import Store

SAID = "said.txt"


def say(folder: Path, text: str, seconds: float = 0.0, after: Any = ()) -> None:
    """Write a text, and the texts that it comes after; each start is noted beside the experiment."""
    with (folder.parent.parent / "starts.txt").open("a") as starts:
        starts.write(f"{text} {os.getpid()}\n")
    time.sleep(seconds)
    (folder / SAID).write_text("".join(Path(path).read_text() for path in after) + text)


def fail(folder: Path, message: str) -> None:
    """Fail as a step does that has a reason."""
    raise UserError(message)


def die(folder: Path, text: str) -> None:
    """End without a word, as by a fault of memory."""
    os.kill(os.getpid(), signal.SIGKILL)


def write_folder(folder: Path, text: str) -> None:
    """A step whose output is a folder, as prepared data are."""
    (folder / "data").mkdir()
    (folder / "data" / SAID).write_text(text)


def read_folder(folder: Path, data: str) -> None:
    """Read such an output."""
    (folder / SAID).write_text((Path(data) / SAID).read_text() + "!")


def nothing(folder: Path, number: int) -> None:
    """A step that writes nothing."""


def plan_at(folder: Path, acts: bool = True) -> Plan:
    """A plan for the recipes below."""
    return Plan(Store(folder), acts)


def said(plan: Plan, text: str, *after: Step, seconds: float = 0.0) -> Step:
    return plan.step(say, {"text": text, "seconds": seconds, "after": [step.file(SAID) for step in after]}, text)


def chain(plan: Plan) -> None:
    """Three steps after one, in a branch; one more that depends on a result."""

    def branch(plan: Plan, name: str) -> Step:
        first = said(plan, name)
        others = [said(plan, f"{name}{number}", first, seconds=0.2) for number in range(3)]
        last = said(plan, f"{name}!", *others)
        text = (last.result() / SAID).read_text()
        return said(plan, f"{name}:{len(text)}", last)

    for name in ("a", "b"):
        plan.branch(branch, name)


def through_a_folder(plan: Plan) -> None:
    """One step writes a folder, the next one reads it."""
    written = plan.step(write_folder, {"text": "inside"}, "writes a folder")
    plan.step(read_folder, {"data": written.file("data")}, "reads it")


def needed_twice(plan: Plan) -> None:
    """A step that is done for the two after it only, one of which needs the other."""

    def lazy(text: str, *after: Step) -> Step:
        arguments = {"text": text, "seconds": 0.2, "after": [step.file(SAID) for step in after]}
        return plan.step(say, arguments, text, lazy=True)

    first = lazy("first")
    said(plan, "last", first, lazy("second", first))


def slow(plan: Plan) -> None:
    """Four steps of some seconds."""
    for number in range(4):
        said(plan, f"slow{number}", seconds=3.0)


def failing(plan: Plan) -> None:
    """One step fails by itself, one is fine, one waits for the failed one."""
    bad = plan.step(fail, {"message": "there is a reason"}, "bad")
    said(plan, "good")

    def branch(plan: Plan) -> None:
        bad.result()
        said(plan, "never")

    plan.branch(branch)


def dying(plan: Plan) -> None:
    plan.step(die, {"text": "x"}, "dies")


def hurried(folder: Path, text: str) -> None:
    """Take two minutes when tried for the first time."""
    first = not (folder.parent.parent / "starts.txt").exists()
    say(folder, "first" if first else "second", 120.0 if first else 0.0)
    (folder / SAID).write_text(text)


def slow_once(plan: Plan) -> None:
    plan.step(hurried, {"text": "at last"}, "hurried")


RECIPES = {"chain": chain, "slow": slow, "failing": failing, "dying": dying}


def drive(plan: Plan, engine: Engine, recipe: Callable[[Plan], None]) -> list[Progress]:
    """Do a recipe; what was told."""
    told: list[Progress] = []
    with engine:
        Driver(plan, engine, told.append).drive(recipe)
    return told


def texts(folder: Path) -> dict[str, str]:
    """What was said, by key."""
    return {path.parent.name: path.read_text() for path in sorted(folder.glob(f"*/{SAID}"))}


def main(folder: str, engine: str, workers: str, recipe: str) -> int:
    """See the head of this file."""
    local.PRELOADED = []
    path = Path(folder)
    try:
        drive(plan_at(path), start_engine(engine, Options(workers=int(workers)), path), RECIPES[recipe])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    from tests.protocol import toy_steps  # steps are in modules, not in programs

    sys.exit(toy_steps.main(*sys.argv[1:]))
