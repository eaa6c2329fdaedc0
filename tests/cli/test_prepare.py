"""`fairseq-tickets prepare` as a user types it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fairseq_tickets.cli import main
from tests.data.samples import write_pairs, write_wordpiece


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a tokenizer `tok` and a task in RTE's layout under `glue`; labels are RTE's."""
    monkeypatch.chdir(tmp_path)
    write_wordpiece(tmp_path / "tok")
    for path in write_pairs(tmp_path / "glue" / "RTE").iterdir():
        text = path.read_text(encoding="utf-8").replace("\tyes", "\tentailment").replace("\tno", "\tnot_entailment")
        path.write_text(text, encoding="utf-8")
    write_pairs(tmp_path / "own")
    return tmp_path


KNOWN = ["prepare", "--glue", "glue", "--task", "rte", "--tokenizer", "tok", "--output", "out"]
OWN = [
    "prepare",
    "--train",
    "own/train.tsv",
    "--valid",
    "own/dev.tsv",
    "--tokenizer",
    "tok",
    "--output",
    "mine",
]
COLUMNS = ["--columns", "sentence1,sentence2"]


def test_known_task(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with open("glue/RTE/train.tsv", "a", encoding="utf-8") as handle:
        handle.write("one column\n")
    assert main(KNOWN) == 0
    printed = capsys.readouterr().out
    assert "RTE: pairs, 2 classes: entailment, not_entailment" in printed
    assert "train  train.tsv: 4 lines, 3 kept, 1 rejected, PARTIAL (the published file has 2490)" in printed
    assert "bad column count: 1, in line 5" in printed
    assert "test   test.tsv: 1 lines, 1 kept, 0 rejected, unlabelled" in printed
    assert (work / "out" / "input1" / "valid.idx").exists()


def test_own_columns_and_json(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*OWN, *COLUMNS, "--metrics", "f1,accuracy", "--subset", "50%", "--seed", "2", "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content == json.loads((work / "mine" / "task.json").read_text(encoding="utf-8"))
    assert content["name"] == "mine" and content["labels"] == ["no", "yes"] and content["metric"] == "f1"
    assert content["subset"] == {"asked": "50%", "seed": 2, "examples": 1, "of": 3}


def test_own_files_without_header(work: Path) -> None:
    for name in ("train", "dev"):
        path = work / "own" / f"{name}.tsv"
        path.write_text("".join(path.read_text(encoding="utf-8").splitlines(keepends=True)[1:]), encoding="utf-8")
    assert main([*OWN, "--no-header", "--columns", "1,2", "--label", "3"]) == 0
    content = json.loads((work / "mine" / "task.json").read_text(encoding="utf-8"))
    assert content["splits"]["train"]["kept"] == 3 and content["labels"] == ["no", "yes"]


def test_own_json_lines_with_scores(work: Path) -> None:
    rows = [
        {"text": "the cat", "grade": 0.5},
        {"text": "a dog", "grade": 1},
        {"text": "a dog sat", "grade": 7},
    ]
    (work / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    files = ["--train", "data.jsonl", "--valid", "data.jsonl", "--columns", "text", "--label", "grade"]
    assert main(["prepare", *files, "--regression", "0,5", "--tokenizer", "tok", "--output", "mine"]) == 0
    assert (work / "mine" / "label" / "train.label").read_text(encoding="utf-8") == "0.5\n1.0\n"
    assert main(["prepare", *files, "--regression", "--tokenizer", "tok", "--output", "any"]) == 0
    content = json.loads((work / "any" / "task.json").read_text(encoding="utf-8"))
    assert content["splits"]["train"]["kept"] == 3 and content["regression_range"] is None


def test_sentencepiece_in_the_output(work: Path) -> None:
    options = ["--train-sentencepiece", "17", "--output", "out"]
    assert main([*KNOWN[:5], *options]) == 0
    assert (work / "out" / "sentencepiece.model").exists()


def test_overwrite(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(KNOWN) == 0
    assert main(KNOWN) == 2
    assert "--output out: it exists already; --overwrite replaces it" in capsys.readouterr().err
    assert main([*KNOWN, "--overwrite"]) == 0


MISTAKES = [
    ([], "give --glue and --task, or your own files"),
    (["--task", "RTE"], "--glue and --task belong together"),
    (["--glue", "glue", "--task", "RET"], "--task RET: unknown; one of CoLA"),
    (["--glue", "absent", "--task", "RTE"], "--glue absent: no such folder"),
    (["--glue", "glue", "--task", "CoLA"], "holds no folder CoLA"),
    (["--glue", "glue", "--task", "RTE", "--label", "gold"], "--label is for your own files"),
    (
        ["--glue", "glue", "--task", "RTE", "--docstring-data", "80,40"],
        "--docstring-data goes with --task describes or origin or follows",
    ),
    (
        ["--glue", "glue", "--task", "origin", "--docstring-data", "80"],
        "--docstring-data 80: give two numbers",
    ),
    (["--glue", "glue", "--task", "RTE", "--max-length", "0"], "--max-length is 0"),
    (
        ["--glue", "glue", "--task", "RTE", "--train-sentencepiece", "1"],
        "--train-sentencepiece is 1; it must be at least 2",
    ),
    (OWN[1:5], "--columns: name the sentence columns"),
    ([*OWN[1:5], "--columns", "a,b,c"], "give one or two sentence columns"),
    (
        [*OWN[1:5], "--columns", "premise,hypothesis"],
        "lacks premise, hypothesis; it has sentence1, sentence2, label",
    ),
    ([*OWN[1:5], *COLUMNS, "--label", "gold"], "--label gold: own/train.tsv has no such column"),
    ([*OWN[1:5], "--columns", "sentence2", "--label", "sentence1"], "3 different labels in 3 lines"),
    ([*OWN[1:5], *COLUMNS, "--labels", "yes,maybe"], "dev.tsv: 1 of 2 lines"),
    ([*OWN[1:5], *COLUMNS, "--labels", "yes"], "at least two different ones"),
    ([*OWN[1:5], *COLUMNS, "--labels", "yes,<pad>"], "cannot hold it; rename it"),
    ([*OWN[1:5], *COLUMNS, "--metrics", "pearson"], "pearson is not one of accuracy, f1, mcc"),
    ([*OWN[1:5], *COLUMNS, "--regression", "5,0"], "LOW must be below HIGH"),
    ([*OWN[1:5], *COLUMNS, "--regression", "5"], "--regression 5: give two numbers"),
    ([*OWN[1:5], *COLUMNS, "--regression", "0,5"], "most often: bad score"),
    ([*OWN[1:5], "--no-header", *COLUMNS], "columns are then numbers from 1, not sentence1"),
]


@pytest.mark.parametrize(("options", "message"), MISTAKES, ids=[row[1][:40] for row in MISTAKES])
def test_mistakes_are_one_line(
    work: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    if "yes,maybe" in options:  # so that a valid file, not the training file, is mostly bad
        (work / "own" / "dev.tsv").write_text("sentence1\tsentence2\tlabel\na\tb\tno\nc\td\tno\n", encoding="utf-8")
        (work / "own" / "train.tsv").write_text("sentence1\tsentence2\tlabel\na\tb\tyes\nc\td\tyes\n", encoding="utf-8")
        message = "dev.tsv: 2 of 2 lines are no examples, most often: unknown label"
    assert main(["prepare", *options, "--tokenizer", "tok", "--output", "out"]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error and error.startswith("fairseq-tickets: error: ") and len(error.splitlines()) == 1
    assert not (work / "out").exists()


def test_docstring_data_is_written_and_prepared(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("scipy")
    options = [
        "--glue",
        "demo",
        "--task",
        "origin",
        "--docstring-data",
        "80,40",
        "--train-sentencepiece",
        "400",
    ]
    assert main(["prepare", *options, "--output", "out", "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert [content["splits"][split]["kept"] for split in ("train", "valid")] == [80, 40]
    assert content["labels"] == ["numpy", "python", "scipy", "torch"] and content["partial"] is False


def test_help_names_the_tasks(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["prepare", "--help"])
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    assert "SciTail" in printed and "--train-sentencepiece" in printed and "1%" in printed
