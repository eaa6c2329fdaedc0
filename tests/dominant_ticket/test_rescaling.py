"""Rescaling one input of W^O: by hand, and that no output changes."""

from __future__ import annotations

import pytest
import torch

from fairseq_tickets.dominant_ticket.rescaling import rescaled
from fairseq_tickets.errors import UserError
from fairseq_tickets.parameters import matrix_name
from tests.plugin import toy


def test_rows_and_columns_by_hand() -> None:
    names = [matrix_name(1, "v_proj"), matrix_name(1, "v_proj", "bias"), matrix_name(1, "out_proj")]
    before = dict(zip(names, (torch.ones(3, 3), torch.ones(3), torch.ones(3, 3))))
    value, bias, out = (rescaled(before, [(1, 2)], 4.0)[name] for name in names)
    assert value.tolist() == [[1, 1, 1], [1, 1, 1], [4, 4, 4]] and bias.tolist() == [1, 1, 4]
    assert out.tolist() == [[1, 1, 0.25]] * 3
    assert all(tensor.eq(1).all() for tensor in before.values())


@pytest.mark.parametrize("alpha", [0.1, 10.0])
def test_no_output_changes(alpha: float) -> None:
    model = toy.ticket_roberta().double().eval()
    toy.randomise(model)
    before = model(toy.tokens(), features_only=True)[0]
    model.load_state_dict(rescaled(model.state_dict(), [(0, 3), (2, 7), (2, 1)], alpha))
    torch.testing.assert_close(model(toy.tokens(), features_only=True)[0], before, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dimension", [(9, 0), (0, toy.EMBED), (0, -1)])
def test_no_such_input(dimension: tuple[int, int]) -> None:
    with pytest.raises(UserError, match="no such input of W"):
        rescaled(toy.ticket_roberta().state_dict(), [dimension], 2.0)


@pytest.mark.parametrize("alpha", [0.0, -1.0, float("nan")])
def test_alpha_must_be_above_0(alpha: float) -> None:
    with pytest.raises(UserError, match="alpha is"):
        rescaled({}, [], alpha)
