"""Importance of attention heads and FFNs: the expected sensitivity of the loss to their mask variables.

Liang et al. 2021, section 3:  I_h = E_x |∂L(x)/∂ξ_h|,  I_FFN = E_x |∂L(x)/∂ν|,  x over the training set.
The mask ξ_h multiplies a head's output before W^O, ν the whole FFN output before the residual; both are
1 here.

The absolute value is taken per example. To have every example's derivative from one backward pass of the
summed loss, every example gets its own mask: a leaf of ones of shape (batch, 1, heads) per layer, and (batch,
1) per FFN. An example's loss depends on no other example's mask, so the leaf's gradient *is* the per-example
derivative, exactly, and the scores do not depend on batch size, order or padding. All weights are frozen
meanwhile: no weight gradient is computed, and no activation kept for one. Dropout is off.

Left open by the paper, and offered by name (`granularity`):
    example  the definition above (default);
    token    a mask per token, absolute value per token: as the authors' published code does;
    batch    one mask for the batch, absolute value of the batch's summed derivative, as Michel et al. 2019
             accumulate it; depends on how examples are batched.
All three are divided by the number of examples, a constant that changes no ranking.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Optional

import torch
from torch import Tensor, nn

from fairseq_tickets.encoder_layer import TicketEncoderLayer, encoder_layers
from fairseq_tickets.errors import UserError
from fairseq_tickets.frozen import FLOAT16_SCALE, frozen, sum_over_workers
from fairseq_tickets.parameters import ModelShape
from fairseq_tickets.scores import ImportanceScores

GRANULARITIES = ("example", "token", "batch")
Gates = list[Optional[tuple[Tensor, Tensor, int]]]  # for each layer: head gate, FFN gate, batch size


def importance_scores(
    model: nn.Module,
    batches: Iterable[Any],
    loss_fn: Callable[[Any], Tensor],
    granularity: str = "example",
    amp_dtype: torch.dtype | None = None,
    progress: Callable[[int], None] | None = None,
) -> ImportanceScores:
    """Scores of every head and FFN of `model`, averaged over the examples of `batches`.

    When torch.distributed is initialised, each worker gives its own part of the examples (possibly none) and
    every worker returns the scores of all of them.

    Args:
        model: holds the TicketEncoderLayers to score, none pruned, no gate set. Its weights, their
            requires_grad and .grad, and every module's training mode are afterwards as they were, also after
            an error.
        batches: whatever `loss_fn` takes, one item a batch.
        loss_fn: batch -> (batch,) losses, one for each example, not averaged; must call `model`.
        granularity: "example", "token" or "batch"; see the module's text.
        amp_dtype: run under autocast with this type (torch.bfloat16 or torch.float16); masks stay float32.
        progress: called after each batch with its number of examples.

    Raises:
        UserError: no example, or a loss or derivative that is not finite, or a model that is already pruned.
        ValueError: unknown granularity, losses of the wrong shape, or a layer that `loss_fn` did not run.
    """
    layers = encoder_layers(model)
    gated = functools.partial(_gated, layers, granularity)
    return gate_scores(model, _shape(layers), gated, batches, loss_fn, granularity, amp_dtype, progress)


def gate_scores(
    model: nn.Module,
    shape: ModelShape,
    gated: Callable[[], contextlib.AbstractContextManager[Gates]],
    batches: Iterable[Any],
    loss_fn: Callable[[Any], Tensor],
    granularity: str = "example",
    amp_dtype: torch.dtype | None = None,
    progress: Callable[[int], None] | None = None,
) -> ImportanceScores:
    """`importance_scores` of a model of any kind: how it takes its gates is given.

    Args:
        shape: the whole model's.
        gated: opens a context in which each forward pass of the model fills the yielded list of gates anew.
        model, batches, loss_fn, granularity, amp_dtype, progress: as in `importance_scores`; `gated` knows the
            granularity.

    Raises:
        UserError, ValueError: as `importance_scores`.
    """
    if granularity not in GRANULARITIES:
        raise ValueError(f"granularity is {granularity!r}; it must be one of {', '.join(GRANULARITIES)}")
    width = shape.heads + 1  # a row holds a layer's heads, then its FFN
    total = torch.zeros(shape.layers, width, dtype=torch.float64)
    examples = 0
    device = next(model.parameters()).device
    with frozen(model), gated() as gates, torch.enable_grad():
        scale = FLOAT16_SCALE if amp_dtype == torch.float16 else 1.0
        for batch in batches:
            rows, size, scale = _batch_sums(device, gates, batch, loss_fn, amp_dtype, scale)
            total += rows
            examples += size
            if progress is not None:
                progress(size)
    total, examples = sum_over_workers(total, examples, device)
    if examples == 0:
        raise UserError("importance: there are no examples to score; at least 1 is needed")
    mean = (total / examples).numpy()
    provenance = {"model": shape._asdict(), "granularity": granularity}
    return ImportanceScores(mean[:, :-1].copy(), mean[:, -1].copy(), examples, provenance)


def _batch_sums(
    device: torch.device,
    gates: Gates,
    batch: Any,
    loss_fn: Callable[[Any], Tensor],
    amp_dtype: torch.dtype | None,
    scale: float,
) -> tuple[Tensor, int, float]:
    """Sums of |∂L/∂mask| over a batch, float64 (layers, heads + 1); its examples; the next loss scale."""
    layers = len(gates)
    while True:
        gates[:] = [None] * layers
        with torch.autocast(device.type, dtype=amp_dtype, enabled=amp_dtype is not None):
            losses = loss_fn(batch)
        if losses.dim() != 1:
            raise ValueError(f"loss_fn gave the shape {tuple(losses.shape)}; it must be one loss per example")
        if not torch.isfinite(losses).all():
            raise UserError("importance: the loss of an example is not finite; is the checkpoint damaged?")
        run = [gate for gate in gates if gate is not None]
        if len(run) != layers:
            raise ValueError("loss_fn did not run every encoder layer of the model")
        if any(examples != losses.numel() for _, _, examples in run):
            raise ValueError(f"loss_fn gave {losses.numel()} losses for a batch of {run[0][2]} examples")
        leaves = [leaf for head_gate, ffn_gate, _ in run for leaf in (head_gate, ffn_gate)]
        loss = losses.sum(dtype=torch.promote_types(losses.dtype, torch.float32)) * scale
        grads = torch.autograd.grad(loss, leaves, allow_unused=True)
        absolute = [
            (torch.zeros_like(leaf) if grad is None else grad).abs().double() / scale
            for leaf, grad in zip(leaves, grads)
        ]
        heads = torch.stack([grad.sum(dim=(0, 1)) for grad in absolute[0::2]])  # (layers, heads)
        ffn = torch.stack([grad.sum() for grad in absolute[1::2]])  # (layers,)
        sums = torch.cat([heads, ffn[:, None]], dim=1).cpu()
        if torch.isfinite(sums).all():
            return sums, losses.numel(), scale
        if scale <= 1.0:
            raise UserError("importance: a derivative is not finite; is the checkpoint damaged?")
        scale /= 16.0


@contextlib.contextmanager
def _gated(layers: Sequence[TicketEncoderLayer], granularity: str) -> Iterator[Gates]:
    """While open, each layer's forward sets fresh masks of ones; the yielded list has them, by layer."""
    gates: Gates = [None] * len(layers)

    def set_gates(index: int) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def hook(layer: nn.Module, inputs: tuple[Any, ...]) -> None:
            assert isinstance(layer, TicketEncoderLayer)
            x: Tensor = inputs[0]  # (tokens, batch, embed_dim)
            tokens, batch = x.shape[:2]
            rows = 1 if granularity == "batch" else batch
            columns = tokens if granularity == "token" else 1
            dtype = torch.promote_types(x.dtype, torch.float32)
            head_gate = torch.ones(rows, columns, layer.num_heads, dtype=dtype, device=x.device)
            ffn_gate = torch.ones(rows, columns, dtype=dtype, device=x.device)
            layer.head_gate, layer.ffn_gate = head_gate.requires_grad_(), ffn_gate.requires_grad_()
            gates[index] = (head_gate, ffn_gate, batch)

        return hook

    hooks = [layer.register_forward_pre_hook(set_gates(index)) for index, layer in enumerate(layers)]
    try:
        yield gates
    finally:
        for hook, layer in zip(hooks, layers):
            hook.remove()
            layer.head_gate = layer.ffn_gate = None


def _shape(layers: Sequence[TicketEncoderLayer]) -> ModelShape:
    """Dimensions of an unpruned stack of layers; UserError when there is none, or it is pruned or gated."""
    if not layers:
        raise UserError("importance: the model has no ticket encoder layers; use an arch ticket_roberta*")
    heads = max(layer.num_heads for layer in layers)
    for index, layer in enumerate(layers):
        if list(layer.kept_heads) != list(range(heads)) or not layer.has_ffn:
            raise UserError(f"importance: layer {index} is already pruned; score the whole fine-tuned model")
        if layer.head_gate is not None or layer.ffn_gate is not None:
            raise UserError(f"importance: layer {index} is under a ticket; score the model without one")
    return ModelShape(len(layers), heads, layers[0].embed_dim, layers[0].ffn_dim)
