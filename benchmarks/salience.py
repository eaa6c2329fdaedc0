"""Salience of input dimensions against plain forward and backward of the same examples: time and peak memory.

Each side takes the same batches through the same model (random weights, dropout off) in one process, turn by turn; time
is the median of each side, the ratio that of the medians, CPU seconds beside wall seconds. Memory is the peak above the
built model, of a fresh process for each side on a CPU.

    python benchmarks/salience.py --batches 32 --tokens 64 --repeats 3 --output s.json   # RoBERTa-large, 256 sentences
    python benchmarks/salience.py --layers 4 --batches 2                                 # reduced, a minute on a CPU
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from importance import CLASSES, Classifier
from measure import held, on_gpu, peak, report, start_peak, timed
from torch import Tensor

from fairseq_tickets.dominant_ticket.salience import METRICS, dimension_salience
from fairseq_tickets.parameters import MATRICES

BASE = "forward-backward"
SIDES = (BASE, *METRICS)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--embed-dim", type=int, default=1024)
    parser.add_argument("--ffn-dim", type=int, default=4096)
    parser.add_argument("--heads", type=int, default=16)
    parser.add_argument("--vocab-size", type=int, default=50265)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--batches", type=int, default=4, help="batches of a turn")
    parser.add_argument("--repeats", type=int, default=3, help="timed turns of each side, after one untimed batch")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--amp", action="store_true", help="autocast in bfloat16, on all sides")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 = PyTorch's choice")
    parser.add_argument("--output", metavar="FILE", help="write the figures here too")
    parser.add_argument("--peak-of", choices=SIDES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    sides = build(args)
    if args.peak_of:
        print(json.dumps(peak_memory(args.device, sides[args.peak_of])))
        return
    seconds: dict[str, list[tuple[float, float]]] = {side: [] for side in SIDES}
    for turn in range(args.repeats + 1):
        for side, work in sides.items():
            found = timed(work, args.device)
            if turn:
                seconds[side].append(found)
    memory = {side: memory_of(args.device, side, sides[side]) for side in SIDES}
    medians = {
        side: [statistics.median(s[clock] for s in found) for clock in (0, 1)] for side, found in seconds.items()
    }
    result: dict[str, Any] = {
        "benchmark": "salience",
        "options": {k: v for k, v in vars(args).items() if k not in ("output", "peak_of")},
        "device": torch.cuda.get_device_name() if on_gpu(args.device) else platform.machine(),
        "threads": torch.get_num_threads(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "sides": {
            side: {
                "median_seconds": medians[side][0],
                "time_ratio": medians[side][0] / medians[BASE][0],
                "median_cpu_seconds": medians[side][1],
                "cpu_time_ratio": medians[side][1] / medians[BASE][1],
                "peak_bytes_above_model": memory[side],
            }
            for side in SIDES
        },
    }
    print(json.dumps(result["sides"], indent=1))
    if args.output:
        report(result, args.output)


def build(args: argparse.Namespace) -> dict[str, Callable[[], None]]:
    """A function for each side that takes all batches through the model."""
    torch.manual_seed(1)
    model = Classifier(args.layers, args.embed_dim, args.ffn_dim, args.heads, args.vocab_size).to(args.device).eval()
    size = (args.batches, args.batch_size, args.tokens)
    tokens = torch.randint(4, args.vocab_size, size, device=args.device)
    labels = torch.randint(CLASSES, size[:2], device=args.device)
    batches = list(zip(tokens, labels))
    linears = [
        {name: getattr(layer.self_attn if name.endswith("_proj") else layer, name) for name in MATRICES}
        for layer in model.layers
    ]

    def loss_fn(batch: tuple[Tensor, Tensor]) -> tuple[Tensor, int]:
        return F.cross_entropy(model(batch[0]).float(), batch[1]), len(batch[1])

    def forward_backward() -> None:
        for batch in batches:
            with torch.autocast(args.device.split(":")[0], dtype=torch.bfloat16, enabled=args.amp):
                loss, _ = loss_fn(batch)
            loss.backward()
            model.zero_grad(set_to_none=True)

    def salience(metric: str) -> Callable[[], None]:
        def measure() -> None:
            dimension_salience(model, linears, args.heads, batches, loss_fn, metric, args.amp)

        return measure

    return {BASE: forward_backward, **{metric: salience(metric) for metric in METRICS}}


def memory_of(device: str, side: str, work: Callable[[], None]) -> int:
    """Peak bytes above the built model that one turn of a side takes."""
    if on_gpu(device):
        return peak_memory(device, work)
    command = [sys.executable, str(Path(__file__).resolve()), *sys.argv[1:], "--peak-of", side]
    return int(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])


def peak_memory(device: str, work: Callable[[], None]) -> int:
    """Peak bytes above what is there now."""
    start_peak(device)
    before = held(device)
    work()
    return peak(device) - before


if __name__ == "__main__":
    main()
