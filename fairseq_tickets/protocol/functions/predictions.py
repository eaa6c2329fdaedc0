"""Predictions for the unlabelled test split, as the GLUE server takes them: a header, then index<TAB>prediction."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fairseq_tickets.errors import UserError
from fairseq_tickets.files import atomic_write
from fairseq_tickets.protocol.steps import PREDICTIONS

BATCH = 32
# File names the server asks for; the second one of MNLI is for test1, the mismatched split.
SERVER_NAMES = {"MNLI": ("MNLI-m", "MNLI-mm")}


def write_predictions(
    checkpoint: Path, data: Path, facts: Mapping[str, Any], folder: Path, device: str = "cpu"
) -> list[str]:
    """Predict the test split, and MNLI's second one where it is there; returns the names of the files in `folder`.

    Raises:
        UserError: lines of the test file were rejected: the server wants every line, counted from 0.
    """
    import torch

    from fairseq_tickets.plugin.loading import load_finetuned

    model, task = load_finetuned(checkpoint, data)
    model.to(device)
    names = []
    task_name = str(facts["name"])
    for number, split in enumerate(("test", "test1")):
        if not (data / "input0" / f"{split}.idx").is_file():
            continue
        rejected = facts.get("splits", {}).get(split, {}).get("rejected") or {}
        if any(rejected.values()):
            raise UserError(f"the {split} file has rejected lines ({', '.join(rejected)}); the server wants every line")
        task.load_dataset(split)
        dataset = task.dataset(split)
        predicted: dict[int, str] = {}
        by_length = sorted(range(len(dataset)), key=dataset.num_tokens)
        with torch.no_grad():
            for start in range(0, len(by_length), BATCH):
                batch = by_length[start : start + BATCH]
                inputs = dataset.collater([dataset[index] for index in batch])["net_input"]
                logits, _ = model(
                    **{name: value.to(device) for name, value in inputs.items()},
                    features_only=True,
                    classification_head_name=task.cfg.classification_head_name,
                )
                values = logits.view(-1).tolist() if task.regression else logits.argmax(-1).tolist()
                predicted.update(zip(batch, (_text(value, facts) for value in values)))
        name = SERVER_NAMES.get(task_name, (task_name, f"{task_name}-2"))[number]
        names.append(f"{name}-{PREDICTIONS}")
        lines = [f"{position}\t{predicted[position]}" for position in range(len(dataset))]
        with atomic_write(folder / names[-1]) as temporary:
            temporary.write_text("\n".join(["index\tprediction", *lines]) + "\n", encoding="utf-8")
    return names


def _text(value: float, facts: Mapping[str, Any]) -> str:
    if facts["kind"] == "regression":
        low, high = facts.get("regression_range") or (float("-inf"), float("inf"))
        return f"{min(max(value, low), high):.3f}"
    return str(facts["labels"][int(value)])
