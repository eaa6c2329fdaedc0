"""What the benchmarks measure with: clock, peak of memory, and the file they report to. Not a benchmark itself."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from fairseq_tickets.files import write_json


def timed(work: Callable[[], object], device: str) -> tuple[float, float]:
    """Wall and CPU seconds of `work`; a GPU is waited for."""
    synchronise(device)
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    synchronise(device)
    return time.perf_counter() - wall, time.process_time() - cpu


def synchronise(device: str) -> None:
    """Wait for the GPU, if it is one."""
    if on_gpu(device):
        torch.cuda.synchronize()


def start_peak(device: str) -> None:
    """Let the peak start anew from what is held now."""
    if on_gpu(device):
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")  # Linux


def held(device: str) -> int:
    """Bytes held now: by CUDA's allocator, or (on Linux) by this process, its libraries included."""
    return torch.cuda.memory_allocated() if on_gpu(device) else _resident("VmRSS")


def peak(device: str) -> int:
    """Most bytes held since `start_peak`."""
    return torch.cuda.max_memory_allocated() if on_gpu(device) else _resident("VmHWM")


def on_gpu(device: str) -> bool:
    """Whether a device is one of CUDA's."""
    return torch.device(device).type == "cuda"


PRECISIONS = ("float32", "bf16")


def autocast(precision: str, device: str) -> contextlib.AbstractContextManager[Any]:
    """What a model runs under in one of PRECISIONS."""
    return torch.autocast(torch.device(device).type, torch.bfloat16, enabled=precision == "bf16")


def report(result: dict[str, Any], output: str | None) -> None:
    """Write the figures to a file, or to standard output without one."""
    if output:
        write_json(output, result)
    else:
        print(json.dumps(result, indent=1))


def _resident(line: str) -> int:
    status = Path("/proc/self/status").read_text()
    return 1024 * next(int(text.split()[1]) for text in status.splitlines() if text.startswith(line))
