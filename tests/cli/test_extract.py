"""The `extract` command: files in, ticket out, one-line errors, nothing half-written."""

from __future__ import annotations

import json

import pytest
import torch

from fairseq_tickets.cli import main
from fairseq_tickets.dominant_ticket.extraction import extract
from fairseq_tickets.files import sha256
from fairseq_tickets.parameters import matrix_name
from fairseq_tickets.tickets import load_dominant_ticket
from tests.dominant_ticket import toy

CFG = {
    "model": {"_name": "ticket_roberta", "encoder_attention_heads": 2},
    "task": {"data": "somewhere/SST-2"},
    "common": {"seed": 7},
    "criterion": {"_name": "ticket_sentence_prediction_l1", "l1_weight": 1e-3},
    "optimization": {"lr": [3e-5]},
}


@pytest.fixture
def files(tmp_path):
    base = toy.encoder()
    tuned = toy.copy(base)
    tuned[matrix_name(0, "fc1")][:7, 2] += 1e-3
    tuned[matrix_name(0, "fc1")][:3, 5] += 1e-3
    tuned[matrix_name(2, "out_proj", "bias")] -= 1e-3
    tuned["classification_heads.h.dense.weight"] = torch.zeros(6, 6)
    torch.save({"model": base, "cfg": None, "args": None}, tmp_path / "base.pt")
    torch.save({"model": tuned, "cfg": CFG, "args": None}, tmp_path / "tuned.pt")
    return tmp_path, base, tuned


def call(folder, *more, base="base.pt", tuned="tuned.pt"):
    arguments = ["--pretrained", str(folder / base), "--finetuned", str(folder / tuned)]
    return main(["extract", *arguments, "--output", str(folder / "out" / "ticket.json"), *more])


def test_ticket_and_provenance(files, capsys):
    folder, base, tuned = files
    assert call(folder, "--top-k", "2") == 0
    ticket = load_dominant_ticket(folder / "out" / "ticket.json")
    assert ticket.dimensions["fc1"] == [[2, 5], [], []] and ticket.counts["fc1"] == [[7, 3], [], []]
    assert ticket.dimensions == extract(base, tuned, 2, 5e-5, 2).dimensions
    known = ticket.provenance
    assert (known["sigma"], known["top_k"], known["task"], known["seed"]) == (5e-5, 2, "SST-2", 7)
    assert (known["l1_weight"], known["lr"]) == (1e-3, 3e-5)
    assert known["inputs"]["finetuned"] == {"file": "tuned.pt", "sha256": sha256(folder / "tuned.pt")}
    assert "2 dimensions" not in capsys.readouterr().err
    assert str(folder) not in (folder / "out" / "ticket.json").read_text()


def test_json_report_and_counts(files, capsys):
    from fairseq_tickets.counts import DimensionCounts

    folder, _, _ = files
    assert call(folder, "--json", "--report", "--counts", str(folder / "counts.npz")) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["dimensions"] == 2 and figures["trainable_parameters"] == 10 + 6
    assert figures["ticket"]["dimensions"]["out_proj"] == [[], [], [6]]
    assert figures["report"]["fc1"]["above_sigma"] == 10 / 210
    assert figures["report"]["fc1"]["quantiles"]["0.5"] == 0.0
    counts = DimensionCounts.load(folder / "counts.npz")
    assert counts.counts["fc1"].tolist()[0] == [0, 0, 7, 0, 0, 3, 0]
    assert counts.counts["fc2"].shape == (3, 11)


def test_report_as_text(files, capsys):
    assert call(files[0], "--report") == 0
    out = capsys.readouterr().out
    assert "W^FC2" in out and "99.99 %" in out and "2 dimensions, 16 trainable parameters" in out


@pytest.mark.parametrize(
    "options, message",
    [
        (["--sigma", "-1"], "sigma is -1"),
        (["--sigma", "0.5"], "largest |Δθ| is 0.001"),
        (["--top-k", "0"], "--top-k is 0; it must be at least 1"),
        (["--top-k", "8"], "top_k is 8; it must be 1 to 7"),
        (["--heads", "5"], "heads is 5"),
        (["--counts", "/"], "--counts / is a folder; give the name of a file"),
    ],
)
def test_bad_options(files, capsys, options, message):
    folder = files[0]
    assert call(folder, *options) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("fairseq-tickets: error: ") and message in error
    assert not (folder / "out").exists()


def test_bad_files(files, capsys):
    folder, base, tuned = files
    assert call(folder, tuned="base.pt") == 2
    assert "same file" in capsys.readouterr().err
    assert call(folder, tuned="none.pt") == 2
    assert "none.pt" in capsys.readouterr().err
    torch.save({"model": base, "cfg": CFG}, folder / "equal.pt")
    assert call(folder, tuned="equal.pt") == 2
    assert "same encoder weights" in capsys.readouterr().err
    torch.save({"model": {n: t.half() for n, t in tuned.items()}, "cfg": CFG}, folder / "half.pt")
    assert call(folder, tuned="half.pt") == 2
    assert "half precision" in capsys.readouterr().err
    torch.save({"model": tuned, "cfg": None}, folder / "silent.pt")
    assert call(folder, tuned="silent.pt") == 2
    assert "give it with --heads" in capsys.readouterr().err
    assert call(folder, "--heads", "2", tuned="silent.pt") == 0
    torch.save({"epoch": 1}, folder / "empty.pt")
    assert call(folder, tuned="empty.pt") == 2
    assert "no model" in capsys.readouterr().err
    (folder / "cut.pt").write_bytes((folder / "tuned.pt").read_bytes()[:2000])
    assert call(folder, tuned="cut.pt") == 2
    assert "cut.pt" in capsys.readouterr().err


def test_help_teaches_sigma(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["extract", "--help"])
    assert stop.value.code == 0
    assert "scales with the learning rate" in capsys.readouterr().out
