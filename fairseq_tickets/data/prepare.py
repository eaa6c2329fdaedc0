"""Task files -> a folder of fairseq binary data with task.json, written whole or not at all.

    input0/{train,valid,test}.{bin,idx} and dict.txt     first sentences, each ending with </s>
    input1/...                                           second sentences of pairs
    label/{train,valid}.{bin,idx} and dict.txt           classes, or label/{train,valid}.label with scores as text
    task.json                                            classes, metrics, counts, checksums, every rejected line

This is what fairseq's own task `sentence_prediction` reads. Scores stay as the file has them (0 to 5 in STS-B).
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fairseq_tickets.data.binary import Vocabulary, write_binary, write_labels, write_scores
from fairseq_tickets.data.folder import may_replace
from fairseq_tickets.data.imported import check_imported
from fairseq_tickets.data.prepared import TASK_FILE, TASK_FORMAT, VERSION, file_records
from fairseq_tickets.data.readers import Examples, check_mostly_good, read_examples
from fairseq_tickets.data.subset import nested_subset, subset_size
from fairseq_tickets.data.tasks import TaskSpec
from fairseq_tickets.data.tokenization import (
    SENTENCEPIECE_NAME,
    Tokenizer,
    fitting,
    load_tokenizer,
    train_sentencepiece,
)
from fairseq_tickets.dictionary import SPECIALS
from fairseq_tickets.errors import UserError
from fairseq_tickets.files import sha256, write_json
from fairseq_tickets.folders import new_folder

NO_TOKENS = "no tokens"
MOST_UNKNOWN = 0.2  # a larger share of <unk> means that tokenizer and dictionary don't belong together
BATCH = 1000
Numbers = npt.NDArray[np.int64]


def prepare(
    spec: TaskSpec,
    files: Mapping[str, Path],
    output: Path,
    tokenizer: Path | None = None,
    dictionary: Path | None = None,
    sentencepiece_size: int | None = None,
    subset: str | None = None,
    seed: int = 1,
    max_length: int = 512,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Read, tokenize and write one task; returns the content of its task.json.

    Args:
        spec: the task, from `tasks.find_task` or `generic.generic_task`.
        files: split -> file, from `tasks.find_files` or the user.
        output: the folder to make.
        tokenizer: tokenizer file or folder; or None with `sentencepiece_size`.
        dictionary: fairseq dictionary; None takes dict.txt from the tokenizer's folder.
        sentencepiece_size: train a sentencepiece model of this many pieces on the whole training file instead.
        subset: count, fraction or percentage of training examples to keep, see `subset.subset_size`.
        seed: seed of the subset.
        max_length: count the examples with more tokens than this, specials included; nothing is cut here.
        overwrite: replace an existing folder of prepared data.
        progress: called with (examples just done, all examples).

    Raises:
        UserError: bad files, options that don't fit, a tokenizer and a dictionary that don't belong together.
    """
    with new_folder(output, lambda: may_replace(output, overwrite)) as folder:
        if (tokenizer is None) == (sentencepiece_size is None):
            raise UserError("give either --tokenizer or --train-sentencepiece")
        if sentencepiece_size is not None and dictionary is not None:
            raise UserError("--dict: --train-sentencepiece makes its own dictionary")
        splits = {split: _read(spec, split, path) for split, path in files.items()}
        if sentencepiece_size is not None:
            chosen, vocabulary = _train(splits, sentencepiece_size, folder)
        else:
            assert tokenizer is not None
            chosen, vocabulary = _load(tokenizer, dictionary, folder)
        content, full = _describe(spec, splits), {split: len(examples) for split, examples in splits.items()}
        if subset is not None:
            splits["train"], content["subset"] = _subset(splits, subset, seed)
        table = vocabulary.table(chosen.symbols)
        total = sum(map(len, splits.values()))
        content["splits"] = {}

        def report(done: int) -> None:
            if progress is not None:
                progress(done, total)

        for split, examples in splits.items():
            written = _write_split(folder, split, examples, spec, chosen, table, vocabulary, max_length, report)
            content["splits"][split] = _split_entry(split, examples, spec, full[split], written)
        _check_unknown(content["splits"].values(), chosen, vocabulary.path)
        content["max_length"] = max_length
        content["tokenizer"] = chosen.describe()
        content["dictionary_sha256"] = sha256(folder / "input0" / "dict.txt")
        content["files"] = file_records(folder)
        write_json(folder / TASK_FILE, content)
    return content


def _describe(spec: TaskSpec, splits: Mapping[str, Examples]) -> dict[str, Any]:
    return {
        "format": TASK_FORMAT,
        "version": VERSION,
        "name": spec.name,
        "kind": spec.kind,
        "num_classes": len(spec.labels) or 1,
        "labels": list(spec.labels),
        "metric": spec.metrics[0],
        "metrics": list(spec.metrics),
        "pairs": len(spec.sentences) == 2,
        "regression_range": _finite_range(spec.score_range),
        "partial": any(len(examples) < spec.official.get(split, 0) for split, examples in splits.items()),
    }


def _subset(splits: Mapping[str, Examples], subset: str, seed: int) -> tuple[Examples, dict[str, Any]]:
    """The part of the training examples that --subset asks for, and what task.json says of it."""
    if "train" not in splits:
        raise UserError(f"--subset {subset}: there is no training file to take it from")
    train = splits["train"]
    size = subset_size(subset, len(train))
    chosen = train.select(nested_subset(train.lines, size, seed))
    return chosen, {"asked": subset, "seed": seed, "examples": size, "of": len(train)}


def _load(tokenizer: Path, dictionary: Path | None, folder: Path) -> tuple[Tokenizer, Vocabulary]:
    """Tokenizer and dictionary as given, the dictionary copied into the new folder."""
    vocabulary = Vocabulary(dictionary if dictionary is not None else _dictionary_beside(tokenizer))
    chosen = fitting(load_tokenizer(tokenizer), vocabulary.words, vocabulary.path)
    for path in (vocabulary.path, *chosen.files):
        check_imported(path)
    (folder / "input0").mkdir()
    shutil.copyfile(vocabulary.path, folder / "input0" / "dict.txt")
    return chosen, vocabulary


def _read(spec: TaskSpec, split: str, path: Path) -> Examples:
    labels = spec.labels if spec.score_range is None else None
    test = split.startswith("test")
    examples = read_examples(path, spec.sentences, spec.label, labels, spec.score_range, spec.headerless, test)
    if not examples.labelled and not test:
        raise UserError(f"{path}: no column {spec.label}; a {split} file needs it")
    return examples


def _dictionary_beside(tokenizer: Path) -> Path:
    beside = (tokenizer if tokenizer.is_dir() else tokenizer.parent) / "dict.txt"
    if not beside.is_file():
        raise UserError(f"--dict: not given, and there is no {beside}; it is the dictionary of the pre-trained model")
    return beside


def _train(splits: Mapping[str, Examples], size: int, folder: Path) -> tuple[Tokenizer, Vocabulary]:
    """A sentencepiece model of the training sentences and its dictionary, both in the new folder."""
    if "train" not in splits:
        raise UserError("--train-sentencepiece: there is no training file to learn from")
    model, dictionary = folder / SENTENCEPIECE_NAME, folder / "input0" / "dict.txt"
    train_sentencepiece(list(chain.from_iterable(splits["train"].sentences)), size, model)
    tokenizer = load_tokenizer(model)
    words = [symbol for symbol in tokenizer.symbols if symbol not in SPECIALS]
    dictionary.parent.mkdir()
    dictionary.write_text("".join(f"{word} 1\n" for word in words), encoding="utf-8")
    return tokenizer, Vocabulary(dictionary)


def _write_split(
    folder: Path,
    split: str,
    examples: Examples,
    spec: TaskSpec,
    tokenizer: Tokenizer,
    table: Numbers,
    vocabulary: Vocabulary,
    max_length: int,
    report: Callable[[int], None],
) -> dict[str, Any]:
    """Tokenize and write one split; adds examples without any token to `examples.rejected`. Returns its figures."""
    columns: list[list[Numbers]] = [[] for _ in examples.sentences]
    for start in range(0, len(examples), BATCH):
        stop = min(start + BATCH, len(examples))
        for column, sentences in zip(columns, examples.sentences):
            column.extend(_encode(tokenizer, table, vocabulary.end, sentences[start:stop]))
        report(stop - start)
    kept = [position for position in range(len(examples)) if all(len(column[position]) > 1 for column in columns)]
    if len(kept) < len(examples):
        for position in sorted(set(range(len(examples))) - set(kept)):
            examples.reject(NO_TOKENS, examples.lines[position])
        examples = examples.select(kept)
        check_mostly_good(examples)
    columns = [[column[position] for position in kept] for column in columns]
    for index, column in enumerate(columns):
        write_binary(folder / f"input{index}" / split, column, len(vocabulary))
    if examples.scores:
        write_scores(folder / "label", split, examples.scores)
    elif examples.labels:
        write_labels(folder / "label", split, examples.labels, spec.labels)
    specials = 1 if len(columns) == 1 else 2  # <s> first, and a second </s> between the sentences; </s> are in already
    lengths = np.sum([[len(numbers) for numbers in column] for column in columns], axis=0) + specials
    figures: dict[str, Any] = {
        "kept": len(examples),
        "tokens": int(sum(len(numbers) - 1 for column in columns for numbers in column)),
        "unknown_tokens": int(sum((numbers == vocabulary.unknown).sum() for column in columns for numbers in column)),
        "longest": int(lengths.max()),
        "longer_than_max_length": int((lengths > max_length).sum()),
    }
    if examples.labels:
        figures["label_counts"] = {name: examples.labels.count(name) for name in spec.labels}
    return figures


def _encode(tokenizer: Tokenizer, table: Numbers, end: int, sentences: Sequence[str]) -> Iterable[Numbers]:
    encoded = tokenizer.encode_batch(sentences)
    flat = table[np.fromiter(chain.from_iterable(encoded), dtype=np.int64)]
    start = 0
    for numbers in encoded:
        yield np.append(flat[start : start + len(numbers)], end)
        start += len(numbers)


def _split_entry(
    split: str, examples: Examples, spec: TaskSpec, full: int, figures: Mapping[str, Any]
) -> dict[str, Any]:
    return {
        "file": examples.path.name,
        "sha256": sha256(examples.path),
        "lines": examples.total,
        **figures,
        "labelled": examples.labelled,
        "official": spec.official.get(split),
        "partial": full < spec.official.get(split, 0),
        "rejected": {reason: list(lines) for reason, lines in examples.rejected.items()},
    }


def _check_unknown(entries: Iterable[Mapping[str, Any]], tokenizer: Tokenizer, dictionary: Path | None) -> None:
    for entry in entries:
        unknown, tokens = entry["unknown_tokens"], entry["tokens"]
        if unknown > MOST_UNKNOWN * tokens:
            raise UserError(
                f"{unknown} of {tokens} tokens of {entry['file']} ({100 * unknown / tokens:.0f} %) are unknown to"
                f" --dict {dictionary}: dictionary and tokenizer ({tokenizer.files[0]}) don't belong together"
            )


def _finite_range(score_range: tuple[float, float] | None) -> list[float] | None:
    return list(score_range) if score_range is not None and all(map(math.isfinite, score_range)) else None
