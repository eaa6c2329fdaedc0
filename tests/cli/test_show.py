"""`fairseq-tickets show` as typed."""

from __future__ import annotations

import json

import pytest

from fairseq_tickets.cli import main
from tests.analysis.samples import SMALL, super_ticket
from tests.report.material import inputs


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return inputs(tmp_path_factory.mktemp("show"))


@pytest.mark.parametrize(
    ("name", "texts"),
    [
        ("a.json", ["super ticket: 6 of 12 heads, 2 of 3 FFNs kept", "layer   2  # . . .   .", 'task: "RTE"']),
        ("d0.json", ["dominant ticket:", "W^FC2", "zero-indexed input dimensions"]),
        ("s0.npz", ["importance scores: 3 layers x 4 heads, 10 examples", "most important heads (layer.head):"]),
        ("c0.npz", ["counts of 3 layers", "bias(", "seed: 0"]),
        ("results/0001.json", ["result of one training run", "method: winning", "| all", "super ticket:"]),
    ],
)
def test_every_kind(folder, capsys, name, texts):
    assert main(["show", str(folder / name)]) == 0
    printed = capsys.readouterr().out
    for text in texts:
        assert text in printed


def test_a_terminal_is_not_steered(tmp_path, capsys):
    super_ticket(SMALL, [[1] * 4] * 3, [1] * 3, note="\x1b[2Jgone", **{"\x1b]0;x": 1}).save(tmp_path / "t.json")
    assert main(["show", str(tmp_path / "t.json")]) == 0
    assert "\x1b" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("absent.json", None, "No such file"),
        ("other.json", "{}", "is no ticket, result, scores"),
        ("cut.json", '{"format": ', "is not valid JSON"),
        ("cut.npz", "PK", "cannot read file"),
        ("cut.safetensors", "x", "cut.safetensors"),
        ("notes.txt", "hello", "notes.txt"),
        (".", None, "is a folder"),
    ],
)
def test_others_are_refused_in_one_line(tmp_path, monkeypatch, capsys, name, content, message):
    monkeypatch.chdir(tmp_path)
    if content is not None:
        (tmp_path / name).write_text(content)
    assert main(["show", name]) == 2
    told = capsys.readouterr().err
    assert message in told and told.count("\n") == 1


def test_a_delta(tmp_path, capsys):
    torch = pytest.importorskip("torch")
    from fairseq_tickets.dominant_ticket.delta import Delta, save_delta
    from tests.analysis.samples import dominant

    ticket = dominant(SMALL, {"q_proj": {0: [3]}}, task="RTE")
    save_delta(tmp_path / "d.safetensors", Delta(ticket, "0" * 64, {(0, "q_proj"): torch.ones(20, 1)}))
    assert main(["show", str(tmp_path / "d.safetensors")]) == 0
    printed = capsys.readouterr().out
    assert "delta: 20 trained values" in printed and "dominant ticket: 1 dimensions" in printed
    assert json.dumps("RTE") in printed
