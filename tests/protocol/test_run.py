"""A whole protocol on toy data: killed at any moment and called again it ends with the same results, bit for bit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from fairseq_tickets.counts import DimensionCounts

TIMES = ("wall_seconds", "ticket_seconds", "peak_memory_bytes", "checksum")


def start(protocol: Path, output: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "fairseq_tickets.cli", "run", str(protocol), "--output", str(output), *options]
    code = "import sys; from fairseq_tickets.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, *command[3:]]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def finish(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=900)
    assert process.returncode == 0, err
    return out


def results(output: Path) -> dict[str, Any]:
    """Results by a name of their own, without what differs from one call to the next."""
    found = {}
    for line in (output / "toy" / "results" / "runs.jsonl").read_text().splitlines():
        content = json.loads(line)
        name = f"{content['task']}-{content['method']}-{content['level']}-{content['key'][:8]}"
        found[name] = {name: value for name, value in content.items() if name not in TIMES}
    return found


def written(output: Path) -> dict[Path, int]:
    """When each step was marked as done."""
    return {path: path.stat().st_mtime_ns for path in (output / "toy").glob("*/done.json")}


@pytest.mark.slow
def test_killed_and_called_again_gives_the_same_results(write: Any, tmp_path: Path) -> None:
    protocol = write(super_tickets={"levels": [0.34, 0.67], "keep": ["winning", "random"]})
    finish(start(protocol, tmp_path / "whole"))
    whole = results(tmp_path / "whole")
    assert len(whole) == 5  # full, 2 levels x 2 kinds
    cut = tmp_path / "cut"
    finished: dict[Path, int] = {}
    # killed inside the first training run, then after the first result is there
    for wanted in ("*/attempt-*/train", "*/result.json"):
        process = start(protocol, cut, "--workers", "2")
        limit = time.monotonic() + 300
        while not list((cut / "toy").glob(wanted)) and time.monotonic() < limit and process.poll() is None:
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
        finished = written(cut)
    finish(start(protocol, cut, "--workers", "2"))
    assert results(cut) == whole
    after = written(cut)
    assert {path: after[path] for path in finished} == finished  # not done again
    for left in ("checkpoint.pt", "attempt-*", "lease-*"):
        assert not list((cut / "toy").glob(f"*/{left}"))
    # nothing is left to do
    listed = json.loads(finish(start(protocol, cut, "--dry-run", "--json")))
    assert (listed["left"], listed["finished"], listed["undecided"]) == (0, 6, 0)
    finish(start(protocol, cut))
    assert written(cut) == after
    one = next(content for name, content in whole.items() if "winning-0.34" in name)
    (chosen,) = (cut / "toy" / "super_tickets").iterdir()
    rivals = [content for name, content in whole.items() if "winning" in name]
    best = max(rivals, key=lambda content: (content["scores"]["select"]["accuracy"], -content["level"]))
    assert (chosen.name, json.loads(chosen.read_text())["heads"]) == ("RTE-seed1.json", best["ticket"]["heads"])
    assert one["ticket"]["ffn"].count(0) == 1 and sum(map(sum, one["ticket"]["heads"])) == 12 - 4
    assert one["weight_remaining"]["encoder"] < 1
    assert one["trainable_parameters"] < whole[next(name for name in whole if "full" in name)]["trainable_parameters"]
    assert [epoch["epoch"] for epoch in one["epochs"]] == [1, 2]


@pytest.mark.slow
def test_adaptation_and_dominant_tickets(write: Any, inputs: Path, tmp_path: Path) -> None:
    protocol = write(
        tasks={"RTE": {"data": str(inputs / "classes")}, "mine": {"data": str(inputs / "scores")}},
        training={"learning_rates": [1e-2], "batch_sizes": [8], "max_epoch": 1},
        super_tickets={"tasks": ["RTE"], "levels": [0.34], "keep": ["winning"]},
        adaptation={"source": "RTE", "targets": ["mine"], "fractions": [0.5]},
        dominant={
            "tasks": ["RTE"],
            "top_k": [1, 2],
            "methods": ["dominant", "random_dimensions", "bitfit", "random_elements"],
        },
    )
    finish(start(protocol, tmp_path / "runs", "--workers", "2"))
    found = list(results(tmp_path / "runs").values())
    adapted = [run for run in found if run["source_task"] == "RTE"]
    assert sorted((run["task"], run["method"], run["train_fraction"]) for run in adapted) == [
        ("mine", "full", 0.5),
        ("mine", "winning", 0.5),
    ]
    dominant = {(run["method"], run["top_k"]): run for run in found if run["method"] not in ("full", "winning")}
    assert set(dominant) == {
        ("dominant", 1), ("dominant", 2), ("random_dimensions", 1), ("random_dimensions", 2), ("bitfit", None),
        ("random_elements", None),
    }  # fmt: skip
    assert [path.name for path in (tmp_path / "runs" / "toy" / "tickets").iterdir()] == ["RTE-seed1.json"]
    assert [path.name for path in (tmp_path / "runs" / "toy" / "scores").iterdir()] == ["RTE-seed1.npz"]
    counts = DimensionCounts.load(tmp_path / "runs" / "toy" / "counts" / "RTE-seed1.npz")
    one, two = (dominant["dominant", k] for k in (1, 2))
    assert one["trainable_parameters"] < two["trainable_parameters"] < two["total_parameters"]
    assert one["ticket"]["dimensions"]["fc1"][0] == two["ticket"]["dimensions"]["fc1"][0][:1]
    # the most out-weighted dimension of a layer is the ticket's first, or there is none
    for layer, chosen in enumerate(one["ticket"]["dimensions"]["fc1"]):
        row = counts.counts["fc1"][layer]
        assert row[chosen[0]] == row.max() > 0 if chosen else row.max() == 0
