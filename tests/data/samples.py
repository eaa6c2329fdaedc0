"""A tiny task and tiny tokenizers, written where a test wants them."""

from __future__ import annotations

import json
from pathlib import Path

WORDS = ["the", "cat", "sat", "dog", "ran", "##s", "a", "."]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
TRAIN = [("the cat sat.", "a cat sat.", "yes"), ("the dog ran.", "a cat sat.", "no"), ("cats", "dogs", "no")]
VALID = [("a dog sat.", "the dog sat.", "yes"), ("a cat ran.", "the dog sat.", "no")]
SENTENCES = [
    "the cat sat on the mat",
    "a dog ran after the cat",
    "it rains and the dog sat",
    "cats and dogs ran",
] * 20


def write_wordpiece(folder: Path) -> Path:
    """vocab.txt and a dict.txt that holds its words in another order, without the special tokens."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(SPECIAL + WORDS) + "\n", encoding="utf-8")
    (folder / "dict.txt").write_text("".join(f"{word} 1\n" for word in reversed(WORDS)), encoding="utf-8")
    return folder


def write_gpt2(folder: Path, names: tuple[str, str] = ("encoder.json", "vocab.bpe")) -> Path:
    """A byte-level BPE with two merges over the letters of "the a"; Ġ stands for a space before a word."""
    folder.mkdir(parents=True, exist_ok=True)
    pieces = ["t", "h", "e", "a", "Ġ", "th", "the"]
    (folder / names[0]).write_text(json.dumps({piece: number for number, piece in enumerate(pieces)}), encoding="utf-8")
    (folder / names[1]).write_text("#version: 0.2\nt h\nth e\n", encoding="utf-8")
    return folder


def write_pairs(folder: Path, test: bool = True) -> Path:
    """A task in RTE's layout with labels yes and no; an unlabelled test file on request."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in (("train", TRAIN), ("dev", VALID)):
        lines = ["sentence1\tsentence2\tlabel", *("\t".join(row) for row in rows)]
        (folder / f"{name}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    if test:
        (folder / "test.tsv").write_text("sentence1\tsentence2\nthe dog sat.\ta dog sat.\n", encoding="utf-8")
    return folder
