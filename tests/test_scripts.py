"""Every analysis program runs from a checkout as a user starts it, and makes what it says."""

from __future__ import annotations

import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fairseq_tickets.counts import DimensionCounts
from fairseq_tickets.scores import ImportanceScores
from tests.analysis.samples import SMALL, counts_of, result, single_task_runs, skeleton_ticket, super_ticket, write

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"
PROGRAMS = {
    "jaccard_stability": (["a.json", "b.json", "--draws", "2"], "mean Jaccard"),
    "dimension_table": (["a.json", "b.json", "--matrix", "v_proj"], "Structure comparison of W^V"),
    "dominant_ticket_tables": (["results"], "D2: The dominant winning ticket"),
    "super_ticket_tables": (["results"], "S1: Single-task fine-tuning"),
    "ticket_ownership": (["RTE=super.json", "MRPC=full.json"], "in the tickets of"),
    "ticket_importance": (["RTE=rte.npz", "MRPC=mrpc.npz"], None),
    "phase_transition": (["results"], None),
    "performance_gain": (["results"], None),
    "training_subsets": (["results"], None),
    "out_weighted_parameters": (["RTE=counts.npz"], None),
    "skeleton": (["a.json", "b.json"], None),
    "training_curves": (["results"], None),
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    for seed, name in enumerate("ab"):
        skeleton_ticket(SMALL, seed).save(folder / f"{name}.json")
    super_ticket(SMALL, [[1, 1, 0, 1], [1, 0, 1, 1], [1, 1, 1, 1]], [1, 0, 1]).save(folder / "super.json")
    super_ticket(SMALL, [[1] * 4] * 3, [1] * 3).save(folder / "full.json")
    generator = np.random.default_rng(0)
    for task in ("rte", "mrpc"):
        ImportanceScores(generator.random((3, 4)), generator.random(3), 1).save(folder / f"{task}.npz")
    DimensionCounts(counts_of(skeleton_ticket(SMALL, 0), 0), {"task": "RTE"}).save(folder / "counts.npz")
    part = [dict(c, train_fraction=0.1, key=f"part {c['key']}") for c in single_task_runs(("RTE",), seeds=2)]
    dominant = [result(method="dominant", top_k=1, source_task="MNLI", seed=s) for s in (1, 2)]
    write(folder / "results", [*single_task_runs(("RTE", "STS-B"), seeds=2), *part, *dominant])
    return folder


def test_every_script_is_tried():
    assert {path.stem for path in SCRIPTS.glob("*.py")} - {"fetch_mpnet"} == set(PROGRAMS)  # it works on downloads


@pytest.mark.parametrize("name", PROGRAMS)
def test_script(name, inputs, tmp_path, monkeypatch, capsys):
    """Run as a main program in this process; a process of its own for each would take seconds each."""
    arguments, expected = PROGRAMS[name]
    figure = tmp_path / "figure.pdf"
    if expected is None:
        pytest.importorskip("matplotlib", reason="matplotlib is not installed: no plots")
        arguments = [*arguments, "--output", str(figure)]
    monkeypatch.chdir(inputs)
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *arguments])
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(SCRIPTS / f"{name}.py"), run_name="__main__")
    assert stopped.value.code == 0, capsys.readouterr().err
    if expected is None:
        assert figure.read_bytes().startswith(b"%PDF")
    else:
        assert expected in capsys.readouterr().out


def test_from_a_checkout_that_is_not_installed(inputs, tmp_path):
    """A copy of the package elsewhere, from another folder: the script must find the package beside itself."""
    checkout = tmp_path / "checkout"
    package = SCRIPTS.parent / "fairseq_tickets"
    shutil.copytree(package, checkout / "fairseq_tickets", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(SCRIPTS, checkout / "scripts", ignore=shutil.ignore_patterns("__pycache__"))
    (checkout / "fairseq_tickets" / "analysis" / "overlap_tables.py").write_text("raise SystemExit('the copy')")
    command = [sys.executable, str(checkout / "scripts" / "jaccard_stability.py"), "a.json", "b.json"]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(command, cwd=inputs, env=environment, capture_output=True, text=True, timeout=120)
    assert done.stderr == "the copy\n"


def test_a_user_error_is_one_line(inputs):
    command = [sys.executable, str(SCRIPTS / "jaccard_stability.py"), "a.json"]
    done = subprocess.run(command, cwd=inputs, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == "fairseq-tickets: error: a comparison needs at least 2 tickets, got 1\n"


@pytest.mark.parametrize("name", PROGRAMS)
def test_help_is_of_the_program_itself(name, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--help"])
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(SCRIPTS / f"{name}.py"), run_name="__main__")
    printed = capsys.readouterr().out
    assert stopped.value.code == 0 and printed.startswith(f"usage: {name}.py ")
    assert f"python scripts/{name}.py" in printed and "from the list above" not in printed
