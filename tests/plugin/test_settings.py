"""Settings that decide numbers come from the checkpoint; each split has its own selection part; one class is told."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn import metrics as reference

from fairseq_tickets.plugin.loading import load_finetuned
from fairseq_tickets.plugin.task import selection

from . import toy
from .training import predictions, train, validate


def test_relu_is_computed_where_the_base_says_so(folder: Path, tmp_path: Path) -> None:
    """Hidden states of an all but untrained model are stock fairseq's with ReLU, and not those with GELU."""
    relu, gelu = (toy.stock_roberta(seed=3, activation_fn=name).eval() for name in ("relu", "gelu"))
    gelu.load_state_dict(relu.state_dict())
    base = toy.write_checkpoint(tmp_path / "base.pt", relu, activation_fn="relu")
    run = train(folder / "data", tmp_path / "run", base, "--max-epoch", "1", "--lr", "1e-12")
    model, _ = load_finetuned(run.path(), folder / "data")
    batch = toy.tokens()
    kept = batch != 1
    with torch.no_grad():
        hidden, expected, other = (m(batch, features_only=True)[0][kept] for m in (model, relu, gelu))
    assert float((hidden - expected).abs().max()) < 1e-5
    assert float((hidden - other).abs().max()) > 0.05


def long_data(path: Path, longest: int) -> Path:
    """Toy data whose sentences all have 40 words but for the first, which has `longest` tokens with <s> and </s>."""
    from fairseq.data.indexed_dataset import MMapIndexedDatasetBuilder

    toy.write_data(path)
    for split, count in (("train", 24), ("valid", 11)):
        builder = MMapIndexedDatasetBuilder(str(path / "input0" / f"{split}.bin"), dtype=np.uint16)
        for place in range(count):
            words = longest - 2 if place == 0 else 40
            builder.add_item(torch.tensor([*(4 + (place + word) % toy.WORDS for word in range(words)), 2]))
        builder.finalize(str(path / "input0" / f"{split}.idx"))
    return path


def test_examples_are_cut_at_the_models_own_limit(folder: Path, tmp_path: Path) -> None:
    """16 positions: <s> and 15 words, as fairseq cuts; nothing is left out in training, evaluation and importance."""
    data = long_data(tmp_path / "data", longest=16)
    run = train(data, tmp_path / "run", folder / "model.pt", "--max-epoch", "1")
    assert len(run.losses) == 6  # 24 examples in batches of 4
    assert np.isfinite(validate(run.path(), data)["loss"])
    _, task = load_finetuned(run.path(), data)
    dataset = task.load_dataset("valid")
    for place in range(len(dataset)):
        tokens = dataset[place]["net_input.src_tokens"].tolist()
        number = int(dataset[place]["id"])
        words = 14 if number == 0 else 15
        assert (
            tokens[: 1 + words] == [0, *(4 + (number + word) % toy.WORDS for word in range(words))]
            and len(tokens) == 16
        )
    from fairseq_tickets.plugin.scoring import score_checkpoint

    assert score_checkpoint(run.path(), data).examples == 24


@pytest.mark.parametrize("size", ["2", "8", "33"])
def test_each_split_has_its_own_selection_part(folder: Path, tmp_path: Path, size: str) -> None:
    """`valid1` is longer than `valid`; its parts don't depend on the batches, and scikit-learn agrees on each."""
    data = toy.write_data(tmp_path / "data", valid=7, classes=2)
    more = toy.write_data(tmp_path / "more", valid=29, classes=2, seed=12)
    for part in ("input0", "label"):
        for end in ("bin", "idx"):
            (data / part / f"valid1.{end}").write_bytes((more / part / f"valid.{end}").read_bytes())
    run = train(data, tmp_path / "run", folder / "model.pt", "--max-epoch", "2", "--select-fraction", "0.5")
    shown = validate(run.path(), data, "--valid-subset", "valid,valid1", "--batch-size", size)
    ids, outputs, targets = predictions(run.path(), data, "valid1")
    assert len(ids) == 29
    mask = selection(29, 0.5, 1).numpy()[ids]
    for suffix, part in (("", ids >= 0), ("_select", mask), ("_report", ~mask)):
        assert shown["accuracy" + suffix] == pytest.approx(reference.accuracy_score(targets[part], outputs[part]))


def test_a_model_that_predicts_one_class_is_told(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A head of zeros but for a bias says class 1 of everything: MCC 0, F1 2p / (1 + p) for a share p of class 1."""
    state: dict[str, Any] = torch.load(folder / "model.pt", weights_only=True)
    head = "classification_heads.sentence_classification_head."
    state["model"].update(
        {
            f"{head}dense.weight": torch.zeros(toy.EMBED, toy.EMBED),
            f"{head}dense.bias": torch.zeros(toy.EMBED),
            f"{head}out_proj.weight": torch.zeros(2, toy.EMBED),
            f"{head}out_proj.bias": torch.tensor([-9.0, 9.0]),
        }
    )
    torch.save(state, tmp_path / "one.pt")
    with caplog.at_level(logging.WARNING, "fairseq_tickets"):
        run = train(folder / "binary", tmp_path / "run", tmp_path / "one.pt", "--max-epoch", "1", "--lr", "1e-9")
    assert [record.message for record in caplog.records if "all predictions are of one class" in record.message]
    _, outputs, targets = predictions(run.path(), folder / "binary")
    assert set(outputs) == {1}
    share = float(np.mean(targets))
    found = run.valid[-1]
    assert found["classes_predicted"] == 1 and found["mcc"] == 0 == reference.matthews_corrcoef(targets, outputs)
    assert found["accuracy"] == pytest.approx(share) and found["f1"] == pytest.approx(2 * share / (1 + share))
