"""What a dominant ticket is compared with (Gong et al. 2022, sections 4 and 5, tables 2 and 3).

- Random-k: a ticket of the same sizes whose dimensions are drawn uniformly, without replacement, from a matrix's
  in_features + 1 (its columns and its bias).
- BitFit: the ticket that holds all biases of the six matrices. Zaken et al. train the biases of layer norms too;
  no ticket has those (section 3.3).
- Random elements: a share of the single elements of each matrix, the paper's 5 %, table 3. It has no column structure
  and so is no ticket file: a seed and a share make it again.
"""

from __future__ import annotations

import random

import torch
from torch import Tensor

from fairseq_tickets.errors import UserError
from fairseq_tickets.parameters import MATRICES, ModelShape
from fairseq_tickets.tickets import DominantTicket


def random_like(ticket: DominantTicket, seed: int) -> DominantTicket:
    """Random ticket with as many dimensions in every matrix of every layer as `ticket` has."""
    draw = random.Random(seed)
    dimensions: dict[str, list[list[int]]] = {matrix: [] for matrix in MATRICES}
    for _, matrix, chosen in ticket.items():
        dimensions[matrix].append(draw.sample(range(ticket.shape.in_features(matrix) + 1), len(chosen)))
    return DominantTicket(ticket.shape, dimensions, None, {"method": "random_dimensions", "seed": seed})


def bitfit_ticket(shape: ModelShape) -> DominantTicket:
    """All biases of the six matrices."""
    dimensions = {matrix: [[shape.in_features(matrix)] for _ in range(shape.layers)] for matrix in MATRICES}
    return DominantTicket(shape, dimensions, None, {"method": "bitfit"})


def random_elements(shape: ModelShape, fraction: float, seed: int) -> dict[tuple[int, str], Tensor]:
    """A random share of the elements of every matrix.

    Args:
        shape: the model.
        fraction: above 0 and at most 1; floor(fraction · elements) are drawn without replacement.
        seed: with `fraction`, determines the choice.

    Returns:
        (layer, matrix) -> rising indices, int64, into the flattened (out_features, in_features) weight. Biases are
        frozen. `updates.element_parts` makes the parts for the optimizer.

    Raises:
        UserError: the fraction is out of range.
    """
    if not 0.0 < fraction <= 1.0:
        raise UserError(f"fraction is {fraction:g}; it must be above 0 and at most 1")
    generator = torch.Generator().manual_seed(seed)
    chosen = {}
    for layer in range(shape.layers):
        for matrix in MATRICES:
            elements = shape.out_features(matrix) * shape.in_features(matrix)
            picked = torch.randperm(elements, generator=generator)[: int(fraction * elements)]
            chosen[layer, matrix] = picked.sort().values
    return chosen
