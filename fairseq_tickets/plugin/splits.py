"""Is a split of a binarised data folder there, and whole? Asked before training starts; fairseq finds out later."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from fairseq.data import indexed_dataset

from fairseq_tickets.data.indexed import Sequences, check_sentences, is_memory_mapped, read_sequences
from fairseq_tickets.data.prepared import AGAIN, TASK_FILE, check_files, read_task
from fairseq_tickets.errors import UserError

INPUTS = ("input0", "input1")


def check_split(data: Path, split: str, regression: bool, dictionary: Any) -> None:
    """Raise UserError unless the split's sentences, and its labels, are there, whole, and those that `prepare` wrote.

    Only a split whose name starts with "test" may be without labels.

    Args:
        data: the folder.
        split: such as "train".
        regression: labels are scores, as text.
        dictionary: fairseq's, of the sentences.
    """
    if not (data / "input0" / f"{split}.idx").is_file():
        raise UserError(f"no split {split!r} in {data}: input0/{split}.idx is missing")
    folders = (*INPUTS, "label")
    check_files(data, [f"{folder}/{split}.{kind}" for folder in folders for kind in ("idx", "bin", "label")])
    counts = set()
    for folder in INPUTS:
        if (data / folder / f"{split}.idx").is_file():
            sentences = _sequences(data / folder / split)
            check_sentences(sentences, len(dictionary), dictionary.eos())
            counts.add(len(sentences))
    known = (read_task(data) or {}).get("splits", {}).get(split, {}).get("kept")
    if known is not None and counts != {known}:
        raise UserError(
            f"{data / TASK_FILE} says that {split} has {known!r} examples, but it has {min(counts)}; {AGAIN}"
        )
    labels = data / "label" / (f"{split}.label" if regression else f"{split}.idx")
    if labels.is_file():
        if not regression:
            _sequences(data / "label" / split)
    elif not split.startswith("test"):
        raise UserError(f"split {split!r} in {data} has no labels: {labels} is missing")


def _sequences(prefix: Path) -> Sequences:
    for path in (Path(f"{prefix}.idx"), Path(f"{prefix}.bin")):
        if not path.is_file():
            raise UserError(f"{path} is missing; {AGAIN}")
    if is_memory_mapped(prefix):
        return read_sequences(prefix)
    kind = indexed_dataset.infer_dataset_impl(str(prefix))
    try:  # the older formats of --dataset-impl, which only fairseq reads
        dataset = indexed_dataset.make_dataset(str(prefix), impl=kind)
        items = [dataset[index].numpy() for index in range(len(dataset))]
    except Exception as error:  # a damaged file fails in any way
        raise UserError(f"{prefix}.idx and {prefix.name}.bin are damaged or cut short; {AGAIN}") from error
    return Sequences(prefix, np.array([len(item) for item in items]), np.concatenate([*items, np.empty(0, np.int64)]))
