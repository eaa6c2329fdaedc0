"""Scores in bf16 beside float32: the same fine-tuning runs in both, with several seeds.

    python benchmarks/precision.py --model models/minilm/model.pt --data data/SST-2 data/STS-B \
        --tickets examples/dominant_ticket/results/tickets --output precision.json

For every task two ways of training, all weights and the Dominant ticket TASK-seed1.json of --tickets, on a random
subset of the training set. What there is to see: the two precisions differ by no more than seeds do. Results are
added to the file as they come; the same command goes on.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from measure import PRECISIONS

from fairseq_tickets.files import read_json, write_json

WAYS = {"all weights": ["--lr", "1e-4"], "dominant ticket": ["--lr", "1e-3"]}


def score(args: argparse.Namespace, data: str, way: str, precision: str, seed: int) -> float:
    """The task's score on the validation split after training, in percent."""
    words = [str(Path(sys.executable).parent / "fairseq-train"), data, "--user-dir", args.user_dir]
    words += ["--task", "ticket_sentence_prediction", "--arch", "ticket_roberta", "--criterion"]
    words += ["ticket_sentence_prediction", "--finetune-from-model", args.model, "--optimizer", "ticket"]
    words += ["--lr-scheduler", "fixed", "--batch-size", "16", "--length-bucket", "4", "--clip-norm", "1.0"]
    words += ["--max-epoch", str(args.epochs), "--train-examples", str(args.examples), "--seed", str(seed)]
    words += ["--precision", precision, "--no-save", "--log-format", "json", "--num-workers", "0", "--cpu"]
    words += WAYS[way]
    if way == "dominant ticket":
        words += ["--ticket", str(Path(args.tickets) / f"{Path(data).name}-seed1.json")]
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr[-5000:])
    text = done.stdout + done.stderr
    logged = [line[line.index("{") :] for line in text.splitlines() if '"valid_score"' in line]
    return 100 * float(json.loads(logged[-1])["valid_score"])


def main() -> None:
    """Run what is missing; print means and deviations."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="pre-trained checkpoint")
    parser.add_argument("--data", required=True, nargs="+", help="prepared folders, each named like its task")
    parser.add_argument("--tickets", required=True, help="folder with TASK-seed1.json")
    parser.add_argument("--output", required=True, metavar="FILE", help="JSON file")
    parser.add_argument("--examples", type=int, default=1000)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--user-dir", default=str(Path(__file__).resolve().parent.parent / "fairseq_tickets"))
    args = parser.parse_args()
    setting = {"examples": args.examples, "epochs": args.epochs}
    done: dict[str, Any] = {"benchmark": "precision", "setting": setting, "rows": []}
    if Path(args.output).is_file():
        done = read_json(args.output, "result")
    known = {(row["task"], row["way"], row["precision"], row["seed"]) for row in done["rows"]}
    for data, way, seed, precision in itertools.product(args.data, args.ways, range(1, args.seeds + 1), PRECISIONS):
        key = (Path(data).name, way, precision, seed)
        if key not in known:
            found = score(args, data, way, precision, seed)
            done["rows"].append({**dict(zip(("task", "way", "precision", "seed"), key)), "score": found})
            write_json(args.output, done)
    for task, way in itertools.product([Path(data).name for data in args.data], args.ways):
        parts = []
        for precision in PRECISIONS:
            found = [
                row["score"]
                for row in done["rows"]
                if (row["task"], row["way"], row["precision"]) == (task, way, precision)
            ]
            parts.append(f"{precision} {statistics.mean(found):.1f} ± {statistics.stdev(found):.1f}")
        print(f"{task}, {way}: " + ", ".join(parts))


if __name__ == "__main__":
    main()
