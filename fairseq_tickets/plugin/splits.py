"""Is a split of a binarised data folder there, and whole? Asked before training starts; fairseq finds out later."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from fairseq.data import indexed_dataset

from fairseq_tickets.errors import UserError


def check_split(data: Path, split: str, regression: bool) -> None:
    """Raise UserError unless the split's sentences, and its labels, are there and whole.

    Only a split whose name starts with "test" may be without labels.
    """
    if not (data / "input0" / f"{split}.idx").is_file():
        raise UserError(f"no split {split!r} in {data}: input0/{split}.idx is missing")
    check_binary(data / "input0" / split)
    if (data / "input1" / f"{split}.idx").is_file():
        check_binary(data / "input1" / split)
    labels = data / "label" / (f"{split}.label" if regression else f"{split}.idx")
    if labels.is_file():
        if not regression:
            check_binary(data / "label" / split)
    elif not split.startswith("test"):
        raise UserError(f"split {split!r} in {data} has no labels: {labels} is missing")


def check_binary(prefix: Path) -> None:
    """Raise UserError unless PREFIX.idx and PREFIX.bin belong together and are whole."""
    index, binary = Path(f"{prefix}.idx"), Path(f"{prefix}.bin")
    for path in (index, binary):
        if not path.is_file():
            raise UserError(f"{path} is missing; make the data folder again with `fairseq-tickets prepare`")
    kind = indexed_dataset.infer_dataset_impl(str(prefix))
    if kind is None or (kind == "mmap" and not _is_whole(prefix, binary)):
        raise UserError(
            f"{index} and {binary.name} are damaged or cut short; "
            "make the data folder again with `fairseq-tickets prepare`"
        )


def _is_whole(prefix: Path, binary: Path) -> bool:
    try:
        dataset = indexed_dataset.MMapIndexedDataset(str(prefix))
        expected = int(np.sum(dataset.sizes, dtype=np.int64)) * np.dtype(dataset._index.dtype).itemsize
    except Exception:  # a damaged index fails in any way
        return False
    return os.path.getsize(binary) == expected
