"""What the demo asks for: a protocol that `run` takes, on its own data and on GLUE's."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from fairseq_tickets.cli import demo, main
from fairseq_tickets.protocol.config import load_protocol


def written(folder: Path, *arguments: str) -> Path:
    parser = argparse.ArgumentParser()
    demo.add_arguments(parser)
    args = parser.parse_args(["--output", str(folder), *arguments])
    glue = folder / "glue" if args.glue is None else args.glue
    demo._write_protocol(folder / "protocol.yaml", args, folder / "model", glue, args.glue is None)
    return folder / "protocol.yaml"


def test_embedded(tmp_path: Path) -> None:
    protocol = load_protocol(written(tmp_path))
    assert protocol.experiment == "demo" and list(protocol.tasks) == [demo.EMBEDDED_TASK]
    assert list(protocol.seeds) == [1, 2]
    assert protocol.super_tickets is not None and protocol.dominant is not None
    assert protocol.super_tickets.levels[demo.EMBEDDED_TASK] == (0.4, 0.6)
    assert set(protocol.dominant.methods) == {"dominant", "random_dimensions"}


def test_a_glue_task(tmp_path: Path) -> None:
    path = written(tmp_path, "--glue", "glue", "--task", "RTE", "--levels", "0.3", "--seeds", "7", "--epochs", "2")
    protocol = load_protocol(path)
    assert (protocol.experiment, list(protocol.tasks), list(protocol.seeds)) == ("rte", ["RTE"], [7])
    assert protocol.tasks["RTE"].max_epoch == 2 and protocol.dominant is None


@pytest.mark.parametrize("arguments", [["--task", "RTE"], ["--glue", "x"]])
def test_glue_and_task_go_together(arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--output", str(tmp_path), *arguments]) == 2
    assert "--glue and --task go together" in capsys.readouterr().err
