"""`fairseq-tickets dimensions` as typed."""

from __future__ import annotations

import json

import pytest

from fairseq_tickets.cli import main
from tests.analysis.samples import LARGE, SMALL, dominant, paper_ticket, super_ticket


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for task in ("MNLI", "QNLI"):
        paper_ticket(task).save(f"{task}.json")
    dominant(SMALL, {"v_proj": {0: [7, 3], 1: [3]}}).save("small.json")
    super_ticket(SMALL, [[1] * 4] * 3, [1] * 3).save("super.json")
    assert LARGE.layers == 24
    return tmp_path


def test_one_ticket_is_table_1(files, capsys):
    assert main(["dimensions", "small.json", "--matrix", "v_proj", "--matrix", "fc2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [part.strip() for part in lines[2].strip("|").split("|")] == ["Layer", "W^V", "W^FC2"]
    assert [part.strip() for part in lines[5].strip("|").split("|")] == ["1", "3 None", "None"]
    assert "files=1|fairseq_tickets=" in lines[-1]


def test_several_tickets_are_tables_5_to_10(files, capsys):
    assert main(["dimensions", "MNLI.json", "QNLI.json", "--matrix", "q_proj", "--format", "csv"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Layer,MNLI 1,MNLI 2,MNLI 3,QNLI 1,QNLI 2,QNLI 3"
    assert lines[12] == "11,2,93,673,2,547,673"


def test_bias_and_recurrence(files, capsys):
    assert main(["dimensions", "MNLI.json", "--bias", "--sort", "index"]) == 0
    assert "430 498 **1024**" in capsys.readouterr().out
    assert main(["dimensions", "small.json", "--recurrence", "--format", "csv"]) == 0
    assert capsys.readouterr().out.splitlines()[1] == "small,W^V,3,2 of 3,0-1"


def test_json_and_output(files, capsys):
    assert main(["dimensions", "small.json", "--json", "--output", "new/d.json"]) == 0
    assert capsys.readouterr().out == ""
    content = json.loads((files / "new" / "d.json").read_text())
    assert content["layers"]["small"]["v_proj"] == {"3": [0, 1], "7": [0]}


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["super.json"], "is a super ticket; a dominant ticket is needed"),
        (["small.json", "MNLI.json"], "belongs to another model size"),
        (["small.json", "--matrix", "W"], "--matrix W"),
        (["small.json", "--sort", "size"], "--sort size"),
        (["small.json", "--popular", "-1"], "--popular is -1"),
        (["small.json", "--recurrence", "--at-least", "0"], "--at-least is 0"),
        (["small.json", "--format", "html"], "--format html"),
    ],
)
def test_errors(files, capsys, arguments, reason):
    assert main(["dimensions", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("fairseq-tickets: error: ") and reason in error and error.count("\n") == 1
