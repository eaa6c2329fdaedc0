"""Export: stock fairseq and transformers compute the logits of the checkpoint, tickets included."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch

from fairseq_tickets import checkpoint
from fairseq_tickets.convert import import_folder
from fairseq_tickets.convert.dense import dense_state_dict
from fairseq_tickets.convert.export import export_fairseq, export_huggingface
from fairseq_tickets.convert.forward import measuring_tokens
from fairseq_tickets.convert.shape import config_from_checkpoint
from fairseq_tickets.convert.vocabulary import write_dictionary
from fairseq_tickets.errors import UserError
from fairseq_tickets.parameters import ModelShape
from fairseq_tickets.recorded import model_settings
from fairseq_tickets.tickets import SuperTicket
from tests.convert.toy import BERT_WORDS, hf_model, stock_fairseq, write_folder, write_words
from tests.plugin.toy import (
    EMBED,
    FFN,
    HEADS,
    LAYERS,
    VOCABULARY,
    dictionary,
    model_options,
    randomise,
    ticket_roberta,
    tokens,
)

HEAD = "sentence_classification_head"
SHAPE = ModelShape(LAYERS, HEADS, EMBED, FFN)
# layer 0 keeps two heads and no FFN, layer 1 no head, layer 2 everything
TICKET = SuperTicket(SHAPE, [[0, 1, 0, 1], [0, 0, 0, 0], [1, 1, 1, 1]], [0, 1, 1])
FORMS = [None, "gated", "compact"]


def trained(form: str | None, eps: float = 1e-5, **changes: Any) -> tuple[Any, dict[str, Any]]:
    """A random ticket_roberta in evaluation mode, and the checkpoint of it."""
    torch.manual_seed(11)
    model = ticket_roberta(layernorm_eps=eps, **changes)
    randomise(model)
    if form is not None:
        model.ticket_encoder.apply_super_ticket(TICKET, form)
    options = {"_name": "ticket_roberta", "layernorm_eps": eps, **model_options(**changes)}
    return model.eval(), {"args": None, "cfg": {"model": options}, "model": model.state_dict()}


@pytest.fixture
def imported(tmp_path: Path) -> Path:
    """A folder with the dict.txt that the toy model belongs to."""
    folder = tmp_path / "imported"
    folder.mkdir()
    write_dictionary(folder / "dict.txt", dictionary().symbols)
    return folder


def transformers_logits(folder: Path, batch: torch.Tensor) -> torch.Tensor:
    """Logits of AutoModelForSequenceClassification; nothing is missing from the file or unknown."""
    from transformers import AutoModelForSequenceClassification

    model, information = AutoModelForSequenceClassification.from_pretrained(folder, output_loading_info=True)
    assert not information["missing_keys"] and not information["unexpected_keys"]
    logits: torch.Tensor = model.eval()(input_ids=batch, attention_mask=batch.ne(1).long()).logits
    return logits


@pytest.mark.parametrize("form", FORMS)
def test_stock_fairseq_computes_the_same_logits(form: str | None, imported: Path, tmp_path: Path) -> None:
    model, saved = trained(form)
    batch = tokens()
    expected = model(batch, classification_head_name=HEAD)[0]
    report = export_fairseq(saved, tmp_path / "out", imported)
    hub = stock_fairseq(tmp_path / "out")  # strict loading
    torch.testing.assert_close(hub.predict(HEAD, batch, return_logits=True), expected, atol=1e-5, rtol=0)
    hub.train()  # the other code path of stock fairseq's layer; all dropouts are 0
    torch.testing.assert_close(hub.predict(HEAD, batch, return_logits=True), expected, atol=1e-5, rtol=0)
    assert report.eps_difference == 0.0 and [note[:26] for note in report.notes] == (
        [] if form is None else ["6 of 12 heads and 1 of 3 FF"[:26]]
    )


@pytest.mark.parametrize("eps", [1e-5, 1e-2])
@pytest.mark.parametrize("form", FORMS)
def test_transformers_computes_the_same_logits(form: str | None, eps: float, imported: Path, tmp_path: Path) -> None:
    model, saved = trained(form, eps)
    batch = tokens()
    expected = model(batch, classification_head_name=HEAD)[0]
    report = export_huggingface(saved, tmp_path / "out", imported, labels=["no", "perhaps", "yes"])
    torch.testing.assert_close(transformers_logits(tmp_path / "out", batch), expected, atol=1e-5, rtol=0)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["id2label"] == {"0": "no", "1": "perhaps", "2": "yes"} and report.head == HEAD


def test_another_epsilon_is_measured_and_said(imported: Path, tmp_path: Path) -> None:
    model, saved = trained("compact", eps=0.03)
    report = export_fairseq(saved, tmp_path / "out", imported)
    batch = measuring_tokens(VOCABULARY, 16)
    ours = model(batch, classification_head_name=HEAD)[0]
    stock = stock_fairseq(tmp_path / "out").predict(HEAD, batch, return_logits=True)
    difference = (ours - stock).abs().max().item()
    assert difference > 1e-3 and report.eps_difference == pytest.approx(difference, abs=1e-5)
    assert "1e-05" in report.notes[1] and "0.03" in report.notes[1]


def test_dense_weights_of_a_small_ticket_by_hand() -> None:
    """One layer, two heads of one dimension, the first head and the FFN pruned."""
    layer = "encoder.sentence_encoder.layers.0."
    attention = {f"self_attn.{name}_proj": torch.tensor([[1.0, 2.0], [3.0, 4.0]]) for name in ("q", "k", "v", "out")}
    tensors = {f"{layer}{name}.weight": weight for name, weight in attention.items()}
    tensors.update({f"{layer}{name}.bias": torch.tensor([5.0, 6.0]) for name in attention})
    tensors[f"{layer}fc1_bias"] = torch.ones(3)  # a dead copy
    tensors["encoder.sentence_encoder.ticket_heads"] = torch.tensor([[0, 1]], dtype=torch.uint8)
    tensors["encoder.sentence_encoder.ticket_ffn"] = torch.tensor([0], dtype=torch.uint8)
    dense = dense_state_dict(tensors, ffn_dim=3)
    assert dense[f"{layer}self_attn.v_proj.weight"].tolist() == [[0, 0], [3, 4]]
    assert dense[f"{layer}self_attn.v_proj.bias"].tolist() == [0, 6]
    assert dense[f"{layer}self_attn.out_proj.weight"].tolist() == [[0, 2], [0, 4]]
    assert dense[f"{layer}self_attn.out_proj.bias"].tolist() == [5, 6]
    assert dense[f"{layer}fc1.weight"].shape == (3, 2) and dense[f"{layer}fc2.weight"].shape == (2, 3)
    assert not dense[f"{layer}fc2.weight"].any() and not dense[f"{layer}fc2.bias"].any()
    assert not any(name.endswith(("ticket_heads", "ticket_ffn", "fc1_bias")) for name in dense)


def test_gated_and_compact_come_out_equal() -> None:
    exported = [dense_state_dict(trained(form)[1]["model"], FFN) for form in ("gated", "compact")]
    assert exported[0].keys() == exported[1].keys()
    live = {name for name in exported[0] if "fc1" not in name}  # a removed FFN's W^FC1 multiplies nothing
    assert all(torch.equal(exported[0][name], exported[1][name]) for name in live)


@pytest.mark.parametrize("seed", range(5))
def test_import_of_an_export_is_the_same_model(seed: int, tmp_path: Path) -> None:
    """Random sizes: import(export(x)) == x, bit for bit; the language-model head where there is no other."""
    draw = torch.Generator().manual_seed(seed)
    heads, head_dim, ffn, layers = (int(torch.randint(1, 5, (), generator=draw)) for _ in range(4))
    sizes = {
        "encoder_layers": layers,
        "encoder_embed_dim": heads * head_dim,
        "encoder_ffn_embed_dim": ffn,
        "encoder_attention_heads": heads,
        "max_positions": 8 + seed,
    }
    _, saved = trained(None, 1e-12 if seed % 2 else 1e-5, **sizes)
    headless = {name: tensor for name, tensor in saved["model"].items() if not name.startswith("classification")}
    words = write_words(tmp_path / "words", dictionary().symbols)
    for name, tensors in (("with_head", saved["model"]), ("without_head", headless)):
        export_huggingface({**saved, "model": tensors}, tmp_path / name, words)
        report = import_folder(tmp_path / name, tmp_path / f"{name}_again")
        again = checkpoint.load(tmp_path / f"{name}_again" / "model.pt")
        expected = {key: value for key, value in tensors.items() if not key.endswith(".version")}
        assert again["model"].keys() == expected.keys()
        same = [key for key in expected if name == "without_head" or ".lm_head." not in key]
        assert all(torch.equal(again["model"][key], expected[key]) for key in same)
        for key in (*sizes, "layernorm_eps"):
            assert again["cfg"]["model"][key] == saved["cfg"]["model"][key] == report.config[key]
        assert (tmp_path / f"{name}_again" / "dict.txt").read_bytes() == (words / "dict.txt").read_bytes()


def test_fairseq_export_goes_on_training_under_the_plugin(imported: Path, tmp_path: Path) -> None:
    model, saved = trained(None, eps=1e-12)
    export_fairseq(saved, tmp_path / "model.pt")
    assert not (tmp_path / "dict.txt").exists()
    shape = model_settings(checkpoint.load(tmp_path / "model.pt"))
    known = {name: value for name, value in saved["cfg"]["model"].items() if name in shape}
    assert shape == {"activation_fn": "gelu", "pooler_activation_fn": "tanh", **known} and len(shape) == 8
    again = ticket_roberta(layernorm_eps=shape["layernorm_eps"])
    again.load_state_dict(checkpoint.load(tmp_path / "model.pt")["model"])
    batch = tokens()
    assert torch.equal(
        again.eval()(batch, classification_head_name=HEAD)[0], model(batch, classification_head_name=HEAD)[0]
    )


def test_berts_tokenizer_is_renumbered_to_fairseqs_order(tmp_path: Path) -> None:
    """Two sentences through transformers' AutoTokenizer: fairseq's numbers, pairs joined by one end word as in BERT."""
    from tokenizers import BertWordPieceTokenizer
    from transformers import AutoTokenizer

    folder = write_folder(hf_model("Bert", "ForSequenceClassification", num_labels=2), tmp_path / "hf")
    BertWordPieceTokenizer(str(folder / "vocab.txt")).save(str(folder / "tokenizer.json"))
    import_folder(folder, tmp_path / "imported")
    export_huggingface(checkpoint.load(tmp_path / "imported" / "model.pt"), tmp_path / "out", tmp_path / "imported")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    from fairseq.data import Dictionary

    words = Dictionary.load(str(tmp_path / "imported" / "dict.txt"))
    words.add_symbol("<mask>")
    expected = [words.index(word) for word in ["<s>", "the", "cat", "##s", "sat", "</s>", "on", "a", "mat", "</s>"]]
    encoded = tokenizer("The cats sat", "on a mat")
    assert encoded["input_ids"] == expected and "token_type_ids" not in encoded
    assert tokenizer(["a", "the cat"], padding=True)["input_ids"][0] == [0, words.index("a"), 2, 1]
    assert tokenizer.mask_token_id == words.index("<mask>") == len(BERT_WORDS) - 1
    # and what the whole exported folder says is what the original model says of the same words
    original = hf_model("Bert", "ForSequenceClassification", num_labels=2)
    numbers = [BERT_WORDS.index(word) for word in ["[CLS]", "the", "cat", "##s", "[SEP]"]]
    batch = torch.tensor([tokenizer("the cats")["input_ids"]])
    theirs = original(input_ids=torch.tensor([numbers])).logits
    torch.testing.assert_close(transformers_logits(tmp_path / "out", batch), theirs, atol=1e-5, rtol=0)


def test_what_can_not_be_exported_is_refused(imported: Path, tmp_path: Path) -> None:
    model, saved = trained(None)
    with pytest.raises(UserError, match="--head other: the checkpoint's classification heads are: sentence_"):
        export_huggingface(saved, tmp_path / "out", imported, head="other")
    with pytest.raises(UserError, match="2 label names for the 3 classes"):
        export_huggingface(saved, tmp_path / "out", imported, labels=["yes", "no"])
    model.register_classification_head("second", num_classes=2, inner_dim=EMBED + 1)
    two = {**saved, "model": model.state_dict()}
    with pytest.raises(UserError, match="several classification heads; give --head, one of: second, sentence"):
        export_huggingface(two, tmp_path / "out", imported)
    with pytest.raises(UserError, match="is not 12 wide inside"):
        export_huggingface(two, tmp_path / "out", imported, head="second")
    write_dictionary(imported / "dict.txt", dictionary().symbols[:-2])
    for export in (export_fairseq, export_huggingface):
        with pytest.raises(UserError, match="belongs to another model: it has 33 words .* the checkpoint has 35"):
            export(saved, tmp_path / "out", imported)
    with pytest.raises(UserError, match="holds no RoBERTa model"):
        export_fairseq({"model": {"weight": torch.ones(1)}}, tmp_path / "out", imported)
    broken = {**saved, "model": {**trained("compact")[1]["model"]}}
    broken["model"]["encoder.sentence_encoder.ticket_heads"] = torch.ones(LAYERS, HEADS).tril().byte()
    with pytest.raises(UserError, match="ticket is broken"):
        export_fairseq(broken, tmp_path / "out", imported)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["imported"]


def test_what_old_checkpoints_do_not_say_comes_from_their_arch_and_tensors() -> None:
    """Released RoBERTa checkpoints have args with an arch name and no sizes."""
    tensors = trained(None)[1]["model"]
    config = config_from_checkpoint({"args": Namespace(arch="roberta_large"), "model": tensors})
    assert config["encoder_attention_heads"] == 16 and config["layernorm_eps"] == 1e-5
    sizes = ("encoder_layers", "encoder_embed_dim", "encoder_ffn_embed_dim", "max_positions")
    assert [config[name] for name in sizes] == [LAYERS, EMBED, FFN, 16]
    recorded = config_from_checkpoint({"args": Namespace(arch="x", encoder_attention_heads=4), "model": tensors})
    assert recorded["encoder_attention_heads"] == 4


def test_other_architectures_are_refused(tmp_path: Path) -> None:
    _, saved = trained(None)
    options = saved["cfg"]["model"]
    for change, message in (
        ({"encoder_normalize_before": True}, "encoder_normalize_before"),
        ({"activation_fn": "gelu_fast"}, "activation_fn 'gelu_fast' has no counterpart"),
        ({"pooler_activation_fn": "relu"}, "tanh only"),
    ):
        with pytest.raises(UserError, match=message):
            export_huggingface({**saved, "cfg": {"model": {**options, **change}}}, tmp_path / "out")
    assert not (tmp_path / "out").exists()
