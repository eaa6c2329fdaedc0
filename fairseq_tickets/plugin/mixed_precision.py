"""Mixed precision: `--precision`, `--amp` with gradients of their true size, and no parameters that are copies.

`--precision bf16` and `float16` run the model under autocast, on a CPU and on a GPU, in training and in validation;
losses, metrics, parameters that train, optimizer state and what is saved stay float32. The criterion opens autocast
around the model, since fairseq 0.12.2's `--amp` knows CUDA's alone, and leaves validation out.

fairseq 0.12.2's `--amp` unscales gradients twice: once, before clipping, in the name of PyTorch's optimizer, and once
more in the step, in the name of its own wrapper, which PyTorch's GradScaler takes for another optimizer. Adam hardly
notices. SGD's steps, Adam's ε, and what an optimizer took from the gradients before the step are off by the loss scale.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import torch
from fairseq.optim.amp_optimizer import AMPOptimizer

from fairseq_tickets.errors import UserError

logger = logging.getLogger(__name__)

AUTO, FLOAT32, BF16, FLOAT16 = "auto", "float32", "bf16", "float16"
DTYPES = {FLOAT32: torch.float32, BF16: torch.bfloat16, FLOAT16: torch.float16}


def device_type(cpu: Any) -> str:
    """The kind of device that fairseq trains on, "cpu" or "cuda", given its option --cpu."""
    return "cuda" if torch.cuda.is_available() and cpu is not True else "cpu"


def chosen_precision(cfg: Any) -> str:
    """The precision that a task's options ask for: "float32", "bf16" or "float16".

    Args:
        cfg: has `precision`, and fairseq's `amp`, `fp16`, `bf16` and `cpu`.

    Raises:
        UserError: unknown, together with --fp16 or --bf16, at odds with --amp, or not to be had on this device.
    """
    asked, device, amp = str(cfg.precision), device_type(cfg.cpu), cfg.amp is True
    if asked not in (AUTO, *DTYPES):
        raise UserError(f"--precision {asked} is unknown; choose from {', '.join((AUTO, *DTYPES))}")
    if asked == AUTO:
        return (FLOAT16 if device == "cuda" else BF16) if amp else FLOAT32
    for name in ("fp16", "bf16"):
        if cfg[name] is True:
            raise UserError(
                f"--precision {asked} can't be combined with --{name}, which replaces the parameters by copies"
            )
    if amp and asked == FLOAT32:
        raise UserError("--precision float32 contradicts --amp; leave one of them out")
    return checked(asked, device)


def checked(precision: str, device: str) -> str:
    """`precision`, if this kind of device has it; UserError otherwise."""
    if precision == FLOAT16 and device == "cpu":
        raise UserError("--precision float16 needs a GPU; on a CPU use bf16 or float32")
    if precision == BF16 and device == "cuda" and not _gpu_has_bf16():
        raise UserError(
            f"--precision bf16: {torch.cuda.get_device_name()} has no bf16 arithmetic; use float16 or float32"
        )
    return precision


def frozen_dtype(asked: str, precision: str) -> torch.dtype:
    """What frozen weights are kept in.

    Args:
        asked: option --frozen-precision.
        precision: of `chosen_precision`.

    Raises:
        UserError: unknown.
    """
    if asked not in (AUTO, FLOAT32, BF16):
        raise UserError(f"--frozen-precision {asked} is unknown; choose from {AUTO}, {FLOAT32}, {BF16}")
    return torch.bfloat16 if BF16 in (asked, precision if asked == AUTO else None) else torch.float32


def settle(criterion_cfg: Any, precision: str, device: str) -> None:
    """Make the trainer and what it saves follow the task's precision; say so where it brings no speed.

    Args:
        criterion_cfg: a part of the whole configuration, before the trainer has been made.
        precision: of `chosen_precision`.
        device: "cpu" or "cuda".
    """
    root: Any = criterion_cfg._get_root() if hasattr(criterion_cfg, "_get_root") else {}
    if "common" in root and "amp" in root.common:
        root.common.amp = precision == FLOAT16  # the loss scale; bf16 has float32's range and needs none
    if "task" in root and "precision" in (root.task or {}):
        root.task.precision = precision
    if precision == BF16 and device == "cpu":
        factor = bf16_factor()
        if factor > 0.9:
            logger.warning(
                f"--precision bf16: this CPU has no fast bf16, its products take {factor:.1f} times those of float32; "
                "--precision float32 trains faster here"
            )


def autocast(precision: str, device: str) -> torch.autocast:
    """What the model runs under."""
    on = precision != FLOAT32
    return torch.autocast(device, dtype=DTYPES[precision] if on else None, enabled=on)


def bf16_factor(rows: int = 256, width: int = 1024) -> float:
    """Time of a bf16 matrix product on this CPU over that of float32; takes some 20 ms."""

    def seconds(dtype: torch.dtype) -> float:
        x, weight = torch.ones(rows, width, dtype=dtype), torch.ones(width, width, dtype=dtype)
        return _least(lambda: x @ weight)

    return seconds(torch.bfloat16) / seconds(torch.float32)


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


def _least(work: Callable[[], object], turns: int = 3) -> float:
    work()
    found: list[float] = []
    for _ in range(turns):
        start = time.perf_counter()
        work()
        found.append(time.perf_counter() - start)
    return min(found)


def _gpu_has_bf16() -> bool:
    """In hardware: PyTorch counts emulation too."""
    return bool(torch.version.hip) or torch.cuda.get_device_capability() >= (8, 0)
