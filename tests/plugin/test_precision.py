"""bf16 on a CPU: what runs in it, what stays float32, and that nothing of the frozen weights is lost."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from fairseq_tickets.dominant_ticket.columns import column_linears
from fairseq_tickets.dominant_ticket.delta import apply, load_delta
from fairseq_tickets.errors import UserError
from fairseq_tickets.plugin import mixed_precision
from fairseq_tickets.plugin.mixed_precision import chosen_precision, frozen_dtype
from fairseq_tickets.plugin.model import TicketRobertaModel
from fairseq_tickets.plugin.task import TicketSentencePredictionTask

from .multitask import toy as multitask_toy
from .test_dominant import ADAMW, COLUMNS, OPTIMIZER, TICKET, assert_only_the_ticket_moved, encoder_of
from .training import NO_DROPOUT, Run, train, validate

BF16 = ["--precision", "bf16"]


@pytest.fixture(scope="module")
def ticket(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("ticket") / "dominant.json"
    TICKET.save(path)
    return str(path)


@pytest.fixture(scope="module")
def by_columns(folder: Path, ticket: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """Two epochs under the ticket in each precision."""
    words = [*NO_DROPOUT, "--ticket", ticket, *COLUMNS, "--optimizer", "ticket", *ADAMW]
    out = tmp_path_factory.mktemp("columns")
    more = {
        "float32": [],
        "bf16": BF16,
        "amp": ["--amp"],
        "frozen float32": [*BF16, "--frozen-precision", "float32"],
        "frozen bf16 alone": ["--frozen-precision", "bf16"],
    }
    return {name: train(folder / "data", out / name, folder / "model.pt", *words, *own) for name, own in more.items()}


def test_losses_are_near_those_of_float32(by_columns: dict[str, Run]) -> None:
    plain = by_columns["float32"].losses
    for name, run in by_columns.items():
        assert run.losses == pytest.approx(plain, abs=0.05)
        assert (run.losses == plain) == (name == "float32")


def test_amp_on_a_cpu_is_bf16(by_columns: dict[str, Run]) -> None:
    assert by_columns["amp"].losses == by_columns["bf16"].losses
    for name in ("amp", "bf16"):
        saved = by_columns[name].checkpoint()["cfg"]
        assert saved["task"]["precision"] == "bf16" and saved["common"]["amp"] is False


@pytest.mark.parametrize("name", ["bf16", "frozen float32", "frozen bf16 alone"])
def test_what_is_saved_is_float32_and_outside_the_ticket_the_base(
    folder: Path, by_columns: dict[str, Run], name: str
) -> None:
    assert_only_the_ticket_moved(encoder_of(folder / "model.pt"), encoder_of(by_columns[name].path()))
    saved = by_columns[name].checkpoint()
    floats = [t for t in saved["model"].values() if t.is_floating_point()]
    state = [v for leaf in saved["last_optimizer_state"]["state"].values() for v in leaf.values()]
    moments = [value for value in state if isinstance(value, torch.Tensor)]
    assert len(moments) > 10
    assert {t.dtype for t in (*floats, *moments)} == {torch.float32}


def built(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *words: str) -> TicketRobertaModel:
    """The model that a run trains."""
    models: list[Any] = []
    step = TicketSentencePredictionTask.train_step
    monkeypatch.setattr(
        TicketSentencePredictionTask,
        "train_step",
        lambda self, sample, model, *rest, **more: (models.append(model), step(self, sample, model, *rest, **more))[1],
    )
    train(folder / "data", tmp_path, folder / "model.pt", "--max-update", "1", "--no-save", *words)
    made: TicketRobertaModel = models[0]
    return made


@pytest.mark.parametrize(
    ("words", "dtype"),
    [
        ([], torch.float32),
        (BF16, torch.bfloat16),
        ([*BF16, "--frozen-precision", "float32"], torch.float32),
        (["--frozen-precision", "bf16"], torch.bfloat16),
    ],
    ids=str,
)
def test_frozen_weights_and_those_that_train(
    folder: Path, tmp_path: Path, ticket: str, monkeypatch: pytest.MonkeyPatch, words: list[str], dtype: torch.dtype
) -> None:
    model = built(folder, tmp_path, monkeypatch, "--ticket", ticket, "--recompute-attention", "always", *words)
    linears = [linear for _, linear in column_linears(model)]
    assert {linear.weight.dtype for linear in linears} == {dtype}
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    assert all((linear.exact is not None) == (dtype == torch.bfloat16) for linear in linears)
    assert {layer.self_attn.recompute for layer in model.ticket_encoder.layers} == {"always"}


@pytest.mark.parametrize("more", [[], ["--delta-checkpoints"], ["--frozen-precision", "float32"]], ids=str)
def test_resumed_is_bit_for_bit_as_if_never_stopped(folder: Path, tmp_path: Path, ticket: str, more: list[str]) -> None:
    words = ["--ticket", ticket, *COLUMNS, "--optimizer", "ticket", *ADAMW, *BF16, *more]
    whole = train(folder / "data", tmp_path / "whole", folder / "model.pt", *words, "--max-epoch", "2")
    train(folder / "data", tmp_path / "parts", folder / "model.pt", *words, "--max-epoch", "1")
    resumed = train(folder / "data", tmp_path / "parts", folder / "model.pt", *words, "--max-epoch", "2")
    assert resumed.losses == whole.losses[6:] and len(resumed.losses) == 6
    ours, theirs = whole.checkpoint(), resumed.checkpoint()
    assert all(torch.equal(ours["model"][name], theirs["model"][name]) for name in ours["model"])


def test_a_delta_on_its_base_is_the_dense_checkpoint(
    folder: Path, tmp_path: Path, ticket: str, by_columns: dict[str, Run]
) -> None:
    words = [*NO_DROPOUT, "--ticket", ticket, *COLUMNS, "--optimizer", "ticket", *ADAMW, *BF16, "--delta-checkpoints"]
    small = train(folder / "data", tmp_path, folder / "model.pt", *words)
    assert small.losses == by_columns["bf16"].losses
    merged = apply(encoder_of(folder / "model.pt"), load_delta(small.path().with_suffix(".safetensors")))
    dense = encoder_of(by_columns["bf16"].path())
    assert all(torch.equal(merged[name], t) for name, t in dense.items() if name in merged)
    assert set(dense) - set(merged) <= {name for name in dense if name.endswith("version")}


def test_validation_runs_in_the_precision_too(folder: Path, by_columns: dict[str, Run]) -> None:
    """By default that of the training run; both routes to a loss agree with what training reported."""
    run = by_columns["bf16"]
    again = validate(run.path(), folder / "data")
    plain = validate(run.path(), folder / "data", "--precision", "float32")
    assert again["loss"] == pytest.approx(run.valid[-1]["loss"], abs=2e-3)
    assert again["loss"] != plain["loss"] and again["loss"] == pytest.approx(plain["loss"], abs=0.05)


@pytest.mark.parametrize(
    "words",
    [
        ["--optimizer", "ticket"],
        OPTIMIZER,
        ["--criterion", "ticket_sentence_prediction_l1", "--l1-weight", "0.001"],
        ["--optimizer", "ticket", "--random-elements", "0.1"],
    ],
    ids=["full", "by optimizer", "l1", "random elements"],
)
def test_every_other_way_of_training(folder: Path, tmp_path: Path, ticket: str, words: list[str]) -> None:
    own = ["--ticket", ticket] if words == OPTIMIZER else []
    runs = [
        train(folder / "data", tmp_path / str(len(more)), folder / "model.pt", *NO_DROPOUT, *words, *own, *ADAMW, *more)
        for more in ([], BF16)
    ]
    assert runs[1].losses == pytest.approx(runs[0].losses, abs=0.05) and runs[1].losses != runs[0].losses
    assert {t.dtype for t in runs[1].checkpoint()["model"].values() if t.is_floating_point()} == {torch.float32}


def test_several_tasks(tmp_path: Path) -> None:
    made = multitask_toy.write_tasks(tmp_path)
    tasks = multitask_toy.write_list(made, tmp_path / "list" / "tasks.yaml", tickets=True)
    runs = [
        multitask_toy.train(tasks, tmp_path / str(len(more)), made / "model.pt", *NO_DROPOUT, "--lr", "0.001", *more)
        for more in ([], BF16)
    ]
    assert runs[1].losses == pytest.approx(runs[0].losses, abs=0.1) and runs[1].losses != runs[0].losses
    assert {t.dtype for t in runs[1].checkpoint()["model"].values() if t.is_floating_point()} == {torch.float32}


# Options


def asked(precision: str = "auto", **more: bool) -> Any:
    return OmegaConf.create({"precision": precision, "amp": False, "fp16": False, "bf16": False, "cpu": True, **more})


@pytest.mark.parametrize(
    ("cfg", "device", "expected"),
    [
        (asked(), "cpu", "float32"),
        (asked(), "cuda", "float32"),
        (asked(amp=True), "cpu", "bf16"),
        (asked(amp=True), "cuda", "float16"),
        (asked("bf16", amp=True), "cuda", "bf16"),
        (asked("float16"), "cuda", "float16"),
        (asked(fp16=True), "cuda", "float32"),  # fairseq's own affair
    ],
    ids=str,
)
def test_what_is_chosen(monkeypatch: pytest.MonkeyPatch, cfg: Any, device: str, expected: str) -> None:
    monkeypatch.setattr(mixed_precision, "device_type", lambda cpu: device)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 0))
    assert chosen_precision(cfg) == expected


def test_a_gpu_without_bf16_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mixed_precision, "device_type", lambda cpu: "cuda")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla T4")
    with pytest.raises(UserError, match="--precision bf16: Tesla T4 has no bf16"):
        chosen_precision(asked("bf16"))


def test_frozen_precision() -> None:
    assert frozen_dtype("auto", "bf16") is frozen_dtype("bf16", "float32") is torch.bfloat16
    assert frozen_dtype("auto", "float16") is frozen_dtype("float32", "bf16") is torch.float32
    with pytest.raises(UserError, match="--frozen-precision int8 is unknown; choose from auto, float32, bf16"):
        frozen_dtype("int8", "bf16")


@pytest.mark.parametrize(("factor", "told"), [(3.2, 1), (0.2, 0)])
def test_a_slow_machine_is_told_so_once(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    factor: float,
    told: int,
) -> None:
    monkeypatch.setattr(mixed_precision, "bf16_factor", lambda: factor)
    with caplog.at_level(logging.WARNING):
        train(folder / "data", tmp_path, folder / "model.pt", "--max-update", "2", "--no-save", *BF16)
    lines = [record.getMessage() for record in caplog.records if "no fast bf16" in record.getMessage()]
    assert len(lines) == told and all("3.2 times those of float32" in line for line in lines)


def test_the_factor_is_a_measured_one() -> None:
    assert 0.01 < mixed_precision.bf16_factor(rows=32, width=64) < 1000


def test_unknown_choices_are_one_line(folder: Path, tmp_path: Path, ticket: str) -> None:
    for option in ("--frozen-precision", "--recompute-attention"):
        with pytest.raises(UserError, match=f"{option} maybe is unknown; choose from auto, "):
            train(folder / "data", tmp_path, folder / "model.pt", "--ticket", ticket, option, "maybe")
