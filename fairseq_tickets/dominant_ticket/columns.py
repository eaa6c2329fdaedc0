"""Training only the columns of a dominant ticket (Gong et al. 2022, section 4), at the cost it should have.

With W₀ the frozen weight whose ticket columns are zero, and c those columns, (out_features, k), the parameter:

    y = x W₀ᵀ + x[..., dims] cᵀ + b

`ColumnLinear` computes it as one product with the dense weight W = W₀ + c at dims, which is the same function:

- Forward: c is written into its columns of the dense weight, out_features · k numbers; then one product.
- Backward: ∂x = ∂y W, one product; ∂c = ∂yᵀ x[..., dims]; ∂b = Σ ∂y if the bias is in the ticket. There is no product
  for the gradient of W, so instead of x only its k columns are kept for the backward pass.

So a step costs forward and input gradients, the least that training through all layers can cost, and gradients and
optimizer state exist for c alone. It is plain PyTorch to everyone else: parameters are `columns` and `bias`, so that
accumulation, DistributedDataParallel, autocast and clipping need nothing special.

The state dict is the one of the nn.Linear it replaces: `weight` is dense and holds the trained columns, so a checkpoint
saved under a ticket is a plain model to everyone who reads it, and any dense checkpoint loads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Optional

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fairseq_tickets.encoder_layer import TicketEncoderLayer, autocast_dtype
from fairseq_tickets.errors import UserError
from fairseq_tickets.heap import block
from fairseq_tickets.parameters import ModelShape
from fairseq_tickets.tickets import DominantTicket


class ColumnLinear(nn.Linear):
    """A linear layer of which only some input dimensions train. Make one with `from_linear`.

    Attributes:
        weight: (out_features, in_features), frozen; the ticket's columns in it follow `columns`.
        bias: (out_features,), trainable if the ticket has it.
        columns: (out_features, k), the trainable columns; None if the ticket has none of this matrix.
        dims: (k,) their input dimensions, in the ticket's order.
        exact: the weight as it was loaded, where `weight` is a rounded copy; what is saved carries it. A reference to
            the tensor that was loaded: one mapped from a file takes no memory.
    """

    columns: Optional[nn.Parameter]
    dims: Tensor
    exact: Optional[Tensor]

    @classmethod
    def from_linear(
        cls, linear: nn.Linear, dimensions: Sequence[int], frozen_dtype: Optional[torch.dtype] = None
    ) -> ColumnLinear:
        """Split a linear layer; its bias is taken over, its weight copied to lie in memory as is best here.

        Args:
            linear: the layer, with or without bias.
            dimensions: input dimensions to train, `in_features` for the bias.
            frozen_dtype: keep the frozen weight in this type, bfloat16 for example: half the memory, and under
                autocast no conversion in each step. Columns and bias stay as they are. Weights loaded later are
                saved as they were loaded; `linear`'s own are rounded for good.

        Raises:
            UserError: a dimension is out of range or listed twice, or the bias is asked for and there is none.
        """
        bias_dimension = linear.in_features
        for index in dimensions:
            if not 0 <= index <= bias_dimension:
                raise UserError(f"dimension {index} is out of range; it must be 0 to {bias_dimension} (the bias)")
        if len(set(dimensions)) != len(dimensions):
            raise UserError(f"a dimension is listed twice in {list(dimensions)}")
        if bias_dimension in dimensions and linear.bias is None:
            raise UserError(f"dimension {bias_dimension} is the bias, and this layer has none")
        self = cls.__new__(cls)
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        dims = torch.tensor([i for i in dimensions if i != bias_dimension], dtype=torch.long)
        weight = linear.weight.detach()
        self.register_buffer("dims", dims.to(weight.device), persistent=False)
        self.columns = nn.Parameter(weight[:, self.dims].contiguous().clone()) if len(dims) else None
        # Column by column in memory: writing k columns then touches k · out_features numbers in a row, and not a page
        # of memory for each of them. Products are as fast either way.
        by_column = weight.to(frozen_dtype or weight.dtype).t().contiguous().t()
        self.weight = nn.Parameter(by_column, requires_grad=False)
        self.bias = linear.bias
        if self.bias is not None:
            self.bias.requires_grad_(bias_dimension in dimensions)
        self.exact = None
        self.training = linear.training
        return self

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) -> (..., out_features)."""
        shape = x.shape[:-1]
        # Two axes, one after the other in memory: of anything else PyTorch makes a batched product where no gradient is
        # asked for, and copies the weight once for every row of the first axis.
        x = x.reshape(-1, self.in_features)
        dtype = autocast_dtype(x.device.type) or x.dtype
        x = x.to(dtype)
        bias = None if self.bias is None else self.bias.to(dtype)
        if self.columns is None:
            output = F.linear(x, self.weight.to(dtype), bias)
        else:
            output = _ColumnProduct.apply(x, self.weight, bias, self.columns, self.dims)  # type: ignore[no-untyped-call]
        return output.view(*shape, self.out_features)

    @torch.no_grad()
    def merge(self) -> tuple[Tensor, Optional[Tensor]]:
        """The dense layer: weight (out_features, in_features) in the columns' precision, and bias; both are copies."""
        return self._dense().clone(), None if self.bias is None else self.bias.detach().clone()

    def extra_repr(self) -> str:
        """What `print(model)` shows."""
        bias = "none" if self.bias is None else "trainable" if self.bias.requires_grad else "frozen"
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, dims={self.dims.tolist()}, bias={bias}"
        )

    def _dense(self) -> Tensor:
        """The dense weight to save: a copy of `self.weight`, or of `self.exact`, with the columns written in."""
        weight = self.weight.detach() if self.exact is None else self.exact
        if self.columns is None:
            return weight.contiguous()
        dense = weight.to(self.columns.dtype).clone(memory_format=torch.contiguous_format)
        return dense.index_copy_(1, self.dims.to(dense.device), self.columns.detach().to(dense.device))

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        with torch.no_grad():
            destination[prefix + "weight"] = self._dense()
        destination.pop(prefix + "columns", None)

    def _load_from_state_dict(
        self,
        state_dict: Mapping[str, Tensor],
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        dense = state_dict.get(prefix + "weight")
        missing: list[str] = []
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, missing, unexpected_keys, error_msgs)
        missing_keys.extend(key for key in missing if key != prefix + "columns")
        if dense is None or dense.shape != self.weight.shape:
            return
        rounded = torch.finfo(dense.dtype).bits > torch.finfo(self.weight.dtype).bits
        self.exact = dense.detach() if rounded else None
        if self.columns is not None and prefix + "columns" not in state_dict:
            with torch.no_grad():
                self.columns.copy_(dense[:, self.dims.to(dense.device)])


def apply_ticket(
    layers: Sequence[TicketEncoderLayer],
    ticket: DominantTicket,
    frozen_dtype: Optional[torch.dtype] = None,
    recompute: str = "auto",
) -> None:
    """Freeze encoder layers but for the dimensions of a ticket: every linear layer becomes a `ColumnLinear`.

    Layer norms are frozen too. What lies outside these layers (embeddings, heads) is
    the caller's.

    Args:
        layers: all layers of the encoder, first to last; not pruned.
        ticket: the trainable dimensions.
        frozen_dtype: see `ColumnLinear.from_linear`.
        recompute: see `SelfAttention`.

    Raises:
        UserError: the ticket belongs to a model of another size.
    """
    if not layers:
        raise UserError("this model has no encoder layers that a dominant ticket could be applied to")
    first = layers[0]
    ticket.validate_for(ModelShape(len(layers), first.num_heads, first.embed_dim, first.ffn_dim), "the dominant ticket")
    for layer in layers:
        layer.requires_grad_(False)
        layer.self_attn.recompute = recompute
    for index, matrix, dimensions in ticket.items():
        parent: nn.Module = layers[index].self_attn if matrix.endswith("_proj") else layers[index]
        linear = getattr(parent, matrix)
        if linear is None or linear.in_features != ticket.shape.in_features(matrix):
            raise UserError(f"layer {index}, {matrix}: the model is pruned; a dominant ticket needs the whole layer")
        setattr(parent, matrix, ColumnLinear.from_linear(linear, dimensions, frozen_dtype))


def column_linears(model: nn.Module) -> list[tuple[str, ColumnLinear]]:
    """The split layers of a model and their names."""
    return [(name, module) for name, module in model.named_modules() if isinstance(module, ColumnLinear)]


class _ColumnProduct(torch.autograd.Function):
    """y = x Wᵀ + b with W's columns `dims` taken from `columns`; x is (rows, in_features). See the top."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Optional[Tensor], columns: Tensor, dims: Tensor) -> Tensor:
        dense = _write_columns(weight, columns, dims, x.dtype)
        # The dense weight is kept on ctx, not saved: writing equal columns into it again (a second forward pass before
        # the backward pass) must not count as a change. A real change is one of `columns`, and that is checked.
        ctx.dense = dense
        ctx.save_for_backward(x.index_select(1, dims) if ctx.needs_input_grad[3] else None, columns)
        if bias is None:
            return torch.mm(x, dense.t(), out=block(x, (len(x), len(dense))))
        return torch.addmm(bias, x, dense.t(), out=block(x, (len(x), len(dense))))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Optional[Tensor], ...]:
        gathered, columns = ctx.saved_tensors
        needs_x, _, needs_bias, needs_columns, _ = ctx.needs_input_grad
        for_x = for_bias = for_columns = None
        if needs_x:
            for_x = gradient @ ctx.dense
        if needs_columns:
            # This way round, and not gradientᵀ @ gathered: for k = 3 it takes a sixteenth of the time on a CPU.
            for_columns = (gathered.t() @ gradient).t().contiguous().to(columns.dtype)
        if needs_bias:
            for_bias = gradient.sum(0)
        return for_x, None, for_bias, for_columns, None


def _write_columns(weight: Tensor, columns: Tensor, dims: Tensor, dtype: torch.dtype) -> Tensor:
    """Dense weight in `dtype`: `weight` itself, its columns brought up to date, or a converted copy."""
    return weight.to(dtype).index_copy_(1, dims, columns.to(dtype))
