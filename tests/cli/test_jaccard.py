"""`fairseq-tickets jaccard` as typed."""

from __future__ import annotations

import json

import pytest

from fairseq_tickets.cli import main
from tests.analysis.samples import SMALL, paper_ticket, super_ticket


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for task in ("MNLI", "QNLI", "SST"):
        paper_ticket(task).save(f"{task}.json")
    super_ticket(SMALL, [[1] * 4] * 3, [1] * 3).save("super.json")
    return tmp_path


def test_json_names_every_measure(files, capsys):
    assert main(["jaccard", "MNLI.json", "QNLI.json", "SST.json", "--draws", "3", "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    found = {s["measure"]: s for s in content["similarities"]}
    assert list(found) == ["dimension", "parameters", "matrix"]
    assert found["dimension"]["names"] == ["MNLI", "QNLI", "SST"]
    assert found["dimension"]["matrix"][0][1] == pytest.approx(15 / 21)
    assert found["dimension"]["random"]["draws"] == 3
    assert content["signature"].startswith("files=3|") and content["signature"].endswith("draws=3|seed=1")


def test_groups(files, capsys):
    command = ["jaccard", "--group", "one", "MNLI.json", "QNLI.json", "--group", "two", "MNLI.json", "SST.json"]
    assert main([*command, "--by", "dimension", "--draws", "2", "--format", "csv"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("one,dimension,2,0.714,") and lines[2].startswith("two,dimension,2,0.500,")


def test_names_of_columns(files, capsys):
    assert main(["jaccard", "first=MNLI.json", "QNLI.json", "--draws", "2", "--by", "matrix"]) == 0
    assert "| ticket | first | QNLI  |" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([], "give at least two ticket files"),
        (["MNLI.json"], "at least 2 tickets, got 1"),
        (["MNLI.json", "super.json"], "different kinds"),
        (["MNLI.json", "missing.json"], "cannot read ticket file missing.json"),
        (["MNLI.json", "MNLI.json"], "MNLI.json names two inputs"),
        (["MNLI.json", "QNLI.json", "--by", "eye"], "--by eye: must be one of dimension"),
        (["MNLI.json", "QNLI.json", "--by", "kept heads"], "no such measure for tickets of this kind"),
        (["MNLI.json", "QNLI.json", "--draws", "0"], "--draws is 0"),
        (["MNLI.json", "QNLI.json", "--seed", "-1"], "--seed is -1"),
        (["MNLI.json", "QNLI.json", "--draws", "1", "--format", "html"], "--format html"),
        (["--group", "a", "MNLI.json", "QNLI.json", "--group", "a", "SST.json"], "--group a: this name"),
        (["--group", "a"], "at least 2 tickets, got 0"),
    ],
)
def test_errors(files, capsys, arguments, reason):
    assert main(["jaccard", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("fairseq-tickets: error: ") and reason in error and error.count("\n") == 1
