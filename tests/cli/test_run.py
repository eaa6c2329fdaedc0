"""`fairseq-tickets run`: dry run, errors with exit code 2 and nothing written."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from fairseq_tickets.cli import main
from fairseq_tickets.cli.run import duration, progress
from fairseq_tickets.protocol import lease
from fairseq_tickets.protocol.status import Progress
from tests.protocol.conftest import inputs, write  # noqa: F401  (fixtures)


def test_a_dry_run_lists_and_writes_nothing(write: Any, tmp_path: Path, capsys: Any) -> None:  # noqa: F811
    output = tmp_path / "runs"
    assert main(["run", str(write(seeds=[1, 2])), "--output", str(output), "--dry-run"]) == 0
    text = capsys.readouterr().out
    assert text.count("RTE full") == 2 and text.count("RTE winning 0.34") == 2
    assert "0 runs finished, 6 left" in text
    assert not output.exists()


def test_a_dry_run_as_json(write: Any, tmp_path: Path, capsys: Any) -> None:  # noqa: F811
    assert main(["run", str(write()), "--output", str(tmp_path / "runs"), "--dry-run", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [run["kind"] for run in listed["runs"]] == ["train", "score", "train"]
    assert listed["left"] == 3 and listed["seconds_left"] is None
    assert [run["state"] for run in listed["runs"]] == ["left"] * 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sped": 1}, "unknown key 'sped'"),
        ({"super_tickets": {"levels": [0.01]}}, "0.01 prunes nothing"),
        ({"super_tickets": {"levels": [1.5]}}, "1.5 prunes everything"),
    ],
)
def test_a_bad_protocol(write: Any, tmp_path: Path, capsys: Any, changes: Any, message: str) -> None:  # noqa: F811
    output = tmp_path / "runs"
    assert main(["run", str(write(**changes)), "--output", str(output)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("fairseq-tickets: error: ") and message in error
    assert error.count("\n") == 1
    assert not output.exists()


def test_workers_must_be_at_least_one(write: Any, capsys: Any) -> None:  # noqa: F811
    assert main(["run", str(write()), "--workers", "0"]) == 2
    assert "--workers is 0" in capsys.readouterr().err


def test_no_such_file(capsys: Any) -> None:
    assert main(["run", "missing.yaml"]) == 2
    assert "cannot read protocol file missing.yaml" in capsys.readouterr().err


def test_durations() -> None:
    assert duration(None) == "unknown"
    assert duration(42.4) == "about 42 s"
    assert duration(600) == "about 10 min"
    assert duration(7500) == "about 2 h 05 min"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--engine", "dask"], "--engine dask: it must be one of local, ray, ray:ADDRESS, slurm"),
        (["--engine", "ray:"], "--engine ray:: it must be one of"),
        (["--engine", "local:8"], "--engine local:8: it must be one of"),
        (["--engine", "slurm", "--slurm", "account"], "--slurm account: it must be NAME=VALUE"),
        (["--memory", "0"], "--memory is 0"),
        (["--time", "soon"], "--time is 'soon'; it must be a whole number"),
    ],
)
def test_options_of_engines(write: Any, tmp_path: Path, capsys: Any, options: list[str], message: str) -> None:  # noqa: F811
    output = tmp_path / "runs"
    try:
        code = main(["run", str(write()), "--output", str(output), *options])
    except SystemExit as ended:
        code = int(ended.code or 0)
    error = capsys.readouterr().err
    assert code == 2 and message in error and error.count("\n") == 1
    assert not output.exists()


@pytest.mark.parametrize(("engine", "module"), [("ray", "ray"), ("slurm", "submitit")])
def test_an_extra_that_is_not_installed(
    write: Any,  # noqa: F811
    tmp_path: Path,
    capsys: Any,
    monkeypatch: Any,
    engine: str,
    module: str,
) -> None:
    monkeypatch.setitem(sys.modules, module, None)  # `import` raises ImportError
    assert main(["run", str(write()), "--output", str(tmp_path / "runs"), "--engine", engine]) == 2
    assert f"pip install 'fairseq_tickets[{engine}]'" in capsys.readouterr().err


def test_slurm_where_there_is_none(write: Any, tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:  # noqa: F811
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["run", str(write()), "--output", str(tmp_path / "runs"), "--engine", "slurm"]) == 2
    assert "--engine slurm: there is no sbatch here" in capsys.readouterr().err


def test_a_gpu_where_there_is_none(write: Any, tmp_path: Path, capsys: Any) -> None:  # noqa: F811
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    training = {"learning_rates": [1e-2], "batch_sizes": [8], "max_epoch": 1, "device": "cuda"}
    assert main(["run", str(write(training=training)), "--output", str(tmp_path / "runs")]) == 2
    error = capsys.readouterr().err
    assert "device is 'cuda', but PyTorch finds no GPU here" in error and error.count("\n") == 1


def test_the_status_of_what_another_process_does(write: Any, tmp_path: Path, capsys: Any) -> None:  # noqa: F811
    path, output = str(write()), tmp_path / "runs"
    assert main(["run", path, "--output", str(output), "--dry-run", "--json"]) == 0
    first = json.loads(capsys.readouterr().out)["runs"][0]["key"]
    held = lease.claim(output / "toy" / first, lambda: None)
    assert isinstance(held, lease.Lease)
    assert main(["run", path, "--output", str(output), "--status"]) == 0
    text = capsys.readouterr().out
    held.release()
    assert f"running: process {os.getpid()} on " in text and "0 runs finished, 3 left, 1 of them running" in text
    assert text.count("RTE") == 1  # the running one only
    assert main(["run", path, "--output", str(output), "--status"]) == 0
    assert "running" not in capsys.readouterr().out


def test_progress_in_a_log_is_a_line_for_what_happens(capsys: Any) -> None:
    with progress() as tell:
        tell(Progress(0, 3, {"a": "", "b": "process 7 on n2"}, 1, None, []))
        tell(Progress(1, 2, {"b": "process 7 on n2"}, 0, 600.0, ["done: a"]))
        tell(Progress(3, 0, {}, 0, 0.0, ["done: b", "done: c"]))
    assert capsys.readouterr().err.splitlines() == [
        "done: a (1 done, 1 running (some by process 7 on n2), 1 left, about 10 min)",
        "done: c and 1 others (3 done, 0 running, 0 left)",
    ]
