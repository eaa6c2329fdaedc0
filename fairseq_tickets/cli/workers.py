"""Commands that torchrun may start several times: which worker this is, and what only needs saying once."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from fairseq_tickets.cli.progress import progress_bar
from fairseq_tickets.errors import UserError

Result = TypeVar("Result")


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


def writable(path: str, option: str = "--output") -> Path:
    """`path`, the value of an option, refused at once, before hours of work, if it plainly can't be written."""
    output = Path(path)
    if output.is_dir():
        raise UserError(f"{option} {output} is a folder; give the name of a file")
    folder = output.parent
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise UserError(f"{option} {output} can't be written: no permission to write in {folder}")
    return output


def on_workers(what: str, cpu: bool, work: Callable[[str, Callable[[int, int], None]], Result]) -> Result | None:
    """Do work on all workers, under one progress bar of examples.

    Args:
        what: name of the bar.
        cpu: stay on the CPU where there is a GPU.
        work: called with the device, and with what tells the bar (examples done by this worker, of all workers).

    Returns:
        what `work` returned to the first worker; None for the others, who have nothing more to do.
    """
    worker, device = join_workers(cpu)
    with progress_bar(what, "examples", show=worker == 0) as update:
        found = work(device, lambda done, total: update(done, total // workers()))
    _leave_workers()
    return found if worker == 0 else None


def _leave_workers() -> None:
    """Part from the other workers; nothing where there are none."""
    import torch

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
