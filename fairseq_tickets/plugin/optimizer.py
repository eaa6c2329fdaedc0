"""Optimizer `ticket`: AdamW, Adamax or SGD that moves only what the ticket allows; the rest keeps its bits, state
included.

Without a ticket it is plain torch.optim. With one, `updates.optimizer.SlicedOptimizer` does the work: gradients
are whole, but the inner optimizer sees only the parts that may move. The task may name the groups active in the next
update (the tickets of the tasks in it; Liang et al. 2021, Algorithm 1).
"""

import ast
import contextlib
from collections.abc import Callable, Collection, Hashable, Iterable
from dataclasses import dataclass, field
from typing import Any, List, Optional

import torch
from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from fairseq.distributed import utils as distributed_utils
from fairseq.optim import FairseqOptimizer, register_optimizer
from omegaconf import II
from torch import Tensor

from fairseq_tickets.errors import UserError
from fairseq_tickets.plugin.mixed_precision import refuse_half_precision
from fairseq_tickets.plugin.trainable import noted_parts
from fairseq_tickets.updates.optimizer import SlicedOptimizer

InnerOptimizer = ChoiceEnum(["adamw", "adamax", "sgd"])


@dataclass
class TicketOptimizerConfig(FairseqDataclass):
    """Options of the inner optimizer."""

    ticket_optimizer: InnerOptimizer = field(  # type: ignore[valid-type]
        default="adamw", metadata={"help": "inner optimizer; adamax is paper S's, adamw paper D's"}
    )
    ticket_betas: str = field(default="(0.9, 0.999)", metadata={"help": "β₁ and β₂ of AdamW and Adamax"})
    ticket_eps: float = field(default=1e-8, metadata={"help": "ε of AdamW and Adamax"})
    ticket_momentum: float = field(default=0.0, metadata={"help": "momentum of SGD"})
    weight_decay: float = field(default=0.0, metadata={"help": "weight decay; decoupled in AdamW"})
    lr: List[float] = II("optimization.lr")  # noqa: UP006  (omegaconf 2.0.6 knows no list[float])
    fp16: bool = II("common.fp16")
    bf16: bool = II("common.bf16")


class TicketTorchOptimizer(torch.optim.Optimizer):
    """What fairseq sees: the model's parameters in `param_groups`, and a step that moves the allowed parts.

    Attributes:
        sliced: does the work.
        active: groups that the next step may move; None = all.
    """

    def __init__(self, parameters: Iterable[Tensor], inner: Callable[[list[Tensor]], torch.optim.Optimizer]) -> None:
        named, parts = noted_parts(parameters)
        self.sliced = SlicedOptimizer(named.items(), parts, inner)
        self.active: Optional[Collection[Hashable]] = None
        groups = dict.fromkeys(leaf.part.group for leaf in self.sliced.leaves)
        self._groups = [group for group in groups if group is not None]
        super().__init__(list(named.values()), {"lr": self.sliced.inner.param_groups[0]["lr"]})

    def activate(self, tasks: Collection[str]) -> None:
        """Let the next step move the groups (sets of tasks) that have one of `tasks` in them; calls add up."""
        found = {group for group in self._groups if not group.isdisjoint(tasks)}  # type: ignore[attr-defined]
        self.active = found if self.active is None else found.union(self.active)

    def unite_active(self, process_group: Any) -> None:
        """Let every worker's next step move what that of any worker would."""
        if self.active is None or not self._groups or distributed_utils.get_world_size(process_group) == 1:
            return
        device = next(iter(self.param_groups[0]["params"])).device
        flags = torch.tensor([group in self.active for group in self._groups], dtype=torch.int32, device=device)
        distributed_utils.all_reduce(flags, process_group, "max")
        self.active = {group for group, flag in zip(self._groups, flags.tolist()) if flag}

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Move the active parts at this group's learning rate."""
        for group in self.sliced.inner.param_groups:
            group["lr"] = self.param_groups[0]["lr"]
        self.sliced.step(self.active)
        self.active = None

    def clip(self, max_norm: float) -> Tensor:
        """Clip the gradients of the parts that will move to a norm of `max_norm` (0 = don't); returns their norm."""
        gradients = self.sliced.collect(self.active)
        if not gradients:
            return torch.zeros(())
        norm = torch.stack(torch._foreach_norm(gradients)).norm()
        if max_norm > 0:
            torch._foreach_mul_(gradients, (max_norm / (norm + 1e-6)).clamp(max=1.0))
        return norm

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop all gradients, and forget which groups were active for them."""
        self.sliced.zero_grad()
        self.active = None

    def state_dict(self) -> dict[str, Any]:
        """The inner optimizer's state: that of the trainable part."""
        return self.sliced.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a saved state."""
        self.sliced.load_state_dict(state_dict)
        self.param_groups[0]["lr"] = self.sliced.inner.param_groups[0]["lr"]


@register_optimizer("ticket", dataclass=TicketOptimizerConfig)
class TicketOptimizer(FairseqOptimizer):  # type: ignore[misc]
    """fairseq's view of `TicketTorchOptimizer`."""

    supports_flat_params = False

    def __init__(self, cfg: TicketOptimizerConfig, params: Iterable[Tensor]) -> None:
        super().__init__(cfg)
        refuse_half_precision(cfg.fp16, cfg.bf16, "--optimizer ticket")
        self._optimizer = TicketTorchOptimizer(params, inner_optimizer(cfg))

    @property
    def optimizer_config(self) -> dict[str, Any]:
        """What overrides a saved state."""
        return {"lr": _learning_rate(self.cfg)}

    def all_reduce_grads(self, module: Any) -> None:
        """Called by fairseq once an update, between the last backward and clipping."""
        super().all_reduce_grads(module)
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            self._optimizer.unite_active(distributed_utils.get_data_parallel_group())

    def clip_grad_norm(self, max_norm: float, aggregate_norm_fn: Any = None) -> Tensor:
        """Clip over the trainable part alone; gradients outside it mean nothing."""
        return self._optimizer.clip(max_norm)


def inner_optimizer(cfg: TicketOptimizerConfig) -> Callable[[list[Tensor]], torch.optim.Optimizer]:
    """The torch optimizer a config asks for.

    Raises:
        UserError: betas that are no pair of numbers from 0 to 1.
    """
    lr, decay = _learning_rate(cfg), cfg.weight_decay
    if cfg.ticket_optimizer == "sgd":
        return lambda leaves: torch.optim.SGD(leaves, lr=lr, momentum=cfg.ticket_momentum, weight_decay=decay)
    betas = _betas(str(cfg.ticket_betas))
    if cfg.ticket_optimizer == "adamax":
        return lambda leaves: torch.optim.Adamax(leaves, lr=lr, betas=betas, eps=cfg.ticket_eps, weight_decay=decay)
    return lambda leaves: _adamw(leaves, lr=lr, betas=betas, eps=cfg.ticket_eps, weight_decay=decay)


def _adamw(leaves: list[Tensor], **options: Any) -> torch.optim.AdamW:
    """Fused where it can be: of small leaves it takes a fifth of the time."""
    # The fused kernel takes a leaf, its gradient and its moments for one stretch of memory each.
    if all(leaf.is_contiguous() for leaf in leaves):
        with contextlib.suppress(RuntimeError):  # PyTorch 2.3 has none for CPUs
            return torch.optim.AdamW(leaves, fused=True, **options)
    return torch.optim.AdamW(leaves, **options)


def _betas(text: str) -> tuple[float, float]:
    try:
        first, second = ast.literal_eval(text)
        if 0.0 <= first < 1.0 and 0.0 <= second < 1.0:
            return float(first), float(second)
    except (ValueError, TypeError, SyntaxError):
        pass
    raise UserError(f"--ticket-betas {text} must be two numbers from 0 to less than 1, like (0.9, 0.999)")


def _learning_rate(cfg: TicketOptimizerConfig) -> float:
    lr: Any = cfg.lr  # a list from fairseq-train, a number when a test or script builds the config
    return float(lr) if isinstance(lr, (int, float)) else float(lr[0])
