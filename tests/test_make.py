"""What the Makefile's targets would run."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

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
    programs = {path.stem for path in (ROOT / "benchmarks").glob("*.py") if "__main__" in path.read_text()}
    without = programs - {"prepare", "precision", "gpu"}
    expected = [f"benchmarks/{name}.py --output runs/bench/{name}.json" for name in sorted(without)]
    assert sorted(started) == sorted([*expected, prepare] if prepare else expected)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, and the benchmarks would start")
def test_bench_gpu_without_a_gpu_is_one_line() -> None:
    done = subprocess.run([sys.executable, "benchmarks/gpu.py"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    assert re.fullmatch(
        r"bench-gpu: there is no GPU to measure on: PyTorch \S+ (is built without CUDA|finds none)\n", done.stderr
    )


def test_a_python_that_is_too_old_is_one_line(tmp_path: Path) -> None:
    """No environment is made with it; the same where PYTHON is no program at all."""
    for name in ("Makefile", "setup.py", "requirements.txt"):
        shutil.copy(ROOT / name, tmp_path)
    old = tmp_path / "old python"
    old.write_text(f"#!/bin/sh\n[ \"$1\" = --version ] && echo Python 3.9.18 || exec '{sys.executable}' -c 'exit(1)'\n")
    old.chmod(0o755)
    for python, found in (("./old\\ python", "Python 3.9.18"), ("no-such-python", "not found")):
        command = ["make", "--silent", "setup", f"PYTHON={python}"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        lines = [line for line in done.stdout.splitlines() if line]
        assert done.returncode != 0 and len(lines) == 1, done.stdout + done.stderr
        assert "make needs Python 3.11 or newer" in lines[0] and found in lines[0]
        assert not (tmp_path / ".venv").exists()
