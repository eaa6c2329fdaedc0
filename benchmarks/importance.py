"""Importance scores against plain forward and backward with weight gradients: time and peak memory.

Both sides take the same batch through the same model (random weights, dropout off) in one process, turn by
turn, so that the machine's load falls on both alike; time is the median of each side, the ratio that of the
medians. CPU seconds are given beside wall seconds, for machines that do other work meanwhile. Memory is the
peak above the built model: of CUDA's allocator, or (on Linux) of the resident set of a fresh process for each
side.

    python benchmarks/importance.py --layers 24 --repeats 7 --output i.json  # RoBERTa-large's shape
    python benchmarks/importance.py --layers 4 --batch-size 4              # reduced, a minute on a CPU
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

import torch
import torch.nn.functional as F
from measure import PRECISIONS, autocast, held, on_gpu, peak, start_peak, timed
from torch import Tensor, nn

from fairseq_tickets.encoder_layer import TicketEncoderLayer
from fairseq_tickets.files import write_json
from fairseq_tickets.super_ticket.importance import importance_scores

POSITIONS, CLASSES, PAD = 514, 2, 1
SIDES = ("weight_gradients", "importance", "importance_token")


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


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--embed-dim", type=int, default=1024)
    parser.add_argument("--ffn-dim", type=int, default=4096)
    parser.add_argument("--heads", type=int, default=16)
    parser.add_argument("--vocab-size", type=int, default=50265)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=5, help="timed turns of each side, after one untimed")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", choices=PRECISIONS, default="float32", help="bf16: autocast, on both sides")
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
    seconds: dict[str, list[float]] = {side: [] for side in SIDES}
    cpu_seconds: dict[str, list[float]] = {side: [] for side in SIDES}
    for turn in range(args.repeats + 1):
        for side, step in sides.items():
            wall, cpu = timed(step, args.device)
            if turn:
                seconds[side].append(wall)
                cpu_seconds[side].append(cpu)
    memory = {side: memory_of(args.device, side, sides[side]) for side in SIDES}
    base, cpu_base = (statistics.median(s[SIDES[0]]) for s in (seconds, cpu_seconds))
    result = {
        "benchmark": "importance",
        "options": {k: v for k, v in vars(args).items() if k not in ("output", "peak_of")},
        "device": torch.cuda.get_device_name() if on_gpu(args.device) else platform.machine(),
        "threads": torch.get_num_threads(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "sides": {
            side: {
                "seconds": [round(s, 5) for s in seconds[side]],
                "median_seconds": statistics.median(seconds[side]),
                "time_ratio": statistics.median(seconds[side]) / base,
                "median_cpu_seconds": statistics.median(cpu_seconds[side]),
                "cpu_time_ratio": statistics.median(cpu_seconds[side]) / cpu_base,
                "peak_bytes_above_model": memory[side],
                "memory_ratio": memory[side] / memory[SIDES[0]],
            }
            for side in SIDES
        },
    }
    print(json.dumps(result, indent=1))
    if args.output:
        write_json(args.output, result)


def build(args: argparse.Namespace) -> dict[str, Callable[[], None]]:
    """A function for each side that takes one batch through the model."""
    torch.manual_seed(1)
    model = Classifier(args.layers, args.embed_dim, args.ffn_dim, args.heads, args.vocab_size).to(args.device)
    model.eval()
    tokens = torch.randint(4, args.vocab_size, (args.batch_size, args.tokens), device=args.device)
    for row in range(args.batch_size):  # lengths from a half to the whole
        tokens[row, args.tokens - (args.tokens * row) // (2 * args.batch_size) :] = PAD
    labels = torch.randint(CLASSES, (args.batch_size,), device=args.device)
    amp_dtype = torch.bfloat16 if args.precision == "bf16" else None

    def loss_fn(batch: tuple[Tensor, Tensor]) -> Tensor:
        return F.cross_entropy(model(batch[0]).float(), batch[1], reduction="none")

    def weight_gradients() -> None:
        with autocast(args.precision, args.device):
            loss = loss_fn((tokens, labels)).mean()
        loss.backward()
        model.zero_grad(set_to_none=True)

    def importance(granularity: str) -> Callable[[], None]:
        def score() -> None:
            importance_scores(model, [(tokens, labels)], loss_fn, granularity, amp_dtype)

        return score

    return dict(zip(SIDES, (weight_gradients, importance("example"), importance("token"))))


def memory_of(device: str, side: str, step: Callable[[], None]) -> int:
    """Peak bytes above the built model that one step of a side takes."""
    if on_gpu(device):
        return peak_memory(device, step)
    command = [sys.executable, str(Path(__file__).resolve()), *sys.argv[1:], "--peak-of", side]
    return int(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])


def peak_memory(device: str, step: Callable[[], None]) -> int:
    """Peak bytes above what is there now; on a CPU for a fresh process, whose allocator holds no memory."""
    start_peak(device)
    before = held(device)
    step()
    return peak(device) - before


if __name__ == "__main__":
    main()
