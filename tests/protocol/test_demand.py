"""Any graph of steps, lazy or not, waited for or not: each is done once, after what it needs, and again where lost."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path

import pytest

from fairseq_tickets.protocol.driver import Driver
from fairseq_tickets.protocol.engines import Engine
from fairseq_tickets.protocol.plan import Plan
from fairseq_tickets.protocol.steps import Step
from fairseq_tickets.protocol.store import DONE, write_done
from fairseq_tickets.protocol.work import FINISHED, TAKEN, Call, Outcome
from tests.protocol.toy_steps import nothing, plan_at

FILES = ("one", "two")


class Instant(Engine):
    """Calls are done at once, in any order; some are said to be another process's, and come again."""

    def __init__(self, draw: random.Random) -> None:
        self.at_once, self._draw = draw.choice([1, 2, 100]), draw
        self.done: list[str] = []

    def submit(self, calls: Sequence[Call]) -> list[Future[Outcome]]:
        futures: list[Future[Outcome]] = [Future() for _ in calls]
        for number in self._draw.sample(range(len(calls)), len(calls)):
            taken = self._draw.random() < 0.1
            if not taken:
                self._do(calls[number])
            futures[number].set_result(Outcome(TAKEN if taken else FINISHED))
        return futures

    def _do(self, call: Call) -> None:
        assert all((folder / file).exists() for folder, file in call.needs)
        self.done.append(call.folder.name)
        call.folder.mkdir(parents=True, exist_ok=True)
        for name in FILES:
            (call.folder / name).touch()
        write_done(call.folder, [call.folder / name for name in FILES], {})


def any_graph(draw: random.Random) -> Callable[[Plan], None]:
    """A recipe: each step may need outputs of those before it, may be lazy, and may be waited for."""
    count = draw.randint(1, 20)
    needs = [[(n, draw.choice(FILES)) for n in range(m) if draw.random() < 2 / (m + 1)] for m in range(count)]
    lazy, awaited = ([draw.random() < 0.4 for _ in range(count)] for _ in range(2))

    def branch(plan: Plan) -> None:
        steps: list[Step] = []
        for number in range(count):
            arguments = {"number": number, "after": [steps[n].file(file) for n, file in needs[number]]}
            steps.append(plan.step(nothing, arguments, str(number), lazy=lazy[number]))
            if awaited[number]:
                steps[-1].result()

    def recipe(plan: Plan) -> None:
        plan.branch(branch)

    return recipe


@pytest.mark.parametrize("seed", range(40))
def test_any_graph(seed: int, tmp_path: Path) -> None:
    draw = random.Random(seed)
    recipe = any_graph(draw)
    plan, engine = plan_at(tmp_path), Instant(draw)
    Driver(plan, engine).drive(recipe)
    assert sorted(engine.done) == sorted(plan.steps)  # a lazy step that no other needs is wanted, too
    for step in plan.steps.values():  # some lose an output, some all
        if (fate := draw.random()) < 0.2:
            (step.folder / draw.choice(FILES)).unlink()
        elif fate < 0.4:
            shutil.rmtree(step.folder)
    lost = {step.key for step in plan.steps.values() if not step.lazy and not (step.folder / DONE).exists()}
    plan, engine = plan_at(tmp_path), Instant(draw)
    Driver(plan, engine).drive(recipe)
    assert lost <= set(engine.done) and len(engine.done) == len(set(engine.done))
    assert all((step.folder / DONE).exists() for step in plan.steps.values() if not step.lazy)
