"""transformers.Trainer with the L1 penalty of Gong et al. 2022, section 3.1: a callback before each step."""

from __future__ import annotations

from typing import Any

from fairseq_tickets.dominant_ticket.l1 import L1ToPretrained
from fairseq_tickets.errors import UserError


def l1_callback(penalty: L1ToPretrained) -> Any:
    """A callback for `Trainer(callbacks=[...])` that adds λ·sign(θ − θ₀) to the mean gradients, clipped already.

    Trainer averages over the examples of a batch and over accumulated batches, so λ is that of `L1ToPretrained`.

    Args:
        penalty: from `Encoder.l1`.

    Raises:
        UserError: transformers is missing, or too old to call before a step.
    """
    try:
        from transformers import TrainerCallback
    except ImportError as error:
        raise UserError(
            "training with Trainer needs transformers and accelerate: pip install fairseq_tickets[hf]"
        ) from error
    if not hasattr(TrainerCallback, "on_pre_optimizer_step"):
        raise UserError("this transformers calls nothing before an optimizer step; the L1 penalty needs 4.46 or later")

    class AddL1(TrainerCallback):  # type: ignore[misc]
        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if args.fp16:
                raise UserError("fp16 scales the gradients that the L1 penalty is added to; train in float32 or bf16")
            penalty.add_gradient_()

    return AddL1()
