"""The classes of a task as its label dictionary has them, and whether a split's labels are among them.

fairseq-preprocess orders labels by frequency and fills the dictionary up with words nobody wrote; `prepare` writes the
task's own order. Names, not numbers, tell classes apart.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from fairseq.data import indexed_dataset

from fairseq_tickets.errors import UserError
from fairseq_tickets.files import read_text

logger = logging.getLogger(__name__)

_FILLER = re.compile(r"madeupword\d{4}")
_MASK = "<mask>"
POSITIVE = "1"  # what GLUE's binary tasks call the class that F1 is of


def names_of(dictionary: Any) -> list[str]:
    """Names of the classes in a label dictionary (fairseq's, with its special words), by index; fillers left out."""
    words = list(zip(dictionary.symbols, dictionary.count))[dictionary.nspecial :]
    if words and words[-1][0] == _MASK:
        words.pop()
    return [name for name, count in words if not (count == 0 and _FILLER.fullmatch(name))]


def positive_class(names: Sequence[str]) -> int:
    """Index of the class that F1 is of: the one called "1", else the second, as `prepare` orders GLUE's."""
    return names.index(POSITIVE) if POSITIVE in names else 1


def checked_classes(given: int, names: Sequence[str], path: Path) -> int:
    """Number of classes; `given` is --num-classes, below 1 where it isn't set.

    Raises:
        UserError: it isn't what the label dictionary `path` says.
    """
    if len(names) < 2:
        raise UserError(f"{path} names {len(names)} label: a classification needs at least 2")
    if given >= 1 and given != len(names):
        raise UserError(
            f"--num-classes {given} is too {'small' if given < len(names) else 'large'}: {path} names {len(names)} "
            f"labels, {', '.join(names[:5])}{', ...' if len(names) > 5 else ''} (fillers don't count)"
        )
    return len(names)


def check_split_labels(data: Path, split: str, dictionary: Any, classes: int) -> None:
    """Check that each example of a split has a second sentence, where there are any, and its label or score.

    Args:
        data: the binarised folder.
        split: is there and whole, see splits.py; its labels may be missing.
        dictionary: of the labels.
        classes: how many there are; 0 for a regression.

    Raises:
        UserError: naming the file and, where it is one, the first example at fault.
    """
    examples = _examples(data / "input0" / split)
    if (data / "input1" / f"{split}.idx").is_file() and _examples(data / "input1" / split) != examples:
        raise UserError(
            f"{data / 'input1' / split}.bin has {_examples(data / 'input1' / split)} sentences, "
            f"{data / 'input0' / split}.bin has {examples}; pairs need as many"
        )
    scores = data / "label" / f"{split}.label"
    if classes and (data / "label" / f"{split}.idx").is_file():
        check_labels(data / "label" / split, dictionary, classes, examples)
    elif not classes and scores.is_file():
        check_scores(scores, examples)


def check_labels(prefix: Path, dictionary: Any, classes: int, examples: int) -> None:
    """Check that a split has one label of the dictionary for each of its examples.

    Args:
        prefix: of the split's label files, without .bin and .idx.
        dictionary: of the labels.
        classes: how many there are.
        examples: how many sentences (or pairs) the split has.

    Raises:
        UserError: naming the file, and the first example at fault.
    """
    file = prefix.with_name(prefix.name + ".bin")
    labels = _dataset(prefix)
    if len(labels) != examples:
        raise UserError(f"{file} has {len(labels)} labels for {examples} examples; each needs one")
    sizes = np.asarray(labels.sizes)
    if (sizes != 2).any():  # the label and the end of the line
        place = int(np.argmax(sizes != 2))
        words = [dictionary[int(number)] for number in labels[place] if int(number) != dictionary.eos()]
        raise UserError(
            f"{file}: the label of example {place} is {' '.join(words)!r}, {len(words)} words; "
            "fairseq-preprocess splits labels at spaces, so each must be one word (`fairseq-tickets prepare` takes any)"
        )
    if isinstance(labels, indexed_dataset.MMapIndexedDataset):
        numbers = np.frombuffer(labels._bin_buffer, dtype=labels._index.dtype)[::2].astype(np.int64)
    else:
        numbers = np.asarray([int(labels[place][0]) for place in range(examples)], dtype=np.int64)
    strange = (numbers < dictionary.nspecial) | (numbers >= dictionary.nspecial + classes)
    if strange.any():
        place = int(np.argmax(strange))
        number = int(numbers[place])
        shown = dictionary[number] if number < len(dictionary) else f"number {number}"
        raise UserError(
            f"{file}: the label of example {place} is {shown}, which is none of the {classes} labels of "
            f"{prefix.with_name('dict.txt')}; was it unseen in training?"
        )


def check_scores(path: Path, examples: int) -> None:
    """Check that a regression split's text file has one finite number for each of its examples.

    Raises:
        UserError: naming the file and the line.
    """
    lines = read_text(path, "label", 1 << 30).splitlines()
    if len(lines) != examples:
        raise UserError(f"{path} has {len(lines)} scores for {examples} examples; each needs one")
    for number, line in enumerate(lines, start=1):
        try:
            finite = bool(np.isfinite(float(line)))
        except ValueError:
            finite = False
        if not finite:
            raise UserError(f"{path}: line {number} is {line[:40]!r}; it must be one finite number")


def _dataset(prefix: Path) -> Any:
    return indexed_dataset.make_dataset(str(prefix), impl=indexed_dataset.infer_dataset_impl(str(prefix)))


def _examples(prefix: Path) -> int:
    return len(_dataset(prefix))
