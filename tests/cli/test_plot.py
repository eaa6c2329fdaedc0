"""`fairseq-tickets plot` as typed."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("matplotlib", reason="matplotlib is not installed: no plots")

from fairseq_tickets.cli import main
from fairseq_tickets.scores import ImportanceScores
from tests.analysis.samples import SMALL, single_task_runs, skeleton_ticket, super_ticket, write


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "results", single_task_runs(("RTE",), seeds=2))
    skeleton_ticket(SMALL, 1).save("dominant.json")
    super_ticket(SMALL, [[1] * 4] * 3, [1] * 3).save("super.json")
    ImportanceScores(np.ones((3, 4)), np.ones(3), 1).save("rte.npz")
    return tmp_path


def test_pdf_and_png_at_once(files):
    arguments = ["results", "--split", "report", "--task", "RTE", "--output", "p/a.pdf", "--output", "p/a.png"]
    assert main(["plot", "phase-transition", *arguments]) == 0
    assert (files / "p/a.pdf").read_bytes().startswith(b"%PDF") and (files / "p/a.png").stat().st_size > 10000
    assert b"runs=50|seeds=1,2" in (files / "p/a.png").read_bytes()


def test_both_styles_of_importance(files):
    for style in ("pies", "map"):
        assert main(["plot", "importance", "RTE=rte.npz", "--style", style, "--output", f"{style}.png"]) == 0
    assert (files / "pies.png").read_bytes() != (files / "map.png").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["phases", "results"], "plot phases: must be one of phase-transition, gain"),
        (["subsets", "results"], "more than one share"),
        (["phase-transition", "results", "--split", "select"], "--split select: must be all or report"),
        (["phase-transition", "results", "--task", "CoLA"], "--task CoLA: no such results"),
        (["importance", "rte.npz", "--style", "bars"], "--style bars"),
        (["out-weighted", "rte.npz"], "not a counts file: it lacks q_proj"),
        (["skeleton", "super.json"], "is a super ticket; a dominant ticket is needed"),
        (["skeleton", "dominant.json", "--at-least", "0"], "--at-least is 0"),
    ],
)
def test_errors(files, capsys, arguments, reason):
    assert main(["plot", *arguments, "--output", "x.pdf"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("fairseq-tickets: error: ") and reason in error and error.count("\n") == 1
    assert not (files / "x.pdf").exists()


def test_suffix_is_checked_before_anything_is_drawn(files, capsys):
    assert main(["plot", "phase-transition", "results", "--output", "a.pdf", "--output", "a.gif"]) == 2
    assert "--output a.gif: a figure must end in .pdf, .png or .svg" in capsys.readouterr().err
    assert not (files / "a.pdf").exists()
