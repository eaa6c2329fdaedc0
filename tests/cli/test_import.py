"""`fairseq-tickets import` as it is typed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fairseq_tickets.cli import main
from tests.convert.toy import BERT_WORDS, LAYERS, POSITIONS, hf_model, write_folder


def test_writes_the_folder_and_says_what_was_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_folder(hf_model("Bert", "Model"), tmp_path / "hf")
    assert main(["import", "--model", str(folder), "--output", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr()
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"model.pt", "dict.txt", "import.json", "vocab.txt"}
    assert f"bert: {LAYERS} layers" in printed.out and f"--max-positions {POSITIONS}" in printed.out
    assert "not carried over: segment-1 embeddings" in printed.err and "not carried over: pooler" in printed.err


def test_json_is_all_of_standard_output(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_folder(hf_model("Bert", "Model"), tmp_path / "hf")
    assert main(["import", "--model", str(folder), "--output", str(tmp_path / "out"), "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["words"] == len(BERT_WORDS) and figures["model"]["encoder_layers"] == LAYERS


def test_a_wrong_folder_is_one_line_and_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["import", "--model", str(tmp_path / "nothing"), "--output", str(tmp_path / "out")]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("fairseq-tickets: error: --model") and printed.err.count("\n") == 1
    assert not (tmp_path / "out").exists()
