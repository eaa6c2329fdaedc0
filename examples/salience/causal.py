"""Does a large input make a dimension dominant? A change that changes no output, before L1 fine-tuning.

    python examples/salience/causal.py --model models/minilm/model.pt --data data/SST-2 --output causal.json

Input j of W^O is multiplied by α, its column of W^O divided by it (dominant_ticket/rescaling.py), in every layer at
once: for a j of middling input with α up to 30, for the j of the largest input with α down to 1/30. Then L1
fine-tuning, and the counts of out-weighted parameters of j and of a control, the next j of middling input, left
alone. Results are added to the file as they come, and the same command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fairseq_tickets import checkpoint
from fairseq_tickets.dominant_ticket.extraction import count_model
from fairseq_tickets.dominant_ticket.rescaling import rescaled
from fairseq_tickets.files import read_json, sha256, write_json
from fairseq_tickets.plugin.salience import checkpoint_salience

ALPHAS = {"middling": (1.0, 3.0, 10.0, 30.0), "largest": (1.0, 1 / 3, 1 / 10, 1 / 30)}


def main() -> None:
    """Run what is missing, one model after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="pre-trained checkpoint")
    parser.add_argument("--data", required=True, help="prepared folder of one task")
    parser.add_argument("--output", required=True, help="JSON file")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--lr", type=float, default=3e-4)
    parser.add_argument("--sigma", type=float, default=5e-4)
    parser.add_argument("--updates", type=int, default=250)
    args = parser.parse_args()
    setting = {"lr": args.lr, "sigma": args.sigma, "l1_weight": 1e-3, "updates": args.updates, "batch_size": 8}
    setting.update(model_sha256=sha256(args.model), data=Path(args.data).name)
    done = read_json(args.output, "result") if Path(args.output).is_file() else {"setting": setting, "runs": []}
    if done["setting"] != setting:
        sys.exit(f"{args.output} holds results of another setting; give another --output")
    chosen = dimensions(args.model, args.data)
    for seed in args.seeds:
        for which, alphas in ALPHAS.items():
            for alpha in alphas:
                known = {(run["seed"], run["alpha"], run["which"]) for run in done["runs"]}
                if (seed, alpha, which) not in known:
                    done["runs"].append(one_run(args, chosen, which, alpha, seed))
                    write_json(args.output, done)
    print(table(done["runs"]))


def dimensions(model: str, data: str) -> dict[str, list[int]]:
    """By kind, one input of W^O of every layer."""
    found, _ = checkpoint_salience(model, data, "activation")
    order = found.scores["out_proj"][:, :-1].argsort(dim=1, descending=True)
    middle = order.shape[1] // 2
    places = {"largest": 0, "middling": middle, "control": middle + 1}
    return {which: order[:, place].tolist() for which, place in places.items()}


def one_run(
    args: argparse.Namespace, chosen: dict[str, list[int]], which: str, alpha: float, seed: int
) -> dict[str, Any]:
    """Rescale, fine-tune with the L1 penalty, count."""
    with tempfile.TemporaryDirectory() as folder:
        base = checkpoint.load(args.model)
        base["model"] = rescaled(base["model"], enumerate(chosen[which]), alpha)
        start = Path(folder) / "start.pt"
        checkpoint.save(base, start)
        command = [
            str(Path(sys.executable).with_name("fairseq-train")),
            *(args.data, "--user-dir", str(Path(checkpoint.__file__).parent)),
            *("--task", "ticket_sentence_prediction", "--arch", "ticket_roberta", "--finetune-from-model", str(start)),
            *("--criterion", "ticket_sentence_prediction_l1", "--l1-weight", "1e-3", "--optimizer", "adam"),
            *("--lr", str(args.lr), "--lr-scheduler", "polynomial_decay", "--total-num-update", str(args.updates)),
            *("--warmup-updates", str(args.updates // 10), "--max-update", str(args.updates), "--batch-size", "8"),
            *("--clip-norm", "1.0", "--max-positions", "128", "--length-bucket", "16", "--seed", str(seed), "--cpu"),
            *("--num-workers", "0", "--no-epoch-checkpoints", "--disable-validation", "--log-interval", "50"),
            *("--save-dir", folder, "--train-examples", str(8 * args.updates)),
        ]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        tensors, tuned = (
            checkpoint.encoder_tensors(start),
            checkpoint.encoder_tensors(Path(folder) / "checkpoint_last.pt"),
        )
        heads = int(base["cfg"]["model"]["encoder_attention_heads"])
        counts = count_model(tensors, tuned, heads, args.sigma).tables()["out_proj"][:, :-1]
    rank = (-counts).argsort(axis=1, kind="stable").argsort(axis=1)
    rows = []
    for layer in range(len(counts)):
        row: dict[str, Any] = {"layer": layer}
        for name in (which, "control"):
            j = chosen[name][layer]
            row["control" if name == "control" else "changed"] = {
                "dimension": j,
                "out_weighted": int(counts[layer, j]),
                "rank": int(rank[layer, j]),
                "dominant": bool(counts[layer, j] and rank[layer, j] == 0),
            }
        rows.append(row)
    print(f"seed {seed}, {which}, alpha {alpha:g}: {rows}", file=sys.stderr, flush=True)
    return {"seed": seed, "which": which, "alpha": alpha, "layers": rows}


def table(runs: list[dict[str, Any]]) -> str:
    """By kind and α: mean count and how often dominant, over layers and seeds."""
    lines = ["| input of W^O | α | out-weighted, mean | dominant in | control: mean | control: dominant in |"]
    lines.append("|---|---|---|---|---|---|")
    for which, alphas in ALPHAS.items():
        for alpha in alphas:
            rows = [row for run in runs if (run["which"], run["alpha"]) == (which, alpha) for row in run["layers"]]
            if rows:
                cells = []
                for name in ("changed", "control"):
                    mean = np.mean([row[name]["out_weighted"] for row in rows])
                    cells.append(f"{mean:.1f} | {sum(row[name]['dominant'] for row in rows)} of {len(rows)}")
                lines.append(f"| {which} | {alpha:.3g} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
