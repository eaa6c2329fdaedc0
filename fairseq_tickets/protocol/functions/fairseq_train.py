"""One run of fairseq-train in this process: its command line, and its best or last checkpoint."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fairseq_tickets.errors import UserError
from fairseq_tickets.protocol.functions.recording import Recorder
from fairseq_tickets.protocol.steps import CHECKPOINT, TICKET

CRITERION = "ticket_sentence_prediction"
ADAM_BETAS = "(0.9, 0.999)"


def options_of(run: Mapping[str, Any], folder: Path, ticket: Any, criterion: str = CRITERION) -> list[str]:
    """fairseq-train's options for one task, from the arguments of its step; a ticket is in `folder`."""
    data, config, part = Path(run["data"]), run["config"], chosen_examples(run)
    options = [
        *(str(data), "--task", "ticket_sentence_prediction", "--criterion", criterion),
        *("--finetune-from-model", run.get("start") or run["model"]),
        *schedule(run, updates_of(run, config)),
        *("--valid-subset", "valid,valid1" if has_split(data, "valid1") else "valid"),
        *_optimizer(config, in_parts=run.get("method") == "random_elements"),
        *("--train-examples-seed", str(run["subset_seed"])),
    ]
    if part is not None:
        options += ["--train-examples", str(part)]
    if run.get("dev_subset") is not None:
        options += ["--valid-examples", str(run["dev_subset"])]
    if run["metrics"] is not None:
        options += ["--metric", ",".join(run["metrics"])]
    if ticket is not None:
        options += ["--ticket", str(folder / TICKET)]
    if not (data / "task.json").is_file():
        raise UserError(f"{data} has no task.json; make the folder with `fairseq-tickets prepare`")
    return options


def schedule(what: Mapping[str, Any], total: int) -> list[str]:
    """fairseq-train's options that any run has: model, batches, schedule of `total` updates, evaluation, device."""
    config = what["config"]
    options: list[Any] = [
        *("--arch", "ticket_roberta", "--max-positions", config["max_positions"]),
        *("--batch-size", config["batch_size"], "--batch-size-valid", max(32, config["batch_size"])),
        *("--select-fraction", repr(config["select_fraction"]), "--select-seed", config["select_seed"]),
        *("--length-bucket", config["length_bucket"], "--max-epoch", config["max_epoch"], "--seed", what["seed"]),
        *("--lr", repr(config["lr"]), "--lr-scheduler", "polynomial_decay", "--total-num-update", total),
        *("--warmup-updates", round(config["warmup"] * total), "--clip-norm", repr(config["clip_norm"])),
        *("--dropout", repr(config["dropout"]), "--attention-dropout", repr(config["attention_dropout"])),
        *("--pooler-dropout", repr(config["head_dropout"])),
        *("--best-checkpoint-metric", best_metric(config), "--maximize-best-checkpoint-metric"),
        *("--no-epoch-checkpoints", "--no-save-optimizer-state", "--num-workers", 0, "--log-format", "json"),
        *("--log-interval", config["log_interval"]),
    ]
    if config["patience"]:
        options += ["--patience", config["patience"]]
    if config["separator_token"] is not None:
        options += ["--separator-token", config["separator_token"]]
    if config["device"] == "cpu":
        options += ["--cpu"]
    elif config["amp"]:
        options += ["--amp"]
    if "precision" in config:
        options += ["--precision", config["precision"]]
    return [str(option) for option in options]


def best_metric(config: Mapping[str, Any]) -> str:
    """What the best epoch is chosen by."""
    return "score_select" if config["best_epoch"] == "select" else "score"


def _optimizer(config: Mapping[str, Any], in_parts: bool) -> list[Any]:
    decay = ("--weight-decay", repr(config["weight_decay"]))
    if in_parts:  # single elements: only this package's optimizer moves parts of a parameter
        return ["--optimizer", "ticket", "--ticket-optimizer", config["optimizer"], *decay]
    if config["optimizer"] == "sgd":
        return ["--optimizer", "sgd", *decay]
    if config["optimizer"] == "adamw":  # fairseq's `adam` decouples weight decay
        return ["--optimizer", "adam", "--adam-betas", ADAM_BETAS, "--adam-eps", "1e-8", *decay]
    return ["--optimizer", "adamax", "--adamax-betas", ADAM_BETAS, *decay]


def run_training(
    options: Sequence[str],
    folder: Path,
    config: Mapping[str, Any],
    saves: bool,
    last: bool = False,
    tasks: Sequence[str] = (),
) -> Recorder:
    """Run fairseq-train's main in this process; its best (or last) checkpoint becomes `checkpoint.pt`."""
    pin_threads(config["threads"])
    scratch = folder / "train"
    shutil.rmtree(scratch, ignore_errors=True)
    options = [*options, "--save-dir", str(scratch)]
    if not saves:
        options.append("--no-save")
    elif not last:
        options.append("--no-last-checkpoints")
    from fairseq import options as fairseq_options
    from fairseq.dataclass.utils import convert_namespace_to_omegaconf
    from fairseq_cli import train as fairseq_train

    from fairseq_tickets import plugin  # noqa: F401  (registers the components)

    parser = fairseq_options.get_training_parser()
    parsed = convert_namespace_to_omegaconf(fairseq_options.parse_args_and_arch(parser, list(options)))
    with Recorder(best_metric(config), tasks) as recorder:
        fairseq_train.main(parsed)
    if saves:
        os.replace(scratch / ("checkpoint_last.pt" if last else "checkpoint_best.pt"), folder / CHECKPOINT)
    shutil.rmtree(scratch, ignore_errors=True)
    if not recorder.epochs:
        raise UserError("training ended before the first evaluation")
    return recorder


def pin_threads(threads: int) -> None:
    """Fix PyTorch's number of threads: another number sums in another order."""
    import torch

    torch.set_num_threads(threads)


def updates_of(what: Mapping[str, Any], config: Mapping[str, Any]) -> int:
    """Number of updates of a whole run on a task's "data", or a part of it, see `chosen_examples`."""
    examples = chosen_examples(what) or count_examples(Path(what["data"]))
    return updates_in_all(examples, config["batch_size"], config["max_epoch"])


def updates_in_all(examples: int, batch_size: int, epochs: int) -> int:
    """Number of updates of a whole run; the last batch of an epoch may be smaller."""
    return math.ceil(examples / batch_size) * epochs


def chosen_examples(what: Mapping[str, Any]) -> int | None:
    """How many of the examples of a task's "data" a run uses, by its "subset" and "fraction"; None for all."""
    return train_subset(count_examples(Path(what["data"])), what["subset"], what.get("fraction", 1.0))


def train_subset(examples: int, subset: int | float | None, fraction: float) -> int | None:
    """How many training examples a run uses, None for all: `fraction` of `subset` of them, at least 1.

    Raises:
        UserError: `subset` is a count larger than what there is.
    """
    count = examples
    if isinstance(subset, int):
        if subset > examples:
            raise UserError(f"subset {subset} is more than the {examples} training examples there are")
        count = subset
    elif subset is not None:
        count = max(1, int(subset * examples + 1e-9))
    count = max(1, int(fraction * count + 1e-9))
    return None if count == examples else count


def count_examples(data: Path) -> int:
    """Number of training examples of a prepared folder."""
    from fairseq.data.indexed_dataset import MMapIndexedDataset

    path = data / "input0" / "train"
    if not path.with_suffix(".idx").is_file():
        raise UserError(f"{data} has no training split: {path}.idx is missing")
    return len(MMapIndexedDataset(str(path)))


def has_split(data: Path, split: str) -> bool:
    """Whether a prepared folder has a split."""
    return (data / "input0" / f"{split}.idx").is_file()
