"""The Slurm engine on a real Slurm of two nodes; `make test-slurm` installs and runs it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fairseq_tickets.cli import main
from fairseq_tickets.errors import UserError
from fairseq_tickets.protocol.engines import Options, local, start_engine
from tests.protocol import toy_steps
from tests.protocol.conftest import inputs, write  # noqa: F401  (fixtures)
from tests.protocol.test_run import results
from tests.protocol.toy_steps import chain, drive, plan_at, texts
from tests.slurm.cluster import cluster, impatient, missing, output, wait_until

pytest.importorskip("submitit", reason="the extra [slurm] is not installed")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(missing()) or os.getuid() != 0, reason="needs root and Slurm's daemons: make test-slurm"),
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
]
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", autouse=True)
def conf() -> Iterator[Path]:
    os.environ["PYTHONPATH"] = str(ROOT)
    with tempfile.TemporaryDirectory(prefix="slurm-") as folder, cluster(Path(folder)) as made:
        yield made
    del os.environ["PYTHONPATH"]


def engine(folder: Path, **options: Any) -> Any:
    return start_engine("slurm", Options(partition="main", **options), folder)


def starts(folder: Path) -> list[str]:
    path = folder / "starts.txt"
    return [line.split()[0] for line in path.read_text().splitlines()] if path.exists() else []


def test_the_same_as_on_one_machine_in_arrays(tmp_path: Path) -> None:
    drive(plan_at(tmp_path / "slurm"), engine(tmp_path / "slurm"), chain)
    drive(plan_at(tmp_path / "local"), local.LocalEngine(1), chain)
    assert texts(tmp_path / "slurm") == texts(tmp_path / "local")
    assert sorted(starts(tmp_path / "slurm")) == sorted({*starts(tmp_path / "slurm")})
    jobs = output("sacct", "-X", "-n", "-P", "-o", "JobID").split()
    assert any("_" in job for job in jobs)  # an array


def test_a_step_that_fails_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the run bad failed: there is a reason"):
        drive(plan_at(tmp_path), engine(tmp_path), toy_steps.failing)
    assert "good" in texts(tmp_path).values()


def test_a_driver_that_was_killed_is_called_again_while_its_jobs_run(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.protocol.toy_steps", str(tmp_path), "slurm", "1", "slow"]
    driver = subprocess.Popen(command, cwd=ROOT)
    wait_until(lambda: len(starts(tmp_path)) == 2, "two running jobs")  # of four: two wait in the queue
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    assert len(output("squeue", "-h", "--array").splitlines()) >= 3
    assert subprocess.run(command, cwd=ROOT, timeout=300).returncode == 0
    assert sorted(texts(tmp_path).values()) == ["slow0", "slow1", "slow2", "slow3"]
    assert sorted(starts(tmp_path)) == ["slow0", "slow1", "slow2", "slow3"]  # each once
    # a job's number means nothing once it has left the queue, nor in a cluster that was made anew
    assert subprocess.run(command, cwd=ROOT, timeout=300).returncode == 0
    assert len(starts(tmp_path)) == 4


def test_a_preempted_job_goes_back(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.protocol.toy_steps", str(tmp_path), "slurm", "1", "slow"]
    driver = subprocess.Popen(command, cwd=ROOT)
    wait_until(lambda: len(starts(tmp_path)) == 2, "two running jobs")
    running = output("squeue", "-h", "--array", "-t", "R", "-o", "%i").split()
    subprocess.run(["scontrol", "requeue", running[0]], check=True)
    with impatient():
        assert driver.wait(400) == 0
    assert sorted(texts(tmp_path).values()) == ["slow0", "slow1", "slow2", "slow3"]
    assert len(starts(tmp_path)) >= 5  # the one that was put back was begun again


def test_a_job_at_its_time_limit_goes_back(tmp_path: Path) -> None:
    """A first attempt longer than the limit, a second one that is not."""
    with impatient():
        drive(plan_at(tmp_path), engine(tmp_path, time=1), toy_steps.slow_once)
    assert list(texts(tmp_path).values()) == ["at last"]
    assert len(starts(tmp_path)) == 2


def test_what_slurm_refuses_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--engine slurm: sbatch refuses the job: .*[Pp]artition") as error:
        drive(plan_at(tmp_path), start_engine("slurm", Options(partition="nowhere"), tmp_path), chain)
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="sbatch refuses the job"):
        drive(plan_at(tmp_path), engine(tmp_path, gpus=1), chain)


def test_a_whole_protocol_is_bit_for_bit_that_of_one_machine(write: Any, tmp_path: Path) -> None:  # noqa: F811
    path = write(super_tickets={"levels": [0.34], "keep": ["winning"]})
    for name in ("slurm", "local"):
        extra = ["--engine", "slurm", "--partition", "main", "--memory", "2"] if name == "slurm" else []
        assert main(["run", str(path), "--output", str(tmp_path / name), *extra]) == 0
    assert len(results(tmp_path / "slurm")) == 2 and results(tmp_path / "slurm") == results(tmp_path / "local")
