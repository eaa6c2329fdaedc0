"""What every test shares: one thread, and commands of this environment run as a user runs them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Callable

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # toy models are faster so, and two cores are shared

TIMEOUT = 300
RunCommand = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run_command(tmp_path: Path) -> RunCommand:
    """Run a command of this environment (fairseq-train, fairseq-tickets, python) in a folder of its own."""

    def run(name: str, arguments: Sequence[object] = (), cwd: Path = tmp_path, **environment: str) -> object:
        program = sys.executable if name == "python" else str(Path(sys.executable).with_name(name))
        return subprocess.run(
            [program, *map(str, arguments)],
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            env={**os.environ, "PYTHONWARNINGS": "default", **environment},
        )

    return run
