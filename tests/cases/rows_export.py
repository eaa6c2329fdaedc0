"""Exports: tokenizers of every kind beside a model, what a task says about its pairs and labels, adapters."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from fairseq_tickets import checkpoint
from fairseq_tickets.cli import main
from fairseq_tickets.convert import import_folder
from fairseq_tickets.dominant_ticket.delta import make_delta, save_delta
from fairseq_tickets.parameters import MATRICES, matrix_name, model_shape
from fairseq_tickets.task_record import recorded_task
from fairseq_tickets.tickets import DominantTicket

from ..convert import tokenizers_made as made
from .case import Case

TEXT = [
    "the good cat sat on a mat",
    "a dog ran and the bird sings",
    "was it raining in the house",
    "not bad at all",
] * 40
EXPORT = ("fairseq-tickets", "export", "--to", "hf", "--output", "out")
PRETRAINED = (*EXPORT, "--checkpoint", "base/model.pt")
TUNED = (*EXPORT, "--checkpoint", "run/tuned.pt")
TO_PEFT = ("fairseq-tickets", "export", "--to", "peft", "--output", "out")
Make = Callable[[Path, Path], None]
Check = Callable[[Path], None]


def source(write: Callable[[Path, list[str]], None], separator: int | None = None) -> Make:
    """A Hugging Face folder, imported as base/; run/tuned.pt is it after a task of pairs, with a head."""

    def make(toy: Path, at: Path) -> None:
        (at / "hf").mkdir()
        write(at / "hf", TEXT)
        import_folder(at / "hf", at / "base")
        tuned(at, separator)

    return make


def tuned(at: Path, separator: int | None) -> None:
    """run/tuned.pt, whose data are gone."""
    state = checkpoint.load(at / "base" / "model.pt")
    size = state["model"]["encoder.sentence_encoder.embed_tokens.weight"].shape[1]
    for part, rows in (("dense", size), ("out_proj", 2)):
        state["model"][f"classification_heads.sentence_classification_head.{part}.weight"] = torch.ones(rows, size)
        state["model"][f"classification_heads.sentence_classification_head.{part}.bias"] = torch.ones(rows)
    task = {"_name": "sentence_prediction", "classification_head_name": "sentence_classification_head", "data": "gone"}
    task.update({"init_token": 0, "separator_token": separator, "max_positions": 32})  # type: ignore[dict-item]
    cfg = {**state["cfg"], "task": task, "checkpoint": {"finetune_from_model": str(at / "base" / "model.pt")}}
    (at / "run").mkdir()
    checkpoint.save({**state, "cfg": cfg}, at / "run" / "tuned.pt")


def public(toy: Path, at: Path) -> None:
    """fairseq's own folder: model.pt, encoder.json, vocab.bpe, and a dict.txt in another order."""
    (at / "base").mkdir()
    made.public_bpe(at / "base", TEXT, 300)
    rows = len((at / "base" / "dict.txt").read_text().splitlines()) + 5
    state = checkpoint.load(toy / "model.pt")
    for name in ("encoder.sentence_encoder.embed_tokens.weight", "encoder.lm_head.weight"):
        state["model"][name] = torch.ones(rows, state["model"][name].shape[1])
    state["model"]["encoder.lm_head.bias"] = torch.ones(rows)
    checkpoint.save(state, at / "base" / "model.pt")


def dictionary_alone(toy: Path, at: Path) -> None:
    """model.pt and dict.txt, no tokenizer."""
    public(toy, at)
    for name in ("encoder.json", "vocab.bpe"):
        (at / "base" / name).unlink()


def joins(first: str, second: str, expected: str, **config: Any) -> Check:
    """The exported AutoTokenizer's words of a pair, as a regular expression, and fields of config.json."""

    def check(at: Path) -> None:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(at / "out")
        found = tokenizer.convert_ids_to_tokens(tokenizer(first, second)["input_ids"])
        assert re.fullmatch(expected, " ".join(found)), found
        written = json.loads((at / "out" / "config.json").read_text())
        assert {name: written[name] for name in config} == config

    return check


def pieces(at: Path) -> None:
    """The exported tokenizer's pieces are sentencepiece's own, between <s> and </s>."""
    from sentencepiece import SentencePieceProcessor
    from transformers import AutoTokenizer

    model = SentencePieceProcessor(model_file=str(at / "hf" / "sentencepiece.bpe.model"))
    tokenizer = AutoTokenizer.from_pretrained(at / "out")
    found = tokenizer.convert_ids_to_tokens(tokenizer("good cat the")["input_ids"])
    assert found == ["<s>", *model.encode("good cat the", out_type=str), "</s>"] and found[1].startswith("▁")
    assert json.loads((at / "out" / "config.json").read_text())["model_type"] == "xlm-roberta"


def by_dictionary(at: Path) -> None:
    """Every number is the line of GPT-2's number in dict.txt, in a pair joined as RoBERTa does."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import AutoTokenizer

    base = at / "base"
    gpt2 = Tokenizer(models.BPE.from_file(str(base / "encoder.json"), str(base / "vocab.bpe")))
    gpt2.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    lines = [line.split()[0] for line in (base / "dict.txt").read_text().splitlines()]
    first, second = ([4 + lines.index(str(n)) for n in gpt2.encode(text).ids] for text in ("the cat", "a dog"))
    numbers = AutoTokenizer.from_pretrained(at / "out")("the cat", "a dog")["input_ids"]
    assert numbers == [0, *first, 2, 2, *second, 2]


def weights_alone(at: Path) -> None:
    """No tokenizer, and the weights are there."""
    assert sorted(path.name for path in (at / "out").iterdir()) == ["config.json", "model.safetensors"]


def delta(toy: Path, at: Path) -> None:
    """A delta with a head, of the toy model and its data."""
    trained = checkpoint.load(toy / "tuned.pt")
    base = checkpoint.encoder_tensors(toy / "model.pt")
    shape = model_shape(base, 4)
    ticket = DominantTicket(shape, {m: [[1]] + [[] for _ in range(shape.layers - 1)] for m in MATRICES})
    tensors = {**base, **{n: t for n, t in trained["model"].items() if n.startswith("classification_heads.")}}
    tensors[matrix_name(0, "fc1")] = tensors[matrix_name(0, "fc1")] + torch.eye(*base[matrix_name(0, "fc1")].shape)
    made_delta = make_delta(tensors, ticket, checkpoint.fingerprint(base))
    made_delta.task = recorded_task(trained)
    save_delta(at / "d.safetensors", made_delta)


def empty_delta(toy: Path, at: Path) -> None:
    """A delta whose ticket has no dimension."""
    base = checkpoint.encoder_tensors(toy / "model.pt")
    shape = model_shape(base, 4)
    none = DominantTicket(shape, {m: [[] for _ in range(shape.layers)] for m in MATRICES})
    save_delta(at / "d.safetensors", make_delta(base, none, checkpoint.fingerprint(base)))


def label_names(at: Path) -> None:
    """The names in the task's data."""
    assert json.loads((at / "out" / "config.json").read_text())["id2label"] == {"0": "c0", "1": "c1", "2": "c2"}


def adapter(toy: Path, at: Path) -> None:
    """An adapter of the toy model, and a base of another size."""
    delta(toy, at)
    words = ["--delta", str(at / "d.safetensors"), "--base", str(toy / "model.pt"), "--output", str(at / "adapter")]
    assert main(["export", "--to", "peft", *words]) == 0
    shutil.copy(toy / "model.pt", at / "other.pt")
    state = checkpoint.load(at / "other.pt")
    state["model"][matrix_name(0, "fc1")][0, 0] += 1
    checkpoint.save(state, at / "other.pt")


def written(name: str, content: bytes) -> Make:
    """The adapter with another file in the place of one of its own."""

    def make(toy: Path, at: Path) -> None:
        adapter(toy, at)
        (at / "adapter" / name).write_bytes(content)

    return make


OUT, LOCK = ("out", ".out.lock"), (".out.lock",)
FROM_DELTA = ("--delta", "d.safetensors", "--base", "{toy}/model.pt")
BACK = ("fairseq-tickets", "import", "--adapter", "adapter", "--base", "{toy}/model.pt", "--output", "back.safetensors")
BERT = {"do_lower_case": True}
XLM_R = source(lambda f, t: made.sentencepiece_file(f, t, 30))

CASES = (
    Case(
        "XLM-R's sentencepiece at export",
        source(lambda f, t: made.sentencepiece_file(f, t, 30)),
        PRETRAINED,
        code=0,
        check=pieces,
        leaves=OUT,
    ),
    Case(
        "XLM-R's tokenizer.json at export",
        source(lambda f, t: made.unigram_json(f, t, 40)),
        TUNED,
        "joins two sentences as <s> A </s> B </s>",
        0,
        joins("the", "a", r"<s> (?!.*</s> </s>).+ </s> .+ </s>", model_type="xlm-roberta"),
        OUT,
    ),
    Case(
        "BERT trained without separator",
        source(lambda f, t: made.wordpiece(f, t, 60, **BERT)),
        TUNED,
        "joins two sentences as \\[CLS\\] A \\[SEP\\] B \\[SEP\\]",
        0,
        joins(
            "The",
            "a",
            r"\[CLS\] the \[SEP\] a \[SEP\]",
            model_type="roberta",
            problem_type="single_label_classification",
        ),
        OUT,
    ),
    Case(
        "BERT trained with a separator",
        source(lambda f, t: made.wordpiece(f, t, 60, **BERT), 2),
        TUNED,
        code=0,
        check=joins("The", "a", r"\[CLS\] the \[SEP\] \[SEP\] a \[SEP\]"),
        leaves=OUT,
    ),
    Case(
        "BERT that no task was trained on",
        source(lambda f, t: made.wordpiece(f, t, 60, **BERT)),
        PRETRAINED,
        "no sentence task is recorded",
        0,
        joins("The", "a", r"\[CLS\] the \[SEP\] a \[SEP\]"),
        OUT,
    ),
    Case(
        "RoBERTa trained without separator",
        source(lambda f, t: made.roberta_files(f, t, True, 300)),
        TUNED,
        code=0,
        check=joins("the", "a", "<s> Ġthe </s> Ġa </s>"),
        leaves=OUT,
    ),
    Case(
        "another separator asked for",
        source(lambda f, t: made.roberta_files(f, t, True, 300)),
        (*TUNED, "--separator-token", "2"),
        code=0,
        check=joins("the", "a", "<s> Ġthe </s> </s> Ġa </s>"),
        leaves=OUT,
    ),
    Case("a separator that is no number", public, (*PRETRAINED, "--separator-token", "x"), "must be a number or none"),
    Case(
        "a separator that is no special word",
        source(lambda f, t: made.roberta_files(f, t, True, 300)),
        (*TUNED, "--separator-token", "9"),
        "separator_token is 9; only the special words",
        leaves=LOCK,
    ),
    Case("fairseq's own folder at export", public, PRETRAINED, code=0, check=by_dictionary, leaves=OUT),
    Case(
        "a dictionary and no tokenizer at export",
        dictionary_alone,
        PRETRAINED,
        "no tokenizer was written",
        0,
        weights_alone,
        OUT,
    ),
    Case("label names of a delta", delta, (*EXPORT, *FROM_DELTA), code=0, check=label_names, leaves=OUT),
    Case(
        "an adapter of an empty delta",
        empty_delta,
        (*TO_PEFT, *FROM_DELTA),
        "trains no dimension",
        leaves=LOCK,
    ),
    Case("an adapter of a checkpoint", delta, (*TO_PEFT, "--checkpoint", "{toy}/tuned.pt"), "needs --delta and --base"),
    Case(
        "an adapter into a file", delta, (*TO_PEFT, *FROM_DELTA, "--output", "x.safetensors"), "is the name of a file"
    ),
    Case("an adapter back", adapter, BACK, "dominant ticket: 6 dimensions", 0, leaves=("back.safetensors",)),
    Case("an adapter of another base", adapter, (*BACK, "--base", "other.pt"), "belongs to another base"),
    Case("an adapter without base", adapter, BACK[:4] + BACK[6:], "--adapter needs --base"),
    Case("an adapter into a folder", adapter, (*BACK, "--output", "x"), "must end in .safetensors"),
    Case(
        "a base without adapter",
        adapter,
        ("fairseq-tickets", "import", "--model", "x", *BACK[4:]),
        "goes with --adapter",
    ),
    Case("no adapter there", adapter, (*BACK, "--adapter", "nothing"), "is not a folder"),
    Case("an adapter that is cut", written("adapter_model.safetensors", b"\x09"), BACK, "not a whole safetensors file"),
    Case("an adapter's settings cut", written("adapter_config.json", b"{"), BACK, "not valid JSON"),
    Case("another file for an adapter's settings", written("adapter_config.json", b"[]"), BACK, "not an adapter"),
    Case(
        "an adapter of another method",
        written("adapter_config.json", b'{"peft_type": "IA3"}'),
        BACK,
        "peft_type is 'IA3'; only a LORA",
    ),
)
