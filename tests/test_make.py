"""What the Makefile's targets would run."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize(
    ("given", "prepare"),
    [
        ([], None),
        (["GLUE_DIR=/glue"], "benchmarks/prepare.py --output runs/bench/prepare.json"),
        (
            ["GLUE_DIR=/glue", "MODEL=/my model"],
            'benchmarks/prepare.py --model "/my model" --output runs/bench/prepare.json',
        ),
    ],
)
def test_make_bench_starts_all_that_can_run(given: list[str], prepare: str | None) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in ("GLUE_DIR", "MODEL", "MAKEFLAGS")}
    command = ["make", "--dry-run", "bench", *given]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    commands = [line.split("python ", 1)[1] for line in done.stdout.splitlines() if "python benchmarks/" in line]
    started = [" ".join(command.split()) for command in commands]
    without = {path.stem for path in (ROOT / "benchmarks").glob("*.py")} - {"measure", "prepare"}
    expected = [f"benchmarks/{name}.py --output runs/bench/{name}.json" for name in sorted(without)]
    assert sorted(started) == sorted([*expected, prepare] if prepare else expected)
