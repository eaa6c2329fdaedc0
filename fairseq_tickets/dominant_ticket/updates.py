"""Moving only what a ticket allows, for any model: full gradients, updates and optimizer state for the ticket alone.

A zero gradient does not keep a parameter still: momentum and weight decay move it all the same. Here the inner
optimizer (AdamW, Adamax, SGD, any torch.optim.Optimizer) is not given the parameters but *leaves*, one for each part
of a parameter that may move:

- `Whole`: the parameter itself.
- `Span`: some adjacent rows or columns, a view into the parameter; for heads (rows of W^Q, W^K, W^V, columns of W^O).
- `Columns`: any columns, copied into a compact tensor (out_features, k) and written back after the step; for dominant
  tickets (Gong et al. 2022). Same leaf, state and update as the `columns` of `ColumnLinear`.
- `Elements`: single elements of the flattened parameter, copied likewise; for the paper's random 5 % (its section 5).

What is in no part keeps its bits. A part may carry a *group*, and `step(active)` moves only the parts without group and
those whose group is active: a leaf without gradient is skipped by every torch optimizer, value, moments and step count
alike. That is what sharing super tickets needs (Liang et al. 2021, section 4, algorithm 1).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Optional, Union

import torch
from torch import Tensor

from fairseq_tickets.errors import UserError
from fairseq_tickets.parameters import MATRICES, ModelShape, parse
from fairseq_tickets.tickets import DominantTicket

HEADS_PREFIX = "classification_heads."


class Whole(NamedTuple):
    """The whole parameter."""

    group: Hashable = None

    def read(self, tensor: Tensor) -> Tensor:
        """The part's numbers; a view where possible."""
        return tensor


class Span(NamedTuple):
    """Rows (axis 0) or columns (axis 1) start to stop."""

    axis: int
    start: int
    stop: int
    group: Hashable = None

    def read(self, tensor: Tensor) -> Tensor:
        """The part's numbers, a view."""
        return tensor.narrow(self.axis, self.start, self.stop - self.start)


class Columns(NamedTuple):
    """Columns of a weight, in this order."""

    indices: Tensor
    group: Hashable = None

    def read(self, tensor: Tensor) -> Tensor:
        """(out_features, k), a copy."""
        return tensor.index_select(1, self.indices)

    def write(self, tensor: Tensor, values: Tensor) -> None:
        """Put values back."""
        tensor.index_copy_(1, self.indices, values)


class Elements(NamedTuple):
    """Elements of the flattened, contiguous parameter."""

    indices: Tensor
    group: Hashable = None

    def read(self, tensor: Tensor) -> Tensor:
        """(len(indices),), a copy."""
        return tensor.reshape(-1).index_select(0, self.indices)

    def write(self, tensor: Tensor, values: Tensor) -> None:
        """Put values back."""
        tensor.view(-1).index_copy_(0, self.indices, values)


Part = Union[Whole, Span, Columns, Elements]


class Leaf(NamedTuple):
    """What the inner optimizer sees of one part."""

    name: str
    parameter: Tensor
    part: Part
    tensor: Tensor


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


class SlicedOptimizer:
    """An optimizer that moves only parts of parameters.

    Args:
        named_parameters: the model's parameters; those without parts are left alone.
        parts: by parameter name, parts that don't overlap.
        inner: makes the optimizer from the list of leaves: `lambda leaves: torch.optim.AdamW(leaves, lr=1e-4)`.

    Attributes:
        leaves: in the order in which the inner optimizer has them.
        inner: the inner optimizer; learning rate and state dict are its own. State exists for leaves only.
    """

    def __init__(
        self,
        named_parameters: Iterable[tuple[str, Tensor]],
        parts: Mapping[str, Sequence[Part]],
        inner: Callable[[list[Tensor]], torch.optim.Optimizer],
    ) -> None:
        parameters = dict(named_parameters)
        unknown = [name for name in parts if name not in parameters]
        if unknown:
            raise ValueError(f"parts of parameters that the model lacks: {', '.join(unknown)}")
        self.leaves: list[Leaf] = []
        for name, parameter in parameters.items():
            for part in parts.get(name, ()):
                tensor = parameter if isinstance(part, Whole) else part.read(parameter.detach()).requires_grad_()
                self.leaves.append(Leaf(name, parameter, part, tensor))
        self.inner = inner([leaf.tensor for leaf in self.leaves])
        self._collected = False

    def trainable_parameters(self) -> int:
        """How many numbers may move."""
        return sum(leaf.tensor.numel() for leaf in self.leaves)

    @torch.no_grad()
    def collect(self, active: Optional[Collection[Hashable]] = None) -> list[Tensor]:
        """Bring the parameters' gradients to the leaves; `step` does so itself if nobody has.

        Between `collect` and `step` a caller may clip: the norm over the result is that of the trainable part alone.

        Args:
            active: groups that may move; None = all.

        Returns:
            The gradients of the leaves that will move.
        """
        for leaf in self.leaves:
            may_move = leaf.part.group is None or active is None or leaf.part.group in active
            gradient = leaf.parameter.grad if may_move else None
            if leaf.tensor is leaf.parameter:
                if not may_move:
                    leaf.parameter.grad = None
                continue
            leaf.tensor.grad = None if gradient is None else leaf.part.read(gradient)
        self._collected = True
        return [leaf.tensor.grad for leaf in self.leaves if leaf.tensor.grad is not None]

    @torch.no_grad()
    def step(self, active: Optional[Collection[Hashable]] = None) -> None:
        """One update of the active parts; everything else keeps its bits, and inactive leaves also their state.

        Gradients are those of the parameters, or of the last `collect`, whose `active` then counts.
        """
        if not self._collected:
            self.collect(active)
        self._collected = False
        for leaf in self.leaves:
            self._refresh(leaf)
        self.inner.step()
        for leaf in self.leaves:
            if isinstance(leaf.part, (Columns, Elements)) and leaf.tensor.grad is not None:
                leaf.part.write(leaf.parameter.data, leaf.tensor.data)

    def zero_grad(self) -> None:
        """Drop the gradients of leaves and parameters."""
        self._collected = False
        for leaf in self.leaves:
            leaf.tensor.grad = leaf.parameter.grad = None

    def state_dict(self) -> dict[str, Any]:
        """The inner optimizer's; its size is that of the trainable part."""
        return self.inner.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load the inner optimizer's state. Values need nothing: they are read from the parameters at every step."""
        self.inner.load_state_dict(state)

    def _refresh(self, leaf: Leaf) -> None:
        """The parameter may have been loaded, or moved to other storage, since the last step."""
        if isinstance(leaf.part, (Columns, Elements)):
            leaf.tensor.data.copy_(leaf.part.read(leaf.parameter.data))
        elif isinstance(leaf.part, Span):
            leaf.tensor.data = leaf.part.read(leaf.parameter.data)


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
