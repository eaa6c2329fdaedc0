"""Sides of a benchmark on one encoder, turn by turn in one process, so that the machine's load falls on all alike.

Time is the median of each side, ratios are those of the medians; CPU seconds stand beside wall seconds, for machines
that do other work meanwhile. Memory is the peak above the built model: of CUDA's allocator, or (on Linux) of the
resident set of a fresh process for each side, whose allocator holds no memory. Not a benchmark itself.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from measure import PRECISIONS, held, on_gpu, peak, start_peak, timed
from torch import Tensor, nn

from fairseq_tickets.encoder_layer import TicketEncoderLayer
from fairseq_tickets.files import write_json

POSITIONS, CLASSES, PAD = 514, 2, 1
Sides = Mapping[str, Callable[[], None]]


class Classifier(nn.Module):
    """RoBERTa's encoder with a sentence classifier."""

    def __init__(self, layers: int, embed_dim: int, ffn_dim: int, heads: int, vocab_size: int) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(vocab_size, embed_dim, PAD)
        self.embed_positions = nn.Embedding(POSITIONS, embed_dim)
        self.layernorm_embedding = nn.LayerNorm(embed_dim)
        self.layers = nn.ModuleList(TicketEncoderLayer(embed_dim, ffn_dim, heads) for _ in range(layers))
        self.classifier = nn.Sequential(nn.Linear(embed_dim, embed_dim), nn.Tanh(), nn.Linear(embed_dim, CLASSES))

    def forward(self, tokens: Tensor) -> Tensor:
        """(batch, tokens) -> (batch, classes)."""
        x = self.embed_tokens(tokens) + self.embed_positions.weight[: tokens.shape[1]]
        x = self.layernorm_embedding(x).transpose(0, 1)
        mask = tokens.eq(PAD)
        for layer in self.layers:
            x = layer(x, mask)
        logits: Tensor = self.classifier(x[0])
        return logits


def built(args: argparse.Namespace) -> Classifier:
    """The model of a benchmark's options, dropout off."""
    torch.manual_seed(1)
    model = Classifier(args.layers, args.embed_dim, args.ffn_dim, args.heads, args.vocab_size)
    return model.to(args.device).eval()


def amp_dtype(precision: str) -> torch.dtype | None:
    """What `autocast` casts to, as the package's functions are told."""
    return torch.bfloat16 if precision == "bf16" else None


def parser(description: str | None, sides: Sequence[str], tokens: int, repeats: int) -> argparse.ArgumentParser:
    """Options of such a benchmark; RoBERTa-large's shape by default."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--layers", type=int, default=24)
    made.add_argument("--embed-dim", type=int, default=1024)
    made.add_argument("--ffn-dim", type=int, default=4096)
    made.add_argument("--heads", type=int, default=16)
    made.add_argument("--vocab-size", type=int, default=50265)
    made.add_argument("--batch-size", type=int, default=8)
    made.add_argument("--tokens", type=int, default=tokens)
    made.add_argument("--repeats", type=int, default=repeats, help="timed turns of each side, after one untimed")
    made.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    made.add_argument("--precision", choices=PRECISIONS, default="float32", help="bf16: autocast, on all sides")
    made.add_argument("--threads", type=int, default=0, help="CPU threads; 0 = PyTorch's choice")
    made.add_argument("--output", metavar="FILE", help="write the figures here too")
    made.add_argument("--peak-of", choices=sides, help=argparse.SUPPRESS)
    return made


def compare(name: str, args: argparse.Namespace, build: Callable[[argparse.Namespace], Sides]) -> None:
    """Measure, print and write; ratios are to the first side."""
    if args.threads:
        torch.set_num_threads(args.threads)
    sides = build(args)
    if args.peak_of:  # in the process that `_memory_of` starts
        print(_peak_memory(args.device, sides[args.peak_of]))
        return
    seconds: dict[str, list[tuple[float, float]]] = {side: [] for side in sides}
    for turn in range(args.repeats + 1):
        for side, work in sides.items():
            found = timed(work, args.device)
            if turn:
                seconds[side].append(found)
    figures: dict[str, Any] = {}
    for side, work in sides.items():
        wall, cpu = (statistics.median(turn[clock] for turn in seconds[side]) for clock in (0, 1))
        base = figures[next(iter(sides))] if figures else {}
        memory = _memory_of(args.device, side, work)
        figures[side] = {
            "seconds": [round(turn[0], 5) for turn in seconds[side]],
            "median_seconds": wall,
            "time_ratio": wall / base.get("median_seconds", wall),
            "median_cpu_seconds": cpu,
            "cpu_time_ratio": cpu / base.get("median_cpu_seconds", cpu),
            "peak_bytes_above_model": memory,
            "memory_ratio": memory / base.get("peak_bytes_above_model", memory),
        }
    result = {
        "benchmark": name,
        "options": {k: v for k, v in vars(args).items() if k not in ("output", "peak_of")},
        "device": torch.cuda.get_device_name() if on_gpu(args.device) else platform.machine(),
        "threads": torch.get_num_threads(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "sides": figures,
    }
    print(json.dumps(result, indent=1))
    if args.output:
        write_json(args.output, result)


def _memory_of(device: str, side: str, work: Callable[[], None]) -> int:
    """Peak bytes above the built model that one turn of a side takes."""
    if on_gpu(device):
        return _peak_memory(device, work)
    command = [sys.executable, str(Path(sys.argv[0]).resolve()), *sys.argv[1:], "--peak-of", side]
    return int(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])


def _peak_memory(device: str, work: Callable[[], None]) -> int:
    """Peak bytes above what is there now."""
    start_peak(device)
    before = held(device)
    work()
    return peak(device) - before
