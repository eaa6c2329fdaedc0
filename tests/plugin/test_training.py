"""Training with `ticket_sentence_prediction`: metrics over the whole split, the best checkpoint, resuming, tickets."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn import metrics as reference

from fairseq_tickets.errors import UserError
from fairseq_tickets.parameters import ModelShape
from fairseq_tickets.plugin.loading import load_finetuned
from fairseq_tickets.plugin.task import selection
from fairseq_tickets.tickets import SuperTicket

from . import toy
from .training import NO_DROPOUT, predictions, train, validate

SHAPE = ModelShape(toy.LAYERS, toy.HEADS, toy.EMBED, toy.FFN)
TICKET = SuperTicket(SHAPE, [[1, 0, 1, 1], [0, 0, 0, 0], [0, 1, 0, 0]], [1, 0, 1])


def expected_metrics(outputs: np.ndarray, targets: np.ndarray, regression: bool) -> dict[str, float]:
    """scikit-learn's and SciPy's figures."""
    if regression:
        return {
            "pearson": float(stats.pearsonr(outputs, targets)[0]),
            "spearman": float(stats.spearmanr(outputs, targets)[0]),
        }
    figures = {
        "accuracy": float(reference.accuracy_score(targets, outputs)),
        "mcc": float(reference.matthews_corrcoef(targets, outputs)),
    }
    if set(targets) <= {0, 1}:
        figures["f1"] = float(reference.f1_score(targets, outputs))
    return figures


@pytest.mark.parametrize("data", ["data", "binary", "scores"])
@pytest.mark.parametrize("more", [[], ["--update-freq", "2"], ["--batch-size-valid", "16"]], ids=" ".join)
def test_metrics_of_a_run_are_those_of_its_predictions(
    folder: Path, tmp_path: Path, data: str, more: list[str]
) -> None:
    """What fairseq-train reports last equals scikit-learn on what its checkpoint predicts, part by part."""
    run = train(folder / data, tmp_path, folder / "model.pt", "--max-epoch", "3", *more)
    assert len(run.valid) == 3
    ids, outputs, targets = predictions(run.path(), folder / data)
    chosen = selection(len(ids), 0.1, 1).numpy()[ids]
    for suffix, part in (("", chosen >= 0), ("_report", ~chosen)):
        for name, value in expected_metrics(outputs[part], targets[part], data == "scores").items():
            assert run.valid[-1][name + suffix] == pytest.approx(value, abs=1e-4), name + suffix
    if data != "scores":
        right = float(np.mean(outputs[chosen] == targets[chosen]))
        assert run.valid[-1]["accuracy_select"] == pytest.approx(right)


def test_training_learns(folder: Path, tmp_path: Path) -> None:
    run = train(folder / "data", tmp_path, folder / "model.pt", "--max-epoch", "30", "--lr", "0.002", "--no-save")
    assert sum(run.losses[-6:]) < 0.4 * sum(run.losses[:6])


@pytest.mark.parametrize(
    ("data", "metric"),
    [
        ("binary", "accuracy"),
        ("binary", "f1"),
        ("binary", "mcc"),
        ("binary", "score"),
        ("binary", "accuracy_select"),
        ("scores", "pearson"),
        ("scores", "spearman"),
        ("scores", "score_report"),
    ],
)
def test_best_checkpoint_by_any_metric(folder: Path, tmp_path: Path, data: str, metric: str) -> None:
    run = train(
        *(folder / data, tmp_path, folder / "model.pt", "--best-checkpoint-metric", metric),
        *("--max-epoch", "5", "--lr", "0.02"),
    )
    by_epoch = [stats[metric] for stats in run.valid]
    assert len(by_epoch) == 5
    state = run.checkpoint("best")["extra_state"]
    assert state["best"] == pytest.approx(max(by_epoch))
    last_best = max(index for index, value in enumerate(by_epoch) if value == max(by_epoch)) + 1
    assert state["train_iterator"]["epoch"] - 1 == last_best  # fairseq stores the epoch to go on with


def test_score_is_the_mean_of_the_metrics_given(folder: Path, tmp_path: Path) -> None:
    run = train(folder / "binary", tmp_path, folder / "model.pt", "--metric", "accuracy,f1", "--max-epoch", "1")
    last = run.valid[-1]
    assert last["score"] == pytest.approx((last["accuracy"] + last["f1"]) / 2)


def test_select_and_report_part_the_split_for_any_training_seed(folder: Path, tmp_path: Path) -> None:
    """Their sizes add up, and so do their numbers of right answers; the training seed changes neither."""
    sizes = 2, 21  # 10 % of 23, rounded
    for seed in ("1", "2"):
        run = train(folder / "binary", tmp_path / seed, folder / "model.pt", "--seed", seed, "--max-epoch", "1")
        ids, outputs, targets = predictions(run.path(), folder / "binary")
        last = run.valid[-1]
        right = [round(last["accuracy_select"] * sizes[0], 6), round(last["accuracy_report"] * sizes[1], 6)]
        assert sum(right) == pytest.approx(int((outputs == targets).sum()))
        chosen = selection(23, 0.1, 1).numpy()[ids]
        assert chosen.sum() == sizes[0]
        assert right[0] == pytest.approx(int((outputs == targets)[chosen].sum()))


def test_selection_is_fixed_by_its_seed() -> None:
    assert selection(277, 0.1, 1).sum() == 28
    assert torch.equal(selection(277, 0.1, 1), selection(277, 0.1, 1))
    assert not torch.equal(selection(277, 0.1, 1), selection(277, 0.1, 2))
    assert selection(4, 0.1, 1).sum() == 1


def test_without_a_selection_part_there_are_no_such_metrics(folder: Path, tmp_path: Path) -> None:
    run = train(folder / "data", tmp_path, folder / "model.pt", "--select-fraction", "0", "--max-epoch", "1")
    assert not [name for name in run.valid[0] if name.endswith(("_select", "_report"))]


def test_metrics_depend_on_no_batch_size(folder: Path, tmp_path: Path) -> None:
    one, other = (
        train(folder / "binary", tmp_path / size, folder / "model.pt", "--batch-size-valid", size, "--max-epoch", "1")
        for size in ("2", "23")
    )
    names = [name for name in one.valid[0] if name.startswith(("accuracy", "f1", "mcc", "score"))]
    assert len(names) == 12
    for name in names:
        assert one.valid[0][name] == other.valid[0][name]


def test_killed_and_resumed_is_as_if_never_killed(folder: Path, tmp_path: Path) -> None:
    """Four epochs at once, or two, then the same command again: the same weights, the same best score."""
    whole = train(folder / "binary", tmp_path / "whole", folder / "model.pt", "--max-epoch", "4")
    train(folder / "binary", tmp_path / "parts", folder / "model.pt", "--max-epoch", "2")
    resumed = train(folder / "binary", tmp_path / "parts", folder / "model.pt", "--max-epoch", "4")
    assert len(resumed.losses) == len(whole.losses) / 2
    assert resumed.losses == pytest.approx(whole.losses[len(resumed.losses) :], abs=1e-6)
    assert resumed.checkpoint()["extra_state"]["best"] == whole.checkpoint()["extra_state"]["best"]
    assert_same_weights(whole.checkpoint()["model"], resumed.checkpoint()["model"], 1e-6)


def assert_same_weights(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], tolerance: float) -> None:
    assert list(one) == list(other)
    for name, tensor in one.items():
        torch.testing.assert_close(
            tensor, other[name], rtol=0, atol=tolerance, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_shape_and_eps_come_from_the_checkpoint(tmp_path: Path) -> None:
    toy.write_data(tmp_path / "data")
    toy.write_checkpoint(tmp_path / "model.pt", toy.ticket_roberta(layernorm_eps=1e-3), layernorm_eps=1e-3)
    run = train(tmp_path / "data", tmp_path / "out", tmp_path / "model.pt", "--max-epoch", "1")
    model, _ = load_finetuned(run.path(), tmp_path / "data")
    assert model.ticket_encoder.shape == SHAPE
    assert {m.eps for m in model.encoder.sentence_encoder.modules() if isinstance(m, torch.nn.LayerNorm)} == {1e-3}


@pytest.mark.parametrize("form", ["compact", "gated"])
def test_validate_honours_the_ticket_of_a_checkpoint(folder: Path, tmp_path: Path, form: str) -> None:
    """The ticket's file may be gone: the checkpoint carries its ticket, in fairseq-validate and in `load_finetuned`."""
    TICKET.save(tmp_path / "ticket.json")
    under_ticket = ["--ticket", str(tmp_path / "ticket.json"), "--ticket-form", form, "--max-epoch", "4"]
    run = train(folder / "binary", tmp_path / "out", folder / "model.pt", "--lr", "0.02", *under_ticket)
    (tmp_path / "ticket.json").unlink()
    shutil.copytree(folder / "binary", tmp_path / "moved")
    printed = validate(run.path(), tmp_path / "moved")
    for name in ("loss", "accuracy", "f1", "mcc", "accuracy_report"):
        assert printed[name] == pytest.approx(run.valid[-1][name], abs=1e-4), name
    model, _ = load_finetuned(run.path(), tmp_path / "moved")
    assert model.ticket_encoder.super_ticket == TICKET
    assert model.ticket_encoder.ticket_form == form


def test_resuming_under_a_ticket_wherever_its_file_lies(folder: Path, tmp_path: Path) -> None:
    TICKET.save(tmp_path / "ticket.json")
    shutil.copy(tmp_path / "ticket.json", tmp_path / "kept.json")
    whole = train(
        folder / "binary",
        tmp_path / "whole",
        folder / "model.pt",
        "--ticket",
        str(tmp_path / "kept.json"),
        "--max-epoch",
        "3",
    )
    out = tmp_path / "out"
    train(folder / "binary", out, folder / "model.pt", "--ticket", str(tmp_path / "ticket.json"), "--max-epoch", "2")
    kept = str(tmp_path / "kept.json")
    resumed = train(folder / "binary", out, folder / "model.pt", "--ticket", kept, "--max-epoch", "3")
    assert len(resumed.losses) == 6
    assert resumed.losses == pytest.approx(whole.losses[12:], abs=1e-6)
    with pytest.raises(UserError, match="holds another run.*--ticket is another one there"):
        SuperTicket.full(SHAPE).save(tmp_path / "full.json")
        train(folder / "binary", out, folder / "model.pt", "--ticket", str(tmp_path / "full.json"), "--max-epoch", "4")


def test_accumulated_batches_are_one_batch(folder: Path, tmp_path: Path) -> None:
    """Six batches of 4 an update are one batch of 24: the gradient is a mean over examples, however they are parted."""
    common = [*NO_DROPOUT, "--max-epoch", "5", "--lr", "0.001"]
    small = train(folder / "data", tmp_path / "small", folder / "model.pt", *common, "--update-freq", "6")
    large = train(folder / "data", tmp_path / "large", folder / "model.pt", *common, "--batch-size", "24")
    assert len(small.losses) == len(large.losses) == 5
    assert small.losses == pytest.approx(large.losses, abs=1e-5)
    assert_same_weights(small.checkpoint()["model"], large.checkpoint()["model"], 1e-5)
