"""`fairseq-tickets table` as typed."""

from __future__ import annotations

import json

import numpy as np
import pytest

from fairseq_tickets.cli import main
from fairseq_tickets.scores import ImportanceScores
from tests.analysis.samples import SMALL, result, single_task_runs, super_ticket, write


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "results", single_task_runs(("RTE", "MRPC"), seeds=2))
    super_ticket(SMALL, [[1] * 4] * 3, [1] * 3, task="RTE").save("one.json")
    super_ticket(SMALL, [[1, 0, 0, 0]] * 3, [1, 1, 0], task="MRPC").save("two.json")
    ImportanceScores(np.ones((3, 4)), np.ones(3), 1).save("rte.npz")
    return tmp_path


@pytest.mark.parametrize("style", ["markdown", "csv", "latex"])
def test_written_file_equals_what_is_printed(files, capsys, style):
    assert main(["table", "S1", "results", "--format", style]) == 0
    printed = capsys.readouterr().out
    assert main(["table", "S1", "results", "--format", style, "--output", "t/table"]) == 0
    assert (files / "t" / "table").read_text() == printed and "runs=8|seeds=1,2|data=whole" in printed


def test_every_table_of_a_paper(files, capsys):
    assert main(["table", "S", "results", "--json"]) == 0
    out, err = capsys.readouterr()
    assert [t["title"][:2] for t in json.loads(out)] == ["S1", "S2", "S5", "S6", "S7", "S8"]
    assert "S3 left out: the table needs mt_dnn or ticket_share runs" in err


def test_ownership_and_importance(files, capsys):
    assert main(["table", "ownership", "one.json", "two.json", "--json"]) == 0
    (table,) = json.loads(capsys.readouterr().out)
    assert ["only RTE", "9", "1"] in table["rows"] and ["all tasks", "3 (25%)", "2 (67%)"] in table["rows"]
    assert main(["table", "importance", "RTE=rte.npz", "--format", "csv"]) == 0
    assert capsys.readouterr().out.splitlines()[:2] == ["layer,head,importance,RTE", "0,0,0.5000,1.0000"]


def test_one_model_only(files, capsys):
    write(files / "other", [result(model="roberta-large")])
    assert main(["table", "S5", "results", "other", "--model", "roberta-large", "--json"]) == 0
    (table,) = json.loads(capsys.readouterr().out)
    assert [row[0] for row in table["rows"]] == ["ST-DNN roberta-large"]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["S9", "results"], "table S9: must be one of S1, S2"),
        (["D2", "results"], "needs dominant, random_dimensions, bitfit or salience runs; the result files have none"),
        (["D", "results"], "no table of paper D can be made"),
        (["S1", "empty"], "cannot read result file empty"),
        (["S1", "results", "--model", "bert"], "--model bert: no such results; there are minilm"),
        (["S1", "results", "--experiment", "x"], "--experiment x"),
        (["S1", "one.json"], "not a result file"),
        (["ownership", "results/0000.json"], "not a ticket file"),
        (["importance", "one.json"], "scores file one.json"),
    ],
)
def test_errors(files, capsys, arguments, reason):
    assert main(["table", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("fairseq-tickets: error: ") and reason in error and error.count("\n") == 1
