"""What data-parallel workers tell each other, where fairseq 0.12.2 doesn't on the CPU, with today's PyTorch or pruning.

- A checkpoint goes from the first worker, who reads it (safely), to the others as a pickle with fairseq's own classes
  in it, which PyTorch 2.6 and later refuse to load.
- Logs that can't be summed, such as predictions in evaluation, are gathered through a buffer on a GPU, of 16 KB.
- What workers average is the gradients of the parameters that the model had when it was wrapped for them, which is
  before a checkpoint is loaded. One under a super ticket prunes the model and so gives it new parameters.

What is unpickled here comes from workers of the same run, never from a file.
"""

from __future__ import annotations

import io
from typing import Any

import torch
from fairseq import trainer, utils
from fairseq.distributed import utils as distributed_utils


def install_into_fairseq() -> None:
    """Let fairseq's workers talk as here, for as long as the process lives; calling it again changes nothing."""
    if not isinstance(distributed_utils.torch, _TorchBetweenWorkers):
        distributed_utils.torch = _TorchBetweenWorkers()
        distributed_utils.all_gather_list = all_gather_list
        trainer.Trainer.load_checkpoint = _wrap_what_was_loaded(trainer.Trainer.load_checkpoint)


def all_gather_list(data: Any, group: Any = None, max_size: int = 0) -> list[Any]:
    """What each worker gives as `data`, by rank; tensors come back on the CPU. `max_size` is fairseq's: not needed."""
    group = distributed_utils.get_global_group() if group is None else group
    gathered: list[Any] = [None] * distributed_utils.get_world_size(group)
    torch.distributed.all_gather_object(gathered, utils.move_to_cpu(data), group=group)
    return gathered


def _wrap_what_was_loaded(original: Any) -> Any:
    def load_checkpoint(self: Any, *args: Any, **options: Any) -> Any:
        if not self.use_distributed_wrapper:
            return original(self, *args, **options)
        before = list(self._model.parameters())
        loaded = original(self, *args, **options)
        after = list(self._model.parameters())
        if len(before) != len(after) or any(one is not other for one, other in zip(before, after)):
            self._wrapped_model = None  # fairseq makes it when it is next asked for
        return loaded

    return load_checkpoint


class _TorchBetweenWorkers:
    """What fairseq.distributed.utils sees as `torch`."""

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    @staticmethod
    def load(file: Any, map_location: Any = "cpu") -> Any:
        assert isinstance(file, io.BytesIO)  # what the first worker sent
        return torch.load(file, map_location=map_location, weights_only=False)
