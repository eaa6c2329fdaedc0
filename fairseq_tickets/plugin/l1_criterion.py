"""`ticket_sentence_prediction_l1`: the task loss plus λ‖θ − θ₀‖₁ (Gong et al. 2022, equation 1).

The penalty acts between fairseq's gradient normalisation and the optimizer's step, by way of the task's
`optimizer_step`, so that λ means the same whatever the batch size, --update-freq, number of workers or precision; see
dominant_ticket/l1.py. θ₀ is read from `pretrained_path` at every start, also when training resumes.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

from fairseq.criterions import register_criterion
from fairseq.dataclass import ChoiceEnum
from fairseq.logging import metrics
from omegaconf import II
from torch import Tensor, nn

from fairseq_tickets import checkpoint
from fairseq_tickets.dominant_ticket.l1 import L1ToPretrained, step_scales
from fairseq_tickets.errors import UserError
from fairseq_tickets.plugin.criterion import (
    TicketSentencePredictionCriterion,
    TicketSentencePredictionCriterionConfig,
)
from fairseq_tickets.plugin.mixed_precision import refuse_half_precision
from fairseq_tickets.plugin.optimizer import TicketTorchOptimizer

SUBGRADIENT, PROXIMAL = "subgradient", "proximal"


@dataclass
class TicketSentencePredictionL1Config(TicketSentencePredictionCriterionConfig):
    """The task loss's options and the penalty's."""

    l1_weight: float = field(default=1e-3, metadata={"help": "λ of the penalty λ‖θ − θ₀‖₁"})
    pretrained_path: Optional[str] = field(
        default=None, metadata={"help": "checkpoint that holds θ₀; default: that of --finetune-from-model"}
    )
    l1_mode: ChoiceEnum([SUBGRADIENT, PROXIMAL]) = field(  # type: ignore[valid-type]
        default=SUBGRADIENT,
        metadata={"help": "'subgradient' adds λ·sign(θ − θ₀) to the gradient; 'proximal' shrinks Δθ, to exact zeros"},
    )
    l1_sigma: float = field(default=5e-5, metadata={"help": "σ: parameters with |Δθ| > σ are logged as moved"})
    l1_log_interval: int = field(default=50, metadata={"help": "log penalty and moved parameters every N updates"})
    finetune_from_model: Optional[str] = II("checkpoint.finetune_from_model")
    fp16: bool = II("common.fp16")
    bf16: bool = II("common.bf16")


@register_criterion("ticket_sentence_prediction_l1", dataclass=TicketSentencePredictionL1Config)
class TicketSentencePredictionL1Criterion(TicketSentencePredictionCriterion):
    """Task loss in `forward`; the penalty in `before_step` and `after_step`, which the task calls at each update."""

    def __init__(self, cfg: TicketSentencePredictionL1Config, task: Any) -> None:
        super().__init__(cfg, task)
        refuse_half_precision(cfg.fp16, cfg.bf16, "--criterion ticket_sentence_prediction_l1")
        path = cfg.pretrained_path or cfg.finetune_from_model
        if not path:
            raise UserError("--pretrained-path is not set: the L1 penalty needs the checkpoint that holds θ₀")
        if not Path(path).is_file():
            raise UserError(f"--pretrained-path {path} does not exist")
        if not 0 <= cfg.l1_sigma < 1:
            raise UserError(f"--l1-sigma {cfg.l1_sigma} must be at least 0 and less than 1")
        if not 0 <= cfg.l1_weight < float("inf"):
            raise UserError(f"--l1-weight {cfg.l1_weight} must be a number of at least 0")
        if cfg.l1_log_interval < 1:
            raise UserError(f"--l1-log-interval {cfg.l1_log_interval} must be at least 1")
        self.pretrained_path, self.weight, self.mode = path, cfg.l1_weight, str(cfg.l1_mode)
        self.sigma, self.log_interval = cfg.l1_sigma, cfg.l1_log_interval
        self._l1: Optional[L1ToPretrained] = None

    def forward(
        self, model: nn.Module, sample: dict[str, Any], reduce: bool = True
    ) -> tuple[Tensor, int, dict[str, Any]]:
        """The task loss alone; see the class."""
        return super().forward(model, sample, reduce)

    def before_step(self, model: nn.Module, optimizer: Any, update: int) -> None:
        """Gradients are averaged and clipped: add the penalty's."""
        l1 = self.penalty(model)
        if self.mode == SUBGRADIENT:
            l1.add_gradient_()
        if update % self.log_interval == 0:
            distance = l1.measure(self.sigma)
            with metrics.aggregate("train_inner"), metrics.aggregate("train"):
                metrics.log_scalar("l1", distance.penalty, weight=0, round=5)
                metrics.log_scalar("moved", distance.moved, weight=0)

    def after_step(self, model: nn.Module, optimizer: Any) -> None:
        """The optimizer has stepped: shrink Δθ."""
        if self.mode == PROXIMAL:
            torch_optimizer = optimizer.optimizer
            if isinstance(torch_optimizer, TicketTorchOptimizer):
                torch_optimizer = torch_optimizer.sliced.inner
            self.penalty(model).proximal_(optimizer.get_lr(), step_scales(torch_optimizer))

    def penalty(self, model: nn.Module) -> L1ToPretrained:
        """The penalty over `model`, with θ₀ read at the first call."""
        if self._l1 is None:
            pretrained = checkpoint.encoder_tensors(self.pretrained_path)
            self._l1 = L1ToPretrained(model.named_parameters(), pretrained, self.weight)
        return self._l1
