"""Time and memory of `fairseq-tickets extract` on a pair of RoBERTa-large's shape.

    python benchmarks/extraction.py --output extraction.json

Writes two random float32 checkpoints (1.4 GB each) into a temporary folder, runs the command in a process of its own
and samples that process's memory: anonymous memory is its own, file-backed memory is the mapped checkpoints. The files
have just been written, so they are read from the page cache. Aim: at most 15 s and 1 GB beyond the mapped files, on
two idle cores; `cpu_seconds` and `load_average` tell how idle they were.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from measure import report as write_report

from fairseq_tickets.checkpoint import save
from fairseq_tickets.parameters import EMBEDDINGS, MATRICES, ModelShape, matrix_name
from fairseq_tickets.tickets import load_dominant_ticket

LARGE = ModelShape(24, 16, 1024, 4096)
VOCABULARY, POSITIONS = 50_265, 514


def write_pair(folder: Path, shape: ModelShape) -> None:
    """Two checkpoints whose difference is 1e-5 noise and 1e-3 in dimension 7 of every matrix."""
    random = torch.Generator().manual_seed(0)
    tensors = {
        EMBEDDINGS[0]: torch.randn(VOCABULARY, shape.embed_dim, generator=random),
        EMBEDDINGS[1]: torch.randn(POSITIONS, shape.embed_dim, generator=random),
    }
    for layer in range(shape.layers):
        for matrix in MATRICES:
            size = shape.out_features(matrix), shape.in_features(matrix)
            tensors[matrix_name(layer, matrix)] = torch.randn(*size, generator=random) * 0.02
            tensors[matrix_name(layer, matrix, "bias")] = torch.zeros(size[0])
    args = argparse.Namespace(arch="roberta_large", encoder_attention_heads=shape.heads)
    save({"args": args, "model": tensors}, folder / "pretrained.pt")
    for name, tensor in tensors.items():
        tensor += (
            torch.randn(1 << 10, generator=random)
            .mul_(1e-5)
            .repeat(tensor.numel() // 1024 + 1)[: tensor.numel()]
            .view_as(tensor)
        )
        if name.endswith("weight") and name not in EMBEDDINGS:
            tensor[:, 7] += 1e-3
    save({"args": args, "model": tensors}, folder / "finetuned.pt")


def measure(folder: Path, threads: int, report: bool) -> dict[str, Any]:
    """Run the command; wall time and peak memory in bytes."""
    command = [sys.executable, "-c", "import sys; from fairseq_tickets.cli import main; sys.exit(main())", "extract"]
    command += ["--pretrained", str(folder / "pretrained.pt"), "--finetuned", str(folder / "finetuned.pt")]
    command += ["--output", str(folder / "ticket.json"), "--json", *(["--report"] if report else [])]
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    process = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": str(threads)},
    )
    anonymous = total = 0
    while process.poll() is None:
        try:
            status = Path(f"/proc/{process.pid}/status").read_text()
        except OSError:
            break
        sizes = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in status.splitlines() if line.endswith("kB")}
        anonymous = max(anonymous, sizes.get("RssAnon", 0))
        total = max(total, sizes.get("VmRSS", 0))
        time.sleep(0.01)
    seconds = time.perf_counter() - start
    if process.wait() != 0:
        raise SystemExit("the command failed")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    ticket = load_dominant_ticket(folder / "ticket.json")
    assert all(dims == [7] for _, _, dims in ticket.items()), "the planted dimension was not found"
    return {
        "report": report,
        "seconds": seconds,
        "cpu_seconds": cpu,
        "peak_anonymous_bytes": anonymous,
        "peak_resident_bytes": total,
    }


def main() -> None:
    """Measure and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", metavar="FILE", help="JSON file; standard output without it")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--layers", type=int, default=24)
    args = parser.parse_args()
    shape = LARGE._replace(layers=args.layers)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_pair(folder, shape)
        runs = [measure(folder, args.threads, report) for report in (False, False, True)]
        files = [os.path.getsize(folder / f"{which}.pt") for which in ("pretrained", "finetuned")]
    result = {
        "benchmark": "extraction",
        "model": shape._asdict(),
        "file_bytes": files,
        "threads": args.threads,
        "torch": torch.__version__,
        "load_average": os.getloadavg()[0],
        "runs": runs,
    }
    write_report(result, args.output)


if __name__ == "__main__":
    main()
