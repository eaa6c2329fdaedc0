"""Commands that torchrun may start several times: which worker this is, and what only needs saying once."""

from __future__ import annotations

import os
from pathlib import Path

from fairseq_tickets.errors import UserError


def workers() -> int:
    """Number of processes that torchrun started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def join_workers(cpu: bool) -> tuple[int, str]:
    """This process's rank and device; meets the other workers under torchrun."""
    import torch

    cuda = torch.cuda.is_available() and not cpu
    if workers() == 1:
        return 0, "cuda" if cuda else "cpu"
    device = f"cuda:{os.environ['LOCAL_RANK']}" if cuda else "cpu"
    if cuda:
        torch.cuda.set_device(device)
    torch.distributed.init_process_group("nccl" if cuda else "gloo")
    return torch.distributed.get_rank(), device


def writable(path: str) -> Path:
    """`path`, refused at once, before hours of work, if it plainly can't be written."""
    output = Path(path)
    if output.is_dir():
        raise UserError(f"--output {output} is a folder; give the name of a file")
    folder = output.parent
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise UserError(f"--output {output} can't be written: no permission to write in {folder}")
    return output


def leave_workers() -> None:
    """Part from the other workers; nothing where there are none."""
    import torch

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
