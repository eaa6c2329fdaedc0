"""An exported folder sees what training saw: numbers and logits of real sentence pairs, for every kind of tokenizer.

One side is fairseq's: `prepare`, `fairseq-train`, and the checkpoint loaded and run as fairseq-validate does. The other
is transformers' alone: AutoTokenizer and the text-classification pipeline on the exported folder.
"""

from __future__ import annotations

import json
import os
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, Optional

import pytest
import torch
from torch import Tensor

from fairseq_tickets.cli import main
from fairseq_tickets.convert import import_folder
from fairseq_tickets.data.tokenization import load_tokenizer
from fairseq_tickets.parameters import ModelShape
from fairseq_tickets.plugin.loading import load_finetuned
from fairseq_tickets.tickets import SuperTicket
from tests.convert import tokenizers_made as made
from tests.convert.minilm import minilm_folder
from tests.plugin.training import train, validate_words

pytestmark = pytest.mark.skipif("GLUE_DIR" not in os.environ, reason="GLUE_DIR names no folder with GLUE's files")
Pairs = list[tuple[str, str, str]]
ODD: Pairs = [
    ("Café naïve ÉLAN,  two  spaces", "北京 is a city — isn't it?", "0"),
    ("A [SEP] word and a </s> word <mask>", "the [MASK] ﬁne", "1"),
]


def pairs(task: str, label: Callable[[str], str]) -> Pairs:
    """50 of GLUE's, and two with accents, ligatures, another script and special words as text."""
    lines = (Path(os.environ["GLUE_DIR"]) / task / "dev.tsv").read_text(encoding="utf-8").splitlines()
    names = lines[0].split("\t")
    rows = [line.split("\t") for line in lines[1:51]]
    a, b, last = names.index("sentence1"), names.index("sentence2"), len(names) - 1
    return [*((row[a], row[b], label(row[last])) for row in rows), *ODD]


def minilm(folder: Path, text: list[str]) -> None:
    """The tokenizer.json of a real BERT, with a small model."""
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt"):
        (folder / name).write_bytes((minilm_folder() / name).read_bytes())
    made.write_model(folder, "Bert", 30522, layer_norm_eps=1e-12)


def public(folder: Path, text: list[str]) -> None:
    """fairseq's own RoBERTa folder: made without Hugging Face."""
    from fairseq.data import Dictionary
    from fairseq.models.roberta import RobertaModel

    made.public_bpe(folder, text)
    words = Dictionary.load(str(folder / "dict.txt"))
    words.add_symbol("<mask>")
    names = ("embed_dim", "layers", "attention_heads", "ffn_embed_dim")
    options = {f"encoder_{n}": v for n, v in zip(names, (12, 2, 3, 20))}
    args = Namespace(arch="roberta_base", max_positions=512, **options)
    torch.manual_seed(3)
    model = RobertaModel.build_model(args, SimpleNamespace(source_dictionary=words, max_positions=lambda: 512))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    history = [{"criterion_name": "", "optimizer_name": "", "lr_scheduler_state": {}, "num_updates": 0}]
    state = {"args": args, "model": model.state_dict(), "extra_state": {}, "optimizer_history": history}
    torch.save({**state, "last_optimizer_state": None}, folder / "model.pt")


class Kind(NamedTuple):
    """A source, and how the task is trained on it."""

    write: Callable[[Path, list[str]], None]
    separator: Optional[int]
    regression: bool = False
    as_source: bool = True  # transformers reads the source folder's pieces as they are trained on


KINDS = {
    "MiniLM's tokenizer.json": Kind(minilm, None),
    "WordPiece, lower case": Kind(lambda f, t: made.wordpiece(f, t, do_lower_case=True), None),
    "WordPiece, lower case with accents": Kind(
        lambda f, t: made.wordpiece(f, t, do_lower_case=True, strip_accents=False), None
    ),
    "WordPiece, cased": Kind(lambda f, t: made.wordpiece(f, t, do_lower_case=False), 2),
    "WordPiece, cased without accents": Kind(
        lambda f, t: made.wordpiece(f, t, do_lower_case=False, strip_accents=True), None, True
    ),
    "encoder.json and vocab.bpe": Kind(public, 2, as_source=False),
    "vocab.json and merges.txt": Kind(lambda f, t: made.roberta_files(f, t, False), 2),
    "vocab.json and merges.txt, no separator": Kind(lambda f, t: made.roberta_files(f, t, False), None),
    "vocab.json and merges.txt, prefix space": Kind(lambda f, t: made.roberta_files(f, t, True), 2, True),
    "tokenizer.json, byte level": Kind(lambda f, t: made.roberta_json(f, t, False), None, True),
    # here transformers overrules tokenizer.json by its class's defaults
    "tokenizer.json, byte level, prefix space": Kind(lambda f, t: made.roberta_json(f, t, True), 2, as_source=False),
    # it reads sentencepiece models only with the package protobuf
    "sentencepiece": Kind(made.sentencepiece_file, 2, as_source=False),
    "sentencepiece, no separator": Kind(made.sentencepiece_file, None, as_source=False),
    "tokenizer.json, unigram": Kind(made.unigram_json, 2, True, as_source=False),
}


def write_rows(path: Path, rows: Pairs) -> Path:
    """TSV."""
    path.write_text("a\tb\tlabel\n" + "".join("\t".join(row) + "\n" for row in rows), encoding="utf-8")
    return path


def fairseq_side(checkpoint: Path, data: Path) -> tuple[list[list[int]], Tensor]:
    """Numbers and logits of the validation split in its file's order, one example at a time."""
    model, task = load_finetuned(checkpoint, data)
    dataset = task.load_dataset("valid")
    numbers: dict[int, list[int]] = {}
    logits: dict[int, Tensor] = {}
    with torch.no_grad():
        for index in range(len(dataset)):
            sample = dataset.collater([dataset[index]])
            place = int(sample["id"][0])
            numbers[place] = sample["net_input"]["src_tokens"][0].tolist()
            head = "sentence_classification_head"
            logits[place] = model(**sample["net_input"], features_only=True, classification_head_name=head)[0][0]
    return [numbers[n] for n in sorted(numbers)], torch.stack([logits[n] for n in sorted(logits)])


def transformers_side(folder: Path, rows: Pairs) -> tuple[list[list[int]], Tensor, Any]:
    """The same by transformers' pipeline."""
    from transformers import pipeline

    classify = pipeline("text-classification", model=str(folder), function_to_apply="none", top_k=None, device=-1)
    places = classify.model.config.label2id
    numbers, logits = [], []
    for a, b, _ in rows:
        numbers.append(classify.tokenizer(a, b)["input_ids"])
        found = {entry["label"]: entry["score"] for entry in classify({"text": a, "text_pair": b})}
        logits.append([found[label] for label in sorted(places, key=places.__getitem__)])
    return numbers, torch.tensor(logits), classify.model.config


@pytest.mark.parametrize("name", KINDS)
def test_numbers_and_logits_are_those_of_training(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from transformers import AutoTokenizer

    kind = KINDS[name]
    task, label = ("STS-B", str) if kind.regression else ("RTE", lambda word: "01"[word == "entailment"])
    rows = pairs(task, label)
    if "sentencepiece" in name or "unigram" in name:  # see convert/tokenizer.py: it can't tell these from text
        rows = [*rows[:-1], ("A word", "the ﬁne", "1")]
    base = tmp_path / "base"
    source = base if kind.write is public else tmp_path / "source"
    source.mkdir()
    kind.write(source, [text for a, b, _ in rows[:50] for text in (a, b)])
    if kind.write is not public:
        import_folder(source, base)
    if kind.as_source:
        theirs, ours = AutoTokenizer.from_pretrained(source, split_special_tokens=True), load_tokenizer(base)
        for text in (text for a, b, _ in rows for text in (a, b)):
            assert theirs.tokenize(text) == ours.encode(text)
    file, data = str(write_rows(tmp_path / "rows.tsv", rows)), tmp_path / "data"
    words = ["--train", file, "--valid", file, "--columns", "a,b", "--tokenizer", str(base), "--output", str(data)]
    assert main(["prepare", *words, *(["--regression"] if kind.regression else ["--labels", "0,1"])]) == 0
    joined = ("--separator-token", str(-1 if kind.separator is None else kind.separator))
    run = train(data, tmp_path / "run", base / "model.pt", "--max-update", "3", "--lr", "0.001", *joined)
    expected, logits = fairseq_side(run.path(), data)
    capsys.readouterr()
    assert main(["export", "--checkpoint", str(run.path()), "--to", "hf", "--output", str(tmp_path / "hf")]) == 0
    said = capsys.readouterr().err
    numbers, theirs, config = transformers_side(tmp_path / "hf", rows)
    if kind.write is public:  # five pieces that the dictionary lacks have copies of <unk>'s row
        size = config.vocab_size - 5
        assert max(max(row) for row in numbers) >= size
        numbers = [[3 if number >= size else number for number in row] for row in numbers]
    assert len(numbers) == 52 and numbers == expected
    torch.testing.assert_close(theirs, logits, atol=1e-5, rtol=0)
    assert logits.std(0).min() > 1e-3  # the model does see what it reads
    eos = "[SEP]" if "WordPiece" in name or "MiniLM" in name else "</s>"
    middle = f"{eos} {eos}" if kind.separator == 2 else eos
    assert f"joins two sentences as {'[CLS]' if eos == '[SEP]' else '<s>'} A {middle} B {eos}" in said
    assert config.problem_type == ("regression" if kind.regression else "single_label_classification")
    assert config.id2label == ({0: "LABEL_0"} if kind.regression else {0: "0", 1: "1"})
    assert config.model_type == ("xlm-roberta" if "sentencepiece" in name or "unigram" in name else "roberta")
    assert config.layer_norm_eps == (1e-5 if kind.write is public else 1e-12)


def test_a_pruned_model_is_exported_dense_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows, source, base = pairs("RTE", lambda word: "01"[word == "entailment"]), tmp_path / "source", tmp_path / "base"
    source.mkdir()
    made.roberta_files(source, [text for a, b, _ in rows[:50] for text in (a, b)], False)
    import_folder(source, base)
    file, data = str(write_rows(tmp_path / "rows.tsv", rows)), tmp_path / "data"
    words = ["--train", file, "--valid", file, "--columns", "a,b", "--labels", "0,1", "--tokenizer", str(base)]
    assert main(["prepare", *words, "--output", str(data)]) == 0
    SuperTicket(ModelShape(2, 3, 12, 20), [[1, 0, 1], [0, 0, 1]], [1, 0]).save(tmp_path / "t.json")
    more = ("--ticket", str(tmp_path / "t.json"), "--max-update", "2", "--separator-token", "2")
    run = train(data, tmp_path / "run", base / "model.pt", *more)
    capsys.readouterr()
    assert main(["export", "--checkpoint", str(run.path()), "--to", "hf", "--output", str(tmp_path / "hf")]) == 0
    assert "3 of 6 heads and 1 of 2 FFNs are pruned: they are written as zeros" in capsys.readouterr().err
    expected, logits = fairseq_side(run.path(), data)
    numbers, theirs, _ = transformers_side(tmp_path / "hf", rows)
    assert numbers == expected
    torch.testing.assert_close(theirs, logits, atol=1e-5, rtol=0)
    words = [str(data), "--path", str(run.path()), "--batch-size", "8", "--cpu", "--num-workers", "0"]
    components = ["--task", "ticket_sentence_prediction", "--criterion", "ticket_sentence_prediction"]
    accuracy = validate_words([*words, *components, "--log-format", "json"])["accuracy"]
    right = [int(row.argmax()) == int(label) for row, (_, _, label) in zip(theirs, rows)]
    assert accuracy == pytest.approx(sum(right) / len(right), abs=1e-3)
    assert json.loads((tmp_path / "hf" / "config.json").read_text())["num_attention_heads"] == 3
