"""Moving only parts of parameters, for any model: full gradients, updates and optimizer state for those parts alone.

A zero gradient does not keep a parameter still: momentum and weight decay move it all the same. Here the inner
optimizer (AdamW, Adamax, SGD, any torch.optim.Optimizer) is not given the parameters but *leaves*, one for each part
of a parameter that may move (parts.py). What is in no part keeps its bits.

`step(active)` moves only the parts without group and those whose group is active: a leaf without gradient is skipped by
every torch optimizer, value, moments and step count alike. That is what sharing super tickets needs (Liang et al. 2021,
section 4, algorithm 1).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Optional

import torch
from torch import Tensor

from fairseq_tickets.updates.parts import Columns, Elements, Part, Span, Whole


class Leaf(NamedTuple):
    """What the inner optimizer sees of one part."""

    name: str
    parameter: Tensor
    part: Part
    tensor: Tensor


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
                leaf.parameter.grad = None if gradient is None else gradient.contiguous()
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
        """Load the inner optimizer's state. Values need nothing: they are read from the parameters at every step.

        Whether PyTorch's fused kernel works here is this machine's affair, not that of the state; and it takes leaves,
        gradients and state for contiguous without looking.
        """
        self.inner.load_state_dict(state)
        for group in self.inner.param_groups:
            if "fused" in group:
                group["fused"] = self.inner.defaults["fused"]
        for moments in self.inner.state.values():
            moments.update({name: x.contiguous() for name, x in moments.items() if isinstance(x, Tensor)})

    def _refresh(self, leaf: Leaf) -> None:
        """The parameter may have been loaded, or moved to other storage, since the last step."""
        if isinstance(leaf.part, (Columns, Elements)):
            leaf.tensor.data.copy_(leaf.part.read(leaf.parameter.data))
        elif isinstance(leaf.part, Span):
            leaf.tensor.data = leaf.part.read(leaf.parameter.data)
