"""L1-to-pretrained under fairseq-train: what λ means, where θ₀ comes from, what is logged, and what is refused."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from fairseq_cli import train as fairseq_train
from torch import Tensor

from fairseq_tickets.cli import main
from fairseq_tickets.errors import UserError
from fairseq_tickets.parameters import parse
from fairseq_tickets.plugin import mixed_precision
from fairseq_tickets.plugin.l1_criterion import TicketSentencePredictionL1Criterion as Criterion

from . import toy
from .test_workers import train_in_parallel
from .training import NO_DROPOUT, Run, train

L1 = ["--criterion", "ticket_sentence_prediction_l1"]
SGD = ["--optimizer", "ticket", "--ticket-optimizer", "sgd"]
ALL_AT_ONCE = ["--batch-size", "24"]  # the training set has 24 examples
LAMBDA, LR = 0.05, 0.5


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """θ₀, not the model that training starts from, so that no sign is 0 in the first update."""
    model = toy.ticket_roberta()
    torch.manual_seed(17)
    toy.randomise(model)
    return toy.write_checkpoint(tmp_path_factory.mktemp("origin") / "model.pt", model)


def first_update(
    folder: Path,
    out: Path,
    origin: Path,
    *more: str,
    weight: float = LAMBDA,
    how: Any = train,
    sgd: Sequence[str] = SGD,
) -> dict[str, Tensor]:
    """The weights after one update on all 24 examples by plain gradient descent."""
    run = how(
        *(folder / "data", out, folder / "model.pt", *NO_DROPOUT, *L1, *sgd, "--pretrained-path", str(origin)),
        *("--l1-weight", str(weight), "--lr", str(LR), "--max-update", "1", "--required-batch-size-multiple", "1"),
        *("--disable-validation", *more),
    )
    return run.checkpoint()["model"]


@pytest.fixture(scope="module")
def updated(folder: Path, origin: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    """One batch of 24."""
    return first_update(folder, tmp_path_factory.mktemp("whole"), origin, *ALL_AT_ONCE)


def assert_penalty_alone(plain: dict[str, Tensor], penalised: dict[str, Tensor], folder: Path, origin: Path) -> None:
    """The penalty has moved the encoder layers' weights and biases by −lr·λ·sign(θ−θ₀) more, and nothing else."""
    theta, theta0 = (torch.load(path, weights_only=True)["model"] for path in (folder / "model.pt", origin))
    names = {name for name in theta if parse(name) is not None}
    assert len(names) == toy.LAYERS * 6 * 2
    for name, tensor in plain.items():
        moved = -LR * LAMBDA * (theta[name] - theta0[name]).sign() if name in names else torch.zeros_like(tensor)
        torch.testing.assert_close(penalised[name] - tensor, moved, rtol=0, atol=1e-6)


def test_the_penalty_is_added_to_the_mean_task_gradient(
    folder: Path, tmp_path: Path, origin: Path, updated: dict[str, Tensor]
) -> None:
    plain = first_update(folder, tmp_path, origin, *ALL_AT_ONCE, weight=0.0)
    assert_penalty_alone(plain, updated, folder, origin)
    before = torch.load(folder / "model.pt", weights_only=True)["model"]
    assert max(float((plain[name] - before[name]).abs().max()) for name in before) > 1e-3  # the task moves them too


@pytest.mark.parametrize(
    "parted",
    [
        ["--batch-size", "8", "--update-freq", "3"],
        ["--batch-size", "4", "--update-freq", "6"],
        [*ALL_AT_ONCE, "--clip-norm", "1000"],
    ],
    ids=" ".join,
)
def test_lambda_is_the_same_however_an_update_is_parted(
    folder: Path, tmp_path: Path, origin: Path, updated: dict[str, Tensor], parted: list[str]
) -> None:
    found = first_update(folder, tmp_path, origin, *parted)
    assert_close(found, updated, 1e-6)


@pytest.mark.slow
def test_lambda_is_the_same_for_two_workers(
    folder: Path, tmp_path: Path, origin: Path, updated: dict[str, Tensor]
) -> None:
    found = first_update(folder, tmp_path, origin, "--batch-size", "12", how=train_in_parallel)
    assert_close(found, updated, 1e-6)
    plain = first_update(folder, tmp_path / "plain", origin, "--batch-size", "12", how=train_in_parallel, weight=0.0)
    assert_penalty_alone(plain, found, folder, origin)


@contextlib.contextmanager
def amp_on_the_cpu(dtype: torch.dtype | None, overflow_at: int | None = None) -> Iterator[list[float]]:
    """fairseq's --amp as on a GPU: a loss scale of 128, and autocast unless `dtype` is None. Yields the scales used.

    Gradients overflow when the scale is used for the time `overflow_at`, counted from 0.
    """
    scaler = torch.amp.GradScaler("cpu", init_scale=128.0)
    scales: list[float] = []
    unscale = scaler.unscale_

    def unscaled(optimizer: Any) -> None:
        if len(scales) == overflow_at:
            optimizer.param_groups[0]["params"][-1].grad.fill_(math.inf)
        scales.append(scaler.get_scale())
        unscale(optimizer)

    def autocast(enabled: bool) -> Any:
        return torch.autocast("cpu", dtype=dtype or torch.bfloat16, enabled=enabled and dtype is not None)

    with (
        mock.patch.multiple(torch.cuda.amp, GradScaler=lambda **_: scaler, autocast=autocast),
        mock.patch.multiple(
            mixed_precision, device_type=lambda cpu: "cuda", autocast=lambda precision, device: autocast(True)
        ),
        mock.patch.object(scaler, "unscale_", unscaled),
    ):
        yield scales


@pytest.mark.skipif(not hasattr(torch, "amp") or not hasattr(torch.amp, "GradScaler"), reason="PyTorch 2.3 and later")
@pytest.mark.parametrize("sgd", [SGD, ["--optimizer", "sgd"]], ids=["ticket", "stock sgd"])
def test_lambda_is_the_same_under_a_loss_scale(
    folder: Path, tmp_path: Path, origin: Path, updated: dict[str, Tensor], sgd: list[str]
) -> None:
    with amp_on_the_cpu(None) as scales:
        found = first_update(folder, tmp_path, origin, *ALL_AT_ONCE, "--amp", sgd=sgd)
    assert scales == [128.0]  # fairseq alone would unscale twice
    assert_close(found, updated, 1e-6)


@pytest.mark.skipif(not hasattr(torch, "amp") or not hasattr(torch.amp, "GradScaler"), reason="PyTorch 2.3 and later")
def test_lambda_is_the_same_in_bfloat16(folder: Path, tmp_path: Path, origin: Path, updated: dict[str, Tensor]) -> None:
    """The task gradient is rounded there, so the penalty is what a run without it lacks."""
    weights = []
    for weight in (0.0, LAMBDA):
        with amp_on_the_cpu(torch.bfloat16):
            out = tmp_path / str(weight)
            weights.append(first_update(folder, out, origin, *ALL_AT_ONCE, "--amp", weight=weight))
    assert_penalty_alone(*weights, folder, origin)
    assert max(float((weights[1][name] - updated[name]).abs().max()) for name in updated) > 1e-5  # it was bfloat16


@pytest.mark.skipif(not hasattr(torch, "amp") or not hasattr(torch.amp, "GradScaler"), reason="PyTorch 2.3 and later")
@pytest.mark.parametrize(
    ("mode", "optimizer"),
    [
        ("subgradient", SGD),
        ("proximal", SGD),
        ("proximal", ["--optimizer", "sgd"]),
        ("proximal", ["--optimizer", "ticket"]),  # AdamW
    ],
    ids=str,
)
def test_an_overflow_changes_nothing(
    folder: Path, tmp_path: Path, origin: Path, mode: str, optimizer: list[str]
) -> None:
    """The second update overflows and is tried again at half the loss scale: as two updates without any overflow."""
    ends = []
    for overflow_at, expected in ((None, [128.0, 128.0]), (1, [128.0, 128.0, 64.0])):
        with amp_on_the_cpu(None, overflow_at) as scales:
            words = [*ALL_AT_ONCE, "--amp", "--max-update", "2", "--lr", "0.001", "--l1-mode", mode]
            ends.append(first_update(folder, tmp_path / str(overflow_at), origin, *words, sgd=optimizer))
        assert scales == expected
    assert_close(*ends, 1e-7)


def assert_close(one: dict[str, Tensor], other: dict[str, Tensor], tolerance: float) -> None:
    assert list(one) == list(other)
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, other[name], rtol=0, atol=tolerance)


ADAM = [*L1, "--optimizer", "ticket", "--lr", "0.003", "--l1-weight", "0.01"]


@pytest.mark.parametrize("mode", ["subgradient", "proximal"])
def test_resumed_is_bit_for_bit_as_if_never_stopped(folder: Path, tmp_path: Path, mode: str) -> None:
    words = [*ADAM, "--l1-mode", mode]
    whole = train(folder / "data", tmp_path / "whole", folder / "model.pt", *words, "--max-epoch", "2")
    train(folder / "data", tmp_path / "parts", folder / "model.pt", *words, "--max-epoch", "1")
    resumed = train(folder / "data", tmp_path / "parts", folder / "model.pt", *words, "--max-epoch", "2")
    assert len(resumed.losses) == 6
    assert resumed.losses == whole.losses[6:]
    assert_close(resumed.checkpoint()["model"], whole.checkpoint()["model"], 0)


def test_the_origin_of_a_resumed_run_can_not_become_another_one(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "one"
    train(folder / "data", out, folder / "model.pt", *ADAM, "--max-epoch", "1")
    kept = tmp_path / "kept.pt"
    kept.write_bytes((out / "checkpoint_last.pt").read_bytes())
    words = [*ADAM, "--pretrained-path", str(kept), "--max-epoch", "2"]
    with pytest.raises(UserError, match="--pretrained-path is another one there"):
        train(folder / "data", out, folder / "model.pt", *words)
    with pytest.raises(UserError, match="--pretrained-path is another one there"):
        train(folder / "data", tmp_path / "two", None, *words, "--restore-file", str(kept))


def moved_counts(folder: Path, run: Run, sigma: float) -> tuple[float, int, int]:
    """‖θ − θ₀‖₁, how many parameters are further than σ from θ₀, and how many are exactly θ₀; worked out afresh."""
    before, after = torch.load(folder / "model.pt", weights_only=True)["model"], run.checkpoint()["model"]
    deltas = torch.cat([(after[n] - before[n]).double().flatten().abs() for n in before if parse(n) is not None])
    return float(deltas.sum()), int((deltas > sigma).sum()), int((deltas == 0).sum())


def test_proximal_makes_exact_zeros(folder: Path, tmp_path: Path) -> None:
    zeros = {}
    for mode in ("subgradient", "proximal"):
        out = tmp_path / mode
        words = [*NO_DROPOUT, *ADAM, "--l1-weight", "0.003", "--l1-mode", mode, "--max-epoch", "3"]
        run = train(folder / "data", out, folder / "model.pt", *words)
        zeros[mode] = moved_counts(folder, run, 0.0)[2]
    penalised = toy.LAYERS * (4 * toy.EMBED * (toy.EMBED + 1) + toy.FFN * (2 * toy.EMBED + 1) + toy.EMBED)
    assert zeros["subgradient"] < 0.1 * penalised
    assert 0.3 * penalised < zeros["proximal"] < penalised


@contextlib.contextmanager
def logged() -> Iterator[list[dict[str, float]]]:
    """The statistics fairseq prints in training, exact."""
    rows: list[dict[str, float]] = []
    get_stats = fairseq_train.get_training_stats

    def get_training_stats(stats: dict[str, Any]) -> Any:
        rows.append({key: float(getattr(value, "avg", value)) for key, value in stats.items() if key != "_predictions"})
        return get_stats(stats)

    with mock.patch.object(fairseq_train, "get_training_stats", get_training_stats):
        yield rows


def test_task_loss_penalty_and_moved_parameters_are_logged_apart(folder: Path, tmp_path: Path) -> None:
    """The figures before update 7 are those of the checkpoint after update 6."""
    sigma = 2e-3
    words = [*NO_DROPOUT, *ADAM, "--l1-sigma", str(sigma), "--l1-log-interval", "1", "--log-interval", "1"]
    words += ["--disable-validation"]
    six = train(folder / "data", tmp_path / "6", folder / "model.pt", *words, "--max-update", "6")
    with logged() as rows:
        seven = train(folder / "data", tmp_path / "7", folder / "model.pt", *words, "--max-update", "7")
    distance, moved, _ = moved_counts(folder, six, sigma)
    assert rows[-1]["l1"] == pytest.approx(0.01 * distance, abs=1e-5)  # logged with 5 digits
    assert rows[-1]["moved"] == moved > 20
    assert rows[-1]["loss"] == pytest.approx(seven.losses[-1], abs=1e-4)  # the task's alone, in nats
    assert rows[0]["l1"] == rows[0]["moved"] == 0


def test_a_regression_trains_too(folder: Path, tmp_path: Path) -> None:
    run = train(folder / "scores", tmp_path, folder / "model.pt", *ADAM, "--max-epoch", "1")
    assert all(math.isfinite(loss) for loss in run.losses)


def spoilt(tmp_path: Path, kind: str) -> Path:
    """A checkpoint that can't be θ₀."""
    model = toy.ticket_roberta(**({"encoder_ffn_embed_dim": 28} if kind == "shape" else {}))
    if kind == "nan":
        with torch.no_grad():
            model.encoder.sentence_encoder.layers[1].fc2.weight[0, 3] = float("nan")
    path = toy.write_checkpoint(tmp_path / "spoilt.pt", model)
    return tmp_path / "nowhere.pt" if kind == "missing" else path


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", "--pretrained-path .*nowhere.pt does not exist"),
        ("shape", r"fc1.weight is \(20, 12\) in the model and \(28, 12\) in the pre-trained"),
        ("nan", "layers.1.fc2.weight has 1 values that are NaN"),
    ],
)
def test_an_origin_that_cannot_be_one_is_refused(folder: Path, tmp_path: Path, kind: str, message: str) -> None:
    words = [*ADAM, "--pretrained-path", str(spoilt(tmp_path, kind)), "--max-epoch", "1"]
    with pytest.raises(UserError, match=message):
        train(folder / "data", tmp_path / "out", folder / "model.pt", *words)
    assert not list(tmp_path.glob("out/*.pt"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--l1-weight", "-0.1"], "--l1-weight -0.1 must be"),
        (["--l1-sigma", "-1"], "--l1-sigma -1.0 must be"),
        (["--l1-sigma", "5"], "--l1-sigma 5.0 must be"),
        (["--l1-log-interval", "0"], "--l1-log-interval 0 must be"),
        (["--fp16"], "ticket_sentence_prediction_l1 can't work with --fp16.*use --amp"),
    ],
    ids=" ".join,
)
def test_options_out_of_range_are_refused(folder: Path, tmp_path: Path, words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        train(folder / "data", tmp_path, folder / "model.pt", *ADAM, *words)


def test_no_origin_at_all_is_refused(folder: Path, tmp_path: Path) -> None:
    shape = ["--encoder-layers", "3", "--encoder-embed-dim", "12", "--encoder-ffn-embed-dim", "20"]
    with pytest.raises(UserError, match="--pretrained-path is not set"):
        train(folder / "data", tmp_path, None, *ADAM, *shape, "--encoder-attention-heads", "4")


def test_a_checkpoint_against_itself_gives_no_ticket(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = str(folder / "model.pt")
    words = ["extract", "--pretrained", model, "--finetuned", model, "--output", str(tmp_path / "ticket.json")]
    assert main(words) == 2
    assert "same" in capsys.readouterr().err
    assert not (tmp_path / "ticket.json").exists()


def test_the_criterion_is_the_task_loss_alone() -> None:
    """So validation, best checkpoints and loss curves mean the same with and without the penalty."""
    assert Criterion.reduce_metrics is Criterion.__mro__[1].reduce_metrics
