"""One training run through fairseq-train's own `main`, and the result file made from what it logged."""

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
from fairseq_tickets.protocol.store import CHECKPOINT, COUNTS, RESULT, TICKET, write_done, write_result
from fairseq_tickets.recorded import attention_heads, peak_lr

CRITERION, L1_CRITERION = "ticket_sentence_prediction", "ticket_sentence_prediction_l1"
ADAM_BETAS = "(0.9, 0.999)"


def train_run(spec: Mapping[str, Any], folder: Path) -> None:
    """Train as a specification says; the result file is written last.

    Raises:
        UserError: whatever is wrong with data, model, ticket or disk.
    """
    what, told = spec["what"], spec["told"]
    data, facts = Path(told["data"]), task_facts(Path(told["data"]))
    ticket = make_ticket(spec, folder)
    start = Path(told["checkpoint"]) if what["start"] is None else Path(told["start"])
    options = [*_common(what, data, facts, start), "--criterion", CRITERION]
    if ticket is not None:
        options += ["--ticket", str(folder / TICKET)]
    predicts = told["predict"] and has_split(data, "test")
    if what["method"] == "random_elements":
        chosen = what["ticket"]
        options += ["--random-elements", repr(chosen["elements"]), "--random-elements-seed", str(chosen["seed"])]
    splits = ["valid", "valid1"]
    recorder, wall = train(options, folder, what["config"], splits, saves=told["save_checkpoint"] or predicts)
    content = _result(spec, recorder, facts, ticket, wall)
    if predicts:
        from fairseq_tickets.protocol.predictions import write_predictions

        files = write_predictions(folder / CHECKPOINT, data, facts, folder, what["config"]["device"])
        content["predictions"] = {"file": files[0], "files": files}
    if not told["save_checkpoint"]:
        (folder / CHECKPOINT).unlink(missing_ok=True)
    write_result(folder / RESULT, content)


def l1_run(spec: Mapping[str, Any], folder: Path) -> None:
    """L1 fine-tuning (Gong et al. 2022, section 3.1).

    Keeps the checkpoint of the last epoch: the ticket is read off where the weights have moved to, not off a score.
    """
    what, told = spec["what"], spec["told"]
    data = Path(told["data"])
    options = [
        *_common(what, data, task_facts(data), Path(told["checkpoint"])),
        *("--criterion", L1_CRITERION, "--l1-weight", repr(what["l1_weight"]), "--l1-mode", what["l1_mode"]),
        *("--pretrained-path", told["checkpoint"], "--l1-log-interval", str(what["config"]["log_interval"])),
    ]
    recorder, wall = train(options, folder, what["config"], ["valid", "valid1"], saves=True, last=True)
    facts = {"epochs": recorder.epochs, "curve": recorder.curve, "wall_seconds": wall, "config": what["config"]}
    write_json(folder / "training.json", {"format": "fairseq-tickets/l1-run", "version": 1, **facts})
    write_done(folder, "training.json", {"wall_seconds": wall})


def extract_run(spec: Mapping[str, Any], folder: Path) -> None:
    """A dominant ticket with the most dimensions the protocol asks for; smaller ones are its first dimensions.

    All counts are written beside it, for `plot out-weighted`.
    """
    from fairseq_tickets import checkpoint
    from fairseq_tickets.counts import DimensionCounts
    from fairseq_tickets.dominant_ticket.extraction import check_top_k, count_model, sigma_hint, ticket_from_counts

    what, told = spec["what"], spec["told"]
    pin_threads(what["config"]["threads"])
    state = checkpoint.load(told["finetuned"], mmap=True)
    heads = _heads(state)
    pretrained, finetuned = (checkpoint.encoder_tensors(told[which]) for which in ("pretrained", "finetuned"))
    hint = sigma_hint(what["sigma"], peak_lr(state))
    if hint:
        print(f"fairseq-tickets: {hint}", file=sys.stderr)
    counted = count_model(pretrained, finetuned, heads, what["sigma"])
    check_top_k(counted.shape, what["top_k"])
    ticket = ticket_from_counts(counted, what["top_k"])
    ticket.provenance.update(task=what["task"], seed=what["seed"], l1_weight=what["l1_weight"], run=what["l1"])
    DimensionCounts(counted.tables(), ticket.provenance).save(folder / COUNTS)
    ticket.save(folder / TICKET)
    write_done(folder, TICKET, {})


def make_ticket(spec: Mapping[str, Any], folder: Path) -> Any:
    """The ticket a run trains under, written to `ticket.json`; None for none."""
    from fairseq_tickets.tickets import load_super_ticket

    what, told = spec["what"], spec["told"]
    asked = what["ticket"]
    ticket: Any
    if what["start"] is not None and asked is not None:
        ticket = load_super_ticket(str(Path(told["start"]).with_name(ticket_name(asked["task"]))))
    elif what["start"] is not None:
        ticket = _ticket_of(Path(told["start"]))
    elif asked is not None and "scores" in asked:
        from fairseq_tickets.scores import ImportanceScores
        from fairseq_tickets.super_ticket.pruning import super_ticket

        level = str(asked["level"])
        ticket = super_ticket(
            ImportanceScores.load(told["scores"]),
            level,
            level,
            asked["keep"],
            asked["seed"],
            asked["min_heads_per_layer"],
        )
        ticket.provenance["scores_run"] = asked["scores"]
    elif asked is not None and "extract" in asked:
        from fairseq_tickets.dominant_ticket.baselines import random_like
        from fairseq_tickets.tickets import DominantTicket, load_dominant_ticket

        whole = load_dominant_ticket(told["ticket"])
        k = asked["top_k"]
        counts = whole.counts and {matrix: [row[:k] for row in rows] for matrix, rows in whole.counts.items()}
        dimensions = {matrix: [row[:k] for row in rows] for matrix, rows in whole.dimensions.items()}
        ticket = DominantTicket(whole.shape, dimensions, counts, {**whole.provenance, "top_k": k})
        if what["method"] == "random_dimensions":
            ticket = random_like(ticket, asked["seed"])
            ticket.provenance["top_k"] = k
    elif what["method"] == "bitfit":
        from fairseq_tickets import checkpoint
        from fairseq_tickets.dominant_ticket.baselines import bitfit_ticket
        from fairseq_tickets.parameters import model_shape

        state = checkpoint.load(told["checkpoint"], mmap=True)
        ticket = bitfit_ticket(model_shape(state["model"], _heads(state)))
    else:
        ticket = None
    if ticket is not None:
        ticket.save(folder / TICKET)
    return ticket


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


def _common(what: Mapping[str, Any], data: Path, facts: Mapping[str, Any], start: Path) -> list[str]:
    """fairseq-train's options for one task, but for criterion and ticket."""
    config = what["config"]
    examples = count_examples(data)
    part = train_subset(examples, what["subset"], what["fraction"])
    options = [
        *(str(data), "--task", "ticket_sentence_prediction", "--finetune-from-model", str(start)),
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


def train(
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


def _result(
    spec: Mapping[str, Any], recorder: Recorder, facts: Mapping[str, Any], ticket: Any, wall: float
) -> dict[str, Any]:
    what = spec["what"]
    return {
        **common_result(spec, facts),
        "level": what["level"],
        "top_k": what["top_k"],
        "source_task": what["source_task"],
        "ticket": None if ticket is None else ticket.to_json(),
        "weight_remaining": recorder.weight_remaining(ticket),
        **recorded(recorder, what["config"]["device"], wall),
        "scores": scores_of(recorder.best_epoch()["valid"]),
    }


def common_result(spec: Mapping[str, Any], facts: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a result file that a run's specification and its data's task.json tell."""
    what, told = spec["what"], spec["told"]
    examples = count_examples(Path(told["data"]))
    part = {name: what[name] for name in ("subset", "subset_seed", "dev_subset") if name in what}
    partial = any(part[name] is not None for name in part if name != "subset_seed")
    return {
        "format": "fairseq-tickets/result",
        "version": 1,
        "key": spec["key"],
        "experiment": told["experiment"],
        "model": told["model_name"],
        "task": what["task"],
        "method": what["method"],
        "seed": what["seed"],
        "train_fraction": what["fraction"],
        "train_examples": train_subset(examples, what["subset"], what["fraction"]) or examples,
        "config": {**what["config"], **part},
        "inputs": told["inputs"],
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


def _ticket_of(start: Path) -> Any:
    """The super ticket in a checkpoint, None for a full model."""
    from fairseq_tickets import checkpoint
    from fairseq_tickets.tickets import ticket_from_json

    path = start.parent / TICKET
    if path.is_file():
        return ticket_from_json(read_json(path, "ticket"), str(path))
    found = [
        name for name in checkpoint.load(start, mmap=True)["model"] if name.endswith("sentence_encoder.ticket_heads")
    ]
    if found:
        raise UserError(f"{start} holds a ticket, but there is no {path}")
    return None


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
