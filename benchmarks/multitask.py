"""What tickets sharing costs, beside plain multi-task training of the same layers.

    python benchmarks/multitask.py --output multitask.json
    python benchmarks/multitask.py --layers 4 --heads 16 --embed 1024 --ffn 4096 --batch 4 --tokens 128

A step is forward, backward and an update of encoder layers with random weights, by default of MiniLM-L6's shape.
"plain" is one optimizer over all parameters, gates open: what MT-DNN does. "sharing" gates the layers by the ticket of
the step's task and updates by optimizer `ticket`'s parts. Both train the model that is left when what no ticket keeps
has been removed. Tickets are random (the worst case: neighbours seldom have the same owners). Steps of the two
alternate, so that both see the same load of the machine. Aim: at most 10 % more.
"""

from __future__ import annotations

import argparse
import copy
import os
import random
import statistics
from functools import partial

import torch
from measure import PRECISIONS, autocast, report, timed
from torch import nn

from fairseq_tickets.encoder_layer import TicketEncoderLayer
from fairseq_tickets.parameters import ModelShape
from fairseq_tickets.super_ticket.parts import sharing_parts
from fairseq_tickets.super_ticket.sharing import union
from fairseq_tickets.tickets import SuperTicket
from fairseq_tickets.updates.optimizer import SlicedOptimizer


def random_ticket(shape: ModelShape, level: float, seed: int) -> SuperTicket:
    """A ticket without that share of heads and FFNs."""
    generator = random.Random(seed)
    places = [(layer, head) for layer in range(shape.layers) for head in range(shape.heads)]
    pruned = set(generator.sample(places, int(level * len(places))))
    closed = set(generator.sample(range(shape.layers), int(level * shape.layers)))
    heads = [[int((layer, head) not in pruned) for head in range(shape.heads)] for layer in range(shape.layers)]
    return SuperTicket(shape, heads, [int(layer not in closed) for layer in range(shape.layers)])


def gate(layers: nn.ModuleList, ticket: SuperTicket) -> None:
    """As `TicketEncoder.set_gates`."""
    for index, layer in enumerate(layers):
        kept = [ticket.heads[index][head] for head in layer.kept_heads]
        weight = layer.self_attn.out_proj.weight
        layer.head_gate = None if all(kept) else weight.new_tensor(kept)[None, None]
        layer.ffn_gate = weight.new_zeros(1, 1) if layer.has_ffn and not ticket.ffn[index] else None


def main() -> None:
    """Measure and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", metavar="FILE", help="JSON file; standard output without it")
    for name, default in (("layers", 6), ("heads", 12), ("embed", 384), ("ffn", 1536), ("batch", 32), ("tokens", 64)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--precision", choices=PRECISIONS, default="float32")
    parser.add_argument("--tasks", type=int, default=4)
    parser.add_argument("--level", type=float, default=0.2, help="share of heads and FFNs that each ticket prunes")
    parser.add_argument("--optimizer", choices=("adamax", "adamw"), default="adamax")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    shape = ModelShape(args.layers, args.heads, args.embed, args.ffn)
    tickets = {f"task{n}": random_ticket(shape, args.level, n) for n in range(args.tasks)}
    kept = union(list(tickets.values()))
    shared = nn.ModuleList(TicketEncoderLayer(args.embed, args.ffn, args.heads) for _ in range(args.layers))
    for index, layer in enumerate(shared):
        layer.prune_(kept.kept_heads(index), bool(kept.ffn[index]))
    shared.to(args.device)
    plain = copy.deepcopy(shared)
    kind = torch.optim.Adamax if args.optimizer == "adamax" else torch.optim.AdamW
    ordinary = kind([p for p in plain.parameters() if p.requires_grad], lr=1e-5)
    parts = sharing_parts(shared, list(tickets), tickets)
    sliced = SlicedOptimizer(shared.named_parameters(), parts, lambda leaves: kind(leaves, lr=1e-5))
    groups = {leaf.part.group for leaf in sliced.leaves} - {None}
    x = torch.randn(args.tokens, args.batch, args.embed, device=args.device)

    def run(layers: nn.ModuleList) -> None:
        y = x
        with autocast(args.precision, args.device):
            for layer in layers:
                y = layer(y)
        y.float().pow(2).mean().backward()

    def plain_gradients(_: str) -> None:
        ordinary.zero_grad()
        run(plain)

    def plain_update(_: str) -> None:
        ordinary.step()

    def sharing_gradients(task: str) -> None:
        sliced.zero_grad()
        gate(shared, tickets[task])
        run(shared)

    def sharing_update(task: str) -> None:
        sliced.step({group for group in groups if task in group})

    sides = {"plain": (plain_gradients, plain_update), "sharing": (sharing_gradients, sharing_update)}
    figures: dict[str, dict[str, list[float]]] = {name: {"wall": [], "cpu": [], "update": []} for name in sides}
    names = list(tickets)
    for repeat in range(args.repeats + args.tasks):
        task = names[repeat % len(names)]
        for name, (gradients, update) in sides.items():
            first, second = timed(partial(gradients, task), args.device), timed(partial(update, task), args.device)
            if repeat >= args.tasks:  # the first round makes the state
                figures[name]["wall"].append(first[0] + second[0])
                figures[name]["cpu"].append(first[1] + second[1])
                figures[name]["update"].append(second[1])
    medians = {name: {f"{k}_seconds": statistics.median(v) for k, v in f.items()} for name, f in figures.items()}
    result = {
        "benchmark": "multitask",
        "shape": shape._asdict(),
        "batch": [args.batch, args.tokens],
        "tasks": args.tasks,
        "level": args.level,
        "optimizer": args.optimizer,
        "leaves": {"plain": len(ordinary.param_groups[0]["params"]), "sharing": len(sliced.leaves)},
        "groups": len(groups),
        "device": args.device,
        "precision": args.precision,
        "threads": args.threads,
        "load_average": os.getloadavg()[0],
        "torch": torch.__version__,
        "figures": medians,
        "extra_share_of_step": {
            k: medians["sharing"][f"{k}_seconds"] / medians["plain"][f"{k}_seconds"] - 1 for k in ("wall", "cpu")
        },
    }
    report(result, args.output)


if __name__ == "__main__":
    main()
