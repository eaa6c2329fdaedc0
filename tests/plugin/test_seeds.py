"""Seeding for every update: PyTorch's own numbers, and nothing kept for devices that are not there."""

from __future__ import annotations

import pytest
import torch
from fairseq import utils

from fairseq_tickets.plugin import patches

patches.install()


@pytest.mark.skipif(torch.cuda.is_available(), reason="with a GPU fairseq's own seeding is used")
def test_the_same_numbers_and_no_calls_kept() -> None:
    torch.manual_seed(7)
    expected = torch.rand(5)
    kept = len(torch.cuda._queued_calls)
    utils.set_torch_seed(7)
    assert torch.equal(torch.rand(5), expected)
    assert len(torch.cuda._queued_calls) == kept


def test_as_a_context_it_puts_the_state_back() -> None:
    torch.manual_seed(3)
    expected = torch.rand(5)
    torch.manual_seed(3)
    with utils.set_torch_seed(8):
        torch.rand(9)
    assert torch.equal(torch.rand(5), expected)
