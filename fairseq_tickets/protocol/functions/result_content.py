"""What a result file says of a training run: what determines it, what was recorded, its scores."""

from __future__ import annotations

import math
import resource
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fairseq_tickets.files import read_json, write_json
from fairseq_tickets.protocol.functions.fairseq_train import chosen_examples, count_examples
from fairseq_tickets.protocol.functions.recording import Recorder
from fairseq_tickets.protocol.steps import TRAINING
from fairseq_tickets.protocol.store import done_facts


def common_result(what: Mapping[str, Any], facts: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a result file that a run's arguments and its data's task.json tell."""
    about = what["about"]
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
        "train_examples": chosen_examples(what) or count_examples(Path(what["data"])),
        "config": {**what["config"], **part},
        "inputs": about["inputs"],
        "partial_data": partial or bool(facts.get("partial")) or "subset" in facts,
    }


def recorded(recorder: Recorder, config: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a result file that a training run gives."""
    return {
        "trainable_parameters": recorder.trainable,
        "total_parameters": recorder.total,
        "epochs": recorder.epochs,
        "curve": recorder.curve,
        "best_epoch": recorder.best_epoch()["epoch"],
        "versions": _versions(),
        "wall_seconds": round(recorder.seconds, 3),
        "peak_memory_bytes": _peak_memory(config["device"]),
    }


def write_training(folder: Path, kind: str, recorder: Recorder, config: Mapping[str, Any], **about: Any) -> None:
    """Write `training.json`, of a run that is not a result by itself."""
    content = {"format": f"fairseq-tickets/{kind}", "version": 1, **about, "config": config}
    write_json(folder / TRAINING, {**content, **recorded(recorder, config)})


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


def task_facts(data: Path) -> dict[str, Any]:
    """What task.json says; {} without one."""
    path = data / "task.json"
    return dict(read_json(path, "task")) if path.is_file() else {}


def seconds_of(folders: Sequence[str]) -> float | None:
    """How long steps took together; None for none, and where one doesn't say."""
    told = [(done_facts(Path(folder)) or {}).get("seconds") for folder in folders]
    known = [seconds for seconds in told if seconds is not None]
    return round(math.fsum(known), 3) if known and len(known) == len(told) else None


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
