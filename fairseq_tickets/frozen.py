"""A model held still while it is measured: what scores and saliences share."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

FLOAT16_SCALE = 2.0**12  # of a loss, so that its float16 gradients don't vanish


@contextlib.contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """While open, no parameter requires a gradient and every module is in evaluation mode (dropout off)."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    training = [module for module in model.modules() if module.training]
    try:
        model.eval()
        for parameter in trainable:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)
        for module in training:
            module.training = True


def sum_over_workers(total: Tensor, examples: int, device: torch.device) -> tuple[Tensor, int]:
    """The sums of all data-parallel workers; unchanged when torch.distributed is not initialised."""
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized()):
        return total, examples
    everything = torch.cat([total.flatten(), torch.tensor([float(examples)], dtype=torch.float64)])
    if distributed.get_backend() == "nccl":
        everything = everything.to(device)
    distributed.all_reduce(everything)
    everything = everything.cpu()
    return everything[:-1].view_as(total), int(everything[-1].item())
