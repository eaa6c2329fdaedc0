"""A change of weights that changes no output: for testing what makes a dimension dominant.

Input j of W^O is what row j of W^V made of the tokens that a head attends to, and attention averages it linearly. So

    W^V_j ← α W^V_j,  b^V_j ← α b^V_j,  W^O_:j ← W^O_:j / α

multiplies that input by α, and the gradient of column j of W^O with it, while the layer computes what it did. If large
inputs make a dimension dominant (see salience.py), α > 1 must make j dominant in W^O, and α < 1 must end it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor

from fairseq_tickets.errors import UserError
from fairseq_tickets.parameters import matrix_name


def rescaled(tensors: Mapping[str, Tensor], dimensions: Iterable[tuple[int, int]], alpha: float) -> dict[str, Tensor]:
    """A model's tensors with input j of W^O multiplied by α in some layers; the same function.

    Args:
        tensors: under fairseq's names; not changed.
        dimensions: pairs (layer, j).
        alpha: above 0.

    Raises:
        UserError: α is not above 0, or there is no such layer or dimension.
    """
    if not alpha > 0:
        raise UserError(f"alpha is {alpha:g}; it must be above 0")
    changed = dict(tensors)
    for layer, j in dimensions:
        value, bias, out = (
            matrix_name(layer, matrix, kind)
            for matrix, kind in (("v_proj", "weight"), ("v_proj", "bias"), ("out_proj", "weight"))
        )
        if out not in changed or not 0 <= j < changed[out].shape[1]:
            raise UserError(f"layer {layer}, dimension {j}: there is no such input of W^O")
        for name in (value, bias, out):
            if changed[name] is tensors[name]:
                changed[name] = tensors[name].clone()
        changed[value][j] *= alpha
        changed[bias][j] *= alpha
        changed[out][:, j] /= alpha
    return changed
