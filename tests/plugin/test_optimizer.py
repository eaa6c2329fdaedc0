"""Optimizer `ticket` in fairseq: inner optimizers are torch's own, clipping sees what moves, bad options refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from fairseq.optim import FairseqOptimizer, build_optimizer
from omegaconf import OmegaConf
from torch import nn

from fairseq_tickets.dominant_ticket.columns import ColumnLinear
from fairseq_tickets.errors import UserError
from fairseq_tickets.plugin.optimizer import TicketOptimizer, TicketOptimizerConfig
from fairseq_tickets.plugin.trainable import note_parts, noted_parts, unwrapped
from fairseq_tickets.updates.parts import Columns, Elements, Span, Whole

from .training import train


def model() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 3))


def options(**changes: Any) -> Any:
    """The optimizer's options as fairseq hands them over."""
    made = OmegaConf.structured(TicketOptimizerConfig())
    for name, value in {"_name": "ticket", "lr": [0.1], "fp16": False, "bf16": False, **changes}.items():
        made[name] = value
    return made


def optimizer_of(made: nn.Module, parts: Any = None, **changes: Any) -> FairseqOptimizer:
    note_parts(made, parts)
    optimizer = build_optimizer(options(**changes), [p for p in made.parameters() if p.requires_grad])
    assert isinstance(optimizer, TicketOptimizer)
    return optimizer


def loss_of(made: nn.Module, seed: int) -> torch.Tensor:
    x = torch.randn(7, 5, generator=torch.Generator().manual_seed(seed))
    out: torch.Tensor = made(x).pow(2).mean()
    return out


@pytest.mark.parametrize(
    ("inner", "reference"),
    [
        ("adamw", lambda p: torch.optim.AdamW(p, lr=0.1, betas=(0.8, 0.95), eps=1e-4, weight_decay=0.3)),
        ("adamax", lambda p: torch.optim.Adamax(p, lr=0.1, betas=(0.8, 0.95), eps=1e-4, weight_decay=0.3)),
        ("sgd", lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.7, weight_decay=0.3)),
    ],
    ids=["adamw", "adamax", "sgd"],
)
def test_without_a_ticket_it_is_torchs_optimizer(inner: str, reference: Any) -> None:
    ours, theirs = model(), model()
    optimizer = optimizer_of(
        ours,
        ticket_optimizer=inner,
        ticket_betas="(0.8, 0.95)",
        ticket_eps=1e-4,
        ticket_momentum=0.7,
        weight_decay=0.3,
    )
    expected = reference(theirs.parameters())
    for update in range(6):
        lr = 0.1 / (1 + update)  # a schedule sets it from outside
        optimizer.set_lr(lr)
        expected.param_groups[0]["lr"] = lr
        for made, step in ((ours, optimizer), (theirs, expected)):
            step.zero_grad()
            loss_of(made, update).backward()
            step.step()
    rounding = {"rtol": 1e-6, "atol": 1e-7} if inner == "adamw" else {"rtol": 0, "atol": 0}  # ours is fused
    for one, other in zip(ours.parameters(), theirs.parameters()):
        torch.testing.assert_close(one, other, **rounding)
    assert optimizer.get_lr() == 0.1 / 6


def adamw_by_hand(value: torch.Tensor, gradients: list[torch.Tensor], lr: float, decay: float) -> torch.Tensor:
    """Loshchilov and Hutter (2019), algorithm 2, in double precision; β₁ = 0.9, β₂ = 0.999, ε = 1e-8."""
    value, m, v = value.double(), torch.zeros(value.shape).double(), torch.zeros(value.shape).double()
    for t, gradient in enumerate(gradients, 1):
        m = 0.9 * m + 0.1 * gradient.double()
        v = 0.999 * v + 0.001 * gradient.double() ** 2
        step = (m / (1 - 0.9**t)) / ((v / (1 - 0.999**t)).sqrt() + 1e-8)
        value = value - lr * step - lr * decay * value
    return value


def across(x: torch.Tensor) -> torch.Tensor:
    """Equal numbers, the other way round in memory."""
    return x.t().contiguous().t()


@pytest.mark.parametrize("parts", [(Whole(),), (Span(1, 1, 3),), (Columns(torch.tensor([3, 0])),)])
@pytest.mark.parametrize("of_values", [torch.clone, across])
@pytest.mark.parametrize("of_gradients", [torch.clone, across])
@pytest.mark.parametrize("of_state", [torch.clone, across])
def test_adamw_is_right_however_numbers_lie_in_memory(
    parts: Any, of_values: Any, of_gradients: Any, of_state: Any
) -> None:
    """PyTorch's fused kernel takes all for contiguous and looks at nothing: 0.5 off where they aren't."""
    torch.manual_seed(2)
    weight = nn.Parameter(of_values(torch.randn(6, 4)))
    start, gradients = weight.detach().clone(), [torch.randn(6, 4) for _ in range(4)]
    holder = nn.Module()
    holder.weight = weight
    optimizer = optimizer_of(holder, {"weight": parts}, weight_decay=0.3)
    for count, gradient in enumerate(gradients):
        if count == 2:  # go on from a state that was saved; an old one may say how the step is to be computed
            state = optimizer.state_dict()
            for moments in state["state"].values():
                moments.update({k: of_state(x) if x.ndim == 2 else x.clone() for k, x in moments.items()})
            state["param_groups"][0]["fused"] = of_state is torch.clone
            optimizer = optimizer_of(holder, {"weight": parts}, weight_decay=0.3)
            optimizer.load_state_dict(state)
        weight.grad = of_gradients(gradient)
        optimizer.step()
    (part,) = parts
    expected = adamw_by_hand(part.read(start), [part.read(gradient) for gradient in gradients], 0.1, 0.3)
    torch.testing.assert_close(part.read(weight.detach()), expected.float(), rtol=1e-5, atol=1e-6)


def test_adamw_of_columns_is_fused_and_that_of_views_is_not() -> None:
    layer = ColumnLinear.from_linear(nn.Linear(5, 4), [3, 0, 2])
    assert optimizer_of(layer).optimizer.sliced.inner.defaults["fused"]
    holder = nn.Sequential(nn.Linear(5, 4))
    viewed = optimizer_of(holder, {"0.weight": (Span(1, 1, 3),)}).optimizer.sliced.inner
    assert not viewed.defaults["fused"]


PARTS = {
    "0.weight": (Columns(torch.tensor([4, 1])),),
    "1.weight": (Elements(torch.tensor([0, 7])),),
    "1.bias": (Whole(),),
}


def test_clipping_sees_only_what_moves() -> None:
    """By hand: the norm over two columns, two elements and a bias; their step under SGD is the clipped gradient."""
    made = model()
    optimizer = optimizer_of(made, PARTS, ticket_optimizer="sgd")
    before = {name: p.detach().clone() for name, p in made.named_parameters()}
    optimizer.zero_grad()
    (100 * loss_of(made, 1)).backward()
    gradients = {name: p.grad.clone() for name, p in made.named_parameters() if p.grad is not None}
    moving = [gradients["0.weight"][:, [4, 1]], gradients["1.weight"].flatten()[[0, 7]], gradients["1.bias"]]
    norm = torch.cat([g.flatten() for g in moving]).norm()
    assert norm > 0.5
    assert float(optimizer.clip_grad_norm(0.5)) == pytest.approx(float(norm), rel=1e-5)
    optimizer.step()
    scale = 0.5 / float(norm) * 0.1
    moved = {name: before[name] - p.detach() for name, p in made.named_parameters()}
    torch.testing.assert_close(moved["0.weight"][:, [4, 1]], scale * moving[0], rtol=1e-3, atol=1e-7)
    torch.testing.assert_close(moved["1.weight"].flatten()[[0, 7]], scale * moving[1], rtol=1e-3, atol=1e-7)
    torch.testing.assert_close(moved["1.bias"], scale * moving[2], rtol=1e-3, atol=1e-7)
    assert not moved["0.weight"][:, [0, 2, 3]].any() and not moved["0.bias"].any()
    assert not moved["1.weight"].flatten()[[1, 2, 3, 4, 5, 6, 8, 9, 10, 11]].any()


def test_its_state_is_that_of_the_parts() -> None:
    made = model()
    optimizer = optimizer_of(made, PARTS)
    optimizer.zero_grad()
    loss_of(made, 1).backward()
    optimizer.step()
    sizes = sorted(entry["exp_avg"].numel() for entry in optimizer.state_dict()["state"].values())
    assert sizes == [2, 3, 8]


def test_a_learning_rate_of_the_command_line_overrides_a_saved_one() -> None:
    optimizer = optimizer_of(model(), PARTS)
    saved = optimizer.state_dict()
    other = optimizer_of(model(), PARTS, lr=[0.02])
    other.load_state_dict(saved, {"lr": 0.05})
    assert other.get_lr() == 0.05


@pytest.mark.parametrize("betas", ["0.9", "(0.9,)", "(0.9, 1.0)", "(-0.1, 0.9)", "(a, b)", "__import__('os')"])
def test_betas_that_are_none_are_refused(betas: str) -> None:
    with pytest.raises(UserError, match="--ticket-betas .* must be two numbers"):
        optimizer_of(model(), ticket_betas=betas)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_copies_of_the_parameters_are_refused(precision: str) -> None:
    """Under --memory-efficient-fp16; with plain --fp16 fairseq's copies carry no note, which is the test below."""
    with pytest.raises(UserError, match=f"--optimizer ticket can't work with --{precision}"):
        optimizer_of(model(), **{precision: True})


def test_parameters_that_nobody_noted_are_refused() -> None:
    with pytest.raises(UserError, match="--optimizer ticket doesn't know these parameters.*--amp in place of --fp16"):
        build_optimizer(options(), list(model().parameters()))


def test_memory_efficient_fp16_is_refused_by_fairseq_train(folder: Path, tmp_path: Path) -> None:
    words = ["--optimizer", "ticket", "--fp16", "--memory-efficient-fp16", "--max-epoch", "1"]
    with pytest.raises(UserError, match="can't work with --fp16"):
        train(folder / "data", tmp_path, folder / "model.pt", *words)


def test_a_model_is_found_inside_any_wrapping() -> None:
    class Wrapper(nn.Module):
        def __init__(self, module: nn.Module) -> None:
            super().__init__()
            self.module = module

    made = model()
    assert unwrapped(Wrapper(Wrapper(made))) is made
    assert unwrapped(made) is made


def test_notes_keep_names_and_parts() -> None:
    made = model()
    note_parts(made, PARTS)
    named, parts = noted_parts(p for p in made.parameters() if p.requires_grad)
    assert list(named) == ["0.weight", "1.weight", "1.bias"]
    assert parts == PARTS
    assert not made[0].bias.requires_grad
