"""Dominant tickets through export: checkpoint -> delta file -> dense checkpoint, the same weights bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from fairseq_tickets import checkpoint
from fairseq_tickets.cli import main
from fairseq_tickets.parameters import MATRICES, ModelShape, matrix_name
from fairseq_tickets.tickets import DominantTicket
from tests.convert.toy import stock_fairseq
from tests.full_disk import small_files
from tests.plugin.toy import EMBED, FFN, HEADS, LAYERS, dictionary, model_options, randomise, ticket_roberta, tokens

HEAD = "sentence_classification_head"
SHAPE = ModelShape(LAYERS, HEADS, EMBED, FFN)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """A base, a ticket of column 2 and the bias everywhere (nothing in layer 1), and a model trained under it."""
    torch.manual_seed(2)
    model = ticket_roberta()
    randomise(model)
    options = {"_name": "ticket_roberta", "layernorm_eps": 1e-5, **model_options()}
    weights = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("classification")}
    made = {name: tmp_path / name for name in ("base.pt", "ticket.json", "tuned.pt", "delta.safetensors", "merged")}
    checkpoint.save({"args": None, "cfg": {"model": options}, "model": weights}, made["base.pt"])
    rows = {m: [[2, SHAPE.in_features(m)] if layer != 1 else [] for layer in range(LAYERS)] for m in MATRICES}
    DominantTicket(SHAPE, rows).save(made["ticket.json"])
    with torch.no_grad():
        parameters = dict(model.named_parameters())
        for layer in (0, 2):
            for matrix in MATRICES:
                parameters[matrix_name(layer, matrix)][:, 2] += 0.5
                parameters[matrix_name(layer, matrix, "bias")] -= 0.25
    tuned: dict[str, Any] = {"args": None, "cfg": {"model": options}, "model": model.state_dict()}
    checkpoint.save(tuned, made["tuned.pt"])
    return made


def arguments(files: dict[str, Path], *options: str) -> list[str]:
    """Command line in which names of `files` stand for their paths."""
    return ["export", *(str(files.get(option, option)) for option in options)]


CUT = ("--checkpoint", "tuned.pt", "--to", "delta", "--base", "base.pt", "--ticket", "ticket.json")


def test_there_and_back(files: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments(files, *CUT, "--output", "delta.safetensors")) == 0
    assert "trainable parameters" in capsys.readouterr().out
    (files["base.pt"].parent / "dict.txt").write_text("".join(f"{word} 1\n" for word in dictionary().symbols[4:-1]))
    assert main(arguments(files, "--delta", "delta.safetensors", "--base", "base.pt", "--output", "merged")) == 0
    tuned = checkpoint.load(files["tuned.pt"])["model"]
    merged = checkpoint.load(files["merged"] / "model.pt")["model"]
    assert {name for name in tuned if not name.endswith(".version")} == merged.keys()
    assert all(torch.equal(tensor, tuned[name]) for name, tensor in merged.items())
    model = ticket_roberta()
    model.load_state_dict(tuned)
    batch = tokens()
    logits = stock_fairseq(files["merged"]).predict(HEAD, batch, return_logits=True)
    torch.testing.assert_close(logits, model.eval()(batch, classification_head_name=HEAD)[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("to", ["delta", "hf", "fairseq"])
def test_a_disk_that_takes_no_more_is_one_line(
    files: dict[str, Path], to: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / {"delta": "d.safetensors", "hf": "hf", "fairseq": "out.pt"}[to]
    words = CUT if to == "delta" else ("--checkpoint", "tuned.pt", "--to", to)
    with small_files(2000):
        assert main(arguments(files, *words, "--output", str(out))) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert len(lines) == 1 and "cannot write" in lines[0] and "File too large" in lines[0]
    assert not out.exists() and not list(tmp_path.glob("*.tmp"))


def test_a_model_that_moved_outside_its_ticket_is_refused(
    files: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    tuned = checkpoint.load(files["tuned.pt"])
    tuned["model"][matrix_name(1, "fc1")][0, 0] += 1
    checkpoint.save(tuned, files["tuned.pt"])
    assert main(arguments(files, *CUT, "--output", "delta.safetensors")) == 2
    assert "layers.1.fc1.weight differs from --base outside the ticket" in capsys.readouterr().err
    assert not files["delta.safetensors"].exists()


def test_another_base_is_refused(files: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments(files, *CUT, "--output", "delta.safetensors")) == 0
    base = checkpoint.load(files["base.pt"])
    base["model"][matrix_name(0, "fc2")][0, 0] += 1
    checkpoint.save(base, files["base.pt"])
    assert main(arguments(files, "--delta", "delta.safetensors", "--base", "base.pt", "--output", "merged")) == 2
    assert "trained from another base" in capsys.readouterr().err
    assert not files["merged"].exists()
