"""Dropout: the masks' statistics, and derivatives against the mask that was drawn."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from fairseq_tickets import dropout as module
from fairseq_tickets.dropout import Dropout, add_dropped, dropout, keep_mask, kept_share

DTYPES = [torch.float32, torch.float64, torch.bfloat16]


def masks(count: int, p: float) -> Tensor:
    torch.manual_seed(0)
    return keep_mask((count,), p).float()


@pytest.mark.parametrize(("p", "share"), [(0.5, 0.5), (0.25, 0.75), (0.1, 58982 / 65536), (1e-6, 1.0), (1.0, 0.0)])
def test_share_by_hand(p: float, share: float) -> None:
    """6553.6 of 65536 numbers would be dropped at p = 0.1; 6554 are."""
    assert kept_share(p) == share


@pytest.mark.parametrize("p", [0.01, 0.1, 0.5, 0.9])
def test_elements_are_kept_with_the_share_s_probability(p: float) -> None:
    """Mean of a million elements, within 4 standard deviations."""
    count, share = 1 << 20, kept_share(p)
    mean = float(masks(count, p).mean())
    assert abs(mean - share) < 4 * math.sqrt(share * (1 - share) / count)


@pytest.mark.parametrize("lag", [1, 2, 3, 4, 5, 8, 64, 1024])
def test_elements_are_independent_of_their_neighbours(lag: int) -> None:
    """Four elements share one number of the generator; correlation at any distance is noise of 1 / sqrt(n)."""
    x = masks(1 << 20, 0.1)
    x = (x - x.mean()) / x.std()
    assert abs(float((x[lag:] * x[:-lag]).mean())) < 4 / math.sqrt(len(x))


def test_each_place_of_a_number_is_alike() -> None:
    means = masks(1 << 20, 0.1).view(-1, 4).mean(0)
    assert float((means - kept_share(0.1)).abs().max()) < 4 * math.sqrt(0.09 / (1 << 18))


def test_the_runs_of_kept_elements_are_geometric() -> None:
    """Distances between dropped elements, by a χ² test with 20 classes: 99.9 % quantile of 19 degrees is 43.8."""
    q = 1 - kept_share(0.1)
    dropped = (masks(1 << 20, 0.1) == 0).nonzero().view(-1)
    distance = (dropped[1:] - dropped[:-1]).clamp(max=20)
    expected = torch.tensor([q * (1 - q) ** (d - 1) for d in range(1, 20)] + [(1 - q) ** 19]) * len(distance)
    found = torch.bincount(distance, minlength=21)[1:]
    assert float(((found - expected) ** 2 / expected).sum()) < 43.8


def test_the_seed_decides() -> None:
    assert torch.equal(masks(1001, 0.3), masks(1001, 0.3))
    torch.manual_seed(0)
    first, second = keep_mask((1001,), 0.3), keep_mask((1001,), 0.3)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_mean_is_kept(dtype: torch.dtype) -> None:
    torch.manual_seed(1)
    y = dropout(torch.ones(1 << 20, dtype=dtype), 0.1)
    assert set(y.unique().tolist()) == {0.0, float(torch.tensor(1 / kept_share(0.1), dtype=dtype))}
    assert float(y.double().mean()) == pytest.approx(1.0, abs=3e-3)


def drawn(monkeypatch: pytest.MonkeyPatch, mask: Tensor) -> None:
    monkeypatch.setattr(module, "keep_mask", lambda shape, p: mask.bfloat16())


def test_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn(monkeypatch, torch.tensor([1.0, 0.0, 1.0]))
    x, z = torch.tensor([1.0, 2.0, 3.0], requires_grad=True), torch.tensor([4.0, 5.0, 6.0], requires_grad=True)
    y, total = dropout(x, 0.5), add_dropped(x, z, 0.5)
    assert y.tolist() == [2.0, 0.0, 6.0] and total.tolist() == [9.0, 2.0, 15.0]
    weights = torch.tensor([1.0, 10.0, 100.0])
    assert torch.autograd.grad((y * weights).sum(), x)[0].tolist() == [2.0, 0.0, 200.0]
    found = torch.autograd.grad((total * weights).sum(), [x, z])
    assert [g.tolist() for g in found] == [[1.0, 10.0, 100.0], [2.0, 0.0, 200.0]]


def test_gradcheck(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn(monkeypatch, torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]]))
    x, z = (torch.randn(2, 3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(lambda x: dropout(x, 0.3), (x,))
    assert torch.autograd.gradcheck(lambda x, z: add_dropped(x, z, 0.3), (x, z))


def test_nothing_happens_in_evaluation_or_without_dropout() -> None:
    x, z = torch.randn(5), torch.randn(5)
    assert dropout(x, 0.5, training=False) is x and dropout(x, 0.0) is x
    assert torch.equal(add_dropped(x, z, 0.5, training=False), x + z)
    layer = nn.Sequential(Dropout(0.5)).eval()
    assert layer(x) is x
    assert not torch.equal(layer.train()(x), x)


def test_other_types_meet_in_the_wider() -> None:
    torch.manual_seed(0)
    assert add_dropped(torch.ones(4), torch.ones(4, dtype=torch.bfloat16), 0.5).dtype == torch.float32
