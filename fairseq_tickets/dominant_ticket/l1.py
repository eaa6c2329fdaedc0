"""The L1 distance to the pre-trained model (Gong et al. 2022, section 3.1, equation 1).

    min_θ  L(D, f, θ) + λ ‖θ − θ₀‖₁

θ here are the weights and biases of the six matrices of every encoder layer: no embeddings, no layer norms, no heads,
none of fairseq's dead copies. θ₀ is the pre-trained model. Two ways to follow the penalty:

- `add_gradient_`, the paper's: the subgradient λ·sign(θ − θ₀), with sign(0) = 0, is added to `.grad`. No autograd graph
  and no third copy of the weights: the difference is made in a small scratch buffer, block by block.
- `proximal_`: the optimizer follows the task loss alone, then Δ = θ − θ₀ is soft-thresholded, which makes exact zeros.

When to call it. L is the *mean* task loss. fairseq sums the losses of the examples over the batch, `--update-freq` and
all workers, and then divides the gradients by the number of examples (`multiply_grads`). So the penalty comes last:

    backward, all-reduce, multiply_grads (now: mean task gradient, unscaled), clip_grad_norm,
    add_gradient_, optimizer step          or          optimizer step, proximal_

Then λ means the same with any batch size, number of workers, accumulation and loss scale. Clipping sees the task
gradient only; the paper says nothing about it. The penalty's own gradient has the norm λ √(parameters moved), 17 for
λ = 1e-3 and RoBERTa-large, and would otherwise shrink the task gradient by that factor.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple, Optional

import torch
import torch.nn.functional as F
from torch import Tensor

from fairseq_tickets.errors import UserError
from fairseq_tickets.parameters import parse

CPU_BLOCK = 1 << 19  # elements; 2 MB of float32, so that the scratch buffer stays in the cache
GPU_BLOCK = 1 << 24  # few, large kernels


class Distance(NamedTuple):
    """How far the model is from θ₀.

    Attributes:
        penalty: λ ‖θ − θ₀‖₁.
        moved: number of parameters with |Δθ| > σ.
        penalised: number of parameters under the penalty.
    """

    penalty: float
    moved: int
    penalised: int


class StepScale(NamedTuple):
    """What an adaptive optimizer divides a parameter's step by.

    Adam: sqrt(exp_avg_sq / bias_correction2) + eps. Adamax: exp_inf.

    Attributes:
        state: the parameter's exp_avg_sq or exp_inf, of its shape.
        bias_correction2: Adam's 1 − β₂^t; None says that `state` is the divisor itself.
        eps: added after the square root.
    """

    state: Tensor
    bias_correction2: Optional[float]
    eps: float

    def over(self, amount: float, block: Tensor) -> Tensor:
        """`amount` over the divisor, for a block of `state`."""
        if self.bias_correction2 is None:
            return amount / block
        root = math.sqrt(self.bias_correction2)
        return block.sqrt().add_(self.eps * root).reciprocal_().mul_(amount * root)


class L1ToPretrained:
    """λ ‖θ − θ₀‖₁ over a model's encoder layers. Holds one copy of the penalised weights: θ₀.

    Args:
        named_parameters: a model's parameters; those that are not penalised, or don't require a gradient, are left out.
        pretrained: θ₀ by the same names; memory-mapped tensors are fine.
        weight: λ, at least 0. The paper's is 1e-3.

    Raises:
        UserError: λ is negative, θ₀ lacks a parameter or has it in another shape, or nothing is left to penalise.
    """

    def __init__(
        self, named_parameters: Iterable[tuple[str, Tensor]], pretrained: Mapping[str, Tensor], weight: float
    ) -> None:
        if not 0.0 <= weight < float("inf"):
            raise UserError(f"l1_weight is {weight:g}; it must be a number of at least 0 (the paper's is 1e-3)")
        self.weight = weight
        self.names: list[str] = []
        self._pairs: list[tuple[Tensor, Tensor]] = []
        for name, parameter in named_parameters:
            if parse(name) is None or not parameter.requires_grad or parameter.numel() == 0:
                continue
            if name not in pretrained:
                raise UserError(f"the pre-trained checkpoint lacks {name}, which the L1 penalty needs")
            origin = pretrained[name]
            if origin.shape != parameter.shape:
                raise UserError(
                    f"{name} is {tuple(parameter.shape)} in the model and {tuple(origin.shape)} in the pre-trained "
                    "checkpoint; pretrained_path must name the model that training starts from"
                )
            if not torch.isfinite(origin).all():
                raise UserError(f"the pre-trained checkpoint is damaged: {name} holds NaN or infinity")
            self.names.append(name)
            copy = origin.detach().to(device=parameter.device, dtype=parameter.dtype, copy=True)
            self._pairs.append((parameter, copy.contiguous()))
        if not self._pairs:
            raise UserError("the L1 penalty finds no trainable encoder-layer weights in this model")

    @property
    def penalised(self) -> int:
        """Number of parameters under the penalty."""
        return sum(parameter.numel() for parameter, _ in self._pairs)

    @torch.no_grad()
    def add_gradient_(self, scale: float = 1.0) -> None:
        """Add scale · λ · sign(θ − θ₀) to the gradients.

        Call it once per update on gradients that are already averaged (see above), with `scale` 1. A caller whose
        gradients are still multiplied by some factor gives that factor. A parameter without gradient gets one if
        it has moved.
        """
        amount = scale * self.weight
        if amount == 0.0:
            return
        for parameter, origin in self._pairs:
            if parameter.grad is None:
                if torch.equal(parameter, origin):
                    continue
                parameter.grad = torch.zeros_like(parameter)
            elif not parameter.grad.is_contiguous():
                parameter.grad = parameter.grad.contiguous()
            for theta, theta0, gradient, scratch in _blocks(parameter, origin, parameter.grad):
                gradient.add_(torch.sub(theta, theta0, out=scratch).sign_(), alpha=amount)

    @torch.no_grad()
    def proximal_(self, step_size: float, step_scale: Optional[Callable[[Tensor], Optional[StepScale]]] = None) -> None:
        """Soft-threshold: Δ ← sign(Δ) · max(|Δ| − t, 0), exactly θ₀ where |Δ| ≤ t. Call it after the optimizer's step.

        Args:
            step_size: the learning rate of that step. Alone, as for SGD, t = step_size · λ: proximal gradient descent
                on equation 1.
            step_scale: for Adam and its like. They divide the step of each parameter by its own d, so the threshold
                that solves equation 1 is t = step_size · λ / d; with SGD's t the penalty would all but vanish. Gives
                a tensor's d, or None for one that has no state yet; `step_scales(optimizer)` makes it.
        """
        threshold = step_size * self.weight
        if threshold == 0.0:
            return
        for parameter, origin in self._pairs:
            scale = step_scale(parameter) if step_scale is not None else None
            if step_scale is not None and scale is None:
                continue
            state = origin if scale is None else scale.state
            for theta, theta0, block, scratch in _blocks(parameter, origin, state):
                delta = torch.sub(theta, theta0, out=scratch)
                if scale is None:
                    shrunk = F.softshrink(delta, threshold)
                else:
                    size = delta.abs().sub_(scale.over(threshold, block)).clamp_(min=0.0)
                    shrunk = torch.copysign(size, delta)
                torch.add(theta0, shrunk, out=theta)  # exactly θ₀ where Δ = 0

    def value(self) -> float:
        """λ ‖θ − θ₀‖₁, added up in float64."""
        return self.measure(float("inf")).penalty

    def moved(self, sigma: float) -> int:
        """Number of parameters with |Δθ| > σ."""
        return self.measure(sigma).moved

    @torch.no_grad()
    def measure(self, sigma: float) -> Distance:
        """Both figures for the log in one pass over the weights; costs about as much as `add_gradient_`."""
        distance: dict[torch.device, Tensor] = {}
        moved: dict[torch.device, Tensor] = {}
        for parameter, origin in self._pairs:
            device = parameter.device
            for theta, theta0, _, scratch in _blocks(parameter, origin, origin):
                size = torch.sub(theta, theta0, out=scratch).abs_()
                # A block is summed pairwise in float32 (relative error below 1e-6), the blocks in float64.
                distance[device] = distance.get(device, 0.0) + size.sum(dtype=_sum_type(size)).double()
                moved[device] = moved.get(device, 0) + torch.count_nonzero(size > sigma)
        penalty = self.weight * sum(float(total) for total in distance.values())
        return Distance(penalty, sum(int(total) for total in moved.values()), self.penalised)


def step_scales(optimizer: torch.optim.Optimizer) -> Optional[Callable[[Tensor], Optional[StepScale]]]:
    """For `proximal_`: how an Adam, AdamW or Adamax (PyTorch's or fairseq's) scales steps; None for SGD.

    Raises:
        UserError: another optimizer whose steps are adaptive in a way not known here.
    """
    kind = type(optimizer).__name__
    if kind == "SGD":
        return None
    if not any(known in kind for known in ("Adam", "adam")):
        raise UserError(f"l1_mode proximal knows the steps of Adam, AdamW, Adamax and SGD, not those of {kind}")
    groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}

    def scale(parameter: Tensor) -> Optional[StepScale]:
        state = optimizer.state.get(parameter, {})
        if "exp_inf" in state:
            return StepScale(state["exp_inf"], None, 0.0)
        if "exp_avg_sq" not in state:
            return None
        group = groups[id(parameter)]
        return StepScale(state["exp_avg_sq"], 1.0 - group["betas"][1] ** float(state["step"]), group["eps"])

    return scale


def _blocks(parameter: Tensor, origin: Tensor, other: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Flat blocks of three tensors of one shape, and a scratch buffer as long as the block."""
    size = GPU_BLOCK if parameter.device.type != "cpu" else CPU_BLOCK
    theta, theta0, third = parameter.detach().view(-1), origin.view(-1), other.detach().view(-1)
    scratch = torch.empty(min(size, theta.numel()), dtype=theta.dtype, device=theta.device)
    for start in range(0, theta.numel(), size):
        stop = min(start + size, theta.numel())
        yield theta[start:stop], theta0[start:stop], third[start:stop], scratch[: stop - start]


def _sum_type(tensor: Tensor) -> torch.dtype:
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32
