"""The Ray engine on two real nodes (raylets on loopback), one of which is killed in the middle."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fairseq_tickets.cli import main
from fairseq_tickets.errors import UserError
from fairseq_tickets.protocol.engines import Options, local, start_engine
from fairseq_tickets.protocol.engines import ray as ray_engine
from fairseq_tickets.protocol.work import Resources
from tests.protocol import toy_steps
from tests.protocol.conftest import inputs, write  # noqa: F401  (fixtures)
from tests.protocol.test_run import results
from tests.protocol.toy_steps import chain, drive, plan_at, texts

ray = pytest.importorskip("ray", reason="the extra [ray] is not installed")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Two nodes of one CPU each, without GPUs."""
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    monkeypatch.chdir("/")  # nodes start where they may; a protocol's paths are relative to its caller's folder
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "num_gpus": 0, "include_dashboard": False})
    made.add_node(num_cpus=1, num_gpus=0)
    made.wait_for_nodes()
    monkeypatch.chdir(Path(__file__).parents[2])
    yield made
    ray.shutdown()
    made.shutdown()


def engine_on(cluster: Any, folder: Path) -> Any:
    return start_engine(f"ray:{cluster.address}", Options(), folder)


def test_the_same_as_on_one_machine(cluster: Any, tmp_path: Path) -> None:
    drive(plan_at(tmp_path / "ray"), engine_on(cluster, tmp_path / "ray"), chain)
    drive(plan_at(tmp_path / "local"), local.LocalEngine(1), chain)
    assert texts(tmp_path / "ray") == texts(tmp_path / "local")
    lines = (tmp_path / "ray" / "starts.txt").read_text().splitlines()
    assert len(lines) == 12  # nothing was done twice


def test_a_step_that_fails_by_itself_is_not_done_again(cluster: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the run bad failed: there is a reason"):
        drive(plan_at(tmp_path / "one"), engine_on(cluster, tmp_path / "one"), toy_steps.failing)
    began = time.monotonic()
    with pytest.raises(UserError, match="the run dies failed: it was ended by signal 9"):
        drive(plan_at(tmp_path / "two"), engine_on(cluster, tmp_path / "two"), toy_steps.dying)
    assert time.monotonic() - began < 60


def test_steps_of_a_lost_node_are_done_again(cluster: Any, tmp_path: Path) -> None:
    lost = next(iter(cluster.worker_nodes))

    def lose() -> None:
        while len(toy_starts(tmp_path)) < 2:
            time.sleep(0.05)
        cluster.remove_node(lost, allow_graceful=False)

    thread = threading.Thread(target=lose)
    thread.start()
    drive(plan_at(tmp_path), engine_on(cluster, tmp_path), toy_steps.slow)
    thread.join()
    assert sorted(texts(tmp_path).values()) == ["slow0", "slow1", "slow2", "slow3"]
    assert len(toy_starts(tmp_path)) == 5  # one of the four was begun twice
    assert not list(tmp_path.glob("*/lease-*"))


def toy_starts(folder: Path) -> list[str]:
    path = folder / "starts.txt"
    return path.read_text().splitlines() if path.exists() else []


def test_a_whole_protocol_is_bit_for_bit_that_of_one_machine(cluster: Any, write: Any, tmp_path: Path) -> None:  # noqa: F811
    path = write(super_tickets={"levels": [0.34], "keep": ["winning"]})
    os.chdir(tmp_path)
    for engine, output in ((f"ray:{cluster.address}", "ray"), ("local", "local")):
        assert main(["run", path.name, "--output", output, "--engine", engine]) == 0
    assert len(results(tmp_path / "ray")) == 2 and results(tmp_path / "ray") == results(tmp_path / "local")


def test_what_the_cluster_does_not_have_is_refused(cluster: Any, tmp_path: Path) -> None:
    engine = engine_on(cluster, tmp_path)
    for needed, message in (
        (Resources(1, 1), "no node of the Ray cluster has a GPU"),
        (Resources(64), "threads is 64, but no node"),
        (Resources(1, 0, 2**50), "no node of the Ray cluster has so much"),
    ):
        with pytest.raises(UserError, match=message):
            engine.check(needed)
    engine.close(kill=False)


def test_a_folder_that_a_node_does_not_see_is_refused(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_engine, "_answer", lambda path: None)
    with pytest.raises(UserError, match=r"node .* doesn't see .*; --output must be a shared folder"):
        engine_on(cluster, tmp_path)
    assert not os.listdir(tmp_path)


def test_an_address_that_does_not_answer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--engine ray:127.0.0.1:1: no answer"):
        start_engine("ray:127.0.0.1:1", Options(), tmp_path)
