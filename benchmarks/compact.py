"""Compact rewinding against gated rewinding: time and peak memory of a training step, by level.

A step is forward, backward and Adamax over encoder layers of RoBERTa's shape with random weights, batch 4 x 128. The
gated side multiplies the pruned heads and FFNs by 0; the compact side has really removed them. Both sides take the
same input in one process, turn by turn; time is the median of each. Memory is the peak of the resident set of a fresh
process for each side, above the process before the model was made (of CUDA's allocator on a GPU). The aim: a time
ratio of at most 1.1 x the share of encoder-layer weights that remain.

    python benchmarks/compact.py --layers 24 --output compact.json     # RoBERTa-large's shape
    python benchmarks/compact.py --layers 4                            # reduced
"""

from __future__ import annotations

import argparse
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable

import torch
from measure import PRECISIONS, autocast, held, peak, start_peak, timed
from torch import Tensor, nn

from fairseq_tickets.encoder_layer import TicketEncoderLayer
from fairseq_tickets.files import write_json
from fairseq_tickets.parameters import ModelShape
from fairseq_tickets.scores import ImportanceScores
from fairseq_tickets.super_ticket.pruning import super_ticket, weight_remaining
from fairseq_tickets.tickets import SuperTicket

EMBED, FFN, HEADS = 1024, 4096, 16
SIDES = ("gated", "compact")


def main() -> None:
    """Measure and print; with --side, one side's peak memory alone."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--levels", type=float, nargs="+", default=[0.2, 0.5, 0.8])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--precision", choices=PRECISIONS, default="float32")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--output", metavar="FILE", help="JSON file")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.side:
        print(peak_memory(args, args.side, args.levels[0]))
        return
    rows = []
    for level in args.levels:
        ticket = ticket_at(args.layers, level)
        steps = {side: make_step(args, ticket, side) for side in SIDES}
        seconds: dict[str, list[float]] = {side: [] for side in SIDES}
        for turn in range(args.repeats + 1):
            for side, step in steps.items():
                wall, _ = timed(step, args.device)
                if turn:  # the first makes the optimizer's state
                    seconds[side].append(wall)
        del steps
        medians = {side: statistics.median(times) for side, times in seconds.items()}
        memory = {side: memory_of(args, side, level) for side in SIDES}
        remaining = weight_remaining(ticket.shape, ticket, 1, 1)["without_embeddings"]
        row = {
            "level": level,
            "layer_weights_remaining": remaining,
            "seconds": medians,
            "time_ratio": medians["compact"] / medians["gated"],
            "bytes": memory,
            "memory_ratio": memory["compact"] / memory["gated"],
        }
        rows.append(row)
        print(
            f"level {level:g}: weights {remaining:.3f}, time {medians['compact']:.2f} / {medians['gated']:.2f} s = "
            f"{row['time_ratio']:.3f} ({row['time_ratio'] / remaining:.2f} x the weights), memory "
            f"{memory['compact'] / 1e9:.2f} / {memory['gated'] / 1e9:.2f} GB = {row['memory_ratio']:.3f}",
            flush=True,
        )
    if args.output:
        setting = {**vars(args), "machine": platform.machine(), "torch": str(torch.__version__)}
        write_json(args.output, {"benchmark": "compact", "setting": setting, "rows": rows})


def ticket_at(layers: int, level: float) -> SuperTicket:
    """A random ticket: which structures go doesn't change the cost."""
    shape = ModelShape(layers, HEADS, EMBED, FFN)
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(layers, HEADS + 1, generator=generator, dtype=torch.float64).numpy()
    found = ImportanceScores(scores[:, :HEADS], scores[:, HEADS], 1, {"model": shape._asdict()})
    return super_ticket(found, str(level), str(level), "winning")


def make_step(args: argparse.Namespace, ticket: SuperTicket, side: str) -> Callable[[], None]:
    """A training step of one side."""
    torch.manual_seed(0)
    layers = nn.ModuleList(TicketEncoderLayer(EMBED, FFN, HEADS) for _ in range(args.layers))
    for index, layer in enumerate(layers):
        assert isinstance(layer, TicketEncoderLayer)
        if side == "compact":
            layer.prune_(ticket.kept_heads(index), bool(ticket.ffn[index]))
        else:
            layer.head_gate = torch.tensor(ticket.heads[index], dtype=torch.float32)[None, None]
            layer.ffn_gate = torch.tensor([[float(ticket.ffn[index])]])
    layers.to(args.device)
    optimizer = torch.optim.Adamax([p for p in layers.parameters() if p.requires_grad], lr=1e-5)
    x = torch.randn(args.tokens, args.batch_size, EMBED, device=args.device)

    def step() -> None:
        optimizer.zero_grad()
        y: Tensor = x
        with autocast(args.precision, args.device):
            for layer in layers:
                y = layer(y)
        y.float().square().mean().backward()
        optimizer.step()

    return step


def memory_of(args: argparse.Namespace, side: str, level: float) -> int:
    """Peak bytes of one side, in a process of its own."""
    words = ["--side", side, "--levels", str(level), "--layers", str(args.layers), "--device", args.device]
    words += ["--batch-size", str(args.batch_size), "--tokens", str(args.tokens), "--threads", str(args.threads)]
    words += ["--precision", args.precision]
    done = subprocess.run([sys.executable, __file__, *words], capture_output=True, text=True, check=True)
    return int(done.stdout.split()[-1])


def peak_memory(args: argparse.Namespace, side: str, level: float) -> int:
    """Bytes at the peak of two steps, above what the process held before."""
    start_peak(args.device)
    before = held(args.device)
    step = make_step(args, ticket_at(args.layers, level), side)
    for _ in range(2):
        step()
    return peak(args.device) - before


if __name__ == "__main__":
    main()
