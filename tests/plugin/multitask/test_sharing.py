"""Nothing leaks: an update moves what its tasks' tickets keep, and everything else keeps its bits, state included."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from fairseq_tickets.encoder_layer import encoder_layers
from fairseq_tickets.parameters import parse
from fairseq_tickets.plugin.optimizer import TicketTorchOptimizer
from fairseq_tickets.plugin.trainable import note_parts
from fairseq_tickets.super_ticket.parts import sharing_parts

from .. import toy
from ..training import NO_DROPOUT
from . import toy as multitask_toy
from .toy import TICKETS, UNION, train, watching, write_list

CLASSES = {"three": 3, "two": 2, "real": 1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data of the three tasks and `model.pt`."""
    return multitask_toy.write_tasks(tmp_path_factory.mktemp("multitask"))


def mask(model: torch.nn.Module, tasks: list[str], name: str, parameter: torch.Tensor) -> torch.Tensor:
    """True where the tasks may move a parameter, head by head from their tickets (Algorithm 1)."""
    head_of = name.partition("classification_heads.")[2].partition(".")[0]
    may = torch.full_like(parameter, not head_of or head_of in tasks, dtype=torch.bool)
    role = parse(name)
    if role is None or (role.matrix, role.kind) == ("out_proj", "bias"):
        return may
    tickets = [TICKETS[task] for task in tasks]
    if role.matrix in ("fc1", "fc2"):
        return may.fill_(any(ticket.ffn[role.layer] for ticket in tickets))
    columns = may.t() if role.matrix == "out_proj" else may
    width = toy.EMBED // toy.HEADS
    for place, head in enumerate(encoder_layers(model)[role.layer].kept_heads):
        columns[place * width : (place + 1) * width] = any(ticket.heads[role.layer][head] for ticket in tickets)
    return may


def snapshot(model: torch.nn.Module, optimizer: TicketTorchOptimizer) -> dict[str, dict[str, torch.Tensor]]:
    """By parameter: its value and, laid out like it, every number of the optimizer's state; nan = no state."""
    taken = {name: {"value": p.detach().clone()} for name, p in model.named_parameters() if p.requires_grad}
    for leaf in optimizer.sliced.leaves:
        for key, value in optimizer.sliced.inner.state[leaf.tensor].items():
            whole = taken[leaf.name].setdefault(key, torch.full_like(leaf.parameter, float("nan")))
            leaf.part.read(whole).copy_(torch.as_tensor(value).expand(leaf.tensor.shape))
    return taken


def same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Equal bit for bit, nan included."""
    return torch.equal(one.view(torch.int32), other.view(torch.int32))


@pytest.mark.parametrize(
    "more",
    [
        ["--ticket-optimizer", "adamw", "--weight-decay", "0.1"],
        ["--ticket-optimizer", "adamax", "--clip-norm", "0.05"],
        ["--ticket-optimizer", "sgd", "--ticket-momentum", "0.9", "--weight-decay", "0.1"],
        ["--ticket-optimizer", "adamw", "--weight-decay", "0.1", "--update-freq", "2"],
        ["--ticket-optimizer", "adamw", "--weight-decay", "0.1", "--ticket-form", "gated"],
    ],
    ids=["adamw", "adamax", "sgd", "update-freq", "gated"],
)
def test_nothing_outside_the_active_tickets_changes(folder: Path, tmp_path: Path, more: list[str]) -> None:
    """Before and after every update of a run in which tasks alternate, dropout and all."""
    tasks = write_list(folder, tmp_path / "tasks.yaml", tickets=True)
    updates: list[list[str]] = []
    seen: list[str] = []

    def train_step(original: Any, self: Any, sample: Any, *args: Any, **options: Any) -> Any:
        seen.append(sample["task"])
        return original(self, sample, *args, **options)

    def optimizer_step(original: Any, self: Any, optimizer: Any, model: Any, update_num: int) -> None:
        now = sorted(set(seen))
        seen.clear()
        before = snapshot(model, optimizer.optimizer)
        original(self, optimizer, model, update_num)
        after = snapshot(model, optimizer.optimizer)
        updates.append(now)
        moved = allowed_to = 0
        for name, parameter in model.named_parameters():
            if name not in before or not parameter.numel():
                continue
            may_move = mask(model, now, name, parameter)
            for key, value in after[name].items():
                old = before[name].get(key, torch.full_like(value, float("nan")))
                assert same_bits(old[~may_move], value[~may_move]), (name, key, now)
            if parse(name) is not None and name.endswith("weight"):
                allowed_to += int(may_move.sum())
                moved += int((after[name]["value"] != before[name]["value"])[may_move].sum())
            if "step" in after[name]:
                first = torch.nan_to_num(before[name].get("step", torch.zeros_like(after[name]["step"])))
                assert (after[name]["step"] - first)[may_move].eq(1).all(), (name, now)
        assert moved > 0.9 * allowed_to > 1000

    with watching("train_step", train_step), watching("optimizer_step", optimizer_step):
        train(tasks, tmp_path / "out", folder / "model.pt", "--no-save", *more)
    assert {tuple(now) for now in updates} >= (
        {("three",), ("two",), ("real",)} if "--update-freq" not in more else set()
    )
    if "--update-freq" in more:
        assert any(len(now) == 2 for now in updates)


def shared_model(form: str = "compact") -> Any:
    """The toy model under the union of the tickets, with a head for each task."""
    model = toy.ticket_roberta()
    for name, classes in CLASSES.items():
        model.register_classification_head(name, num_classes=classes)
    del model.classification_heads["sentence_classification_head"]
    torch.manual_seed(11)
    toy.randomise(model)
    model.tasks = list(TICKETS)
    model.ticket_encoder.apply_super_ticket(UNION, form)
    model.set_task_tickets(TICKETS)
    note_parts(model, sharing_parts(model, model.tasks, TICKETS))
    return model


def backward(model: Any, name: str, seed: int) -> None:
    """Gradients of a batch of a task, added up."""
    model.ticket_encoder.set_gates(TICKETS[name])
    logits, _ = model(toy.tokens(seed=seed), features_only=True, classification_head_name=name)
    targets = torch.randint(0, CLASSES[name], (len(logits),), generator=torch.Generator().manual_seed(seed))
    loss = F.mse_loss(logits[:, 0], targets.to(logits.dtype)) if name == "real" else F.cross_entropy(logits, targets)
    loss.backward()


@pytest.mark.parametrize("kind", ["adamw", "adamax"])
def test_updates_are_those_of_algorithm_1_by_brute_force(kind: str) -> None:
    """Against an optimizer written here that counts steps and keeps moments for every single element."""
    lr, decay, b1, b2, eps = 0.01, 0.1, 0.9, 0.999, 1e-8
    model = shared_model().double()  # W^K's bias has no gradient but rounding, which Adam would blow up
    reference = copy.deepcopy(model)
    note_parts(model, sharing_parts(model, model.tasks, TICKETS))
    inner = {
        "adamw": lambda leaves: torch.optim.AdamW(leaves, lr=lr, betas=(b1, b2), eps=eps, weight_decay=decay),
        "adamax": lambda leaves: torch.optim.Adamax(leaves, lr=lr, betas=(b1, b2), eps=eps, weight_decay=decay),
    }[kind]
    optimizer = TicketTorchOptimizer([p for p in model.parameters() if p.requires_grad], inner)
    names = [name for name, p in reference.named_parameters() if p.requires_grad]
    m, v, t = ({n: torch.zeros_like(reference.get_parameter(n)) for n in names} for _ in range(3))
    for update, tasks in enumerate([["three"], ["two"], ["three"], ["real"], ["two", "real"], ["three"], ["two"]]):
        optimizer.zero_grad()
        reference.zero_grad()
        for name in tasks:
            optimizer.activate([name])
            backward(model, name, update)
            backward(reference, name, update)
        optimizer.step()
        with torch.no_grad():
            for name in names:
                p = reference.get_parameter(name)
                on = mask(reference, tasks, name, p)
                g = torch.zeros_like(p) if p.grad is None else p.grad
                value = p * (1 - lr * decay) if kind == "adamw" else p
                g = g if kind == "adamw" else g + decay * p
                t[name] += on
                m[name] = torch.where(on, b1 * m[name] + (1 - b1) * g, m[name])
                new_v = (
                    b2 * v[name] + (1 - b2) * g * g if kind == "adamw" else torch.maximum(b2 * v[name], g.abs() + eps)
                )
                v[name] = torch.where(on, new_v, v[name])
                first = m[name] / (1 - b1 ** t[name].clamp(min=1))
                second = (v[name] / (1 - b2 ** t[name].clamp(min=1))).sqrt() + eps if kind == "adamw" else v[name]
                p.copy_(torch.where(on, value - lr * first / second, p))
    for name in names:
        torch.testing.assert_close(model.get_parameter(name), reference.get_parameter(name), atol=1e-9, rtol=1e-7)


def test_one_task_moves_like_plain_training_of_its_gated_model() -> None:
    """Inside its ticket, a task that trains alone does what AdamW does on the model gated by its ticket."""
    model = shared_model()
    plain = copy.deepcopy(model)
    optimizer = TicketTorchOptimizer(
        [p for p in model.parameters() if p.requires_grad], lambda leaves: torch.optim.AdamW(leaves, lr=0.01)
    )
    other = torch.optim.AdamW([p for p in plain.parameters() if p.requires_grad], lr=0.01)
    for update in range(4):
        optimizer.zero_grad()
        other.zero_grad()
        optimizer.activate(["two"])
        backward(model, "two", update)
        backward(plain, "two", update)
        optimizer.step()
        other.step()
    start = shared_model()
    for name, parameter in model.named_parameters():
        inside = mask(model, ["two"], name, parameter)
        assert torch.equal(parameter[inside], plain.get_parameter(name)[inside]), name
        assert torch.equal(parameter[~inside], start.get_parameter(name)[~inside]), name


@pytest.mark.parametrize("form", ["compact", "gated"])
@pytest.mark.parametrize("tasks", [["three"], ["real"], ["three", "real"], ["three", "two", "real"]], ids="+".join)
def test_parts_are_what_the_tickets_allow(form: str, tasks: list[str]) -> None:
    """The active parts cover exactly what the tickets keep, for every parameter; none overlap."""
    model = shared_model(form)
    parts = sharing_parts(model, list(TICKETS), TICKETS)
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        covered = torch.zeros_like(parameter, dtype=torch.int32)
        for part in parts.get(name, ()):
            if part.group is None or not part.group.isdisjoint(tasks):
                part.read(covered).add_(1)
        assert torch.equal(covered, mask(model, tasks, name, parameter).int()), name


def test_without_tickets_only_the_heads_of_other_tasks_are_still(folder: Path, tmp_path: Path) -> None:
    """MT-DNN: optimizer `ticket` does what a plain one does."""
    tasks = write_list(folder, tmp_path / "tasks.yaml", tickets=False)
    common = [*NO_DROPOUT, "--lr", "0.05", "--no-save"]
    ours = train(
        tasks, tmp_path / "a", folder / "model.pt", "--ticket-optimizer", "sgd", "--ticket-momentum", "0.9", *common
    )
    plain = train(tasks, tmp_path / "b", folder / "model.pt", "--optimizer", "sgd", "--momentum", "0.9", *common)
    assert len(ours.losses) == 30
    assert ours.losses == pytest.approx(plain.losses, abs=1e-5)
