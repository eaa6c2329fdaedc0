"""fairseq's memory-mapped number sequences, PREFIX.idx and PREFIX.bin, read with every claim of the index checked.

The index holds: 9 bytes of magic, a version (8 bytes), a code for the integer type (1), the number of items (8), the
length of each item (4 bytes each) and where each begins in the .bin file, in bytes (8 each).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fairseq_tickets.data.prepared import AGAIN
from fairseq_tickets.errors import UserError

MAGIC = b"MMIDIDX\x00\x00"
HEAD = len(MAGIC) + 8 + 1 + 8
TYPES = {1: np.uint8, 2: np.int8, 3: np.int16, 4: np.int32, 5: np.int64, 8: np.uint16, 9: np.uint32, 10: np.uint64}


@dataclass(frozen=True)
class Sequences:
    """Number sequences, one after the other.

    Attributes:
        prefix: path without .idx or .bin, for messages.
        sizes: (items,) their lengths.
        numbers: (sum of sizes,) all numbers.
    """

    prefix: Path
    sizes: npt.NDArray[np.int64]
    numbers: npt.NDArray[np.integer]

    def __len__(self) -> int:
        return len(self.sizes)

    @property
    def ends(self) -> npt.NDArray[np.int64]:
        """(items,) position after each item in `numbers`."""
        return np.cumsum(self.sizes)

    def item_at(self, position: int) -> int:
        """The item, from 1 as people count, that holds a position in `numbers`."""
        return int(np.searchsorted(self.ends, position, side="right")) + 1


def is_memory_mapped(prefix: Path) -> bool:
    """Whether PREFIX.idx has this format; fairseq-preprocess can write others (--dataset-impl)."""
    try:
        with open(f"{prefix}.idx", "rb") as index:
            return index.read(len(MAGIC)) == MAGIC
    except OSError as error:
        raise UserError(f"cannot read {prefix}.idx: {error.strerror or error}") from error


def read_sequences(prefix: Path) -> Sequences:
    """Map both files.

    Raises:
        UserError: a file is missing or can't be read, the index is not of this format or is cut, an item has a length
            below 1, an item doesn't begin where the one before it ends, or the .bin file has another size.
    """
    index = Path(f"{prefix}.idx")
    try:
        content = np.fromfile(index, np.uint8)
        binary_size = os.path.getsize(f"{prefix}.bin")
    except OSError as error:
        raise UserError(f"cannot read {error.filename or index}: {error.strerror or error}") from error
    head = content[:HEAD].tobytes()
    if len(head) < HEAD or not head.startswith(MAGIC) or head[9:17] != (1).to_bytes(8, "little"):
        raise UserError(f"{index} is damaged or cut short: it is no index of memory-mapped data; {AGAIN}")
    kind, count = head[17], int.from_bytes(head[18:26], "little")
    if kind not in TYPES or len(content) != HEAD + 12 * count:
        raise UserError(f"{index} is damaged or cut short: {len(content)} bytes for {count} items; {AGAIN}")
    sizes = content[HEAD : HEAD + 4 * count].view("<i4").astype(np.int64)
    pointers = content[HEAD + 4 * count :].view("<i8")
    width = np.dtype(TYPES[kind]).itemsize
    if count and int(sizes.min()) < 1:
        raise UserError(f"{index} is damaged: item {int(sizes.argmin()) + 1} has length {int(sizes.min())}; {AGAIN}")
    wrong = np.flatnonzero(pointers != width * (np.cumsum(sizes) - sizes))
    if len(wrong):
        raise UserError(f"{index} is damaged: item {wrong[0] + 1} does not begin where the one before it ends; {AGAIN}")
    if binary_size != width * int(sizes.sum()):
        raise UserError(
            f"{prefix}.bin is damaged or cut short, or {index.name} is of another folder: it has {binary_size} bytes, "
            f"the index says {width * int(sizes.sum())}; {AGAIN}"
        )
    numbers: npt.NDArray[np.integer] = np.empty(0, TYPES[kind])
    if binary_size:
        try:
            numbers = np.memmap(f"{prefix}.bin", TYPES[kind], mode="r")
        except OSError as error:
            raise UserError(f"cannot read {prefix}.bin: {error.strerror or error}") from error
    return Sequences(prefix, sizes, numbers)


def check_sentences(sentences: Sequences, words: int, end: int) -> None:
    """Raise UserError unless every number is one of the dictionary's, and all or no items end with `end` (</s>).

    Args:
        sentences: of one input.
        words: size of the dictionary.
        end: number of </s>. fairseq puts it after every sentence, so an item elsewhere cut shows here.
    """
    check_range(sentences, 0, words, f"the dictionary has {words} words")
    ended = sentences.numbers[sentences.ends - 1] == end if len(sentences) else np.empty(0, bool)
    if ended.any() and not ended.all():
        item = int(np.flatnonzero(~ended)[0]) + 1
        raise UserError(f"{sentences.prefix}.bin is damaged: example {item} does not end with </s>; {AGAIN}")


def check_range(sequences: Sequences, low: int, high: int, reason: str) -> None:
    """Raise UserError unless all numbers are at least `low` and below `high`."""
    wrong = np.flatnonzero((sequences.numbers < low) | (sequences.numbers >= high))
    if len(wrong):
        number, item = int(sequences.numbers[wrong[0]]), sequences.item_at(int(wrong[0]))
        raise UserError(f"{sequences.prefix}.bin: number {number} in example {item}, but {reason}; {AGAIN}")
