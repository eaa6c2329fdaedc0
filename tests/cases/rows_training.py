"""What training and scoring do with settings: of a used folder, a checkpoint, a dictionary, labels, metrics."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Optional

import numpy as np
import torch
from sklearn import metrics as reference

from fairseq_tickets import checkpoint
from fairseq_tickets.dictionary import SPECIALS, symbols_digest
from fairseq_tickets.files import sha256
from fairseq_tickets.parameters import MATRICES, ModelShape
from fairseq_tickets.task_record import DICTIONARY
from fairseq_tickets.tickets import DominantTicket, SuperTicket

from ..plugin import toy
from ..plugin.training import predictions, train
from .case import Case

Make = Callable[[Path, Path], None]
SHAPE = ModelShape(toy.LAYERS, toy.HEADS, toy.EMBED, toy.FFN)
TRAIN = ("fairseq-train", "{toy}/data", "{toy}/model.pt", "--max-epoch", "1")
TASK = ("--task", "ticket_sentence_prediction", "--criterion", "ticket_sentence_prediction")
SAVED, LAST = "saved", Path("saved/checkpoint_last.pt")
RESET = ("--reset-optimizer", "--reset-dataloader", "--reset-meters")


def nothing(toy_folder: Path, at: Path) -> None:
    """The command reads the toy folder alone."""


def used(toy_folder: Path, at: Path) -> None:
    """A save-dir with a finished run without a ticket; tickets and another base to come with."""
    (at / SAVED).mkdir()
    shutil.copyfile(toy_folder / "tuned.pt", at / LAST)
    SuperTicket(SHAPE, [[1, 0, 1, 1], [1, 1, 1, 1], [0, 1, 0, 1]], [1, 0, 1]).save(at / "super.json")
    dims = {matrix: [[1] for _ in range(toy.LAYERS)] for matrix in MATRICES}
    DominantTicket(SHAPE, dims, None, {}).save(at / "dominant.json")
    toy.write_checkpoint(at / "other.pt", toy.stock_roberta(seed=9))
    toy.write_data(at / "other", classes=3, seed=8)


def old_checkpoint(toy_folder: Path, at: Path) -> None:
    """As `used`, from before runs were recorded."""
    used(toy_folder, at)
    state = checkpoint.load(at / LAST)
    checkpoint.save({**state, "task_state": {}}, at / LAST)


def base(name: str = "base.pt", **changes: Any) -> Make:
    """A pre-trained checkpoint that records other settings than RoBERTa's."""

    def make(toy_folder: Path, at: Path) -> None:
        toy.write_checkpoint(at / name, toy.stock_roberta(seed=3), **changes)

    return make


def beside(mix: str) -> Make:
    """A model folder as `import` writes it, and what is wrong in it or with the data."""

    def make(toy_folder: Path, at: Path) -> None:
        (at / "imported").mkdir()
        shutil.copyfile(toy_folder / "model.pt", at / "imported" / "model.pt")
        words = [f"w{index} 1\n" for index in range(toy.WORDS)]
        (at / "imported" / "dict.txt").write_text("".join(words))
        record = {
            "format": "fairseq-tickets/import",
            "architecture": "bert",
            "dictionary": {"sha256": sha256(at / "imported" / "dict.txt")},
            "checkpoint": {"file": "model.pt", "sha256": sha256(at / "imported" / "model.pt")},
        }
        (at / "imported" / "import.json").write_text(json.dumps(record))
        shutil.copytree(toy_folder / "data", at / "permuted")
        (at / "permuted" / "input0" / "dict.txt").write_text("".join(words[::-1]))
        known = json.loads((at / "permuted" / "task.json").read_text())
        known["tokenizer"] = {"kind": "wordpiece", "files": [{"file": "vocab.txt", "sha256": "0"}], "lowercase": True}
        shutil.copytree(toy_folder / "data", at / "cased")
        (at / "cased" / "task.json").write_text(json.dumps(known))
        if mix == "dictionary":
            (at / "imported" / "dict.txt").write_text("".join(words[::-1]))
        elif mix == "weights":
            toy.write_checkpoint(at / "imported" / "model.pt", toy.stock_roberta(seed=4))
        elif mix == "tokenizer":
            (at / "imported" / "vocab.txt").write_text("[UNK]\n")
        elif mix == "case":
            (at / "imported" / "tokenizer_config.json").write_text('{"do_lower_case": false}')

    return make


def alone(toy_folder: Path, at: Path) -> None:
    """An exported model away from its dict.txt, and data whose words have other numbers."""
    beside("")(toy_folder, at)
    content = checkpoint.load(toy_folder / "model.pt")
    words = [*SPECIALS, *(f"w{index}" for index in range(toy.WORDS)), "<mask>"]
    content["extra_state"] = {**content["extra_state"], DICTIONARY: symbols_digest(words)}
    checkpoint.save(content, at / "alone.pt")


def pretrained(toy_folder: Path, at: Path) -> None:
    """As `import` writes it: its task is language modelling, on data that are not there."""
    content = torch.load(toy_folder / "model.pt", weights_only=True)
    content["cfg"]["task"] = {"_name": "masked_lm", "data": "."}
    torch.save(content, at / "base.pt")


def headless(toy_folder: Path, at: Path) -> None:
    """A checkpoint of a run whose classification head is gone."""
    content = checkpoint.load(toy_folder / "tuned.pt")
    weights = {name: value for name, value in content["model"].items() if "classification_heads" not in name}
    checkpoint.save({**content, "model": weights}, at / "headless.pt")


def stock(
    names: Sequence[str],
    labels: Mapping[str, Sequence[Sequence[int]]],
    fillers: int = 0,
    regression: bool = False,
) -> Make:
    """A folder of fairseq-preprocess: label/dict.txt, and each split's labels by index in it, -1 = unknown."""

    def make(toy_folder: Path, at: Path) -> None:
        from fairseq.data.indexed_dataset import MMapIndexedDatasetBuilder

        toy.write_data(at / "data", train=8, valid=5, classes=2, regression=regression)
        (at / "data" / "task.json").unlink()
        if regression:
            return
        lines = [f"{name} {9 - place}\n" for place, name in enumerate(names)]
        lines += [f"madeupword{number:04d} 0\n" for number in range(fillers)]
        (at / "data" / "label" / "dict.txt").write_text("".join(lines))
        for split, rows in labels.items():
            builder = MMapIndexedDatasetBuilder(str(at / "data" / "label" / f"{split}.bin"), dtype=np.uint16)
            for row in rows:
                builder.add_item(torch.tensor([*(4 + index for index in row), 2]))
            builder.finalize(str(at / "data" / "label" / f"{split}.idx"))

    return make


def task_json(**changes: Any) -> Make:
    """Prepared data whose task.json says something else."""

    def make(toy_folder: Path, at: Path) -> None:
        toy.write_data(at / "data", train=8, valid=5, classes=2, regression=bool(changes.pop("scores", False)))
        known = json.loads((at / "data" / "task.json").read_text())
        (at / "data" / "task.json").write_text(json.dumps({**known, **changes}))

    return make


def f1_is_of_the_class_called_1(at: Path) -> None:
    """Index 0 is called "1": its F1, by scikit-learn, is what the best checkpoint was chosen by."""
    _, outputs, targets = predictions(at / LAST, at / "data")
    expected = reference.f1_score(targets, outputs, pos_label=0, zero_division=0.0)
    assert checkpoint.load(at / LAST)["extra_state"]["val_loss"] == expected
    assert expected != reference.f1_score(targets, outputs, pos_label=1, zero_division=0.0)


def records(expected: Optional[Mapping[str, Any]] = None, **settings: Any) -> Callable[[Path], None]:
    """The checkpoint's model has these settings."""

    def check(at: Path) -> None:
        model = checkpoint.load(at / LAST)["cfg"]["model"]
        found = {name: model[name] for name in settings}
        assert found == settings, found

    return check


def has_a_fresh_head(at: Path) -> None:
    old, new = (checkpoint.load(path)["model"] for path in (at / "before.pt", at / LAST))
    name = "classification_heads.sentence_classification_head.out_proj.weight"
    assert old[name].shape == new[name].shape and not torch.allclose(old[name], new[name], rtol=0.5, atol=0)


def tuned(toy_folder: Path, at: Path) -> None:
    """A checkpoint with a head that shows: three times the one that training with this seed begins with."""
    state = checkpoint.load(toy_folder / "tuned.pt")
    for name, tensor in state["model"].items():
        if name.startswith("classification_heads."):
            tensor.mul_(3)
    checkpoint.save(state, at / "before.pt")


def with_adamax(toy_folder: Path, at: Path) -> None:
    """A run with an optimizer of fairseq's older kind."""
    train(toy_folder / "data", at / "run", toy_folder / "model.pt", "--optimizer", "adamax", "--max-epoch", "1")


OTHER = r"--save-dir saved holds another run \(checkpoint_last.pt\): "
L1 = ("--criterion", "ticket_sentence_prediction_l1")
YES_NO = {"train": [[0], [1]] * 4, "valid": [[0], [0], [0], [1], [0]]}
FOLDER = ("fairseq-train", "data", "{toy}/model.pt", "--max-epoch", "1", "--num-classes", "2")
IMPORTED = ("fairseq-train", "{toy}/data", "imported/model.pt", "--max-epoch", "1")

ROWS = (
    # a used save-dir
    *(
        Case(f"used save-dir, {name}", used, (*TRAIN, *options), OTHER + says)
        for name, options, says in (
            ("super ticket", ("--ticket", "super.json"), "--ticket was not given there"),
            ("gated ticket", ("--ticket", "super.json", "--ticket-form", "gated"), "--ticket-form was compact there"),
            ("dominant ticket", ("--ticket", "dominant.json", "--max-epoch", "3"), "--ticket was not given there"),
            ("criterion", L1, "--criterion was ticket_sentence_prediction there"),
            ("examples", ("--train-examples", "8"), "--train-examples was not given there and is 8 here"),
            ("optimizer", ("--optimizer", "adamax"), "--optimizer was adam there and is adamax here"),
        )
    ),
    Case(
        "used save-dir, base",
        used,
        ("fairseq-train", "{toy}/data", "other.pt", "--max-epoch", "1"),
        OTHER + "--finetune-from-model is another one there",
    ),
    Case(
        "used save-dir, data",
        used,
        ("fairseq-train", "other", "{toy}/model.pt", "--max-epoch", "1"),
        OTHER + "data is another one there",
    ),
    Case("used save-dir, the same run", used, TRAIN, code=0),
    Case(
        "used save-dir, old, ticket",
        old_checkpoint,
        (*TRAIN, "--ticket", "super.json"),
        OTHER + "--ticket was not given",
    ),
    Case("used save-dir, old, the same run", old_checkpoint, TRAIN, code=0),
    Case(
        "restored without resets, criterion",
        used,
        ("fairseq-train", "{toy}/data", "-", "--restore-file", str(LAST), *L1, "--pretrained-path", "other.pt"),
        r"--restore-file saved/checkpoint_last.pt holds another run",
    ),
    # settings of a checkpoint
    Case(
        "base with relu",
        base(activation_fn="relu"),
        ("fairseq-train", "{toy}/data", "base.pt", "--max-epoch", "1"),
        code=0,
        check=records(activation_fn="relu"),
    ),
    Case(
        "relu contradicted",
        base(activation_fn="relu"),
        ("fairseq-train", "{toy}/data", "base.pt", "--activation-fn", "gelu"),
        "--activation-fn gelu contradicts base.pt",
    ),
    Case(
        "heads contradicted",
        base(),
        ("fairseq-train", "{toy}/data", "base.pt", "--encoder-attention-heads", "6"),
        "attention-heads 6 contradicts",
    ),
    Case("unknown activation", base(activation_fn="swish"), ("fairseq-train", "{toy}/data", "base.pt"), "swish"),
    Case(
        "pre-norm base",
        base(encoder_normalize_before=True),
        ("fairseq-train", "{toy}/data", "base.pt"),
        "encoder_normalize_before True",
    ),
    Case(
        "restored with resets",
        base(layernorm_eps=1e-12, activation_fn="tanh"),
        ("fairseq-train", "{toy}/data", "-", "--restore-file", "base.pt", *RESET, "--max-epoch", "1"),
        code=0,
        check=records(layernorm_eps=1e-12, activation_fn="tanh", encoder_layers=toy.LAYERS),
    ),
    Case(
        "restored without the file",
        nothing,
        ("fairseq-train", "{toy}/data", "-", "--restore-file", "no.pt", *RESET),
        "--restore-file no.pt does not exist",
    ),
    Case(
        "stock arch, another epsilon",
        base(layernorm_eps=1e-12),
        ("fairseq-train", "{toy}/data", "base.pt", "--arch", "roberta"),
        "contradicts base.pt|epsilon 1e-12",
    ),
    Case(
        "restored from a run with adamax, which has no config class",
        with_adamax,
        ("fairseq-train", "{toy}/data", "-", "--restore-file", "run/checkpoint_last.pt", *RESET, "--max-epoch", "1"),
        code=0,
    ),
    # dictionaries and files beside a model
    Case(
        "words in another order",
        beside(""),
        ("fairseq-train", "permuted", "imported/model.pt"),
        "row 4 is 'w29' in the data and 'w0' in the model",
    ),
    Case(
        "words in another order, model.pt alone",
        alone,
        ("fairseq-train", "permuted", "alone.pt"),
        "permuted/input0/dict.txt is not the dictionary that alone.pt was",
    ),
    Case(
        "words in another order, export",
        alone,
        (
            *("fairseq-tickets", "export", "--checkpoint", "alone.pt", "--to", "fairseq", "--output", "out"),
            *("--dict", "permuted/input0/dict.txt"),
        ),
        "permuted/input0/dict.txt is not the checkpoint's dictionary",
    ),
    Case(
        "import torn, dictionary",
        beside("dictionary"),
        IMPORTED,
        "dict.txt is not the file that .*import.json tells of",
    ),
    Case("import torn, weights", beside("weights"), IMPORTED, "model.pt is not the file that .*import.json tells of"),
    Case(
        "another tokenizer", beside("tokenizer"), ("fairseq-train", "cased", "imported/model.pt"), "another vocab.txt"
    ),
    Case("lower case", beside("case"), ("fairseq-train", "cased", "imported/model.pt"), "in lower case"),
    Case("import whole", beside(""), IMPORTED, code=0),
    Case(
        "importance, words in another order",
        beside(""),
        (
            "fairseq-tickets",
            "importance",
            "--checkpoint",
            "{toy}/tuned.pt",
            "--data",
            "permuted",
            "--output",
            "s.npz",
            "--cpu",
        ),
        "not the dictionary that the checkpoint",
    ),
    Case(
        "validate, words in another order",
        beside(""),
        (
            "fairseq-validate",
            "permuted",
            "--path",
            "{toy}/tuned.pt",
            "--criterion",
            "ticket_sentence_prediction",
            "--task",
            "ticket_sentence_prediction",
            "--batch-size",
            "4",
            "--cpu",
        ),
        "not the dictionary that the checkpoint",
    ),
    # what can't be evaluated
    Case(
        "validate, a checkpoint that is not there",
        nothing,
        ("fairseq-validate", "{toy}/data", "--path", "nowhere.pt", *TASK, "--batch-size", "4", "--cpu"),
        "nowhere.pt",
    ),
    Case(
        "validate, a pre-trained model",
        pretrained,
        ("fairseq-validate", "{toy}/data", "--path", "base.pt", *TASK, "--batch-size", "4", "--cpu"),
        r"base.pt: the task it records needs .*dict.txt, which does not exist; a pre-trained model is not evaluated",
    ),
    # heads
    Case(
        "validate, a model without its head",
        headless,
        ("fairseq-validate", "{toy}/data", "--path", "headless.pt", *TASK, "--batch-size", "4", "--cpu"),
        "has no classification head sentence_classification_head to evaluate: fine-tune the model first",
    ),
    Case(
        "validate, another head",
        nothing,
        (
            *("fairseq-validate", "{toy}/data", "--path", "{toy}/tuned.pt", *TASK, "--batch-size", "4", "--cpu"),
            *("--classification-head-name", "mine"),
        ),
        "no classification head mine to evaluate: it has sentence_classification_head",
    ),
    Case(
        "a new head",
        tuned,
        ("fairseq-train", "{toy}/data", "before.pt", "--start-head", "new", "--max-epoch", "1", "--lr", "1e-6"),
        code=0,
        check=has_a_fresh_head,
    ),
    Case(
        "no such head",
        tuned,
        ("fairseq-train", "{toy}/data", "before.pt", "--start-head", "nonsense"),
        "--start-head nonsense: the checkpoint has no such head; its heads are sentence_classification_head",
    ),
    # label dictionaries
    Case("fillers are no labels", stock(["1", "0"], YES_NO, fillers=2), FOLDER, code=0),
    Case(
        "classes read from the dictionary", stock(["1", "0"], YES_NO, fillers=2), FOLDER[:-2], code=0, leaves=(SAVED,)
    ),
    Case(
        "fillers counted",
        stock(["1", "0"], YES_NO, fillers=2),
        (*FOLDER[:-1], "4"),
        "--num-classes 4 is too large: data/label/dict.txt names 2 labels, 1, 0",
    ),
    Case(
        "labels by frequency",
        stock(["1", "0"], YES_NO),
        (*FOLDER, "--metric", "f1", "--best-checkpoint-metric", "f1", "--lr", "1e-9"),
        code=0,
        check=f1_is_of_the_class_called_1,
    ),
    Case(
        "labels of two words",
        stock(["very", "good"], {**YES_NO, "train": [[0, 1]] + [[0]] * 7}),
        FOLDER,
        "label/train.bin: the label of example 0 is 'very good', 2 words",
    ),
    Case(
        "unseen label",
        stock(["1", "0"], {**YES_NO, "valid": [[0], [-1], [0], [0], [0]]}),
        FOLDER,
        "label/valid.bin: the label of example 1 is <unk>, which is none of the 2 labels of data/label/dict.txt",
    ),
    Case(
        "a label too few",
        stock(["1", "0"], {**YES_NO, "valid": [[0]] * 4}),
        FOLDER,
        "label/valid.bin has 4 labels for 5 examples",
    ),
    Case("regression without the option", stock([], {}, regression=True), FOLDER, "give --regression-target"),
    Case(
        "regression, two classes",
        stock([], {}, regression=True),
        (*FOLDER, "--regression-target"),
        "--num-classes 2 doesn't fit a regression",
    ),
    Case(
        "regression, classes not given",
        stock([], {}, regression=True),
        (*FOLDER[:-2], "--regression-target", "--best-checkpoint-metric", "pearson"),
        code=0,
    ),
    # lengths
    Case(
        "all training examples too long",
        nothing,
        (*TRAIN, "--shorten-method", "none", "--max-positions", "3"),
        r"data: all 24 examples of a split are longer than 3 tokens, the least of --max-positions, --max-tokens and "
        "the model's positions; leave --shorten-method none out, and they are cut",
    ),
    Case(
        "all too long for --max-tokens",
        nothing,
        (*TRAIN, "--max-tokens", "4"),
        "all 24 examples .* longer than 4 tokens",
    ),
    Case(
        "a validation example too long",
        nothing,
        (*TRAIN, "--shorten-method", "none", "--max-positions", "7"),
        "data: Size of sample #.* is invalid .* since max_positions=7.*; leave --shorten-method none out",
    ),
    # metrics
    Case(
        "pearson on classes", nothing, (*TRAIN, "--metric", "pearson"), "--metric pearson doesn't fit a classification"
    ),
    Case(
        "f1 of three classes", nothing, (*TRAIN, "--metric", "accuracy,f1"), "--metric f1 doesn't fit .* with 3 classes"
    ),
    Case(
        "accuracy of a regression",
        task_json(scores=True),
        ("fairseq-train", "data", "{toy}/model.pt", "--metric", "accuracy"),
        "--metric accuracy doesn't fit a regression",
    ),
)
CASES = tuple(replace(row, leaves=(SAVED,)) for row in ROWS)  # fairseq-train makes --save-dir before it looks at data
