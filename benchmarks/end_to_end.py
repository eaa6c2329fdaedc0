"""Sentences a second of a whole fine-tuning epoch: `fairseq-train` under a Dominant-1 ticket, Trainer with peft's LoRA.

    python benchmarks/end_to_end.py --output end_to_end.json
    python benchmarks/end_to_end.py --models minilm --precisions float32 --sentences 320

Both sides train a model of the same shape with random weights on the same random sentences, whose lengths spread like
SST-2's (log-normal, median 12 tokens, 4 to 66), with the same batch size, precision, number of threads, dropout and
AdamW, in batches of like length: --length-bucket here, the Trainer's sampling by length there. Nothing is validated,
logged or saved meanwhile. Time runs from the start of the first update to the end of the last, data loading included
and start-up not; every side runs in a process of its own, and the sides take turns.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from step_cost import CLASSES, MODELS, PAD, POSITIONS, VOCABULARY, lora, spread_ticket, ticket_roberta

from fairseq_tickets import checkpoint
from fairseq_tickets.files import write_json
from fairseq_tickets.parameters import ModelShape

SIDES = ("fairseq-train, Dominant-1", "Trainer, peft LoRA")
PRECISIONS = ("float32", "bf16")
START, END = 0, 2


def sentences(count: int) -> tuple[list[list[int]], list[int]]:
    """Token ids, from <s> to </s>, and labels."""
    random = np.random.default_rng(1)
    lengths = np.clip(np.exp(random.normal(np.log(12), 0.7, count)).round().astype(int), 4, 66)
    made = [[START, *random.integers(4, VOCABULARY - 1, length - 2).tolist(), END] for length in lengths]
    return made, random.integers(0, CLASSES, count).tolist()


def write_inputs(folder: Path, model: str, count: int, dropout: float) -> None:
    """What fairseq-train reads: data, the checkpoint to start from, and a ticket."""
    from fairseq.data.indexed_dataset import MMapIndexedDatasetBuilder

    ids, labels = sentences(count)
    columns = {"input0": [tokens[1:] for tokens in ids], "label": [[4 + label, END] for label in labels]}
    for name, rows in columns.items():
        (folder / name).mkdir(parents=True)
        for split, part in (("train", rows), ("valid", rows[:1])):  # fairseq wants a valid split to be there
            builder = MMapIndexedDatasetBuilder(str(folder / name / f"{split}.bin"), dtype=np.int32)
            for row in part:
                builder.add_item(torch.tensor(row))
            builder.finalize(str(folder / name / f"{split}.idx"))
    words = VOCABULARY - 5  # <s> <pad> </s> <unk> and <mask> are not in the file
    (folder / "input0" / "dict.txt").write_text("".join(f"{index} 1\n" for index in range(words)))
    (folder / "label" / "dict.txt").write_text("".join(f"{label} 1\n" for label in range(CLASSES)))
    options = shape_options(model, dropout)
    made = ticket_roberta(options)
    weights = {name: t for name, t in made.state_dict().items() if "classification_heads" not in name}
    names = ("encoder_layers", "encoder_embed_dim", "encoder_ffn_embed_dim", "encoder_attention_heads")
    written = dict(zip(names, (options.layers, options.embed_dim, options.ffn_dim, options.heads)))
    history = [{"criterion_name": "", "optimizer_name": "", "lr_scheduler_state": {}, "num_updates": 0}]
    content = {
        "args": None,
        "cfg": {"model": {"_name": "ticket_roberta", "max_positions": POSITIONS, "layernorm_eps": 1e-5, **written}},
        "model": weights,
        "optimizer_history": history,
        "extra_state": {},
        "last_optimizer_state": None,
    }
    checkpoint.save(content, folder / "model.pt")
    shape = ModelShape(options.layers, options.heads, options.embed_dim, options.ffn_dim)
    spread_ticket(1)(shape).save(folder / "ticket.json")


def shape_options(model: str, dropout: float) -> Any:
    """As step_cost has them."""
    layers, embed_dim, ffn_dim, heads = MODELS[model]
    return SimpleNamespace(layers=layers, embed_dim=embed_dim, ffn_dim=ffn_dim, heads=heads, dropout=dropout)


def train_with_fairseq(folder: Path, args: argparse.Namespace) -> float:
    """Seconds from the first update's start to the last one's end."""
    from fairseq import options
    from fairseq.dataclass.utils import convert_namespace_to_omegaconf
    from fairseq.trainer import Trainer
    from fairseq_cli import train

    from fairseq_tickets import plugin  # noqa: F401  (registers the components)

    words = [str(folder), "--task", "ticket_sentence_prediction", "--arch", "ticket_roberta"]
    words += ["--criterion", "ticket_sentence_prediction", "--finetune-from-model", str(folder / "model.pt")]
    words += ["--ticket", str(folder / "ticket.json"), "--optimizer", "ticket", "--lr", "1e-4"]
    words += ["--lr-scheduler", "fixed", "--batch-size", str(args.batch), "--length-bucket", "4", "--max-epoch", "1"]
    words += ["--precision", args.precision, "--dropout", str(args.dropout), "--attention-dropout", str(args.dropout)]
    words += ["--num-classes", str(CLASSES), "--max-positions", str(POSITIONS), "--cpu", "--num-workers", "0"]
    words += ["--no-save", "--disable-validation", "--log-format", "none", "--log-interval", "1000000"]
    words += ["--required-batch-size-multiple", "1"]
    moments: list[float] = []
    step = Trainer.train_step

    def timed_step(self: Any, *given: Any, **options: Any) -> Any:
        moments.append(time.perf_counter())
        result = step(self, *given, **options)
        moments.append(time.perf_counter())
        return result

    Trainer.train_step = timed_step
    parsed = options.parse_args_and_arch(options.get_training_parser(), words)
    train.main(convert_namespace_to_omegaconf(parsed))
    assert len(moments) == 2 * -(-args.sentences // args.batch), "an epoch has another number of updates"
    return moments[-1] - moments[0]


def train_with_trainer(args: argparse.Namespace) -> float:
    """Seconds from the start of training to its end."""
    from transformers import Trainer, TrainerCallback, TrainingArguments

    ids, labels = sentences(args.sentences)
    side = lora(shape_options(args.model, args.dropout))
    rows = [{"input_ids": row, "length": len(row), "labels": label} for row, label in zip(ids, labels)]

    def collate(batch: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        longest = max(row["length"] for row in batch)
        tokens = torch.full((len(batch), longest), PAD)
        for place, row in enumerate(batch):
            tokens[place, : row["length"]] = torch.tensor(row["input_ids"])
        return {
            "input_ids": tokens,
            "attention_mask": tokens.ne(PAD).long(),
            "labels": torch.tensor([row["labels"] for row in batch]),
        }

    class Clock(TrainerCallback):
        moments: list[float] = []

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.moments.append(time.perf_counter())

        def on_step_end(self, *_: Any, **__: Any) -> None:
            self.moments.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as out:
        asked = TrainingArguments(
            output_dir=out,
            per_device_train_batch_size=args.batch,
            num_train_epochs=1,
            learning_rate=1e-4,
            lr_scheduler_type="constant",
            train_sampling_strategy="group_by_length",
            bf16=args.precision == "bf16",
            use_cpu=True,
            save_strategy="no",
            logging_strategy="no",
            report_to=[],
            disable_tqdm=True,
            remove_unused_columns=False,
        )
        trainer = Trainer(model=side.model, args=asked, train_dataset=rows, data_collator=collate, callbacks=[Clock()])
        trainer.train()
    assert len(Clock.moments) == 2 * -(-args.sentences // args.batch), "an epoch has another number of updates"
    return Clock.moments[-1] - Clock.moments[0]


def one_turn(side: str, model: str, precision: str, folder: Path, words: list[str]) -> float:
    """Seconds of one side, in a fresh process."""
    command = [sys.executable, str(Path(__file__).resolve()), *words, "--only", side, "--folder", str(folder)]
    command += ["--model", model, "--precision", precision]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr[-5000:])
    return float(done.stdout.splitlines()[-1])


def main() -> None:
    """Measure, print and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=["minilm", "roberta-base"])
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=list(PRECISIONS))
    parser.add_argument("--sentences", type=int, default=1600, help="of an epoch")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=2, help="turns of each side")
    parser.add_argument("--output", metavar="FILE", help="JSON file")
    parser.add_argument("--only", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--model", choices=list(MODELS), help=argparse.SUPPRESS)
    parser.add_argument("--precision", choices=PRECISIONS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.only:
        warnings.simplefilter("ignore")
        torch.manual_seed(1)
        print(train_with_fairseq(args.folder, args) if args.only == SIDES[0] else train_with_trainer(args))
        return
    rows = []
    for model in args.models:
        with tempfile.TemporaryDirectory() as made:
            write_inputs(Path(made) / "in", model, args.sentences, args.dropout)
            for precision in args.precisions:
                seconds: dict[str, list[float]] = {side: [] for side in SIDES}
                for _ in range(args.repeats):
                    for side in SIDES:
                        seconds[side].append(one_turn(side, model, precision, Path(made) / "in", sys.argv[1:]))
                rate = {side: args.sentences / statistics.median(found) for side, found in seconds.items()}
                ratio = rate[SIDES[0]] / rate[SIDES[1]]
                rows.append({"model": model, "precision": precision, "sentences_per_second": rate, "ratio": ratio})
                rows[-1]["seconds"] = seconds
                print(
                    f"{model}, {precision}: "
                    + ", ".join(f"{side} {found:.1f}" for side, found in rate.items())
                    + f" sentences a second: {ratio:.2f} times as many",
                    flush=True,
                )
    if args.output:
        hidden = ("output", "only", "model", "precision", "folder")
        options = {name: value for name, value in vars(args).items() if name not in hidden}
        machine = {"machine": platform.machine(), "cores": os.cpu_count(), "torch": torch.__version__}
        write_json(args.output, {"benchmark": "end_to_end", "options": options, **machine, "rows": rows})


if __name__ == "__main__":
    main()
