"""Import: hidden states and language-model outputs equal to transformers', computed by stock fairseq."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from fairseq_tickets import checkpoint
from fairseq_tickets.convert import import_folder
from fairseq_tickets.errors import UserError
from fairseq_tickets.files import sha256
from tests.convert.toy import (
    BERT_WORDS,
    EMBED,
    FFN,
    HEADS,
    LAYERS,
    POSITIONS,
    ROBERTA_WORDS,
    hf_model,
    padded_batch,
    stock_fairseq,
    write_folder,
)

BERT_SPECIAL = {"[CLS]": "<s>", "[PAD]": "<pad>", "[SEP]": "</s>", "[UNK]": "<unk>", "[MASK]": "<mask>"}


def batch_for(kind: str) -> tuple[Tensor, Tensor]:
    """Word numbers of the source and the mask."""
    if kind == "Bert":
        return padded_batch(BERT_WORDS, pad=0, first=8, last=10, avoid={0, 8, 10})
    return padded_batch(ROBERTA_WORDS, pad=1, first=0, last=2, avoid={0, 1, 2})


def to_fairseq_numbers(kind: str, tokens: Tensor, folder: Path) -> Tensor:
    """The same words in fairseq's numbers, by looking the words up in fairseq's own dictionary."""
    from fairseq.data import Dictionary

    dictionary = Dictionary.load(str(folder / "dict.txt"))
    dictionary.add_symbol("<mask>")
    words = BERT_WORDS if kind == "Bert" else ROBERTA_WORDS
    assert len(dictionary) == len(words)
    return tokens.clone().apply_(lambda number: dictionary.index(BERT_SPECIAL.get(words[number], words[number])))


@pytest.mark.parametrize("binary", [False, True], ids=["safetensors", "bin"])
@pytest.mark.parametrize("kind", ["Bert", "Roberta", "XLMRoberta"])
def test_hidden_states_are_those_of_transformers(kind: str, binary: bool, tmp_path: Path) -> None:
    model = hf_model(kind, "Model", layer_norm_eps=1e-3)  # an eps that shows
    import_folder(write_folder(model, tmp_path / "hf", binary), tmp_path / "out")
    tokens, mask = batch_for(kind)
    theirs = model(input_ids=tokens, attention_mask=mask).last_hidden_state
    hub = stock_fairseq(tmp_path / "out", eps=1e-3)
    ours = hub.extract_features(to_fairseq_numbers(kind, tokens, tmp_path / "out"))
    where = mask.bool()
    assert theirs[where].abs().max() > 1
    torch.testing.assert_close(ours[where], theirs[where], atol=2e-5, rtol=0)


@pytest.mark.parametrize("kind", ["Bert", "Roberta"])
def test_the_language_model_head_gives_the_same_probabilities(kind: str, tmp_path: Path) -> None:
    model = hf_model(kind, "ForMaskedLM", layer_norm_eps=1e-5)
    report = import_folder(write_folder(model, tmp_path / "hf"), tmp_path / "out")
    tokens, mask = batch_for(kind)
    theirs = model(input_ids=tokens, attention_mask=mask).logits.log_softmax(-1)
    numbers = to_fairseq_numbers(kind, tokens, tmp_path / "out")
    ours = stock_fairseq(tmp_path / "out").model(numbers)[0].log_softmax(-1)
    back = to_fairseq_numbers(kind, torch.arange(theirs.shape[-1]), tmp_path / "out")
    where = mask.bool()
    torch.testing.assert_close(ours[where][:, back], theirs[where], atol=1e-4, rtol=0)
    assert not any("language-model" in note for note in report.notes)


@pytest.mark.parametrize("kind", ["Bert", "Roberta"])
def test_a_sentence_classifier_keeps_its_logits(kind: str, tmp_path: Path) -> None:
    model = hf_model(kind, "ForSequenceClassification", layer_norm_eps=1e-5, num_labels=3)
    import_folder(write_folder(model, tmp_path / "hf"), tmp_path / "out")
    tokens, mask = batch_for(kind)
    theirs = model(input_ids=tokens, attention_mask=mask).logits
    numbers = to_fairseq_numbers(kind, tokens, tmp_path / "out")
    hub = stock_fairseq(tmp_path / "out")
    ours = hub.predict("sentence_classification_head", numbers, return_logits=True)
    torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=0)


def test_the_checkpoint_records_shape_and_eps(tmp_path: Path) -> None:
    model = hf_model("Bert", "Model", layer_norm_eps=1e-12, hidden_dropout_prob=0.3, attention_probs_dropout_prob=0.2)
    import_folder(write_folder(model, tmp_path / "hf"), tmp_path / "out")
    saved = torch.load(tmp_path / "out" / "model.pt", weights_only=True)  # plain types: no allow-list needed
    expected = {
        "encoder_layers": LAYERS,
        "encoder_embed_dim": EMBED,
        "encoder_ffn_embed_dim": FFN,
        "encoder_attention_heads": HEADS,
        "max_positions": POSITIONS,
        "layernorm_eps": 1e-12,
        "dropout": 0.3,
        "attention_dropout": 0.2,
        "activation_fn": "gelu",
        "pooler_dropout": 0.0,
    }
    assert expected.items() <= saved["cfg"]["model"].items()
    assert not any(name.endswith(("in_proj_weight", "fc1_weight")) for name in saved["model"])


def test_what_is_left_behind_is_said_and_recorded(tmp_path: Path) -> None:
    folder = write_folder(hf_model("Bert", "ForPreTraining"), tmp_path / "hf")
    report = import_folder(folder, tmp_path / "out")
    words = " ".join(report.not_carried)
    assert "segment-1" in words and "pooler" in words and "next-sentence" in words
    record = json.loads((tmp_path / "out" / "import.json").read_text())
    assert record["not_carried_over"] == report.not_carried
    assert record["source"]["files"]["model.safetensors"] == sha256(folder / "model.safetensors")
    assert record["checkpoint"]["sha256"] == sha256(tmp_path / "out" / "model.pt")
    assert record["dictionary"]["special"]["</s>"] == "[SEP]"
    assert (tmp_path / "out" / "vocab.txt").read_bytes() == (folder / "vocab.txt").read_bytes()


def test_roberta_leaves_nothing_behind(tmp_path: Path) -> None:
    model = hf_model("Roberta", "ForMaskedLM", layer_norm_eps=1e-5, type_vocab_size=1)
    report = import_folder(write_folder(model, tmp_path / "hf"), tmp_path / "out")
    assert (report.not_carried, report.notes) == ([], [])


def test_half_precision_weights_are_widened(tmp_path: Path) -> None:
    model = hf_model("Roberta", "Model").half()
    report = import_folder(write_folder(model, tmp_path / "hf"), tmp_path / "out")
    saved = checkpoint.load(tmp_path / "out" / "model.pt")["model"]
    assert {tensor.dtype for tensor in saved.values()} == {torch.float32}
    assert any("widened" in note for note in report.notes)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda w: w.fill_(torch.nan), "values that are NaN or infinite"),
        (lambda w: w.char(), "is int8; weights are float32 or float64"),
        (lambda w: w.to(torch.float8_e4m3fn), "is float8_e4m3fn; weights are"),
    ],
)
def test_numbers_that_are_no_weights(change: Callable[[Tensor], Tensor], said: str, tmp_path: Path) -> None:
    folder = write_folder(hf_model("Roberta", "Model"), tmp_path / "hf")
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if name.endswith("output.dense.weight"))
    save_file({**weights, name: change(weights[name])}, folder / "model.safetensors")
    with pytest.raises(UserError, match=f"model.safetensors.*{name}.*{said}|{name} has .*{said}"):
        import_folder(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("part", ["", "0_Transformer"])
def test_sentence_transformers_folders(part: str, tmp_path: Path) -> None:
    write_folder(hf_model("Bert", "Model"), tmp_path / "hf" / part)
    (tmp_path / "hf" / "modules.json").write_text(json.dumps([{"idx": 0, "path": part}, {"path": "1_Pooling"}]))
    assert import_folder(tmp_path / "hf", tmp_path / "out").architecture == "bert"


def test_sharded_weights(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = write_folder(hf_model("Roberta", "Model"), tmp_path / "hf")
    import_folder(folder, tmp_path / "whole")
    tensors = sorted(load_file(folder / "model.safetensors").items())
    save_file(dict(tensors[:9]), folder / "a.safetensors")
    save_file(dict(tensors[9:]), folder / "b.safetensors")
    shards = {name: "a.safetensors" if number < 9 else "b.safetensors" for number, (name, _) in enumerate(tensors)}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    (folder / "model.safetensors").unlink()
    import_folder(folder, tmp_path / "parts")
    whole, parts = (checkpoint.load(tmp_path / name / "model.pt")["model"] for name in ("whole", "parts"))
    assert whole.keys() == parts.keys() and all(torch.equal(whole[name], parts[name]) for name in whole)


BAD_CONFIGS = [
    (
        {"model_type": "gpt2"},
        "model_type 'gpt2' is not supported; it must be one of bert, roberta, xlm-roberta",
    ),
    ({"hidden_act": "swish"}, "hidden_act 'swish' is not supported"),
    ({"position_embedding_type": "relative_key"}, "only absolute positions"),
    ({"is_decoder": True}, "decoder"),
    ({"num_hidden_layers": LAYERS + 1}, "lacks the tensor for encoder.sentence_encoder.layers.3"),
    ({"num_hidden_layers": LAYERS - 1}, "num_hidden_layers 2, but the weights have"),
    ({"intermediate_size": FFN + 1}, "config.json and weights disagree"),
    ({"num_attention_heads": 3}, "multiple of num_attention_heads"),
    (
        {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}},
        "quantization_config is {'quant_method': 'bitsandbytes'.*; quantised weights are not those of the model",
    ),
    ({"pruned_heads": {"0": [1]}}, "pruned_heads is {'0': .1.}; in fairseq's RoBERTa"),
    ({"vocab_size": 7}, "vocab_size is 7, and the word embeddings have"),
    ({"max_position_embeddings": "66"}, "max_position_embeddings is '66', and the position embeddings have"),
    ({"type_vocab_size": 4}, "type_vocab_size is 4, and the token_type embeddings have 2 rows"),
]


@pytest.mark.parametrize(("change", "message"), BAD_CONFIGS)
def test_configs_that_do_not_fit_are_refused(change: dict[str, object], message: str, tmp_path: Path) -> None:
    folder = write_folder(hf_model("Bert", "Model"), tmp_path / "hf")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(UserError, match=message):
        import_folder(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists() and os.listdir(tmp_path) == ["hf"]


@pytest.mark.parametrize("padding", [0, 5, 10**6])
def test_positions_start_after_the_tokenizers_padding(padding: int, tmp_path: Path) -> None:
    folder = write_folder(hf_model("Roberta", "Model"), tmp_path / "hf")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "pad_token_id": padding}))
    with pytest.raises(UserError, match=f"pad_token_id is {padding}, and the tokenizer's padding has number 1"):
        import_folder(folder, tmp_path / "out")


def test_bad_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a folder"):
        import_folder(tmp_path / "missing", tmp_path / "out")
    with pytest.raises(UserError, match="no config.json"):
        import_folder(tmp_path, tmp_path / "out")
    folder = write_folder(hf_model("Bert", "Model"), tmp_path / "hf")
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(UserError, match="not a whole safetensors file"):
        import_folder(folder, tmp_path / "out")
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match="no weights in"):
        import_folder(folder, tmp_path / "out")
    (folder / "model.safetensors").write_bytes(weights)
    (folder / "vocab.txt").unlink()
    with pytest.raises(UserError, match="no vocabulary in"):
        import_folder(folder, tmp_path / "out")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file; a folder is needed"):
        import_folder(write_folder(hf_model("Bert", "Model"), tmp_path / "hf"), tmp_path / "file")
