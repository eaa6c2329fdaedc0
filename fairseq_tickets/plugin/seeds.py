"""Seeding for every update without its by-work.

fairseq's trainer seeds PyTorch anew before each update. `torch.manual_seed` does so for every kind of device, also for
those not there: it keeps the call for later, with a stack trace of it, 2 to 8 ms a time, and the list only grows. Where
there is no GPU, the CPU's generator alone is seeded; the random numbers are the same.
"""

from __future__ import annotations

import torch
from fairseq import utils


class _SetTorchSeed(utils.set_torch_seed):  # type: ignore[misc]
    def __init__(self, seed: int) -> None:
        if torch.cuda.is_available() or utils.xm is not None:
            super().__init__(seed)
            return
        self.rng_state = utils.get_rng_state()
        torch.default_generator.manual_seed(seed)


def install_into_fairseq() -> None:
    """Replace fairseq's `set_torch_seed`; calling it again changes nothing."""
    utils.set_torch_seed = _SetTorchSeed
