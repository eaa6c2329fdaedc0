"""What a dominant ticket, and the random elements it is compared with, allow of each parameter of any model.

For training without `ColumnLinear`: full gradients, and updates by `updates.optimizer.SlicedOptimizer` for the ticket's
columns, biases and the classification head alone (Gong et al. 2022, section 3.3).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Union

import torch
from torch import Tensor

from fairseq_tickets.errors import UserError
from fairseq_tickets.parameters import MATRICES, ModelShape, parse
from fairseq_tickets.tickets import DominantTicket
from fairseq_tickets.updates.parts import Columns, Elements, Part, Whole

HEADS_PREFIX = "classification_heads."


def trainable_slices(
    named_parameters: Iterable[tuple[str, Tensor]], ticket: DominantTicket
) -> dict[str, Union[Tensor, str, None]]:
    """What a dominant ticket allows of each parameter.

    Returns:
        By name: an index tensor (the trainable columns of a weight), "all" (biases in the ticket, classification
        heads), or None (frozen: everything else, embeddings and layer norms included).

    Raises:
        UserError: the parameters belong to a model of another size than the ticket.
    """
    parameters = dict(named_parameters)
    _check_shape(parameters, ticket)
    slices: dict[str, Union[Tensor, str, None]] = {}
    for name, parameter in parameters.items():
        role = parse(name)
        slices[name] = None
        if role is None:
            if _is_head(name):
                slices[name] = "all"
            continue
        dimensions = ticket.dimensions[role.matrix][role.layer]
        bias = ticket.shape.in_features(role.matrix)
        if role.kind == "bias":
            slices[name] = "all" if bias in dimensions else None
        else:
            columns = [index for index in dimensions if index != bias]
            slices[name] = torch.tensor(columns, device=parameter.device) if columns else None
    return slices


def parts_of(slices: Mapping[str, Union[Tensor, str, None]]) -> dict[str, Sequence[Part]]:
    """The parts for `SlicedOptimizer` from the result of `trainable_slices`."""
    parts: dict[str, Sequence[Part]] = {}
    for name, allowed in slices.items():
        if isinstance(allowed, Tensor):
            parts[name] = (Columns(allowed),)
        elif allowed == "all":
            parts[name] = (Whole(),)
    return parts


def element_parts(
    named_parameters: Iterable[tuple[str, Tensor]], elements: Mapping[tuple[int, str], Tensor]
) -> dict[str, Sequence[Part]]:
    """The parts for `SlicedOptimizer` from the result of `baselines.random_elements`; heads train whole."""
    parts: dict[str, Sequence[Part]] = {}
    for name, parameter in named_parameters:
        role = parse(name)
        if role is not None and role.kind == "weight":
            parts[name] = (Elements(elements[role.layer, role.matrix].to(parameter.device)),)
        elif role is None and _is_head(name):
            parts[name] = (Whole(),)
    return parts


def _is_head(name: str) -> bool:
    return name.startswith(HEADS_PREFIX) or f".{HEADS_PREFIX}" in name


def _check_shape(parameters: Mapping[str, Tensor], ticket: DominantTicket) -> None:
    sizes: dict[str, set[tuple[int, ...]]] = {matrix: set() for matrix in MATRICES}
    layers = set()
    for name, parameter in parameters.items():
        role = parse(name)
        if role is not None:
            layers.add(role.layer)
            if role.kind == "weight":
                sizes[role.matrix].add(tuple(parameter.shape))
    # The number of heads shapes no tensor: the ticket's own is taken.
    ffn_dim, embed_dim = next(iter(sizes["fc1"]), (0, 0))
    ticket.validate_for(ModelShape(len(layers), ticket.shape.heads, embed_dim, ffn_dim), "the dominant ticket")
    for matrix in MATRICES:
        if sizes[matrix] != {(ticket.shape.out_features(matrix), ticket.shape.in_features(matrix))}:
            raise UserError(
                f"{matrix} has the shapes {sorted(sizes[matrix])}; a dominant ticket needs a model that is not pruned"
            )
