"""Vocabularies and merges of tokenizers as files, read so that a cut or exchanged one shows.

A byte-level BPE (Radford et al. 2019) makes every word of more than one letter by one merge: so the merges, joined, and
the vocabulary's longer words must be the same set, but for special words. A half list of merges still runs, and splits
everything differently.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from fairseq_tickets.errors import UserError
from fairseq_tickets.files import read_json, read_text

LIMIT = 1 << 28  # bytes
SPECIAL_FILES = ("added_tokens.json", "special_tokens_map.json", "tokenizer_config.json")
_SPECIAL = re.compile(r"<.*>|\[.*\]|__\w+__|madeupword\d+")
Merge = tuple[str, str]


def is_special(word: str) -> bool:
    """Whether a word looks like no text: <s>, [MASK], __en__, or one of fairseq's fillers."""
    return bool(_SPECIAL.fullmatch(word))


def read_words(path: Path) -> list[str]:
    """Lines of a vocab.txt; any line end will do."""
    lines = _lines(path)
    return lines[:-1] if lines and not lines[-1] else lines


def read_numbers(path: Path) -> dict[str, int]:
    """Word -> number of an encoder.json or vocab.json.

    Raises:
        UserError: it can't be read, or is not words with different numbers, few of them left out.
    """
    content = read_json(path, "vocabulary")
    if not isinstance(content, dict) or not all(type(number) is int and number >= 0 for number in content.values()):
        raise UserError(f"{path} must map words to numbers from 0")
    seen: dict[int, str] = {}
    for word, number in content.items():
        if number in seen:
            raise UserError(f"{path}: {seen[number]!r} and {word!r} have the same number {number}")
        seen[number] = word
    check_dense(content, str(path))
    return content


def check_dense(numbers: Mapping[str, int], what: str) -> None:
    """Raise UserError for numbers that would leave most of a table empty, and could fill the memory with it."""
    if numbers and max(numbers.values()) > 10 * len(numbers) + 1000:
        raise UserError(f"{what}: number {max(numbers.values())} is far beyond its {len(numbers)} words")


def read_merges(path: Path) -> list[Merge]:
    """The merges of a vocab.bpe or merges.txt, in order; any line end will do.

    Raises:
        UserError: it can't be read, or a line is not two pieces with a space between.
    """
    merges: list[Merge] = []
    for number, line in enumerate(_lines(path), 1):
        if not line or (number == 1 and line.startswith("#version")):
            continue
        pieces = line.split(" ")
        if len(pieces) != 2 or not all(pieces):
            raise UserError(f"merges file {path}, line {number} is {line[:60]!r}; it must be two pieces and a space")
        merges.append((pieces[0], pieces[1]))
    return merges


def check_merges(numbers: Mapping[str, int], merges: Sequence[Merge], special: Collection[str], what: str) -> None:
    """Raise UserError unless merges and vocabulary belong together and are whole.

    Args:
        numbers: word -> number.
        merges: in order.
        special: words that no merge makes, beside those that look special.
        what: the files, for messages.
    """
    made = {first + second for first, second in merges}
    if len(set(merges)) < len(merges):
        raise UserError(f"{what}: a merge stands twice")
    for first, second in merges:
        for piece in (first, second, first + second):
            if piece not in numbers:
                raise UserError(f"{what} don't belong together: {piece!r} of the merges is not in the vocabulary")
    lost = [w for w in numbers if len(w) > 1 and w not in made and w not in special and not is_special(w)]
    if lost:
        raise UserError(
            f"{what} don't belong together, or the merges are cut: no merge makes {lost[0]!r}"
            + (f" and {len(lost) - 1} other words" if len(lost) > 1 else "")
        )


def special_words(folder: Path) -> set[str]:
    """Words that the files beside a vocabulary call added or special."""
    words: set[str] = set()
    for name in SPECIAL_FILES:
        if (folder / name).is_file():
            _collect(read_json(folder / name, "tokenizer configuration"), words)
    return words


def _collect(content: object, words: set[str]) -> None:
    """Every text, and every key, of a JSON value: who is special is said in many forms."""
    if isinstance(content, str):
        words.add(content)
    elif isinstance(content, Mapping):
        for key, value in content.items():
            words.add(str(key))
            _collect(value, words)
    elif isinstance(content, list):
        for value in content:
            _collect(value, words)


def _lines(path: Path) -> list[str]:
    return read_text(path, "vocabulary", LIMIT).replace("\r\n", "\n").replace("\r", "\n").split("\n")
