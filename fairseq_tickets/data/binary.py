"""fairseq's side of the data: its dictionaries and its memory-mapped binary format.

fairseq is imported when a function is called, not with this module. What is written is what fairseq-preprocess writes
for the task `sentence_prediction`: each sentence ends with </s>, a label is one word of label/dict.txt and </s>.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fairseq_tickets.dictionary import SPECIALS, read_dictionary
from fairseq_tickets.errors import UserError


class Vocabulary:
    """A fairseq dictionary file: word -> number.

    Attributes:
        path: the file.
        words: its words, without the special ones.

    Raises:
        UserError: the file can't be read, is no dictionary, or holds no words.
    """

    unknown, end = SPECIALS.index("<unk>"), SPECIALS.index("</s>")

    def __init__(self, path: Path) -> None:
        symbols = read_dictionary(path, "--dict")
        self.path, self.words = path, symbols[len(SPECIALS) :]
        if not self.words:
            raise UserError(f"--dict {path}: the dictionary holds no words")
        self._numbers = {symbol: number for number, symbol in enumerate(symbols)}

    def __len__(self) -> int:
        return len(self.words) + len(SPECIALS)

    def table(self, symbols: Sequence[str]) -> npt.NDArray[np.int64]:
        """Dictionary number of each of a tokenizer's symbols; unknown ones and fairseq's specials become <unk>."""
        numbers = self._numbers
        return np.array([self.unknown if s in SPECIALS else numbers.get(s, self.unknown) for s in symbols], np.int64)


def write_binary(stem: Path, sequences: Iterable[npt.NDArray[np.int64]], vocabulary_size: int) -> None:
    """Write number sequences as `stem`.bin and `stem`.idx in the smallest integer type that fairseq picks."""
    import torch
    from fairseq.data.indexed_dataset import MMapIndexedDatasetBuilder, best_fitting_int_dtype

    stem.parent.mkdir(parents=True, exist_ok=True)
    builder = MMapIndexedDatasetBuilder(f"{stem}.bin", dtype=best_fitting_int_dtype(vocabulary_size))
    for sequence in sequences:
        builder.add_item(torch.from_numpy(sequence))
    builder.finalize(f"{stem}.idx")


def write_labels(folder: Path, split: str, names: Sequence[str], classes: Sequence[str]) -> None:
    """Write `folder`/dict.txt and the split's labels; class i of `classes` gets number i after the specials."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "dict.txt").write_text("".join(f"{name} 1\n" for name in classes), encoding="utf-8")
    numbers = {name: len(SPECIALS) + index for index, name in enumerate(classes)}
    end = SPECIALS.index("</s>")
    sequences = (np.array([numbers[name], end], dtype=np.int64) for name in names)
    write_binary(folder / split, sequences, len(SPECIALS) + len(classes))


def write_scores(folder: Path, split: str, scores: Sequence[float]) -> None:
    """Write regression targets as text, one a line: `folder`/`split`.label."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{split}.label").write_text("".join(f"{score!r}\n" for score in scores), encoding="utf-8")
