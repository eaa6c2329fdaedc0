"""A step struck at any of its changes of the file system and done again is as if nothing had happened.

Half of it is never taken for the whole.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fairseq_tickets.protocol.steps import Step
from fairseq_tickets.protocol.store import DONE, Store
from fairseq_tickets.protocol.work import FINISHED, Call, do
from tests.crash import FULL, KILL, STOP, survive

TEXTS = {"one.txt": "1", "folder/two.txt": "22"}


def write(folder: Path, content: dict[str, str]) -> None:
    for name, text in content.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)


def step() -> Step:
    return Step(SimpleNamespace(folder=Path("runs")), write, {"content": TEXTS}, "it")  # type: ignore[arg-type]


def action() -> bool:
    outcome = do(Call(step().folder, step().function, step().given()))
    return outcome.status != FINISHED


def older(folder: Path) -> None:
    """What an older attempt may have left."""
    (folder / "runs" / step().key / "attempt-old" / "train").mkdir(parents=True)
    (folder / "runs" / step().key / "one.txt").write_text("older")


def content(path: Path) -> object:
    """Times differ from run to run, and so do claims."""
    if path.name == DONE:
        return json.loads(path.read_text())["outputs"]
    return path.read_bytes()


def whole_or_not_done(folder: Path) -> None:
    store, made = Store(folder / "runs"), folder / "runs" / step().key
    if store.done(step().key):
        assert {name: (made / name).read_text() for name in TEXTS} == TEXTS
        assert store.has(step().key, "one.txt") and store.has(step().key, "folder")


@pytest.mark.parametrize("how", [KILL, STOP, FULL])
@pytest.mark.parametrize("make", [lambda folder: None, older], ids=["new", "after an older attempt"])
def test_struck_at_every_change(how: str, make: Any, tmp_path: Path) -> None:
    # the last changes remove the attempt's folder and the claim, which a full disk allows
    last = 6 if how == FULL else 0
    changes = survive(
        action, make, tmp_path, how, lambda count: range(1, count + 1 - last), half=whole_or_not_done, same=content
    )
    assert changes > 25
