"""MPNet: a RoBERTa with a relative position bias; a small random one, and the real one where it was fetched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fairseq_tickets import checkpoint
from fairseq_tickets.convert import import_folder
from fairseq_tickets.convert.export import export_huggingface
from fairseq_tickets.errors import UserError
from fairseq_tickets.plugin.salience import load_pretrained
from fairseq_tickets.recorded import model_settings
from fairseq_tickets.tickets import SuperTicket
from tests.convert.toy import ROBERTA_WORDS, hf_model, padded_batch, write_folder
from tests.plugin import toy
from tests.plugin.training import train, validate

ROOT = Path(__file__).resolve().parents[2]
REAL = ROOT / "runs" / "models" / "all-mpnet-base-v2"
TABLE = "encoder.sentence_encoder.relative_attention_bias.weight"


def small(cls: str = "Model") -> Any:
    """A random MPNet with an epsilon that shows."""
    return hf_model("MPNet", cls, layer_norm_eps=1e-3)


def ticket_model(folder: Path, words: int) -> Any:
    """`ticket_roberta` in the shape of an imported model, with its weights."""
    from types import SimpleNamespace

    from fairseq_tickets.plugin.model import TicketRobertaConfig, TicketRobertaModel

    path = folder / "model.pt"
    config = TicketRobertaConfig()
    for name, value in model_settings(checkpoint.load(path)).items():
        setattr(config, name, value)
    model = TicketRobertaModel.build_model(config, SimpleNamespace(source_dictionary=read_dictionary(folder)))
    assert len(read_dictionary(folder)) == words
    model.load_state_dict(checkpoint.load(path)["model"], strict=True)
    return model.eval()


def read_dictionary(folder: Path) -> Any:
    from fairseq.data import Dictionary

    dictionary = Dictionary.load(str(folder / "dict.txt"))
    dictionary.add_symbol("<mask>")
    return dictionary


def test_other_numbers_of_buckets_are_refused(tmp_path: Path) -> None:
    folder = write_folder(hf_model("MPNet", "Model", relative_attention_num_buckets=8), tmp_path / "hf")
    with pytest.raises(UserError, match="relative_attention_num_buckets must be 32"):
        import_folder(folder, tmp_path / "out")


def small_batch() -> tuple[Tensor, Tensor]:
    return padded_batch(ROBERTA_WORDS, pad=1, first=0, last=2, avoid={0, 1, 2})


def test_hidden_states_are_those_of_transformers(tmp_path: Path) -> None:
    source = small()
    report = import_folder(write_folder(source, tmp_path / "hf"), tmp_path / "out")
    assert report.architecture == "mpnet" and any("position bias" in note for note in report.notes)
    tokens, mask = small_batch()
    theirs = source(input_ids=tokens, attention_mask=mask).last_hidden_state
    ours, _ = ticket_model(tmp_path / "out", len(ROBERTA_WORDS))(tokens, features_only=True)
    where = mask.bool()
    assert theirs[where].abs().max() > 1
    torch.testing.assert_close(ours[where], theirs[where], atol=2e-5, rtol=0)


def test_export_gives_mpnet_back(tmp_path: Path) -> None:
    source = small("ForMaskedLM")
    import_folder(write_folder(source, tmp_path / "hf"), tmp_path / "out")
    export_huggingface(checkpoint.load(tmp_path / "out" / "model.pt"), tmp_path / "back", tmp_path / "out")
    from transformers import AutoModelForMaskedLM

    back = AutoModelForMaskedLM.from_pretrained(tmp_path / "back").eval()
    assert type(back) is type(source)
    tokens, mask = small_batch()
    theirs, ours = (model(input_ids=tokens, attention_mask=mask).logits[mask.bool()] for model in (source, back))
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_stock_roberta_refuses_it(tmp_path: Path) -> None:
    from fairseq.models.roberta import RobertaModel

    import_folder(write_folder(small(), tmp_path / "hf"), tmp_path / "out")
    saved = checkpoint.load(tmp_path / "out" / "model.pt")
    assert saved["cfg"]["model"]["_name"] == "ticket_roberta"
    model = toy.stock_roberta()
    assert isinstance(model, RobertaModel)
    with pytest.raises(UserError, match="relative_attention_bias.weight; it has MPNet's relative position bias"):
        model.load_state_dict({**model.state_dict(), TABLE: saved["model"][TABLE]}, strict=True)


@pytest.fixture
def toy_mpnet(tmp_path: Path) -> Path:
    """A toy checkpoint with the bias, and data for it."""
    toy.write_data(tmp_path / "data")
    model = toy.ticket_roberta(relative_attention_buckets=8)
    toy.randomise(model)
    toy.write_checkpoint(tmp_path / "model.pt", model, relative_attention_buckets=8)
    return tmp_path


def test_compact_and_gated_pruning_are_one_function(toy_mpnet: Path) -> None:
    model, _ = load_pretrained(toy_mpnet / "model.pt", toy_mpnet / "data", 1)
    shape = model.ticket_encoder.shape
    heads = [[int((layer + head) % 3 > 0) for head in range(shape.heads)] for layer in range(shape.layers)]
    ticket = SuperTicket(shape, heads, [1, 0, 1])
    tokens, outputs = toy.tokens(), []
    for form in ("gated", "compact"):
        model, _ = load_pretrained(toy_mpnet / "model.pt", toy_mpnet / "data", 1)
        model.ticket_encoder.apply_super_ticket(ticket, form)
        outputs.append(model(tokens, features_only=True)[0])
    where = tokens.ne(1)
    torch.testing.assert_close(outputs[1][where], outputs[0][where], atol=1e-5, rtol=0)


def test_it_trains_resumes_and_validates(toy_mpnet: Path) -> None:
    run = train(toy_mpnet / "data", toy_mpnet / "saved", toy_mpnet / "model.pt")
    before = checkpoint.load(toy_mpnet / "model.pt")["model"][TABLE]
    assert not torch.equal(run.checkpoint()["model"][TABLE], before)  # all weights train without a ticket
    assert validate(run.path(), toy_mpnet / "data")["loss"] == pytest.approx(run.valid[-1]["loss"], abs=2e-3)


@pytest.fixture(scope="module")
def real() -> Path:
    if not (REAL / "model.safetensors").is_file():
        pytest.skip("MPNet-base is not here; fetch it with `make mpnet` (400 MB)")
    return REAL


def test_the_real_one(real: Path, tmp_path: Path) -> None:
    from transformers import AutoModel, AutoTokenizer

    report = import_folder(real, tmp_path / "out")
    assert (report.words, report.config["encoder_layers"], report.config["relative_attention_buckets"]) == (
        30527,
        12,
        32,
    )
    export_huggingface(checkpoint.load(tmp_path / "out" / "model.pt"), tmp_path / "back", tmp_path / "out")
    sentences = [
        "Lottery tickets hide in pre-trained language models, and some of them win.",
        "A cat sat on the mat.",
        "Naïve café-goers paid 3.50 € — twice! " * 12,
    ]
    batch = AutoTokenizer.from_pretrained(real)(sentences, padding=True, return_tensors="pt")
    where = batch["attention_mask"].bool()
    assert not where.all() and where.shape[1] > 130  # distances in the last bucket
    theirs = AutoModel.from_pretrained(real).eval()(**batch).last_hidden_state[where]
    words = AutoTokenizer.from_pretrained(real).convert_ids_to_tokens(range(30527))
    special = {"[UNK]": "<unk>"}
    dictionary = read_dictionary(tmp_path / "out")
    numbers = batch["input_ids"].clone().apply_(lambda n: dictionary.index(special.get(words[n], words[n])))
    ours, _ = ticket_model(tmp_path / "out", 30527)(numbers, features_only=True)
    torch.testing.assert_close(ours[where], theirs, atol=1e-4, rtol=0)
    again = AutoTokenizer.from_pretrained(tmp_path / "back")(sentences, padding=True, return_tensors="pt")
    model = AutoModel.from_pretrained(tmp_path / "back").eval()
    torch.testing.assert_close(model(**again).last_hidden_state[where], theirs, atol=1e-4, rtol=0)
