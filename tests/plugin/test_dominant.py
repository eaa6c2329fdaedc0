"""Training under a dominant ticket: by columns or by optimizer, one result; small checkpoints; nothing else moves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fairseq_tickets import checkpoint
from fairseq_tickets.cli import main
from fairseq_tickets.dominant_ticket.baselines import random_elements
from fairseq_tickets.dominant_ticket.columns import apply_ticket
from fairseq_tickets.dominant_ticket.delta import apply, load_delta
from fairseq_tickets.dominant_ticket.updates import parts_of, trainable_slices
from fairseq_tickets.encoder_layer import encoder_layers
from fairseq_tickets.errors import UserError
from fairseq_tickets.parameters import MATRICES, ModelShape, is_dead_copy, matrix_name, parse
from fairseq_tickets.plugin.criterion import example_losses
from fairseq_tickets.plugin.delta_checkpoints import STATE, shrunk
from fairseq_tickets.plugin.loading import load_finetuned
from fairseq_tickets.tickets import DominantTicket, load_ticket
from fairseq_tickets.updates.optimizer import SlicedOptimizer

from . import toy
from .test_workers import train_in_parallel
from .training import NO_DROPOUT, Run, train

SHAPE = ModelShape(toy.LAYERS, toy.HEADS, toy.EMBED, toy.FFN)
HEAD = "classification_heads.sentence_classification_head."


def dominant_ticket() -> DominantTicket:
    """Columns with and without the bias, the bias alone, and "None"; every matrix and layer differs."""
    dimensions = {}
    for place, matrix in enumerate(MATRICES):
        bias = SHAPE.in_features(matrix)
        choices = [[3, bias], [], [7, 0, 5], [bias], [bias - 1]]
        dimensions[matrix] = [choices[(place + layer) % len(choices)] for layer in range(SHAPE.layers)]
    return DominantTicket(SHAPE, dimensions)


TICKET = dominant_ticket()
COLUMNS = ["--ticket-route", "columns"]
OPTIMIZER = ["--ticket-route", "optimizer", "--optimizer", "ticket"]
STOCK = [*OPTIMIZER, "--arch", "roberta", "--encoder-layers", "3", "--encoder-embed-dim", "12"]
STOCK += ["--encoder-ffn-embed-dim", "20", "--encoder-attention-heads", "4", "--max-positions", "16"]
ADAMW = ["--lr", "0.003", "--weight-decay", "0.1"]


@pytest.fixture(scope="module")
def ticket(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("ticket") / "dominant.json"
    TICKET.save(path)
    return str(path)


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with a head: stock fairseq draws other random numbers for a new one."""
    return with_head(tmp_path_factory.mktemp("start") / "model.pt", toy.ticket_roberta())


def with_head(path: Path, model: nn.Module) -> Path:
    toy.write_checkpoint(path, model)
    content = torch.load(path, weights_only=True)
    content["model"] = {name: tensor.clone() for name, tensor in pre_trained(model).items()}
    torch.save(content, path)
    return path


def pre_trained(model: nn.Module) -> dict[str, Tensor]:
    """`model`'s tensors, with the weights of one toy model under the names they share."""
    known = toy.stock_roberta().state_dict()
    return {name: known.get(name, tensor) for name, tensor in model.state_dict().items()}


@pytest.fixture(scope="module")
def by_columns(folder: Path, start: Path, ticket: str, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Two epochs by route 1 with optimizer `ticket`, whose inner optimizer is AdamW."""
    words = [*NO_DROPOUT, "--ticket", ticket, *COLUMNS, "--optimizer", "ticket", *ADAMW]
    return train(folder / "data", tmp_path_factory.mktemp("columns"), start, *words)


def allowed(name: str) -> Tensor | bool:
    """What the ticket lets move of a parameter: columns, all of it (True), or nothing (False)."""
    role = parse(name)
    if role is None:
        return name.startswith(HEAD)
    dims, bias = TICKET.dimensions[role.matrix][role.layer], SHAPE.in_features(role.matrix)
    if role.kind == "bias":
        return bias in dims
    return torch.tensor([index in dims for index in range(bias)])


def assert_only_the_ticket_moved(before: dict[str, Tensor], after: dict[str, Tensor]) -> None:
    """Bit for bit the same outside ticket and head; every number inside it has moved."""
    compared = 0
    for name, tensor in before.items():
        may, moved = allowed(name), after[name] != tensor
        if isinstance(may, Tensor):
            assert not moved[:, ~may].any(), name
            assert moved[:, may].float().mean() > 0.5 or not may.any(), name
        elif may:
            assert moved.any(), name
        else:
            assert not moved.any(), name
            compared += tensor.numel()
    assert compared > 500


def encoder_of(path: Path) -> dict[str, Tensor]:
    return checkpoint.encoder_tensors(path)


def test_nothing_else_moves_in_the_saved_checkpoint_by_columns(start: Path, by_columns: Run) -> None:
    assert_only_the_ticket_moved(encoder_of(start), encoder_of(by_columns.path()))


def routes_agree(one: Run, other: Run) -> None:
    """The same loss curve, and about the same weights in float32."""
    assert len(one.losses) == len(other.losses) == 12
    assert other.losses == pytest.approx(one.losses, abs=1e-4)
    assert max(one.losses) - min(one.losses) > 0.1  # it is no flat line
    ours, theirs = encoder_of(one.path()), encoder_of(other.path())
    for name, tensor in ours.items():
        if "k_proj.bias" not in name:  # a softmax doesn't feel it: its gradient is rounding, which Adam blows up
            torch.testing.assert_close(theirs[name], tensor, rtol=0, atol=2e-4)


def test_route_2_follows_the_same_loss_curve(
    folder: Path, start: Path, tmp_path: Path, ticket: str, by_columns: Run
) -> None:
    run = train(folder / "data", tmp_path, start, *NO_DROPOUT, "--ticket", ticket, *OPTIMIZER, *ADAMW)
    routes_agree(by_columns, run)
    assert_only_the_ticket_moved(encoder_of(start), encoder_of(run.path()))


def test_route_2_on_stock_roberta_follows_it_too(folder: Path, tmp_path: Path, ticket: str, by_columns: Run) -> None:
    """It loads every weight a second time; those copies stay what they were as well."""
    start = with_head(tmp_path / "stock.pt", toy.stock_roberta())
    run = train(folder / "data", tmp_path, start, *NO_DROPOUT, "--ticket", ticket, *STOCK, *ADAMW)
    routes_agree(by_columns, run)
    assert_only_the_ticket_moved(encoder_of(start), encoder_of(run.path()))
    before, after = (checkpoint.load(path)["model"] for path in (start, run.path()))
    for layer in range(SHAPE.layers):
        for copy, name in (("fc1_weight", "fc1.weight"), ("fc2_bias", "fc2.bias"), ("out_proj_bias", "out_proj.bias")):
            at = f"encoder.sentence_encoder.layers.{layer}."
            live = at + ("self_attn." if copy.startswith("out") else "") + name
            assert torch.equal(after[at + copy], before[live])


@pytest.mark.parametrize("inner", ["adamw", "adamax", "sgd"])
def test_the_routes_are_one_in_float64(inner: str) -> None:
    """50 updates with weight decay from the same start: the same weights to 1e-8, on both models."""
    known = toy.stock_roberta().double().state_dict()
    ends = [route(known, inner) for route in (_by_columns, _by_optimizer, _by_optimizer_on_stock)]
    for other in ends[1:]:
        for name, tensor in ends[0].items():
            torch.testing.assert_close(other[name], tensor, rtol=0, atol=1e-8, msg=name)
    before = {name: known[name] for name in ends[0]}
    assert_only_the_ticket_moved(before, ends[0])
    assert max(float((ends[0][name] - before[name]).abs().max()) for name in before) > 0.01


def make_inner(kind: str, leaves: list[Tensor]) -> torch.optim.Optimizer:
    if kind == "sgd":
        return torch.optim.SGD(leaves, lr=0.01, momentum=0.9, weight_decay=0.1)
    return (torch.optim.AdamW if kind == "adamw" else torch.optim.Adamax)(leaves, lr=0.003, weight_decay=0.1)


def _by_columns(known: dict[str, Tensor], inner: str) -> dict[str, Tensor]:
    model = toy.ticket_roberta().double()
    model.load_state_dict(dict(known))
    model.encoder.requires_grad_(False)
    apply_ticket(encoder_layers(model), TICKET)
    optimizer = make_inner(inner, [p for p in model.parameters() if p.requires_grad])
    return fifty_updates(model, optimizer)


def _by_optimizer(known: dict[str, Tensor], inner: str) -> dict[str, Tensor]:
    model = toy.ticket_roberta().double()
    model.load_state_dict(dict(known))
    return _with_parts(model, inner)


def _by_optimizer_on_stock(known: dict[str, Tensor], inner: str) -> dict[str, Tensor]:
    model = toy.stock_roberta().double()
    model.load_state_dict(dict(known))
    for module in model.modules():
        if hasattr(module, "ever_training"):
            module.ever_training = True
            module.activation_fn = torch.nn.functional.gelu  # fairseq's own rounds to float32
    return _with_parts(model, inner)


def _with_parts(model: nn.Module, inner: str) -> dict[str, Tensor]:
    parts = parts_of(trainable_slices(model.named_parameters(), TICKET))
    optimizer = SlicedOptimizer(model.named_parameters(), parts, lambda leaves: make_inner(inner, leaves))
    return fifty_updates(model, optimizer)


def fifty_updates(model: Any, optimizer: Any) -> dict[str, Tensor]:
    """The model's weights by stock name after 50 updates on padded batches."""
    model.train()
    for update in range(50):
        batch = toy.tokens(seed=update % 5)
        logits, _ = model(batch, features_only=True, classification_head_name="sentence_classification_head")
        optimizer.zero_grad()
        example_losses(logits, batch[:, 1] % 3, regression=False).mean().backward()
        optimizer.step()
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    return {name: t for name, t in tensors.items() if not is_dead_copy(name) and not name.endswith("version")}


@pytest.mark.slow
@pytest.mark.parametrize("route", [[*COLUMNS, "--optimizer", "ticket"], OPTIMIZER], ids=["columns", "optimizer"])
def test_accumulated_batches_are_one_batch(folder: Path, tmp_path: Path, ticket: str, route: list[str]) -> None:
    words = [*NO_DROPOUT, "--ticket", ticket, *route, "--lr", "0.001", "--max-epoch", "4", "--disable-validation"]
    small = train(folder / "data", tmp_path / "small", folder / "model.pt", *words, "--update-freq", "6")
    large = train(folder / "data", tmp_path / "large", folder / "model.pt", *words, "--batch-size", "24")
    assert len(small.losses) == len(large.losses) == 4
    assert small.losses == pytest.approx(large.losses, abs=1e-5)


@pytest.mark.parametrize(
    "route",
    [[*COLUMNS, "--optimizer", "ticket"], [*COLUMNS, "--delta-checkpoints"], OPTIMIZER],
    ids=["columns", "deltas", "optimizer"],
)
def test_resumed_is_bit_for_bit_as_if_never_stopped(
    folder: Path, tmp_path: Path, ticket: str, route: list[str]
) -> None:
    words = ["--ticket", ticket, *route, *ADAMW]
    whole = train(folder / "data", tmp_path / "whole", folder / "model.pt", *words, "--max-epoch", "2")
    train(folder / "data", tmp_path / "parts", folder / "model.pt", *words, "--max-epoch", "1")
    resumed = train(folder / "data", tmp_path / "parts", folder / "model.pt", *words, "--max-epoch", "2")
    assert len(resumed.losses) == 6
    assert resumed.losses == whole.losses[6:]
    ours, theirs = whole.checkpoint(), resumed.checkpoint()
    assert list(ours["model"]) == list(theirs["model"])
    assert all(torch.equal(ours["model"][name], theirs["model"][name]) for name in ours["model"])


@pytest.mark.slow
@pytest.mark.parametrize("route", [[*COLUMNS, "--optimizer", "ticket"], OPTIMIZER], ids=["columns", "optimizer"])
def test_two_workers_are_one_with_twice_the_batch(folder: Path, tmp_path: Path, ticket: str, route: list[str]) -> None:
    words = [*NO_DROPOUT, "--ticket", ticket, *route, "--lr", "0.001", "--max-epoch", "5"]
    words += ["--required-batch-size-multiple", "1"]
    one = train(folder / "data", tmp_path / "one", folder / "model.pt", *words, "--batch-size", "24")
    two = train_in_parallel(folder / "data", tmp_path / "two", folder / "model.pt", *words, "--batch-size", "12")
    assert len(one.losses) == len(two.losses) == 5
    assert two.losses == pytest.approx(one.losses, abs=1e-5)
    ours, theirs = encoder_of(one.path()), encoder_of(two.path())
    for name, tensor in ours.items():
        torch.testing.assert_close(theirs[name], tensor, rtol=0, atol=2e-5)
    assert_only_the_ticket_moved(encoder_of(folder / "model.pt"), theirs)


def test_a_plain_optimizer_with_route_2_is_refused(folder: Path, tmp_path: Path, ticket: str) -> None:
    with pytest.raises(UserError, match="FairseqAdam would move more than the ticket allows; use --optimizer ticket"):
        train(folder / "data", tmp_path, folder / "model.pt", "--ticket", ticket, "--ticket-route", "optimizer")


def test_a_plain_optimizer_with_columns_is_fine(folder: Path, tmp_path: Path, ticket: str) -> None:
    run = train(folder / "data", tmp_path, folder / "model.pt", "--ticket", ticket, "--max-epoch", "1")
    assert_only_the_ticket_moved(encoder_of(folder / "model.pt"), encoder_of(run.path()))


# Random elements


def test_random_elements_move_and_no_others(folder: Path, tmp_path: Path) -> None:
    words = ["--optimizer", "ticket", "--random-elements", "0.05", "--random-elements-seed", "3", "--max-epoch", "1"]
    run = train(folder / "data", tmp_path, folder / "model.pt", *words)
    before, after = encoder_of(folder / "model.pt"), encoder_of(run.path())
    chosen = random_elements(SHAPE, 0.05, 3)
    for name, tensor in before.items():
        moved, role = (after[name] != tensor).flatten(), parse(name)
        may = torch.zeros_like(moved)
        if role is not None and role.kind == "weight":
            may[chosen[role.layer, role.matrix]] = True
        assert not moved[~may].any(), name
        assert moved[may].float().mean() > 0.8 or not may.any(), name


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--optimizer", "ticket", "--random-elements", "0"], "--random-elements 0 must be above 0"),
        (["--optimizer", "ticket", "--random-elements", "5"], "--random-elements 5 must be above 0"),
        (["--random-elements", "0.05"], "FairseqAdam would move more"),
        (["--random-elements", "0.05", "--ticket", "x.json"], "can't be combined with --ticket"),
        (["--random-elements", "0.05", "--delta-checkpoints"], "can't be combined with --delta-checkpoints"),
    ],
    ids=" ".join,
)
def test_random_elements_refuse(folder: Path, tmp_path: Path, words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        train(folder / "data", tmp_path, folder / "model.pt", *words)


# Delta checkpoints


@pytest.fixture(scope="module")
def small(folder: Path, start: Path, ticket: str, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """As `by_columns`, with delta checkpoints."""
    words = [*NO_DROPOUT, "--ticket", ticket, *COLUMNS, "--optimizer", "ticket", *ADAMW, "--delta-checkpoints"]
    return train(folder / "data", tmp_path_factory.mktemp("small"), start, *words)


def test_a_delta_on_its_base_is_the_trained_model(start: Path, small: Run, by_columns: Run) -> None:
    delta = load_delta(small.path().with_suffix(".safetensors"))
    merged = apply(encoder_of(start), delta)
    trained = encoder_of(by_columns.path())
    assert delta.ticket.dimensions == TICKET.dimensions
    assert delta.task is not None and delta.task.labels == ("c0", "c1", "c2") and delta.task.init_token == 0
    assert set(delta.heads) == {name for name in trained if name.startswith(HEAD)}
    assert all(torch.equal(merged[name], tensor) for name, tensor in trained.items() if not name.endswith("version"))
    assert {path.name for path in small.save_dir.glob("*.safetensors")} == {
        "checkpoint_best.safetensors",
        "checkpoint_last.safetensors",
    }


def test_delta_checkpoints_hold_nothing_but_what_is_trained(small: Run, by_columns: Run) -> None:
    saved, whole = small.checkpoint(), by_columns.checkpoint()
    head = sum(t.numel() for name, t in whole["model"].items() if name.startswith(HEAD))
    assert sum(tensor.numel() for tensor in saved["model"].values()) == TICKET.trainable_parameters() + head
    assert small.path().stat().st_size < by_columns.path().stat().st_size


def test_a_delta_goes_with_its_checkpoint(folder: Path, start: Path, tmp_path: Path, ticket: str) -> None:
    words = ["--ticket", ticket, *COLUMNS, "--delta-checkpoints", "--max-epoch", "1", "--save-interval-updates", "1"]
    train(folder / "data", tmp_path, start, *NO_DROPOUT, *words, "--keep-interval-updates", "2")
    assert len(list(tmp_path.glob("checkpoint_1_*.pt"))) == 2
    assert {p.stem for p in tmp_path.glob("*.pt")} == {p.stem for p in tmp_path.glob("*.safetensors")}


def test_fairseq_loads_a_delta_checkpoint(folder: Path, small: Run, by_columns: Run) -> None:
    ours, _ = load_finetuned(small.path("best"), folder / "data")
    theirs, _ = load_finetuned(by_columns.path("best"), folder / "data")
    batch = toy.tokens()
    with torch.no_grad():
        logits = [
            model(batch, features_only=True, classification_head_name="sentence_classification_head")[0]
            for model in (ours, theirs)
        ]
    assert torch.equal(*logits)


@pytest.mark.parametrize("target", [["--to", "fairseq"], ["--to", "hf"], ["--to", "delta"]], ids=" ".join)
def test_export_of_a_delta_checkpoint_says_what_to_type(
    start: Path, small: Run, by_columns: Run, ticket: str, tmp_path: Path, capsys: Any, target: list[str]
) -> None:
    out = tmp_path / ("out.safetensors" if target[1] == "delta" else "out")
    more = ["--base", str(start), "--ticket", ticket] if target[1] == "delta" else []
    assert main(["export", "--checkpoint", str(small.path()), *target, *more, "--output", str(out)]) == 2
    printed = capsys.readouterr().err
    advice = f"--delta {small.path().with_suffix('.safetensors')} --base {start}"
    assert printed.endswith(f"use {advice}\n") and printed.count("\n") == 1 and not out.exists()
    assert main(["export", *advice.split(), "--output", str(tmp_path / "whole.pt")]) == 0
    exported, trained = encoder_of(tmp_path / "whole.pt"), encoder_of(by_columns.path())
    assert exported.keys() >= {matrix_name(layer, m) for layer in range(toy.LAYERS) for m in MATRICES}
    assert all(torch.equal(tensor, trained[name]) for name, tensor in exported.items())


def test_another_base_is_refused(folder: Path, tmp_path: Path, ticket: str) -> None:
    base = tmp_path / "base.pt"
    base.write_bytes((folder / "model.pt").read_bytes())
    words = ["--ticket", ticket, "--delta-checkpoints", "--max-epoch", "1", "--save-dir", str(tmp_path / "out")]
    run = train(folder / "data", tmp_path / "out", base, *words)
    toy.write_checkpoint(base, toy.stock_roberta(seed=5))
    with pytest.raises(UserError, match="trained from another base"):
        load_finetuned(run.path(), folder / "data")
    base.unlink()
    with pytest.raises(UserError, match="the base that it belongs to, .*base.pt, is not there"):
        load_finetuned(run.path(), folder / "data")


@pytest.mark.parametrize("route", [OPTIMIZER, [*COLUMNS, "--ticket", "SUPER"]], ids=["route 2", "super"])
def test_delta_checkpoints_need_columns(folder: Path, tmp_path: Path, ticket: str, route: list[str]) -> None:
    from fairseq_tickets.tickets import SuperTicket

    SuperTicket.full(SHAPE).save(tmp_path / "super.json")
    words = ["--ticket", ticket, *(str(tmp_path / "super.json") if w == "SUPER" else w for w in route)]
    with pytest.raises(UserError, match="--delta-checkpoints needs a dominant --ticket"):
        train(folder / "data", tmp_path / "out", folder / "model.pt", *words, "--delta-checkpoints")


def test_a_model_that_left_its_base_gives_no_delta(folder: Path, tmp_path: Path, ticket: str) -> None:
    """Training that goes on from elsewhere (--restore-file) has other frozen weights than the base it names."""
    other = toy.write_checkpoint(tmp_path / "other.pt", toy.stock_roberta(seed=5))
    out = tmp_path / "out"
    train(folder / "data", out, other, "--ticket", ticket, "--max-epoch", "1")
    words = ["--ticket", ticket, "--delta-checkpoints", "--max-epoch", "2"]
    words += ["--reset-optimizer", "--restore-file", str(out / "checkpoint_last.pt")]
    with pytest.raises(UserError, match="needs --finetune-from-model"):
        train(folder / "data", tmp_path / "new", None, *words)
    with pytest.raises(UserError, match="--delta-checkpoints was False there and is True here"):
        train(folder / "data", out, folder / "model.pt", *words[:-3])
    state = {**checkpoint.load(out / "checkpoint_last.pt"), "task_state": {}}
    base = str(folder / "model.pt")
    state["task_state"] = {STATE: {"ticket": load_ticket(ticket).to_json(), "base": base}}
    with pytest.raises(UserError, match="differs from .*model.pt outside the ticket"):
        shrunk(state)


@pytest.mark.slow
def test_a_delta_of_roberta_large_takes_less_than_6_mb(tmp_path: Path) -> None:
    from fairseq_tickets.dominant_ticket.delta import Delta, save_delta

    shape = ModelShape(24, 16, 1024, 4096)
    large = DominantTicket(shape, {matrix: [[0]] * 24 for matrix in MATRICES})
    columns = {(layer, m): torch.zeros(shape.out_features(m), 1) for layer in range(24) for m in MATRICES}
    heads = {HEAD + "dense.weight": torch.zeros(1024, 1024), HEAD + "dense.bias": torch.zeros(1024)}
    heads.update({HEAD + "out_proj.weight": torch.zeros(3, 1024), HEAD + "out_proj.bias": torch.zeros(3)})
    save_delta(tmp_path / "delta.safetensors", Delta(large, "0" * 64, columns, heads))
    assert large.trainable_parameters() == 221_184
    assert (tmp_path / "delta.safetensors").stat().st_size < 6e6


def test_every_kind_of_choice_is_in_the_ticket() -> None:
    assert {len(dims) for _, _, dims in TICKET.items()} == {0, 1, 2, 3}
    assert matrix_name(0, MATRICES[0]) in encoder_names()


def encoder_names() -> list[str]:
    return list(toy.ticket_roberta().state_dict())
