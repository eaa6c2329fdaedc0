"""How near tickets by salience come to tickets of L1 runs: Jaccard by metric, number of examples, and task.

    python examples/salience/agreement.py --model models/minilm/model.pt --data data/SST-2 data/STS-B data/MRPC \
        --tickets examples/dominant_ticket/results/tickets --output agreement.json

--tickets is a folder with TASK-seedN.json of L1 runs. A salience is measured on each task's own data and on every other
task's, with a random head of three seeds (`activation` needs no head and is measured once), and chooses as many
dimensions of each matrix as the L1 ticket has. Results are added to the file as they come; the same command goes on.
"""

from __future__ import annotations

import argparse
import sys
import time
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from fairseq_tickets.analysis.overlap import DOMINANT_MEASURES, blocks_of, jaccard
from fairseq_tickets.dominant_ticket.baselines import random_like
from fairseq_tickets.dominant_ticket.salience import METRICS, salient_ticket_like
from fairseq_tickets.files import read_json, sha256, write_json
from fairseq_tickets.plugin.salience import checkpoint_salience
from fairseq_tickets.tickets import DominantTicket, load_dominant_ticket

EXAMPLES = (8, 32, 128, 512, 2048)
HEAD_SEEDS = (1, 2, 3)


def main() -> None:
    """Measure what is missing; print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="pre-trained checkpoint")
    parser.add_argument("--data", required=True, nargs="+", help="prepared folders, each named like its task")
    parser.add_argument("--tickets", required=True, type=Path, help="folder with TASK-seedN.json of L1 runs")
    parser.add_argument("--output", required=True, help="JSON file")
    parser.add_argument("--examples", type=int, nargs="+", default=EXAMPLES)
    parser.add_argument("--metrics", choices=METRICS, nargs="+", default=METRICS)
    parser.add_argument("--precision", choices=["float32", "bf16"], default="float32")
    args = parser.parse_args()
    folders = {Path(folder).name: folder for folder in args.data}
    tickets = {
        task: [load_dominant_ticket(path) for path in sorted(args.tickets.glob(f"{task}-seed*.json"))]
        for task in folders
    }
    setting = {"model_sha256": sha256(args.model), "precision": args.precision}
    setting["tickets"] = {task: len(found) for task, found in tickets.items()}
    done = read_json(args.output, "result") if Path(args.output).is_file() else {"setting": setting, "rows": []}
    if done["setting"] != setting:
        sys.exit(f"{args.output} holds results of another setting; give another --output")
    known = {(row["metric"], row["data"], row["examples"], row["head_seed"]) for row in done["rows"]}
    for examples in args.examples:
        for data, folder in folders.items():
            for metric in args.metrics:
                for seed in HEAD_SEEDS if metric != "activation" else (None,):
                    if (metric, data, examples, seed) not in known:
                        row = {"metric": metric, "data": data, "examples": examples, "head_seed": seed}
                        done["rows"].append({**row, **measured(args, folder, tickets, row)})
                        write_json(args.output, done)
    done["between_l1_runs"] = between(tickets)
    write_json(args.output, done)
    print(tables(done))


def measured(
    args: argparse.Namespace, folder: str, tickets: dict[str, list[DominantTicket]], row: dict[str, Any]
) -> dict[str, Any]:
    """Seconds, and by task of the L1 tickets the mean of each Jaccard over their seeds."""
    start = time.perf_counter()
    seed = row["head_seed"] or 1
    found, _ = checkpoint_salience(
        args.model, folder, row["metric"], row["examples"], 8, "random", seed, precision=args.precision
    )
    seconds = time.perf_counter() - start
    by_task = {
        task: means([(ticket, salient_ticket_like(found, ticket)) for ticket in own]) for task, own in tickets.items()
    }
    print(row, {task: round(own["dimension"], 3) for task, own in by_task.items()}, file=sys.stderr, flush=True)
    return {"seconds": round(seconds, 2), "jaccard": by_task}


def means(pairs: list[tuple[DominantTicket, DominantTicket]]) -> dict[str, float]:
    """Mean of every named Jaccard over pairs of tickets."""
    return {
        measure: float(np.mean([jaccard(blocks_of(a, measure), blocks_of(b, measure), measure) for a, b in pairs]))
        for measure in DOMINANT_MEASURES
    }


def between(tickets: dict[str, list[DominantTicket]]) -> dict[str, Any]:
    """What to compare with: L1 tickets of other seeds and of other tasks, and random ones of the same sizes."""
    other = [(a, b) for one, two in combinations(tickets, 2) for a in tickets[one] for b in tickets[two]]
    random = [(ticket, random_like(ticket, seed)) for own in tickets.values() for ticket in own for seed in range(20)]
    rows: dict[str, Any] = {f"seeds of {task}": means(list(combinations(own, 2))) for task, own in tickets.items()}
    if other:
        rows["other tasks"] = means(other)
    return {**rows, "random": means(random)}


def tables(done: dict[str, Any]) -> str:
    """Markdown: Jaccard by dimension, own task's data; and on another task's data at the most examples."""
    rows = done["rows"]
    tasks = sorted({row["data"] for row in rows})
    sizes = sorted({row["examples"] for row in rows})
    lines = ["| L1 tickets of | salience from | metric | " + " | ".join(map(str, sizes)) + " examples |"]
    lines.append("|---|---|---|" + "---|" * len(sizes))
    for task in tasks:
        for source in ("its own data", "other tasks' data"):
            for metric in METRICS:
                cells = []
                for size in sizes:
                    values = [
                        row["jaccard"][task]["dimension"]
                        for row in rows
                        if (row["metric"], row["examples"]) == (metric, size)
                        and (row["data"] == task) == (source == "its own data")
                    ]
                    cells.append(f"{np.mean(values):.2f}" if values else "-")
                if any(cell != "-" for cell in cells):
                    lines.append(f"| {task} | {source} | {metric} | {' | '.join(cells)} |")
    lines.append("")
    lines.append("| L1 tickets compared | " + " | ".join(DOMINANT_MEASURES) + " |")
    lines.append("|---|" + "---|" * len(DOMINANT_MEASURES))
    for name, own in done["between_l1_runs"].items():
        lines.append(f"| {name} | " + " | ".join(f"{own[measure]:.3f}" for measure in DOMINANT_MEASURES) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
