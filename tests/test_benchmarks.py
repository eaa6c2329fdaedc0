"""benchmarks/: what they measure with, and the smallest runs of the quick ones."""

from __future__ import annotations

import json
import mmap
import runpy
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
LAYER = 4 * 1024 * (1024 + 1) + 4096 * (1024 + 1) + 1024 * (4096 + 1)  # six matrices of RoBERTa-large, with biases


@pytest.fixture
def measure(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import measure

    yield measure
    del sys.modules["measure"]


def run(program: str, arguments: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a benchmark in this process, with the threads it has."""
    words = [f"{program}.py", *arguments.split(), "--threads", str(torch.get_num_threads())]
    monkeypatch.setattr(sys, "argv", words)
    runpy.run_path(str(BENCHMARKS / f"{program}.py"), run_name="__main__")


def test_seconds(measure: Any) -> None:
    """Sleep takes no CPU; CPU seconds that other processes take don't count."""
    wall, cpu = measure.timed(lambda: time.sleep(0.2), "cpu")
    assert wall >= 0.2 and cpu < 0.1

    def work() -> None:
        until = time.process_time() + 0.1
        while time.process_time() < until:
            pass

    wall, cpu = measure.timed(work, "cpu")
    assert 0.1 <= cpu < 0.2 and wall >= 0.99 * cpu


def hold_for_a_moment(size: int) -> None:
    """Straight from the system: an allocator may keep what a test before this one has freed."""
    with mmap.mmap(-1, size) as memory:
        memory[:: mmap.PAGESIZE] = bytes(len(range(0, size, mmap.PAGESIZE)))


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="memory is measured on Linux")
def test_peak_of_memory(measure: Any) -> None:
    """What is held for a moment shows in the peak, and what was held before it started does not."""
    megabyte = 1 << 20
    hold_for_a_moment(128 * megabyte)
    measure.start_peak("cpu")
    before = measure.held("cpu")
    hold_for_a_moment(64 * megabyte)
    assert 60 * megabyte < measure.peak("cpu") - before < 90 * megabyte
    assert measure.held("cpu") - before < 30 * megabyte


def test_l1(measure: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("l1", f"--layers 1 --repeats 1 --output {tmp_path / 'l1.json'}", monkeypatch)
    found = json.loads((tmp_path / "l1.json").read_text())
    assert capsys.readouterr().out == ""
    assert found["penalised_parameters"] == LAYER
    figures = found["figures"]
    assert set(figures) == {"step", "add_gradient", "measure", "proximal_sgd", "proximal_adam"}
    for name, share in found["share_of_step"].items():
        assert share["cpu_seconds"] == figures[name]["cpu_seconds"] / figures["step"]["cpu_seconds"]


def test_multitask(measure: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    small = "--layers 3 --heads 4 --embed 16 --ffn 20 --batch 2 --tokens 5 --tasks 2 --repeats 2"
    run("multitask", small, monkeypatch)
    found = json.loads(capsys.readouterr().out)
    assert found["shape"] == {"layers": 3, "heads": 4, "embed_dim": 16, "ffn_dim": 20}
    for seconds in found["figures"].values():
        assert 0 < seconds["update_seconds"] < seconds["cpu_seconds"]
    plain, sharing = (found["figures"][side]["wall_seconds"] for side in ("plain", "sharing"))
    assert found["extra_share_of_step"]["wall"] == sharing / plain - 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("program", "arguments"),
    [
        (
            "importance",
            "--embed-dim 64 --ffn-dim 128 --heads 4 --vocab-size 500 --batch-size 2 --tokens 16 --repeats 1",
        ),
        ("compact", "--levels 0.5 --repeats 1 --batch-size 1 --tokens 16"),
        (
            "step_cost",
            "--model minilm --embed-dim 64 --shapes 1x8 --sides Dominant-1 --repeats 1 --steps 1 --threads 1",
        ),
        ("salience", "--batches 1 --batch-size 2 --tokens 8 --repeats 1 --vocab-size 50"),
        ("extraction", ""),
        ("startup", "--rounds 3"),
    ],
)
def test_the_longer_ones(program: str, arguments: str, tmp_path: Path) -> None:
    layers = [] if program == "startup" else ["--layers", "2"]
    words = [sys.executable, str(BENCHMARKS / f"{program}.py"), *layers, *arguments.split()]
    done = subprocess.run([*words, "--output", str(tmp_path / "out.json")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "out.json").read_text())["benchmark"] == program


@pytest.mark.parametrize("part", ["plan", "table"])
def test_engine(part: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["engine.py", "--part", part, "--steps", "300"])
    runpy.run_path(str(BENCHMARKS / "engine.py"), run_name="__main__")
    found = json.loads(capsys.readouterr().out)
    assert 0 < found["seconds"] < 60 and found["peak_mb"] > 10


@pytest.mark.slow
def test_engine_does_steps(tmp_path: Path) -> None:
    output = tmp_path / "engine.json"
    arguments = ["--steps", "300", "--done", "5", "--engine", "local", "--output", str(output)]
    subprocess.run([sys.executable, str(BENCHMARKS / "engine.py"), *arguments], check=True, capture_output=True)
    assert json.loads(output.read_text())["local"]["milliseconds"] > 0
