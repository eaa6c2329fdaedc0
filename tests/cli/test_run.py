"""`fairseq-tickets run`: dry run, errors with exit code 2 and nothing written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fairseq_tickets.cli import main
from fairseq_tickets.cli.run import duration
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
