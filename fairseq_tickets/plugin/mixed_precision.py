"""Mixed precision: `--amp` with gradients of their true size, and no parameters that are copies.

fairseq 0.12.2's `--amp` unscales gradients twice: once, before clipping, in the name of PyTorch's optimizer, and once
more in the step, in the name of its own wrapper, which PyTorch's GradScaler takes for another optimizer. Adam hardly
notices. SGD's steps, Adam's ε, and what an optimizer took from the gradients before the step are off by the loss scale.
"""

from __future__ import annotations

from typing import Any

from fairseq.optim.amp_optimizer import AMPOptimizer

from fairseq_tickets.errors import UserError


def install_into_fairseq() -> None:
    """Let `--amp` unscale once, for as long as the process lives; calling it again changes nothing."""
    AMPOptimizer.step = _step


def step(optimizer: Any) -> bool:
    """One step of a fairseq optimizer; False when `--amp` has left it out, because gradients overflowed."""
    if not isinstance(optimizer, AMPOptimizer):
        optimizer.step()
        return True
    scale = optimizer.scaler.get_scale()
    optimizer.step()
    return bool(optimizer.scaler.get_scale() >= scale)  # it falls after an overflow, and then only


def refuse_half_precision(fp16: Any, bf16: Any, option: str) -> None:
    """Refuse --fp16 and --bf16, under which fairseq trains float32 copies of the parameters that nobody else sees.

    Args:
        fp16, bf16: fairseq's options; anything but True, like a reference to an option not there, counts as off.
        option: what needs the parameters themselves.

    Raises:
        UserError: one of them is on.
    """
    for name, value in (("fp16", fp16), ("bf16", bf16)):
        if value is True:
            raise UserError(f"{option} can't work with --{name}, which trains copies of the parameters; use --amp")


def _step(self: Any) -> None:
    self.scaler.step(self.optimizer)
    self.scaler.update()
