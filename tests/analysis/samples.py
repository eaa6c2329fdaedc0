"""Made-up but plausible inputs: result files, tickets, scores and counts. Also some rows of the papers."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np

from fairseq_tickets.parameters import MATRICES, ModelShape
from fairseq_tickets.tickets import DominantTicket, SuperTicket

SMALL = ModelShape(layers=3, heads=4, embed_dim=20, ffn_dim=50)
LARGE = ModelShape(layers=24, heads=16, embed_dim=1024, ffn_dim=4096)

# Rows of paper D, Table 5 (W^Q): layer -> task -> dimensions, sorted by index.
TABLE_5 = {
    0: {"MNLI": [304, 673, 981], "QNLI": [673, 981, 1019], "SST": [8, 673, 981], "QQP": [673, 981, 1019]},
    7: {"MNLI": [106, 673, 981], "QNLI": [106, 673, 981], "SST": [106, 412, 673], "QQP": [106, 412, 673]},
    11: {"MNLI": [2, 93, 673], "QNLI": [2, 547, 673], "SST": [474, 623, 673], "QQP": [2, 412, 673]},
}
# Rows of paper D, Table 8 (W^O); 1024 is the bias.
TABLE_8 = {
    0: {"MNLI": [647, 766, 986], "QNLI": [647, 725, 766], "SST": [304, 647, 725], "QQP": [647, 725, 766]},
    6: {"MNLI": [430, 498, 1024], "QNLI": [430, 498, 1024], "SST": [430, 498, 1024], "QQP": [430, 500, 1024]},
    10: {
        "MNLI": [254, 534, 1024],
        "QNLI": [254, 534, 1024],
        "SST": [254, 534, 1024],
        "QQP": [254, 534, 1024],
    },
}
# Rows of paper D, Table 1: layer -> matrix -> dimensions, most out-weighted first; layer 22 has empty places.
TABLE_1 = {
    0: {
        "q_proj": [981, 673, 304],
        "v_proj": [673, 981, 472],
        "out_proj": [647, 766, 986],
        "fc2": [487, 584, 3291],
    },
    16: {
        "q_proj": [673, 631, 547],
        "v_proj": [631, 673, 547],
        "out_proj": [1024, 657, 819],
        "fc2": [3454, 4096, 1288],
    },
    22: {"q_proj": [631], "v_proj": [631, 673, 547], "out_proj": [559, 1024, 46], "fc2": [3341, 3176, 1078]},
}


def dominant(shape: ModelShape, chosen: dict[str, dict[int, list[int]]], **provenance: object) -> DominantTicket:
    """Ticket with `chosen` (matrix -> layer -> dimensions) and nothing elsewhere."""
    rows = {m: [list(chosen.get(m, {}).get(layer, [])) for layer in range(shape.layers)] for m in MATRICES}
    return DominantTicket(shape, rows, None, dict(provenance))


def paper_ticket(task: str) -> DominantTicket:
    """The rows above for one task."""
    tables = {"q_proj": TABLE_5, "out_proj": TABLE_8}
    return dominant(LARGE, {m: {layer: row[task] for layer, row in t.items()} for m, t in tables.items()}, task=task)


def skeleton_ticket(shape: ModelShape, seed: int, top_k: int = 3) -> DominantTicket:
    """A ticket like the paper's: few dimensions in most layers; scattered ones, biases in W^O and W^FC2."""
    common = random.Random(7)
    bones = common.sample(range(shape.embed_dim), 5)
    own = random.Random(seed)
    rows: dict[str, list[list[int]]] = {m: [] for m in MATRICES}
    for layer in range(shape.layers):
        place = layer * (len(bones) - top_k) // max(1, shape.layers - 1)
        for matrix in MATRICES:
            width = shape.in_features(matrix)
            if matrix in ("out_proj", "fc2"):
                dims = own.sample(range(width), top_k)
                if own.random() < 0.6:
                    dims[own.randrange(top_k)] = width
            else:
                dims = bones[place : place + top_k]
                if own.random() < 0.3:
                    dims[-1] = own.choice([d for d in range(width) if d not in dims])
            rows[matrix].append(list(dims))
    return DominantTicket(shape, rows, None, {"seed": seed})


def counts_of(ticket: DominantTicket, seed: int) -> dict[str, np.ndarray]:
    """Counts behind a ticket: large in its dimensions, small and sparse elsewhere."""
    generator = np.random.default_rng(seed)
    counts = {}
    for matrix in MATRICES:
        out = ticket.shape.out_features(matrix)
        shape = (ticket.shape.layers, ticket.shape.in_features(matrix) + 1)
        counts[matrix] = generator.poisson(out * 0.002, shape)
        for layer, dims in enumerate(ticket.dimensions[matrix]):
            for rank, index in enumerate(dims):
                counts[matrix][layer, index] = int(out * (0.6 - 0.15 * rank) * generator.uniform(0.5, 1))
    return counts


def super_ticket(shape: ModelShape, heads: list[list[int]], ffn: list[int], **provenance: object) -> SuperTicket:
    return SuperTicket(shape, heads, ffn, dict(provenance))


def result(**changes: object) -> dict:
    """Content of one result file; `score` sets accuracy on every split, other keywords replace fields."""
    score = changes.pop("score", 0.7)
    select = changes.pop("select", score)
    names = changes.pop("metrics", ("accuracy",))
    content: dict = {
        "format": "fairseq-tickets/result",
        "version": 1,
        "experiment": "super_tickets",
        "model": "minilm",
        "task": "RTE",
        "method": "full",
        "level": None,
        "top_k": None,
        "seed": 1,
        "train_fraction": 1.0,
        "source_task": None,
        "config": {"lr": 5e-5, "batch_size": 16},
        "inputs": {},
        "ticket": None,
        "weight_remaining": {"encoder": 1.0, "without_embeddings": 1.0},
        "trainable_parameters": 1000,
        "total_parameters": 1000,
        "epochs": [],
        "curve": [],
        "best_epoch": None,
        "scores": {
            "all": {name: score for name in names},
            "select": {name: select for name in names},
            "report": {name: score for name in names},
        },
        "versions": {"fairseq_tickets": "0.1.0", "torch": "2.13.0"},
        "wall_seconds": 1.0,
        "peak_memory_bytes": 1,
        "partial_data": False,
    }
    content.update(changes)
    shown = (
        "experiment",
        "model",
        "task",
        "method",
        "level",
        "top_k",
        "seed",
        "train_fraction",
        "source_task",
    )
    content.setdefault("key", "-".join(str(content[name]) for name in shown) + json.dumps(content["config"]))
    return content


def write(folder: Path, contents: list[dict]) -> Path:
    """Write result files into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, content in enumerate(contents):
        (folder / f"{number:04d}.json").write_text(json.dumps(content))
    return folder


def single_task_runs(tasks: tuple[str, ...] = ("RTE", "MRPC", "SST-2", "STS-B"), seeds: int = 3) -> list[dict]:
    """A whole experiment of paper S with a phase transition: a formula and a little seeded noise."""
    noise = random.Random(3)
    metrics = {"MRPC": ("accuracy", "f1"), "STS-B": ("pearson", "spearman"), "CoLA": ("mcc",)}
    base = {"RTE": 0.65, "MRPC": 0.84, "SST-2": 0.90, "STS-B": 0.86}
    slopes = {"winning": (0.25, 0.55), "random": (-0.05, 0.45), "losing": (-0.35, 0.4)}
    runs = []
    for task in tasks:
        start, small = base.get(task, 0.8), 1.0 if task in ("RTE", "MRPC") else 0.3
        for seed in range(1, seeds + 1):
            shift = noise.gauss(0, 0.008 * small)
            kinds = {"metrics": metrics.get(task, ("accuracy",)), "task": task, "seed": seed}
            score = start + shift
            runs.append(result(method="full", score=score, **_history(score), **kinds))
            for method, (rise, fall) in slopes.items():
                for step in range(1, 9):
                    level = step / 10
                    score = start + shift + small * (rise * level - fall * level**2) + noise.gauss(0, 0.006 * small)
                    left = {"encoder": 1 - 0.7 * level, "without_embeddings": 1 - level}
                    chosen = {"level": level, "method": method, "weight_remaining": left}
                    runs.append(result(score=score, **chosen, **kinds))
    return runs


def _history(score: float, epochs: int = 4) -> dict:
    log = [
        {
            "epoch": e,
            "updates": 150 * e,
            "train_loss": 0.7 * 0.8**e,
            "valid": {"loss": 0.6, "accuracy": score - 0.05 * (epochs - e)},
        }
        for e in range(1, epochs + 1)
    ]
    curve = [
        {"update": u, "train_loss": 0.7 * 0.9985**u, "train_accuracy": 0.5 + 0.45 * (1 - 0.996**u)}
        for u in range(10, 150 * epochs + 1, 10)
    ]
    return {"epochs": log, "curve": curve, "best_epoch": epochs}
