"""Heads and FFNs really removed from a model of transformers, and put back as zeros where it is saved.

The linear layers are replaced by smaller ones: rows of W^Q, W^K, W^V and columns of W^O go with a head, W^FC1 and W^FC2
with an FFN. Their state dict is the dense one, with zeros: what `save_pretrained` or Trainer writes loads everywhere as
the same function, and a dense state dict loads into the compact model.

Two things the host's code asks for. Its attention can't run without any head, so a layer that loses all keeps the room
of one, in which everything is zero and frozen: W^O's bias is all that comes out, as it must. And MPNet adds one bias of
positions for all heads, of which each layer now takes its own.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fairseq_tickets.encoder_layer import head_rows
from fairseq_tickets.tickets import SuperTicket

_SIZES = ("num_attention_heads", "n_heads", "all_head_size", "dim")  # of attention modules; some versions read them


class CompactLinear(nn.Linear):
    """A linear layer some of whose rows or columns are gone.

    Attributes:
        kept: indices of what is left of the original rows (axis 0) or columns (axis 1), rising.
        axis: which of the two.
        whole: the original shape, (out_features, in_features).
        empty: True where nothing is left, and one head's room of zeros stands in for it.
    """

    kept: Tensor
    axis: int
    whole: tuple[int, ...]
    empty: bool
    own_bias: bool

    @classmethod
    def from_linear(cls, linear: nn.Linear, kept: Tensor, axis: int, room: int = 0, bias: bool = True) -> CompactLinear:
        """Cut a linear layer.

        Args:
            linear: the layer.
            kept: indices to keep, rising, maybe none.
            axis: 0 for rows, 1 for columns.
            room: rows or columns of zeros to have where `kept` is empty.
            bias: whether the bias is the layer's own; else it is 0 and frozen (a pruned FFN adds nothing).
        """
        self = cls.__new__(cls)
        nn.Module.__init__(self)
        self.axis, self.whole, self.empty = axis, tuple(linear.weight.shape), not len(kept)
        kept = kept.to(linear.weight.device)
        self.register_buffer("kept", kept, persistent=False)
        weight, offset = linear.weight.detach(), linear.bias.detach()
        if self.empty:
            size = (room, weight.shape[1]) if axis == 0 else (weight.shape[0], room)
            weight, offset = weight.new_zeros(size), offset.new_zeros(room) if axis == 0 else offset
        else:
            weight, offset = weight.index_select(axis, kept), offset[kept] if axis == 0 else offset
        self.own_bias = bias and not (self.empty and axis == 0)
        self.weight = nn.Parameter(weight.clone(), requires_grad=linear.weight.requires_grad and not self.empty)
        offset = offset.clone() if bias else torch.zeros_like(offset)
        self.bias = nn.Parameter(offset, requires_grad=linear.bias.requires_grad and self.own_bias)
        self.out_features, self.in_features = self.weight.shape
        self.training = linear.training
        return self

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        with torch.no_grad():
            weight = self.weight.new_zeros(self.whole)
            if not self.empty:
                weight.index_copy_(self.axis, self.kept, self.weight)
            destination[prefix + "weight"] = weight
            if self.axis == 0:
                bias = self.bias.new_zeros(self.whole[0])
                if not self.empty:
                    bias.index_copy_(0, self.kept, self.bias)
                destination[prefix + "bias"] = bias

    def _load_from_state_dict(self, state_dict: Mapping[str, Tensor], prefix: str, *rest: Any) -> None:
        cut = dict(state_dict)
        weight, bias = state_dict.get(prefix + "weight"), state_dict.get(prefix + "bias")
        if weight is not None and tuple(weight.shape) == self.whole:
            weight = weight.index_select(self.axis, self.kept.to(weight.device))
            cut[prefix + "weight"] = torch.zeros_like(self.weight) if self.empty else weight
            if bias is not None and self.axis == 0:
                cut[prefix + "bias"] = torch.zeros_like(self.bias) if self.empty else bias[self.kept.to(bias.device)]
            if not self.own_bias:
                cut[prefix + "bias"] = torch.zeros_like(self.bias)
        super()._load_from_state_dict(cut, prefix, *rest)


def prune(
    parents: Sequence[Mapping[str, tuple[nn.Module, str]]],
    linears: Sequence[Mapping[str, nn.Linear]],
    ticket: SuperTicket,
) -> None:
    """Make a model compact, in place.

    Args:
        parents: by layer and matrix, the module that holds the linear layer, and the name it has there.
        linears: the layers, whole.
        ticket: fits the model.
    """
    head_dim = ticket.shape.embed_dim // ticket.shape.heads
    for layer, row in enumerate(linears):
        heads = ticket.kept_heads(layer)
        if len(heads) < ticket.shape.heads:
            rows = head_rows(heads, head_dim)
            for matrix in ("q_proj", "k_proj", "v_proj", "out_proj"):
                cut = CompactLinear.from_linear(row[matrix], rows, 1 if matrix == "out_proj" else 0, head_dim)
                setattr(*parents[layer][matrix], cut)
            _resize(parents[layer]["q_proj"][0], heads or [0], head_dim)
        if not ticket.ffn[layer]:
            none = torch.zeros(0, dtype=torch.long)
            setattr(*parents[layer]["fc1"], CompactLinear.from_linear(row["fc1"], none, 0))
            setattr(*parents[layer]["fc2"], CompactLinear.from_linear(row["fc2"], none, 1, bias=False))


def _resize(attention: nn.Module, heads: Sequence[int], head_dim: int) -> None:
    """What the attention module knows of its own size, and MPNet's bias of positions."""
    for name in _SIZES:
        if isinstance(getattr(attention, name, None), int):
            setattr(attention, name, len(heads) * (head_dim if name in ("all_head_size", "dim") else 1))
    if type(attention).__name__ == "MPNetSelfAttention":
        kept = torch.tensor(list(heads))
        place = list(inspect.signature(attention.forward).parameters).index("position_bias")  # differs by version

        def take_own(module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
            bias = named.get("position_bias", inputs[place] if len(inputs) > place else None)
            if bias is None:
                return inputs, named
            own = bias.index_select(1, kept.to(bias.device))
            if "position_bias" in named:
                return inputs, {**named, "position_bias": own}
            return (*inputs[:place], own, *inputs[place + 1 :]), named

        attention.register_forward_pre_hook(take_own, with_kwargs=True)
