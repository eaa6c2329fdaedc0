"""`fairseq-tickets export` as it is typed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from fairseq_tickets import checkpoint
from fairseq_tickets.cli import main
from fairseq_tickets.parameters import ModelShape
from fairseq_tickets.tickets import SuperTicket
from tests.convert.toy import stock_fairseq, write_words
from tests.plugin.toy import EMBED, FFN, HEADS, LAYERS, dictionary, model_options, randomise, ticket_roberta, tokens

HEAD = "sentence_classification_head"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A checkpoint as fairseq-train leaves it: dict.txt beside the model it started from, task.json in its data."""
    torch.manual_seed(4)
    model = ticket_roberta()
    randomise(model)
    for folder in ("pretrained", "data", "run"):
        (tmp_path / folder).mkdir()
    write_words(tmp_path / "pretrained", dictionary().symbols)
    (tmp_path / "data" / "label").mkdir()
    (tmp_path / "data" / "label" / "dict.txt").write_text("no 1\nperhaps 1\nyes 1\nmadeupword0000 0\n")
    cfg = {
        "model": {"_name": "ticket_roberta", "layernorm_eps": 1e-5, **model_options()},
        "checkpoint": {"finetune_from_model": str(tmp_path / "pretrained" / "model.pt")},
        "task": {
            "_name": "ticket_sentence_prediction",
            "data": str(tmp_path / "data"),
            "classification_head_name": HEAD,
            "init_token": 0,
            "separator_token": 2,
            "max_positions": 512,
        },
    }
    path = tmp_path / "run" / "checkpoint_best.pt"
    checkpoint.save({"args": None, "cfg": cfg, "model": model.state_dict()}, path)
    return path


def test_dictionary_and_labels_are_found_by_themselves(run: Path, tmp_path: Path) -> None:
    assert main(["export", "--checkpoint", str(run), "--output", str(tmp_path / "fairseq")]) == 0
    assert (tmp_path / "fairseq" / "dict.txt").read_bytes() == (tmp_path / "pretrained" / "dict.txt").read_bytes()
    assert main(["export", "--checkpoint", str(run), "--to", "hf", "--output", str(tmp_path / "hf")]) == 0
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert config["label2id"] == {"no": 0, "perhaps": 1, "yes": 2}
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "hf")
    assert tokenizer.tokenize("w1 w2", "w3", add_special_tokens=True) == "<s> w1 w2 </s> </s> w3 </s>".split()
    assert tokenizer.model_max_length == 16  # the model's positions are fewer than the task's


def test_a_super_ticket_is_put_on_a_full_model(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ticket = SuperTicket(ModelShape(LAYERS, HEADS, EMBED, FFN), [[1, 0, 0, 1], [0, 0, 0, 0], [1, 1, 1, 0]], [1, 0, 1])
    ticket.save(tmp_path / "ticket.json")
    options = ["--ticket", str(tmp_path / "ticket.json"), "--output", str(tmp_path / "out"), "--json"]
    assert main(["export", "--checkpoint", str(run), *options]) == 0
    assert json.loads(capsys.readouterr().out)["eps_difference"] == 0
    model = ticket_roberta()
    model.load_state_dict(checkpoint.load(run)["model"])
    model.ticket_encoder.apply_super_ticket(ticket, "gated")
    batch = tokens()
    expected = model.eval()(batch, classification_head_name=HEAD)[0]
    logits = stock_fairseq(tmp_path / "out").predict(HEAD, batch, return_logits=True)
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=0)


REFUSED = [
    ([], "give either --checkpoint, or --delta"),
    (["--checkpoint", "RUN", "--delta", "d"], "give either --checkpoint, or --delta"),
    (["--delta", "d"], "--delta needs --base"),
    (["--checkpoint", "RUN", "--base", "b"], "--base goes with --delta"),
    (["--checkpoint", "RUN", "--to", "delta"], "--to delta needs --base"),
    (["--checkpoint", "RUN", "--to", "delta", "--base", "b", "--ticket", "t"], "must end in .safetensors"),
    (["--checkpoint", "RUN", "--to", "hf"], "--to hf writes a folder"),
    (["--checkpoint", "missing.pt"], "checkpoint missing.pt does not exist"),
    (["--checkpoint", "RUN", "--ticket", "missing.json"], "cannot read ticket file missing.json"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED)
def test_bad_options_are_one_line(
    options: list[str], message: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    typed = [str(run) if option == "RUN" else option for option in options]
    assert main(["export", *typed, "--output", str(tmp_path / "out.pt")]) == 2
    printed = capsys.readouterr()
    assert message in printed.err and printed.err.count("\n") == 1 and printed.out == ""
    assert not (tmp_path / "out.pt").exists()


def test_a_ticket_of_another_size_is_refused(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    SuperTicket.full(ModelShape(LAYERS, HEADS + 2, EMBED, FFN)).save(tmp_path / "ticket.json")
    options = ["--ticket", str(tmp_path / "ticket.json"), "--output", str(tmp_path / "out")]
    assert main(["export", "--checkpoint", str(run), *options]) == 2
    assert "belongs to another model size: the ticket has layers 3, heads 6" in capsys.readouterr().err
