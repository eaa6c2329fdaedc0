"""Dominant tickets from one pass: which input dimensions would L1 fine-tuning move, seen at the pre-trained weights.

Gong et al. 2022 find the dimensions by a whole fine-tuning run with an L1 penalty. Under that penalty a weight moves
when its gradient keeps beating λ, and the gradient of W_ij is Σ_t δ_t,i x_t,j over tokens t: a dimension j whose input
x_j is large has a large gradient in its whole column. So the columns can be ranked before any training, from a few
batches b of examples, with g_b the gradient of a batch's mean loss at θ₀:

    gradient      s_j = Σ_i  mean_b |g_b,ij|           how far a sign-like optimizer is pushed
    fisher        s_j = Σ_i  mean_b  g_b,ij²           the diagonal of the empirical Fisher information, by batch
    consistent    s_j = Σ_i |mean_b  g_b,ij|           what is left when batches disagree
    activation    s_j = sqrt(mean_t x_t,j²)            the input alone: one forward pass, no labels

i runs over output features; the bias counts as dimension `in_features`, with x = 1. Metrics of the same kind for single
weights: Fisher masks (Sung et al. 2021), the gradient metrics of SPEFT (Liu et al. 2024); for structures: S2FT (Yang et
al. 2024). Here a whole column is scored, the unit that the paper found to move together.

`gradient` and `fisher` hold the gradient of one matrix at a time: it is reduced to in_features + 1 numbers as soon as
it is worked out. Under autocast a weight is converted in the forward pass and again in the backward pass, not
kept. `consistent` needs the summed gradient of every matrix, so it goes over the examples once for each group of
layers whose gradients fit into `ACCUMULATED_BYTES`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Optional

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fairseq_tickets.dominant_ticket.extraction import check_top_k
from fairseq_tickets.encoder_layer import autocast_dtype, encoder_layers, recomputing
from fairseq_tickets.errors import UserError
from fairseq_tickets.frozen import frozen, sum_over_workers
from fairseq_tickets.parameters import MATRICES, ModelShape
from fairseq_tickets.tickets import DominantTicket

METRICS = ("gradient", "fisher", "consistent", "activation")
ACCUMULATED_BYTES = 768 << 20
BLOCK = 256  # rows
COLUMNS, BIAS = slice(None, -1), -1
Linears = Sequence[Mapping[str, nn.Linear]]


class Salience(NamedTuple):
    """Of a whole model.

    Attributes:
        shape: the model.
        metric: one of METRICS.
        scores: matrix name -> (layers, in_features + 1) float64, the bias last.
        examples: how many it was taken over.
    """

    shape: ModelShape
    metric: str
    scores: dict[str, Tensor]
    examples: int


def gradient_salience(gradient: Tensor) -> Tensor:
    """Σ_i |g_ij|: (out_features, in_features) -> (in_features,); of a bias, (out_features,) -> ()."""
    return _summed(gradient, torch.Tensor.abs)


def fisher_salience(gradient: Tensor) -> Tensor:
    """Σ_i g_ij²; shapes as `gradient_salience`."""
    return _summed(gradient, torch.Tensor.square)


def activation_sums(x: Tensor) -> tuple[Tensor, int]:
    """Σ_t x_tj², (in_features,) float64, and the number of tokens of an input (..., in_features)."""
    flat = x.reshape(-1, x.shape[-1])
    return _summed(flat, torch.Tensor.square), len(flat)


def dimension_salience(
    model: nn.Module,
    linears: Linears,
    heads: int,
    batches: Iterable[Any],
    loss_fn: Callable[[Any], tuple[Tensor, int]],
    metric: str = "gradient",
    amp_dtype: torch.dtype | None = None,
    progress: Optional[Callable[[int], None]] = None,
) -> Salience:
    """Salience of every input dimension of the six matrices of every layer.

    When torch.distributed is initialised, each worker gives its own part of the batches (possibly none) and every
    worker returns the salience over all of them.

    Args:
        model: what `loss_fn` runs. Its weights, requires_grad, .grad and training modes are afterwards as they were.
        linears: its linear layers with bias: for each encoder layer, first to last, by names of MATRICES.
        heads: attention heads of a layer, which the ticket file states.
        batches: whatever `loss_fn` takes, one item a batch; "consistent" goes over them again where layers are many.
            For "activation" without padding: every token counts.
        loss_fn: batch -> mean loss of its examples, a scalar, and their number; must run the model. For "activation"
            the loss is not looked at.
        metric: one of METRICS.
        amp_dtype: run under autocast with this type; sums stay float64.
        progress: called after each batch with its number of examples.

    Raises:
        UserError: no example, or a loss or gradient that is not finite.
        ValueError: unknown metric.
    """
    if metric not in METRICS:
        raise ValueError(f"metric is {metric!r}; it must be one of {', '.join(METRICS)}")
    shape = shape_of(linears, heads)
    device = next(model.parameters()).device
    sums = Sums.zeros(shape)
    examples = 0
    with frozen(model), recomputing(encoder_layers(model)):
        for layers in _groups(linears, metric):
            examples = 0
            with _collecting(metric, linears, layers, sums):
                for batch in batches:
                    with torch.autocast(device.type, dtype=amp_dtype, enabled=amp_dtype is not None):
                        loss, count = loss_fn(batch)
                    if metric != "activation":
                        if not torch.isfinite(loss):
                            raise UserError("salience: the loss of a batch is not finite; is the checkpoint damaged?")
                        loss.backward()  # type: ignore[no-untyped-call]
                    del loss  # and its graph, whose small pieces would keep the next one from lying where this one lay
                    examples += count
                    if progress is not None:
                        progress(count)
    for name in MATRICES:
        if metric != "consistent":  # whose gradients were added up over workers before their absolute value
            sums.total[name], _ = sum_over_workers(sums.total[name], 0, device)
        sums.divisor[name], _ = sum_over_workers(sums.divisor[name], 0, device)
    _, examples = sum_over_workers(torch.zeros(0, dtype=torch.float64), examples, device)
    if examples == 0:
        raise UserError("salience: there are no examples; at least one batch is needed")
    scores = {name: sums.total[name] / sums.divisor[name] for name in MATRICES}
    for name, table in scores.items():
        for layer, row in enumerate(table):
            if not torch.isfinite(row).all():
                raise UserError(f"salience: layer {layer}, {name}: a gradient or input is not finite")
    if metric == "activation":
        scores = {name: table.sqrt() for name, table in scores.items()}
    return Salience(shape, metric, scores, examples)


def shape_of(linears: Linears, heads: int) -> ModelShape:
    """The shape that a ticket for these layers states.

    Raises:
        UserError: a matrix is not of the size that an unpruned encoder has there.
    """
    if not linears:
        raise UserError("salience: this model has no encoder layers")
    ffn_dim, embed_dim = linears[0]["fc1"].weight.shape
    shape = ModelShape(len(linears), heads, embed_dim, ffn_dim)
    for layer, row in enumerate(linears):
        for name in MATRICES:
            size = (shape.out_features(name), shape.in_features(name))
            if name not in row or tuple(row[name].weight.shape) != size:
                raise UserError(
                    f"salience: layer {layer}, {name}: the model is pruned; take the whole pre-trained model"
                )
    return shape


def salient_ticket(salience: Salience, top_k: int) -> DominantTicket:
    """The `top_k` most salient dimensions of every matrix; ties go to the smaller index, 0 never enters.

    Raises:
        UserError: k is below 1 or larger than a matrix.
    """
    check_top_k(salience.shape, top_k)
    sizes = {name: [top_k] * salience.shape.layers for name in MATRICES}
    return _ticket(salience, sizes, {"top_k": top_k})


def salient_ticket_like(salience: Salience, other: DominantTicket) -> DominantTicket:
    """As many dimensions of every matrix as another ticket has, to be compared with it.

    Raises:
        UserError: the other ticket belongs to another model.
    """
    other.validate_for(salience.shape, "the ticket whose sizes to take")
    sizes = {name: [len(row) for row in other.dimensions[name]] for name in MATRICES}
    return _ticket(salience, sizes, {})


def salient_ticket_of_budget(salience: Salience, budget: int) -> DominantTicket:
    """The `budget` most salient dimensions of the whole model, by salience per parameter of a dimension.

    Raises:
        UserError: the budget is below 1 or more than there are dimensions.
    """
    every = sum(table.numel() for table in salience.scores.values())
    if isinstance(budget, bool) or not 1 <= budget <= every:
        raise UserError(f"budget is {budget}; it must be 1 to {every}, the input dimensions of all matrices")
    per_parameter = torch.cat(
        [
            (table if salience.metric == "activation" else table / salience.shape.out_features(name)).flatten()
            for name, table in salience.scores.items()
        ]
    )
    kept = torch.zeros(every, dtype=torch.bool)
    kept[_order(per_parameter)[:budget]] = True
    parts = torch.split(kept, [table.numel() for table in salience.scores.values()])
    sizes = {name: part.view_as(table).sum(1).tolist() for (name, table), part in zip(salience.scores.items(), parts)}
    return _ticket(salience, sizes, {"budget": budget})


def _ticket(salience: Salience, sizes: Mapping[str, Sequence[int]], how: Mapping[str, Any]) -> DominantTicket:
    dimensions = {
        name: [[int(index) for index in _order(row)[:size] if row[index] > 0] for row, size in zip(table, sizes[name])]
        for name, table in salience.scores.items()
    }
    facts = {"method": "salience", "metric": salience.metric, **how, "examples": salience.examples}
    return DominantTicket(salience.shape, dimensions, None, facts)


def _order(row: Tensor) -> Tensor:
    """Indices, the largest value first; equal values by index."""
    return torch.sort(row, descending=True, stable=True).indices


# Collecting


class Sums(NamedTuple):
    """By matrix name: sums (layers, in_features + 1), and what to divide them by, (layers, 1); float64."""

    total: dict[str, Tensor]
    divisor: dict[str, Tensor]

    @classmethod
    def zeros(cls, shape: ModelShape) -> Sums:
        """Nothing added up yet."""
        widths = {name: shape.in_features(name) + 1 for name in MATRICES}
        total = {name: torch.zeros(shape.layers, width, dtype=torch.float64) for name, width in widths.items()}
        return cls(total, {name: torch.zeros(shape.layers, 1, dtype=torch.float64) for name in MATRICES})


def _collecting(metric: str, linears: Linears, layers: range, sums: Sums) -> contextlib.AbstractContextManager[Any]:
    if metric == "activation":
        return _inputs(linears, layers, sums)
    if metric == "consistent":
        return _accumulated(linears, layers, sums)
    return _reduced(linears, layers, sums, fisher_salience if metric == "fisher" else gradient_salience)


def _groups(linears: Linears, metric: str) -> Iterator[range]:
    """Ranges of layers to be collected in one pass over the examples each, the last layers first."""
    layers = len(linears)
    one = sum(linear.weight.numel() * 4 for linear in linears[0].values())
    step = max(1, ACCUMULATED_BYTES // one) if metric == "consistent" else layers
    for end in range(layers, 0, -step):
        yield range(max(0, end - step), end)


@contextlib.contextmanager
def _inputs(linears: Linears, layers: Iterable[int], sums: Sums) -> Iterator[None]:
    """While open, the squares of these layers' inputs are added up."""

    def hook(layer: int, name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def add(linear: nn.Module, inputs: tuple[Any, ...]) -> None:
            squares, tokens = activation_sums(inputs[0].detach())
            sums.total[name][layer, :-1] += squares.cpu()
            sums.total[name][layer, -1] += tokens  # x = 1
            sums.divisor[name][layer] += tokens

        return add

    hooks = [linears[layer][name].register_forward_pre_hook(hook(layer, name)) for layer in layers for name in MATRICES]
    try:
        yield
    finally:
        for handle in hooks:
            handle.remove()


@contextlib.contextmanager
def _reduced(linears: Linears, layers: Iterable[int], sums: Sums, reduce: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """While open, the gradient of each matrix of these layers is reduced and added up, then dropped."""

    def reducing(layer: int, name: str, linear: nn.Linear) -> Callable[[Tensor], Tensor]:
        runs = 0

        def add(weight: Tensor, bias: Tensor) -> None:
            nonlocal runs
            if runs != 1:  # its gradient would be the sum over its runs
                raise UserError(f"salience: layer {layer}, {name} runs {runs} times in a forward pass; it must be once")
            runs = 0
            sums.total[name][layer, COLUMNS] += reduce(weight).cpu()
            sums.total[name][layer, BIAS] += reduce(bias).cpu()
            sums.divisor[name][layer] += 1.0

        def forward(x: Tensor) -> Tensor:
            nonlocal runs
            runs += 1
            flat = x.reshape(-1, linear.in_features).to(autocast_dtype(x.device.type) or x.dtype)
            y: Tensor = _Reduced.apply(flat, linear.weight, linear.bias, add)  # type: ignore[no-untyped-call]
            return y.view(*x.shape[:-1], linear.out_features)

        return forward

    taken = [(layer, name, linears[layer][name]) for layer in layers for name in MATRICES]
    before = [vars(linear).get("forward") for *_, linear in taken]
    for layer, name, linear in taken:
        linear.forward = reducing(layer, name, linear)  # type: ignore[method-assign, assignment]
        linear.bias.requires_grad_(True)  # so that autograd comes by; it gets no gradient
    try:
        yield
    finally:
        for (*_, linear), forward in zip(taken, before):
            del linear.forward
            if forward is not None:
                linear.forward = forward  # type: ignore[method-assign]
            linear.bias.requires_grad_(False)


class _Reduced(torch.autograd.Function):
    """y = x Wᵀ + b in x's type, for x (rows, in_features). ∂W and ∂b go to `add` and nowhere else."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, add: Callable[[Tensor, Tensor], None]) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.add = add
        return F.linear(x, weight.to(x.dtype), bias.to(x.dtype))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Optional[Tensor], None, None, None]:
        x, weight = ctx.saved_tensors
        ctx.add(gradient.t() @ x, gradient.sum(0))
        return gradient @ weight.to(x.dtype) if ctx.needs_input_grad[0] else None, None, None, None


@contextlib.contextmanager
def _accumulated(linears: Linears, layers: Iterable[int], sums: Sums) -> Iterator[None]:
    """While open, gradients of these layers add up, over batches and at the end over workers; then they are reduced."""
    batches = 0

    def count(parameter: Tensor) -> None:
        nonlocal batches
        batches += 1

    with _trainable(linears, layers) as parameters:
        handle = parameters[0][3].register_post_accumulate_grad_hook(count)  # type: ignore[no-untyped-call]
        try:
            yield
        finally:
            handle.remove()
        for layer, name, part, parameter in parameters:
            gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            _add_workers(gradient)
            sums.total[name][layer, part] = gradient_salience(gradient).cpu()
            sums.divisor[name][layer] = batches


@contextlib.contextmanager
def _trainable(linears: Linears, layers: Iterable[int]) -> Iterator[list[tuple[int, str, Any, Tensor]]]:
    """While open, weights and biases of these layers require gradients; yields (layer, matrix, part of a row, it)."""
    parameters = [
        (layer, name, part, parameter)
        for layer in layers
        for name in MATRICES
        for part, parameter in ((COLUMNS, linears[layer][name].weight), (BIAS, linears[layer][name].bias))
    ]
    before = [parameter.grad for *_, parameter in parameters]
    for *_, parameter in parameters:
        parameter.grad = None
        parameter.requires_grad_(True)
    try:
        yield parameters
    finally:
        for (*_, parameter), gradient in zip(parameters, before):
            parameter.requires_grad_(False)
            parameter.grad = gradient


def _summed(x: Tensor, of: Callable[[Tensor], Tensor]) -> Tensor:
    """Σ_i of(x_i), in float64; within a block of rows, small enough for the cache, in float32, or float64 if x is.

    `vector_norm` over the rows, the same for both uses, takes 20 times as long on a CPU.
    """
    blocks = torch.split(x, BLOCK) if x.dim() > 1 else (x,)
    return torch.stack([of(b if b.dtype == torch.float64 else b.float()).sum(0).double() for b in blocks]).sum(0)


def _add_workers(gradient: Tensor) -> None:
    distributed = torch.distributed
    if distributed.is_available() and distributed.is_initialized():
        distributed.all_reduce(gradient)
