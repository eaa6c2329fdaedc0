"""The driver and the local engine: order, failures, killed starters, two drivers, steps that others do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from fairseq_tickets.errors import UserError
from fairseq_tickets.protocol import driver, lease
from fairseq_tickets.protocol.engines import local
from fairseq_tickets.protocol.lease import Lease
from fairseq_tickets.protocol.store import DONE, write_done
from fairseq_tickets.protocol.work import GONE, Outcome
from tests.protocol import toy_steps
from tests.protocol.toy_steps import chain, drive, plan_at, said, texts

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def light(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "PRELOADED", [])


def command(folder: Path, recipe: str, workers: int = 2) -> subprocess.Popen[bytes]:
    arguments = [sys.executable, "-m", "tests.protocol.toy_steps", str(folder), "local", str(workers), recipe]
    return subprocess.Popen(arguments, cwd=ROOT, start_new_session=True)


def starts(folder: Path) -> list[str]:
    path = folder / "starts.txt"
    return [line.split()[0] for line in path.read_text().splitlines()] if path.exists() else []


def processes(folder: Path) -> set[int]:
    """Processes that did steps and still live."""
    lines = (folder / "starts.txt").read_text().splitlines()
    return {int(line.split()[1]) for line in lines if lease._born(int(line.split()[1])) is not None}


def wait_for(there: Any, seconds: float = 60.0) -> None:
    limit = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < limit, "it did not happen"
        time.sleep(0.02)


def test_workers_make_no_difference_and_nothing_is_done_twice(tmp_path: Path) -> None:
    for workers in (1, 3):
        folder = tmp_path / str(workers)
        told = drive(plan_at(folder), local.LocalEngine(workers), chain)
        assert max(len(now.running) for now in told) <= workers
        assert sorted(starts(folder)) == sorted({*starts(folder)})  # once each
        assert (told[-1].done, told[-1].left, told[-1].running) == (12, 0, {})
    assert texts(tmp_path / "1") == texts(tmp_path / "3")
    assert sorted(texts(tmp_path / "1").values())[:3] == ["a", "aa0", "aa0aa1aa2a!"]
    before = starts(tmp_path / "1")
    drive(plan_at(tmp_path / "1"), local.LocalEngine(1), chain)
    assert starts(tmp_path / "1") == before


def test_an_output_that_is_a_folder_is_found_by_the_next_step(tmp_path: Path) -> None:
    drive(plan_at(tmp_path), local.LocalEngine(1), toy_steps.through_a_folder)
    assert "inside!" in texts(tmp_path).values()


def test_what_two_steps_need_is_done_once(tmp_path: Path) -> None:
    drive(plan_at(tmp_path), local.LocalEngine(2), toy_steps.needed_twice)
    assert starts(tmp_path) == ["first", "second", "last"]


def test_a_step_that_finds_no_input_again_and_again_has_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the reason why the driver sees it and the step doesn't: no start without end."""
    calls, original = [], local.do_in_child

    def gone(call: Any, *rest: Any) -> Outcome:
        calls.append(call)
        assert len(calls) < 20, "started without end"
        return Outcome(GONE, "data is not there") if call.needs else original(call, *rest)

    monkeypatch.setattr(local, "do_in_child", gone)
    with pytest.raises(UserError, match="the run reads it failed: data is not there"):
        drive(plan_at(tmp_path), local.LocalEngine(1), toy_steps.through_a_folder)
    assert len(calls) == 2


def test_a_failed_step_is_one_line_and_what_is_done_stays(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        drive(plan_at(tmp_path), local.LocalEngine(2), toy_steps.failing)
    assert str(error.value).startswith("the run bad failed: there is a reason (log: ") and "\n" not in str(error.value)
    assert list(texts(tmp_path).values()) == ["good"]
    assert not list(tmp_path.glob("*/lease-*")) and not list(tmp_path.glob("*/attempt-*"))


def test_a_step_that_dies_is_named_with_its_signal(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the run dies failed: it was ended by signal 9"):
        drive(plan_at(tmp_path), local.LocalEngine(1), toy_steps.dying)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_steps_end_with_their_starter_and_the_next_call_goes_on(tmp_path: Path, how: signal.Signals) -> None:
    starter = command(tmp_path, "slow")
    wait_for(lambda: len(starts(tmp_path)) == 2)
    assert len(processes(tmp_path)) == 2
    began = time.monotonic()
    starter.send_signal(how)
    starter.wait(30)
    wait_for(lambda: not processes(tmp_path))
    assert time.monotonic() - began < 10  # a second on a quiet machine
    assert not texts(tmp_path)
    after = command(tmp_path, "slow", workers=4)
    assert after.wait(120) == 0
    assert sorted(texts(tmp_path).values()) == ["slow0", "slow1", "slow2", "slow3"]
    assert not list(tmp_path.glob("*/lease-*")) and not list(tmp_path.glob("*/attempt-*"))


def test_two_drivers_share_the_work(tmp_path: Path) -> None:
    starters = [command(tmp_path, "slow"), command(tmp_path, "slow")]
    for starter in starters:
        assert starter.wait(120) == 0
    assert sorted(starts(tmp_path)) == ["slow0", "slow1", "slow2", "slow3"]


def test_what_another_process_ends_just_before_the_start_is_not_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the driver's look at a step and its start, another process finishes it."""

    def late(folder: Path) -> None:
        if not (folder / DONE).exists():
            folder.mkdir(parents=True)
            (folder / toy_steps.SAID).write_text("by another")
            write_done(folder, [folder / toy_steps.SAID], {})

    monkeypatch.setattr(driver, "read_claim", late)
    drive(plan_at(tmp_path), local.LocalEngine(1), lambda lab: said(lab, "x"))
    assert starts(tmp_path) == [] and list(texts(tmp_path).values()) == ["by another"]


def test_what_another_process_does_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A claim from another machine that grows is respected; one that stops growing is taken over, and that is said."""
    monkeypatch.setattr(lease, "STALE", 1.0)
    lab = plan_at(tmp_path)
    key = said(plan_at(tmp_path, acts=False), "x").key
    folder = tmp_path / key
    folder.mkdir(parents=True)
    path = folder / "lease-1"
    path.write_text('{"machine": "elsewhere", "pid": 1, "born": "0", "name": "process 1 on elsewhere", "token": "t"}')
    began = time.monotonic()

    def told(now: Any) -> None:
        if time.monotonic() - began < 2.0:
            with path.open("a") as handle:
                handle.write("\n")
        seen.append(dict(now.running))
        news.extend(now.news)

    seen: list[dict[str, str]] = []
    news: list[str] = []
    engine = local.LocalEngine(1)
    toy_steps.Driver(lab, engine, told).drive(lambda lab: said(lab, "x"))
    engine.close(kill=False)
    assert time.monotonic() - began > 2.0 and seen[0] == {"x": "process 1 on elsewhere"}
    assert texts(tmp_path) == {key: "x"}
    assert "taken over from process 1 on elsewhere" in (folder / "log.txt").read_text()
    assert [line for line in news if line.startswith("taken over: x, from process 1 on elsewhere")]


def test_a_claim_has_one_owner(tmp_path: Path) -> None:
    lost: list[int] = []
    one = lease.claim(tmp_path, lambda: lost.append(1))
    assert isinstance(one, Lease) and one.held()
    other = lease.claim(tmp_path, lambda: lost.append(2))
    assert isinstance(other, lease.Claim) and other.name().startswith(f"process {os.getpid()} on ")
    # seen not to grow: the next number is claimed, and the first owner must stop
    taken = lease.claim(tmp_path, lambda: lost.append(3), stale=other.number)
    assert isinstance(taken, Lease) and taken.held() and not one.held()
    wait_for(lambda: lost == [1])
    assert one.workplace != taken.workplace
    taken.release()
    assert lease.read_claim(tmp_path) is None
    again = lease.claim(tmp_path, lambda: None)
    assert isinstance(again, Lease) and not one.held()  # the same number, but not its claim
    again.release()


def test_a_step_done_in_a_stale_folder_is_not_believed(tmp_path: Path) -> None:
    """Existence of a folder, a log, a specification or outputs is never enough."""
    lab = plan_at(tmp_path)
    key = said(plan_at(tmp_path, acts=False), "x").key
    (tmp_path / key).mkdir(parents=True)
    for name in ("said.txt", "spec.json", "log.txt"):
        (tmp_path / key / name).write_text("old")
    drive(lab, local.LocalEngine(1), lambda lab: said(lab, "x"))
    assert texts(tmp_path) == {key: "x"} and (tmp_path / key / DONE).is_file()


def test_an_output_that_was_changed_is_refused_before_it_is_used(tmp_path: Path) -> None:
    first = plan_at(tmp_path)
    drive(first, local.LocalEngine(1), lambda lab: said(lab, "x"))
    (key,) = texts(tmp_path)
    (tmp_path / key / "said.txt").write_text("other")
    with pytest.raises(UserError, match="said.txt was changed after it was written; delete"):
        drive(plan_at(tmp_path), local.LocalEngine(1), lambda lab: said(lab, "y", said(lab, "x")))
    (tmp_path / key / "said.txt").unlink()  # gone, not changed: made again
    drive(plan_at(tmp_path), local.LocalEngine(1), lambda lab: said(lab, "y", said(lab, "x")))
    assert sorted(texts(tmp_path).values()) == ["x", "xy"]
