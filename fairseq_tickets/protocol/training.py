"""Functions behind steps: prepare, train, score, l1 and extract. Training is fairseq-train's own `main`.

Each gets the folder to write in and plain arguments, and returns when its last file is written.
"""

from __future__ import annotations

import math
import os
import resource
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fairseq_tickets.errors import UserError
from fairseq_tickets.files import read_json, write_json
from fairseq_tickets.protocol.recording import Recorder
from fairseq_tickets.protocol.steps import CHECKPOINT, COUNTS, DATA, SCORES, TICKET, TRAINING
from fairseq_tickets.protocol.store import done_facts, write_result
from fairseq_tickets.recorded import attention_heads, peak_lr

CRITERION, L1_CRITERION = "ticket_sentence_prediction", "ticket_sentence_prediction_l1"
ADAM_BETAS = "(0.9, 0.999)"


def prepare(folder: Path, task: str, inputs: Mapping[str, str], glue: str, tokenizer: str, dictionary: str) -> None:
    """Prepare a task's data in the folder `data`.

    Args:
        inputs: checksums of the files that it is prepared from, by role.
    """
    from fairseq_tickets.data.prepare import prepare as prepare_data
    from fairseq_tickets.data.tasks import find_files, find_task

    spec = find_task(task)
    files = find_files(Path(glue), spec)
    prepare_data(spec, files, folder / DATA, tokenizer=Path(tokenizer), dictionary=Path(dictionary))


def train(folder: Path, **run: Any) -> None:
    """Train, evaluate and write the result file; the arguments are those that `Lab.train` gives.

    Raises:
        UserError: whatever is wrong with data, model, ticket or disk.
    """
    data, facts = Path(run["data"]), task_facts(Path(run["data"]))
    ticket = make_ticket(folder, run)
    options = [*common_options(run, data, run["start"] or run["model"]), "--criterion", CRITERION]
    if ticket is not None:
        options += ["--ticket", str(folder / TICKET)]
    predicts = run["predicts"] and has_split(data, "test")
    if run["method"] == "random_elements":
        chosen = run["ticket"]
        options += ["--random-elements", repr(chosen["elements"]), "--random-elements-seed", str(chosen["seed"])]
    recorder, wall = run_training(options, folder, run["config"], ["valid", "valid1"], saves=run["saves"] or predicts)
    content = {
        **common_result(run, facts),
        "level": run["level"],
        "top_k": run["top_k"],
        "source_task": run["source_task"],
        "ticket": None if ticket is None else ticket.to_json(),
        "ticket_seconds": seconds_of(run["ticket_steps"]),
        "weight_remaining": recorder.weight_remaining(ticket),
        **recorded(recorder, run["config"]["device"], wall),
        "scores": scores_of(recorder.best_epoch()["valid"]),
    }
    if predicts:
        from fairseq_tickets.protocol.predictions import write_predictions

        files = write_predictions(folder / CHECKPOINT, data, facts, folder, run["config"]["device"])
        content["predictions"] = {"file": files[0], "files": files}
    if not run["saves"]:
        (folder / CHECKPOINT).unlink(missing_ok=True)
    write_result(folder, content)


def score(
    folder: Path,
    task: str,
    seed: int,
    fraction: float,
    config: Mapping[str, Any],
    full: str,
    full_key: str,
    data: str,
    granularity: str,
    limit: int | None,
) -> None:
    """Importance scores of a fine-tuned full model over its training data.

    Args:
        full, full_key: its checkpoint, and the key of its run.
        granularity, limit: see `plugin.scoring.score_checkpoint`.
    """
    from fairseq_tickets.plugin.scoring import score_checkpoint

    pin_threads(config["threads"])
    batch_size = config["batch_size"] if granularity == "batch" else 32
    scores = score_checkpoint(
        full, data, granularity=granularity, batch_size=batch_size, limit=limit, device=config["device"]
    )
    scores.provenance.update(run=full_key, seed=seed)
    # the checkpoint holds the time it was written; its run's key says the same and never changes
    scores.provenance.pop("checkpoint_sha256", None)
    scores.save(folder / SCORES)


def l1(folder: Path, **run: Any) -> None:
    """L1 fine-tuning (Gong et al. 2022, section 3.1); the arguments are those that `Lab.l1` gives.

    Keeps the checkpoint of the last epoch: the ticket is read off where the weights have moved to, not off a score.
    """
    data, config = Path(run["data"]), run["config"]
    options = [
        *common_options(run, data, run["model"]),
        *("--criterion", L1_CRITERION, "--l1-weight", repr(run["l1_weight"]), "--l1-mode", run["l1_mode"]),
        *("--pretrained-path", run["model"], "--l1-log-interval", str(config["log_interval"])),
    ]
    recorder, wall = run_training(options, folder, config, ["valid", "valid1"], saves=True, last=True)
    facts = {"epochs": recorder.epochs, "curve": recorder.curve, "wall_seconds": wall, "config": config}
    write_json(folder / TRAINING, {"format": "fairseq-tickets/l1-run", "version": 1, **facts})


def extract(
    folder: Path,
    task: str,
    seed: int,
    config: Mapping[str, Any],
    l1: str,
    l1_key: str,
    pretrained: str,
    sigma: float,
    top_k: int,
    l1_weight: float,
) -> None:
    """A dominant ticket with the most dimensions the protocol asks for; smaller ones are its first dimensions.

    All counts are written beside it, for `plot out-weighted`.

    Args:
        l1, l1_key: checkpoint of the L1 run, and its key.
    """
    from fairseq_tickets import checkpoint
    from fairseq_tickets.counts import DimensionCounts
    from fairseq_tickets.dominant_ticket.extraction import check_top_k, count_model, sigma_hint, ticket_from_counts

    pin_threads(config["threads"])
    state = checkpoint.load(l1, mmap=True)
    hint = sigma_hint(sigma, peak_lr(state))
    if hint:
        print(f"fairseq-tickets: {hint}", file=sys.stderr)
    before, after = (checkpoint.encoder_tensors(path) for path in (pretrained, l1))
    counted = count_model(before, after, _heads(state), sigma)
    check_top_k(counted.shape, top_k)
    ticket = ticket_from_counts(counted, top_k)
    ticket.provenance.update(task=task, seed=seed, l1_weight=l1_weight, run=l1_key)
    DimensionCounts(counted.tables(), ticket.provenance).save(folder / COUNTS)
    ticket.save(folder / TICKET)


def make_ticket(folder: Path, run: Mapping[str, Any]) -> Any:
    """The ticket a run trains under, written to `ticket.json`; None for none.

    `run["ticket"]` says what it is made from, by what it holds:

        scores, scores_key, keep, level, seed, min_heads_per_layer: a super ticket of these scores; `within`, where it
            is there, is the file of a ticket that it must be a part of.
        extract, top_k, seed: the first dimensions of this dominant ticket; for `random_dimensions` as many random ones.
        from: the ticket in this file, as it is.
    """
    from fairseq_tickets.tickets import load_super_ticket

    asked = run["ticket"] or {}
    ticket: Any = None
    if "scores" in asked:
        from fairseq_tickets.scores import ImportanceScores
        from fairseq_tickets.super_ticket.pruning import check_within, super_ticket

        level, scores = str(asked["level"]), ImportanceScores.load(asked["scores"])
        ticket = super_ticket(scores, level, level, asked["keep"], asked["seed"], asked["min_heads_per_layer"])
        ticket.provenance["scores_run"] = asked["scores_key"]
        if asked.get("within"):
            check_within(ticket, load_super_ticket(asked["within"]), f"pruning to {level}")
    elif "from" in asked or run["start_ticket"] is not None:
        ticket = load_super_ticket(asked.get("from") or run["start_ticket"])
    elif "extract" in asked:
        from fairseq_tickets.dominant_ticket.baselines import random_like
        from fairseq_tickets.tickets import DominantTicket, load_dominant_ticket

        whole, k = load_dominant_ticket(asked["extract"]), asked["top_k"]
        counts = whole.counts and {matrix: [row[:k] for row in rows] for matrix, rows in whole.counts.items()}
        dimensions = {matrix: [row[:k] for row in rows] for matrix, rows in whole.dimensions.items()}
        ticket = DominantTicket(whole.shape, dimensions, counts, {**whole.provenance, "top_k": k})
        if run["method"] == "random_dimensions":
            ticket = random_like(ticket, asked["seed"])
            ticket.provenance["top_k"] = k
    elif run["method"] == "bitfit":
        from fairseq_tickets import checkpoint
        from fairseq_tickets.dominant_ticket.baselines import bitfit_ticket
        from fairseq_tickets.parameters import model_shape

        state = checkpoint.load(run["model"], mmap=True)
        ticket = bitfit_ticket(model_shape(state["model"], _heads(state)))
    if ticket is not None:
        ticket.save(folder / TICKET)
    return ticket


def seconds_of(folders: Sequence[str]) -> float | None:
    """How long steps took together; None for none, and where one doesn't say."""
    told = [(done_facts(Path(folder)) or {}).get("seconds") for folder in folders]
    known = [seconds for seconds in told if seconds is not None]
    return round(math.fsum(known), 3) if known and len(known) == len(told) else None


def ticket_name(task: str) -> str:
    """File of one task's ticket in the folder of a shared run; `ticket.json` is their union."""
    return f"ticket-{task}.json"


def pin_threads(threads: int) -> None:
    """Fix PyTorch's number of threads: another number sums in another order."""
    import torch

    torch.set_num_threads(threads)


def updates_in_all(examples: int, batch_size: int, epochs: int) -> int:
    """Number of updates of a whole run; the last batch of an epoch may be smaller."""
    return math.ceil(examples / batch_size) * epochs


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


def common_options(what: Mapping[str, Any], data: Path, start: str) -> list[str]:
    """fairseq-train's options for one task, but for criterion and ticket."""
    config = what["config"]
    examples = count_examples(data)
    part = train_subset(examples, what["subset"], what["fraction"])
    options = [
        *(str(data), "--task", "ticket_sentence_prediction", "--finetune-from-model", start),
        *schedule(what, updates_in_all(part or examples, config["batch_size"], config["max_epoch"])),
        *("--valid-subset", "valid,valid1" if has_split(data, "valid1") else "valid"),
        *_optimizer(config, in_parts=what.get("method") == "random_elements"),
        *("--train-examples-seed", str(what["subset_seed"])),
    ]
    if part is not None:
        options += ["--train-examples", str(part)]
    if what.get("dev_subset") is not None:
        options += ["--valid-examples", str(what["dev_subset"])]
    if what["metrics"] is not None:
        options += ["--metric", ",".join(what["metrics"])]
    if not (data / "task.json").is_file():
        raise UserError(f"{data} has no task.json; make the folder with `fairseq-tickets prepare`")
    return options


def schedule(what: Mapping[str, Any], total: int) -> list[str]:
    """fairseq-train's options that any run has: model, batches, schedule of `total` updates, evaluation, device."""
    config = what["config"]
    best = "score_select" if config["best_epoch"] == "select" else "score"
    options: list[Any] = [
        *("--arch", "ticket_roberta", "--max-positions", config["max_positions"]),
        *("--batch-size", config["batch_size"], "--batch-size-valid", max(32, config["batch_size"])),
        *("--select-fraction", repr(config["select_fraction"]), "--select-seed", config["select_seed"]),
        *("--length-bucket", config["length_bucket"], "--max-epoch", config["max_epoch"], "--seed", what["seed"]),
        *("--lr", repr(config["lr"]), "--lr-scheduler", "polynomial_decay", "--total-num-update", total),
        *("--warmup-updates", round(config["warmup"] * total), "--clip-norm", repr(config["clip_norm"])),
        *("--dropout", repr(config["dropout"]), "--attention-dropout", repr(config["attention_dropout"])),
        *("--pooler-dropout", repr(config["head_dropout"])),
        *("--best-checkpoint-metric", best, "--maximize-best-checkpoint-metric"),
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
    splits: Sequence[str],
    saves: bool,
    last: bool = False,
    tasks: Sequence[str] = (),
) -> tuple[Recorder, float]:
    """Run fairseq-train's main in this process; its best (or last) checkpoint becomes `checkpoint.pt`.

    Returns:
        what was recorded of the evaluated splits (of `tasks`, see Recorder), and the seconds it took.
    """
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
    began = time.monotonic()
    best = "score_select" if config["best_epoch"] == "select" else "score"
    with Recorder(best, splits, tasks) as recorder:
        fairseq_train.main(parsed)
    wall = time.monotonic() - began
    if saves:
        os.replace(scratch / ("checkpoint_last.pt" if last else "checkpoint_best.pt"), folder / CHECKPOINT)
    shutil.rmtree(scratch, ignore_errors=True)
    if not recorder.epochs:
        raise UserError("training ended before the first evaluation")
    return recorder, wall


def common_result(what: Mapping[str, Any], facts: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a result file that a run's arguments and its data's task.json tell."""
    about, examples = what["about"], count_examples(Path(what["data"]))
    part = {name: what[name] for name in ("subset", "subset_seed", "dev_subset") if name in what}
    partial = any(part[name] is not None for name in part if name != "subset_seed")
    return {
        "format": "fairseq-tickets/result",
        "version": 1,
        "key": about["key"],
        "experiment": about["experiment"],
        "model": about["model"],
        "task": what["task"],
        "method": what["method"],
        "seed": what["seed"],
        "train_fraction": what["fraction"],
        "train_examples": train_subset(examples, what["subset"], what["fraction"]) or examples,
        "config": {**what["config"], **part},
        "inputs": about["inputs"],
        "partial_data": partial or bool(facts.get("partial")) or "subset" in facts,
    }


def recorded(recorder: Recorder, device: str, wall: float) -> dict[str, Any]:
    """The fields of a result file that a training run gives."""
    return {
        "trainable_parameters": recorder.trainable,
        "total_parameters": recorder.total,
        "epochs": recorder.epochs,
        "curve": recorder.curve,
        "best_epoch": recorder.best_epoch()["epoch"],
        "versions": _versions(),
        "wall_seconds": round(wall, 3),
        "peak_memory_bytes": _peak_memory(device),
    }


def scores_of(valid: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """Metrics of one evaluation by part of dev: "all", "select", "report".

    MNLI's mismatched dev set (`accuracy_mm`) takes no part in selection, so all of it belongs to "report".
    """
    known = ("accuracy", "f1", "mcc", "pearson", "spearman")
    scores = {
        part: {name: valid[name + suffix] for name in known if name + suffix in valid}
        for part, suffix in (("all", ""), ("select", "_select"), ("report", "_report"))
    }
    if "accuracy_mm" in valid:
        scores["all"]["accuracy_mm"] = scores["report"]["accuracy_mm"] = valid["accuracy_mm"]
    return {part: values for part, values in scores.items() if values}


def has_split(data: Path, split: str) -> bool:
    """Whether a prepared folder has a split."""
    return (data / "input0" / f"{split}.idx").is_file()


def count_examples(data: Path) -> int:
    """Number of training examples of a prepared folder."""
    from fairseq.data.indexed_dataset import MMapIndexedDataset

    path = data / "input0" / "train"
    if not path.with_suffix(".idx").is_file():
        raise UserError(f"{data} has no training split: {path}.idx is missing")
    return len(MMapIndexedDataset(str(path)))


def task_facts(data: Path) -> dict[str, Any]:
    """What task.json says; {} without one."""
    path = data / "task.json"
    return dict(read_json(path, "task")) if path.is_file() else {}


def _heads(state: Mapping[str, Any]) -> int:
    heads = attention_heads(state)
    if heads is None:
        raise UserError("the checkpoint doesn't record its number of attention heads (cfg.model)")
    return heads


def _versions() -> dict[str, str]:
    import fairseq
    import numpy
    import torch

    from fairseq_tickets import __version__

    return {
        "fairseq_tickets": __version__,
        "fairseq": str(fairseq.__version__),
        "torch": str(torch.__version__),
        "numpy": str(numpy.__version__),
        "python": ".".join(map(str, sys.version_info[:3])),
    }


def _peak_memory(device: str) -> int:
    """Bytes: of the GPU where one is used, else the most the process held (Linux counts it in KiB)."""
    if device == "cuda":
        import torch

        return int(torch.cuda.max_memory_allocated())
    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * (1 if sys.platform == "darwin" else 1024)
