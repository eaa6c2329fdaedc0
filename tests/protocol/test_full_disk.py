"""`fairseq-tickets run` meets a full disk: one clear line, finished runs untouched, and the next call goes on."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .test_run import finish, results, start

MEGABYTE = 1 << 20
MESSAGES = {  # bytes left -> what the error says
    0: "lease-1: No space left on device",
    4 << 10: "No space left on device",  # nothing fits but the claim
    64 << 10: "checkpoint_best.pt: No space left on device",
}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MB."""
    at = tmp_path / "small-disk"
    at.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={4 * MEGABYTE}", "tmpfs", str(at)], capture_output=True
    )
    if mounted.returncode != 0:
        pytest.skip("mounting a small file system is not permitted here")
    yield at
    subprocess.run(["umount", str(at)], check=True)


def fill(disk: Path, free: int) -> Path:
    """A file that leaves `free` bytes."""
    path = disk / "filler"
    with path.open("wb", buffering=0) as handle, contextlib.suppress(OSError):
        while handle.write(b"x" * 4096):
            pass
    os.truncate(path, path.stat().st_size - free)
    return path


def files(folder: Path) -> dict[Path, tuple[int, bytes]]:
    """When each was written, and what it holds."""
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_a_full_disk(write: Any, small_disk: Path) -> None:
    short = {"learning_rates": [1e-2], "batch_sizes": [8], "max_epoch": 1}
    finish(start(write(training=short), small_disk))
    finished = {path.parent for path in small_disk.glob("toy/*/done.json")}
    before, first = {folder: files(folder) for folder in finished}, results(small_disk)
    assert len(finished) == 3 and len(first) == 2  # full model, scores, winning ticket
    two = write(training=short, seeds=[1, 2])
    for free, said in MESSAGES.items():
        filler = fill(small_disk, free)
        process = start(two, small_disk)
        _, error = process.communicate(timeout=300)
        assert process.returncode == 2 and "Traceback" not in error, error
        (line,) = [text for text in error.splitlines() if text.startswith("fairseq-tickets: error: ")]
        assert said in line and error.endswith(f"{line}\n")
        assert {folder: files(folder) for folder in finished} == before
        filler.unlink()
    finish(start(two, small_disk))
    assert {folder: files(folder) for folder in finished} == before
    after = results(small_disk)
    assert len(after) == 4 and first.items() <= after.items()
