"""The demo's data, with nothing to download: real English from installed packages' documentation, in GLUE layout.

`describes`: does this sentence describe a function or class of this name? The name, in words, is the first part of a
pair; the second is the sentence that its documentation opens with or, in one half, that of another one of the same
library. Both halves are drawn in one way, so that neither the name nor the sentence alone tells.
`origin`: which library does this sentence document? NumPy, Python's standard library, SciPy or PyTorch, in equal
parts. Names that would give it away (of the libraries and of their array types) are replaced by neutral words.
`follows`: is the second sentence the next one in the text? Half are; in the other half it is the second sentence of
another pair, from the same file where possible and always from the same library, so that neither topic nor the form
of one sentence tells.

Whole files go either to training or to validation, and a sentence (or a name) found in several files is used for one of
them. For given package versions, sizes and seed the output is always the same.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from fairseq_tickets.data.english import passages
from fairseq_tickets.data.sources import described, docstrings, in_words, library_folder, mask, source_files
from fairseq_tickets.errors import UserError
from fairseq_tickets.files import atomic_write

LIBRARIES = ("numpy", "python", "scipy", "torch")
FOLLOWS_SHARES = {"numpy": 0.125, "python": 0.375, "scipy": 0.25, "torch": 0.25}  # as far as the texts go
DESCRIBES_SHARES = {"numpy": 0.05, "python": 0.35, "scipy": 0.15, "torch": 0.45}
PER_FILE = 100  # sentences or pairs of one file at most, so that no file dominates
Pair = tuple[str, str]  # a sentence and the one after it, "" for none
Found = tuple[str, str, str]  # the same and the file


def write_origin(folder: Path, train: int = 3000, dev: int = 600, seed: int = 1) -> None:
    """Write `folder`/train.tsv and dev.tsv (sentence, label) with `train` and `dev` examples.

    Raises:
        UserError: a library isn't installed, or its documentation is too small.
    """
    shares = dict.fromkeys(LIBRARIES, 1 / len(LIBRARIES))
    rows: dict[str, list[tuple[str, ...]]] = {"train": [], "dev": []}
    owner: dict[str, str] = {}
    for library, sizes in _sizes(train, dev, shares, 1).items():
        for split, found in _collect(library, sizes, seed, _single, owner).items():
            rows[split] += [(sentence, library) for sentence, _, _ in found]
    _write(folder, ("sentence", "label"), rows, seed)


def write_follows(folder: Path, train: int = 3000, dev: int = 600, seed: int = 1) -> None:
    """Write `folder`/train.tsv and dev.tsv (sentence1, sentence2, label) with `train` and `dev` pairs, both even.

    Raises:
        UserError: a library isn't installed, its documentation is too small, or a number is odd.
    """
    rows: dict[str, list[tuple[str, ...]]] = {"train": [], "dev": []}
    owner: dict[str, str] = {}
    for library, sizes in _sizes(train, dev, FOLLOWS_SHARES, 2).items():
        for split, found in _collect(library, sizes, seed, _neighbours, owner).items():
            rows[split] += _half_wrong(found, random.Random(f"{seed}:{library}:{split}"))
    _write(folder, ("sentence1", "sentence2", "label"), rows, seed)


def write_describes(folder: Path, train: int = 2000, dev: int = 800, seed: int = 1) -> None:
    """Write `folder`/train.tsv and dev.tsv (name, sentence, label) with `train` and `dev` pairs.

    Raises:
        UserError: a library isn't installed, its documentation is too small, or a number is no multiple of 4 (of each
            library two descriptions at least change places).
    """
    rows: dict[str, list[tuple[str, ...]]] = {"train": [], "dev": []}
    owner: dict[str, str] = {}
    for library, sizes in _sizes(train, dev, DESCRIBES_SHARES, 4).items():
        for split, found in _collect(library, sizes, seed, _openings, owner).items():
            mixed = sorted(found, key=lambda item: _place(seed, "half", *item))
            right, wrong = mixed[::2], mixed[1::2]
            rows[split] += [(name, sentence, "describes") for name, sentence, _ in right]
            others = [sentence for _, sentence, _ in (*wrong[1:], *wrong[:1])]  # each one's next, the last one's first
            rows[split] += [(name, other, "describes_another") for (name, _, _), other in zip(wrong, others)]
    _write(folder, ("name", "sentence", "label"), rows, seed)


WRITERS: Mapping[str, Callable[[Path, int, int, int], None]] = {
    "describes": write_describes,
    "origin": write_origin,
    "follows": write_follows,
}


def _single(source: str) -> Iterator[Pair]:
    for passage in _passages(source):
        yield from ((mask(sentence), "") for sentence in passage if sentence)


def _neighbours(source: str) -> Iterator[Pair]:
    for passage in _passages(source):
        yield from ((first, second) for first, second in zip(passage, passage[1:]) if first and second)


def _openings(source: str) -> Iterator[Pair]:
    """Names of two words or more, each once, and the sentence their documentation opens with, each once."""
    known: set[str] = set()
    for name, text in described(source):
        words = in_words(name)
        opening = next(passages(text), [""])[:1]
        pair = (" ".join(words), mask(opening[0]) if opening else "")
        if len(words) > 1 and pair[1] and not known & set(pair):
            known |= set(pair)
            yield pair


def _passages(source: str) -> Iterator[Sequence[str]]:
    return (passage for text in docstrings(source) for passage in passages(text))


def _sizes(train: int, dev: int, shares: Mapping[str, float], step: int) -> dict[str, dict[str, int]]:
    """Examples of each library in each split; multiples of `step` that add up to `train` and `dev`."""
    sizes: dict[str, dict[str, int]] = {library: {} for library in shares}
    for split, total in (("train", train), ("dev", dev)):
        if total < 8 * step or total % step:
            raise UserError(f"docstring data: {total} {split} examples; at least {8 * step}, and a multiple of {step}")
        before, share = 0, 0.0
        for library in shares:
            share += shares[library]
            until = step * round(total / step * share)
            sizes[library][split], before = until - before, until
    return sizes


def _collect(
    library: str,
    sizes: Mapping[str, int],
    seed: int,
    extract: Callable[[str], Iterator[Pair]],
    owner: dict[str, str],
) -> dict[str, list[Found]]:
    """Pairs of each split, from the library's files in an order and with a split that hashes decide.

    `owner` holds the file that each sentence was taken from first; another file can't have it again.
    """
    root = library_folder(library)
    names = sorted(source_files(root), key=lambda name: _place(seed, library, name))
    found: dict[str, list[Found]] = {split: [] for split in sizes}
    dev_share = 1.3 * sizes["dev"] / (sizes["train"] + sizes["dev"])  # a little more, as files differ in size
    for name in names:
        split = "dev" if _place(seed, "split", library, name) < dev_share else "train"
        wanted = min(PER_FILE, sizes[split] - len(found[split]))
        if wanted <= 0:
            continue
        file = f"{library}/{name}"
        taken: dict[Pair, None] = {}
        for pair in extract((root / name).read_text(encoding="utf-8", errors="replace")):
            if all(owner.get(sentence.lower(), file) == file for sentence in pair if sentence):
                taken[pair] = None
        chosen = sorted(taken, key=lambda pair: _place(seed, *pair))[:wanted]
        owner.update((sentence.lower(), file) for pair in chosen for sentence in pair if sentence)
        found[split] += [(first, second, name) for first, second in chosen]
    for split, size in sizes.items():
        if len(found[split]) < size:
            have = len(found[split])
            raise UserError(f"docstring data: {library} has {have} of {size} {split} examples; ask for fewer")
    return found


def _half_wrong(found: Sequence[Found], chance: random.Random) -> Iterator[tuple[str, ...]]:
    """Give every other pair another such pair's second sentence; as a whole the seconds stay the same."""
    order = sorted(found, key=lambda item: item[2])  # pairs of one file are neighbours here
    true = {(first, second) for first, second, _ in found}
    wrong = order[::2]
    seconds = [second for _, second, _ in wrong]
    for place, (first, _, name) in enumerate(wrong):
        same_file = [p for p, item in enumerate(wrong) if item[2] == name]
        for other in (
            *chance.sample(same_file, len(same_file)),
            *chance.sample(range(len(wrong)), len(wrong)),
        ):
            fits_here = (first, seconds[other]) not in true and first != seconds[other]
            there = wrong[other][0]
            if other != place and fits_here and (there, seconds[place]) not in true and there != seconds[place]:
                seconds[place], seconds[other] = seconds[other], seconds[place]
                break
    yield from ((first, second, "follows") for first, second, _ in order[1::2])
    for (first, _, _), second in zip(wrong, seconds):
        if (first, second) in true:
            raise UserError("docstring data: too few pairs to mix; ask for more")
        yield first, second, "not_follows"


def _write(folder: Path, header: tuple[str, ...], rows: Mapping[str, Sequence[tuple[str, ...]]], seed: int) -> None:
    for split, examples in rows.items():
        mixed = sorted(examples, key=lambda row: _place(seed, "row", *row))
        with atomic_write(folder / f"{split}.tsv") as temporary:
            lines = ["\t".join(" ".join(cell.split()) for cell in row) for row in (header, *mixed)]
            temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _place(*words: object) -> float:
    """A number from 0 to 1 that looks random and depends on `words` alone."""
    digest = hashlib.sha256("\0".join(map(str, words)).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
