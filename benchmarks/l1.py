"""What the L1 penalty costs, beside a full training step on RoBERTa-large's layers.

    python benchmarks/l1.py --output l1.json

A step is forward, backward and AdamW over encoder layers of RoBERTa-large's shape with random weights, batch 4 x 128.
Costs are per layer alike, so `--layers 4` shows the same ratio with a sixth of the memory (24 layers take 8 GB);
embeddings and their update, which only make the step longer, are left out. Aim: at most 8 % of a step, and one extra
copy of the penalised weights.
"""

from __future__ import annotations

import argparse
import os
import statistics

import torch
from measure import PRECISIONS, autocast, held, report, timed
from torch import nn

from fairseq_tickets.dominant_ticket.l1 import L1ToPretrained, step_scales
from fairseq_tickets.encoder_layer import TicketEncoderLayer
from fairseq_tickets.parameters import LAYERS_PREFIX


def main() -> None:
    """Measure and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", metavar="FILE", help="JSON file; standard output without it")
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--precision", choices=PRECISIONS, default="float32")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    layers = nn.ModuleList(TicketEncoderLayer(1024, 4096, 16) for _ in range(args.layers)).to(args.device)
    named = {LAYERS_PREFIX + name: parameter for name, parameter in layers.named_parameters()}
    pretrained = {name: parameter.detach() for name, parameter in named.items()}
    before = held(args.device)
    penalty = L1ToPretrained(named.items(), pretrained, 1e-3)
    copy_bytes = held(args.device) - before
    optimizer = torch.optim.AdamW(layers.parameters(), lr=1e-5)
    x = torch.randn(128, 4, 1024, device=args.device)

    def step() -> None:
        optimizer.zero_grad()
        y = x
        with autocast(args.precision, args.device):
            for layer in layers:
                y = layer(y)
        y.float().pow(2).mean().backward()
        optimizer.step()

    step()
    figures = {}
    for name, work in (
        ("step", step),
        ("add_gradient", penalty.add_gradient_),
        ("measure", lambda: penalty.measure(5e-5)),
        ("proximal_sgd", lambda: penalty.proximal_(1e-9)),
        ("proximal_adam", lambda: penalty.proximal_(1e-9, step_scales(optimizer))),
    ):
        walls, cpus = zip(*(timed(work, args.device) for _ in range(args.repeats)))
        figures[name] = {"wall_seconds": statistics.median(walls), "cpu_seconds": statistics.median(cpus)}
    result = {
        "benchmark": "l1",
        "layers": args.layers,
        "penalised_parameters": penalty.penalised,
        "extra_copy_bytes": copy_bytes if args.device == "cpu" else None,
        "device": args.device,
        "precision": args.precision,
        "threads": args.threads,
        "load_average": os.getloadavg()[0],
        "torch": torch.__version__,
        "figures": figures,
        "share_of_step": {
            name: {kind: f[kind] / figures["step"][kind] for kind in f} for name, f in figures.items() if name != "step"
        },
    }
    report(result, args.output)


if __name__ == "__main__":
    main()
