"""The doctor: what it says of a healthy environment, and that each fault it knows is found."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from fairseq_tickets import checkpoint
from fairseq_tickets.cli import doctor, selftest

VERSIONS = {name: "1.0" for name in doctor.DISTRIBUTIONS}


def found(check: Any, **versions: str | None) -> doctor.Report:
    report = doctor.Report({}, [], [])
    check(report, {**VERSIONS, **versions})
    return report


@pytest.mark.slow
def test_this_environment(capsys: pytest.CaptureFixture[str]) -> None:
    code = doctor.run(argparse.Namespace(json=True))
    facts = json.loads(capsys.readouterr().out)
    assert facts["hook"] == "active"
    assert facts["versions"]["fairseq"] and facts["patched"]
    assert facts["user-dir"].endswith("fairseq_tickets")
    assert facts["tried"] == list(selftest.CHECKS) or facts["wrong"]
    assert code == (1 if facts["wrong"] else 0)


@pytest.mark.parametrize(("wrong", "code"), [([], 0), (["PyTorch is gone"], 1)])
def test_exit_code_and_text(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], wrong: list[str], code: int
) -> None:
    facts = {"gpu": ["one"], "versions": {"torch": "2.13.0", "fairseq": None}}
    monkeypatch.setattr(doctor, "examine", lambda: doctor.Report(facts, wrong, ["a remark"]))
    assert doctor.run(argparse.Namespace(json=False)) == code
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["versions:", "torch", "2.13.0,", "fairseq", "missing"]
    assert "note:        a remark" in lines
    assert lines[-1] == ("wrong:       PyTorch is gone" if wrong else "All is well.")


@pytest.mark.parametrize(("pip", "noted"), [("24.0", False), ("23.3.2", False), ("24.1", True), ("26.0.1", True)])
def test_pip_trap(pip: str, noted: bool) -> None:
    assert bool(found(doctor._pip, pip=pip).notes) == noted


def test_torchaudio_that_does_not_load() -> None:
    def load(name: str) -> None:
        raise OSError(f"lib{name}.so: undefined symbol\nmore")

    report = doctor.Report({}, [], [])
    doctor._torchaudio(report, load)
    (line,) = report.wrong
    assert "undefined symbol" in line and "more" not in line and "pip uninstall torchaudio" in line
    doctor._torchaudio(report, lambda name: None)
    assert len(report.wrong) == 1


def test_missing_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_version", lambda name: None if name == "scipy" else "1.0")
    report = found(doctor._missing, tokenizers=None)
    assert report.wrong == ["not installed: scipy. Run `make setup`, or see Install in README.md"]
    assert "fairseq_tickets[hf]" in report.notes[0]


@pytest.mark.parametrize(
    ("printed", "words"),
    [
        ('{"hook": false, "patched": []}', ["startup hook"]),
        ('{"hook": true, "error": "ValueError: mutable default", "patched": []}', ["mutable default"]),
        ("", ["the interpreter died"]),
    ],
)
def test_hook_and_fairseq(monkeypatch: pytest.MonkeyPatch, printed: str, words: list[str]) -> None:
    answer = argparse.Namespace(stdout=printed, stderr="")
    monkeypatch.setattr(doctor.subprocess, "run", lambda *_, **__: answer)
    wrong = " ".join(found(doctor._fairseq).wrong)
    assert all(word in wrong for word in words)


@pytest.mark.parametrize("name", selftest.CHECKS)
def test_checks_pass_here(name: str, tmp_path: Path) -> None:
    selftest.CHECKS[name][0](tmp_path)


def _no_numpy(self: Any) -> None:
    raise RuntimeError("Numpy is not available")


def _unsafe(path: Any, map_location: Any = "cpu", mmap: bool = False) -> Any:
    return torch.load(path, weights_only=False)


BROKEN = [  # what is broken, by what, and the check that must see it
    ((torch.Tensor, "numpy", _no_numpy), "arrays from tensors", "RuntimeError: Numpy is not available"),
    ((checkpoint, "load", lambda *_, **__: {}), "a small checkpoint written and read", "KeyError"),
    ((checkpoint, "load", _unsafe), "a checkpoint with a planted call refused", "it ran what a checkpoint told it to"),
    ((torch.optim.AdamW, "step", lambda self: None), "one training step", "columns [] moved"),
]


@pytest.mark.parametrize(("broken", "name", "words"), BROKEN, ids=[row[1] for row in BROKEN])
def test_each_check_sees_its_fault(
    broken: Any, name: str, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As the checks report it, and as the doctor says it."""
    with monkeypatch.context() as patch:
        patch.setattr(*broken)
        selftest.main()
    printed = capsys.readouterr().out
    monkeypatch.setattr(
        doctor.subprocess, "run", lambda *_, **__: argparse.Namespace(stdout=printed, stderr="", returncode=0)
    )
    report = found(doctor._tried)
    (line,) = (line for line in report.wrong if line.startswith(f"{name}: "))
    assert words in line and line.endswith(selftest.CHECKS[name][1])
    assert name not in report.facts["tried"]


def test_a_check_that_ends_the_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, *_ = selftest.CHECKS
    lines = [{"started": first}, {"ended": first, "fault": None}, {"started": second}]
    answer = argparse.Namespace(stdout="\n".join(map(json.dumps, lines)), stderr="Illegal instruction\n", returncode=-4)
    monkeypatch.setattr(doctor.subprocess, "run", lambda *_, **__: answer)
    (line,) = found(doctor._tried).wrong
    assert line.startswith(f"{second}: Python ended with exit code -4, Illegal instruction; ")
