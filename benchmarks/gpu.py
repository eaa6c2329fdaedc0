"""Every table of the method cards on a GPU, in one command.

    make bench-gpu                          # or: python benchmarks/gpu.py --folder runs/bench-gpu
    make bench-gpu GLUE_DIR=/path/to/glue MODEL=models/minilm     # and a whole fine-tuning of SST-2 under a ticket

Runs the other benchmarks with --device cuda, one after the other, each into a JSON file of --folder; what is there
already is not run again. With --glue and --model (an imported encoder, such as MiniLM, with its model.pt) also one real
run: SST-2 whole, three epochs under a ticket of saliences. Without a GPU it says so and stops; nothing else depends on
it.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent
COMMANDS = {
    "step_cost": "step_cost.py --shapes 4x128 16x64 --repeats 2 --steps 20",
    "step_cost_minilm": "step_cost.py --model minilm --shapes 16x32 --repeats 2 --steps 50",
    **{
        f"{name}_{precision}": f"{name}.py --precision {precision}{more}"
        for name, more in (
            ("importance", ""),
            ("compact", ""),
            ("l1", ""),
            ("multitask", " --layers 24 --heads 16 --embed 1024 --ffn 4096 --batch 4 --tokens 128"),
        )
        for precision in ("float32", "bf16")
    },
}


def main() -> int:
    """Run what is missing; 2 without a GPU."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("runs/bench-gpu"), help="where the JSON files go")
    parser.add_argument("--glue", metavar="DIR", help="GLUE's original files")
    parser.add_argument("--model", metavar="DIR", type=Path, help="an imported encoder: model.pt and its tokenizer")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        built = "is built without CUDA" if torch.version.cuda is None else "finds none"
        print(f"bench-gpu: there is no GPU to measure on: PyTorch {torch.__version__} {built}", file=sys.stderr)
        return 2
    args.folder.mkdir(parents=True, exist_ok=True)
    for name, command in COMMANDS.items():
        output = args.folder / f"{name}.json"
        if not output.exists():
            program, *words = command.split()
            run([sys.executable, str(HERE / program), *words, "--device", "cuda", "--output", str(output)])
    if args.glue and args.model:
        fine_tune(args.folder, args.glue, args.model)
    else:
        print("bench-gpu: the run on SST-2 needs --glue and --model", file=sys.stderr)
    return 0


def fine_tune(folder: Path, glue: str, model: Path) -> None:
    """SST-2 whole, under a ticket of one dimension a matrix; fairseq's log tells scores and time."""
    programs = Path(sys.executable).parent
    data, ticket, saved = folder / "SST-2", folder / "ticket.json", folder / "sst2"
    if not data.exists():
        words = ["--glue", glue, "--task", "SST-2", "--tokenizer", str(model), "--output", str(data)]
        run([str(programs / "fairseq-tickets"), "prepare", *words])
    if not ticket.exists():
        words = ["--pretrained", str(model / "model.pt"), "--data", str(data), "--output", str(ticket)]
        run([str(programs / "fairseq-tickets"), "salience", *words])
    words = [str(data), "--user-dir", str(HERE.parent / "fairseq_tickets"), "--task", "ticket_sentence_prediction"]
    words += ["--arch", "ticket_roberta", "--criterion", "ticket_sentence_prediction", "--optimizer", "ticket"]
    words += ["--finetune-from-model", str(model / "model.pt"), "--ticket", str(ticket), "--precision", "bf16"]
    words += ["--lr", "1e-3", "--batch-size", "32", "--length-bucket", "4", "--max-epoch", "3", "--clip-norm", "1.0"]
    words += ["--best-checkpoint-metric", "score", "--maximize-best-checkpoint-metric", "--save-dir", str(saved)]
    words += ["--log-file", str(folder / "sst2.log"), "--log-format", "json"]
    run([str(programs / "fairseq-train"), *words])


def run(command: list[str]) -> None:
    """Say what runs, and run it."""
    print(" ".join(command), file=sys.stderr, flush=True)
    subprocess.run(command, check=True)


if __name__ == "__main__":
    sys.exit(main())
