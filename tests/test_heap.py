"""What a step frees stays with the process: the next step touches no new page. Blocks are plain tensors."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest
import torch

from fairseq_tickets.heap import block

STEPS = """
import resource, sys
import torch
from fairseq_tickets.heap import keep_freed_memory

torch.set_num_threads(1)
blocks = [8 * 2**20, 48 * 2**20]  # under and over the 32 MiB from which glibc never keeps anything

def faults() -> int:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        made = [torch.zeros(size, dtype=torch.uint8) for size in blocks]
        del made
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

loaded = torch.ones(100 * 2**20, dtype=torch.uint8)
del loaded
faults()
first = faults()
done = keep_freed_memory()
for _ in range(3):
    faults()  # a block may move once more
print(done, first, faults())
"""
glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library isn't glibc")


def run(**environment: str) -> tuple[str, int, int]:
    """What keep_freed_memory says; page faults of five steps before and after."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    done = subprocess.run(
        [sys.executable, "-c", STEPS], env={**kept, **environment}, capture_output=True, text=True, check=True
    )
    said, before, after = done.stdout.split()
    return said, int(before), int(after)


@glibc
def test_steps_touch_no_new_pages() -> None:
    said, before, after = run()
    assert said == "True"
    assert before > 5 * 48 * 2**20 // 4096 // 512  # each page once a step, or 2 MiB at a time
    assert after < before / 10


@glibc
def test_a_users_own_setting_of_malloc_stands() -> None:
    said, _, after = run(MALLOC_ARENA_MAX="2")
    assert said == "False" and after > 50


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.bool])
@pytest.mark.parametrize("shape", [(), (0,), (3, 5), (2, 1, 7)])
def test_a_block_is_a_tensor_like_any_other(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    like = torch.zeros(4, dtype=dtype)
    found = block(like, shape)
    assert found.shape == shape and found.dtype == dtype and found.is_contiguous()
    other = block(like, shape)
    assert torch.equal(found.fill_(1), torch.ones(shape, dtype=dtype)) and not other.fill_(0).any()
    assert found.all()  # its own memory
