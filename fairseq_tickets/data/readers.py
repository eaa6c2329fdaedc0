"""TSV and JSON-lines files -> examples; every line that is not an example is named with its reason.

GLUE's files are tab-separated without any quoting: a quotation mark is text. Only \\n ends a line (Unicode knows other
line ends, and they occur inside sentences); \\r before it, a byte order mark and a missing last \\n are accepted.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Union

from fairseq_tickets.documents import parse_json
from fairseq_tickets.errors import UserError

NOT_UTF8 = "not UTF-8"
BLANK = "blank line"
BAD_COLUMNS = "bad column count"
NOT_JSON = "not a JSON object"
NOT_TEXT = "a list or an object where a text should be"
MISSING_COLUMN = "missing column"
EMPTY = "empty sentence"
UNKNOWN_LABEL = "unknown label"
BAD_SCORE = "bad score"
MOSTLY_BAD = 0.5  # a larger share of rejected lines is taken for a wrong file or wrong options
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_ANNOTATION = re.compile(r"label\d+")  # MNLI's and SNLI's columns of single annotators
NO_LABEL = ("", "-", "-1", "-1.0")  # what files without labels have in that column
Row = Union[str, Mapping[str, str]]  # a reason for rejection, or the cells by column name


@dataclass
class Examples:
    """The examples of one file, as parallel lists.

    Attributes:
        path: the file.
        lines: line number of each example in the file, from 1.
        sentences: one list of texts for each sentence column.
        labels: class name of each example; empty when the file has no labels or holds scores.
        scores: score of each example; empty when the file has no labels or holds classes.
        total: number of lines that should be examples (all but the header).
        rejected: reason -> line numbers.
    """

    path: Path
    lines: list[int] = field(default_factory=list)
    sentences: list[list[str]] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    total: int = 0
    rejected: dict[str, list[int]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.lines)

    @property
    def labelled(self) -> bool:
        """True when every example has a label or a score."""
        return bool(self.labels or self.scores)

    def reject(self, reason: str, line: int) -> None:
        """Note that `line` is not an example."""
        self.rejected.setdefault(reason, []).append(line)

    def select(self, positions: Sequence[int]) -> Examples:
        """The examples at `positions` (indices into `lines`), in that order; counts stay those of the file."""
        return Examples(
            self.path,
            [self.lines[p] for p in positions],
            [[column[p] for p in positions] for column in self.sentences],
            [self.labels[p] for p in positions] if self.labels else [],
            [self.scores[p] for p in positions] if self.scores else [],
            self.total,
            self.rejected,
        )


def read_examples(
    path: Path,
    sentences: Sequence[str],
    label: str | None,
    labels: Sequence[str] | None = None,
    score_range: tuple[float, float] | None = None,
    headerless: Mapping[int, Sequence[str]] | None = None,
    may_lack_labels: bool = False,
) -> Examples:
    """Read a .jsonl file, or any other file as TSV.

    Args:
        path: the file.
        sentences: names of the sentence columns, one or two.
        label: name of the label or score column; a file without that column is read as unlabelled. None: unlabelled.
        labels: the known classes; None takes whatever is there.
        score_range: lowest and highest score; given, labels are scores.
        headerless: column names by number of columns, for files whose first line is no header.
        may_lack_labels: read a file whose labels are all -1 or empty as unlabelled; that is how the test files of
            GLUE come out of the package `datasets`.

    Raises:
        UserError: the file can't be read, lacks a sentence column, holds no example, or more than half its lines
            are rejected.
    """
    lines = _lines(path)
    wanted = {*sentences, *([label] if label else [])}
    if path.suffix == ".jsonl":
        rows = _json_rows(lines, wanted)
    else:
        classes = None if labels is None else {*labels, *NO_LABEL}
        rows = _tsv_rows(path, lines, sentences, label, headerless or {}, classes)
    examples = Examples(path, sentences=[[] for _ in sentences])
    held = list(rows)
    cells = [row for _, row in held if not isinstance(row, str)]
    labelled = label is not None and any(label in row for row in cells)
    if labelled and may_lack_labels:
        labelled = any(row.get(label or "", "").strip() not in NO_LABEL for row in cells)
    known = None if labels is None else set(labels)
    for number, row in held:
        examples.total += 1
        if isinstance(row, str):
            examples.reject(row, number)
            continue
        texts = [row.get(column) for column in sentences]
        if any(text is None for text in texts) or (labelled and label not in row):
            examples.reject(MISSING_COLUMN, number)
        elif not all(text and text.strip() for text in texts):
            examples.reject(EMPTY, number)
        elif not labelled or label is None:
            _keep(examples, number, texts)
        elif score_range is not None:
            score = _score(row[label], score_range)
            if score is None:
                examples.reject(BAD_SCORE, number)
            else:
                _keep(examples, number, texts)
                examples.scores.append(score)
        else:
            name = row[label].strip()
            if not name or (known is not None and name not in known):
                examples.reject(UNKNOWN_LABEL, number)
            else:
                _keep(examples, number, texts)
                examples.labels.append(name)
    check_mostly_good(examples)
    return examples


def check_mostly_good(examples: Examples) -> None:
    """Raise UserError when a file holds no example or more than half its lines are rejected."""
    bad = sum(map(len, examples.rejected.values()))
    if len(examples) and bad <= MOSTLY_BAD * examples.total:
        return
    if not examples.total:
        raise UserError(f"{examples.path} holds no examples")
    reason, numbers = max(examples.rejected.items(), key=lambda item: len(item[1]))
    raise UserError(
        f"{examples.path}: {bad} of {examples.total} lines are no examples, most often: {reason}"
        f" (line {numbers[0]} is the first of {len(numbers)}); is it the right file, task and column?"
    )


def looks_like_scores(labels: Sequence[str]) -> bool:
    """Whether all labels are numbers, and one of them is no whole number."""
    return all(map(_NUMBER.fullmatch, labels)) and any(not float(label).is_integer() for label in labels)


def _keep(examples: Examples, number: int, texts: Sequence[str | None]) -> None:
    examples.lines.append(number)
    for column, text in zip(examples.sentences, texts):
        column.append((text or "").strip())


def _lines(path: Path) -> list[bytes]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UserError(f"{path} is UTF-16 text; save it as UTF-8")
    lines = data.split(b"\n")
    if lines[-1] == b"":
        lines.pop()
    if lines and lines[0].startswith(b"\xef\xbb\xbf"):
        lines[0] = lines[0][3:]
    return [line[:-1] if line.endswith(b"\r") else line for line in lines]


def _tsv_rows(
    path: Path,
    lines: Sequence[bytes],
    sentences: Sequence[str],
    label: str | None,
    headerless: Mapping[int, Sequence[str]],
    classes: set[str] | None,
) -> Iterator[tuple[int, Row]]:
    if not lines:
        raise UserError(f"{path} is empty")
    names = lines[0].decode("utf-8", errors="replace").split("\t")
    start = 1
    if not set(sentences) <= set(names):
        if len(names) not in headerless:
            missing = ", ".join(name for name in sentences if name not in names)
            hint = "; is it comma-separated? Columns are separated by tabs here" if len(names) == 1 else ""
            expected = f" or {' or '.join(map(str, headerless))} columns without a header" if headerless else ""
            raise UserError(
                f"{path}: the header (line 1) lacks {missing}{expected}; it has {', '.join(names)[:200]}{hint}"
            )
        names = list(headerless[len(names)])
        start = 0
    wanted = [*sentences, *([label] if label in names else [])]
    twice = next((name for name in wanted if names.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"{path}: the header (line 1) has {names.count(twice)} columns {twice}")
    places = [(name, names.index(name)) for name in wanted if name is not None]
    annotations = [place for place, name in enumerate(names) if _ANNOTATION.fullmatch(name) and name != label]
    for number, line in enumerate(lines[start:], start + 1):
        try:
            cells = line.decode("utf-8").split("\t")
        except UnicodeDecodeError:
            yield number, NOT_UTF8
            continue
        if cells == [""] and len(names) > 1:
            yield number, BLANK
            continue
        moved = len(cells) - len(names)
        if moved and not _only_annotations_vary(cells, names, annotations, classes):
            yield number, BAD_COLUMNS
        else:
            last = max(annotations, default=0)
            yield number, {name: cells[place + moved if moved and place > last else place] for name, place in places}


def _only_annotations_vary(
    cells: Sequence[str], names: Sequence[str], annotations: Sequence[int], classes: set[str] | None
) -> bool:
    """Whether a line of another length than the header has just more or fewer annotators, as in SNLI's files.

    They must stand side by side in the header, and what stands there in the line must be labels: a tab inside a
    sentence looks otherwise.
    """
    if not annotations or classes is None or annotations != list(range(annotations[0], annotations[-1] + 1)):
        return False
    stop = len(cells) - (len(names) - 1 - annotations[-1])
    return stop >= annotations[0] and all(cell.strip() in classes for cell in cells[annotations[0] : stop])


def _json_rows(lines: Sequence[bytes], wanted: set[str]) -> Iterator[tuple[int, Row]]:
    for number, line in enumerate(lines, 1):
        try:
            content = parse_json(line.decode("utf-8"), "line")
        except UnicodeDecodeError:
            yield number, NOT_UTF8
            continue
        except UserError:
            yield number, NOT_JSON if line.strip() else BLANK
            continue
        if not isinstance(content, dict):
            yield number, NOT_JSON
        elif any(isinstance(content.get(name), (list, dict)) for name in wanted):
            yield number, NOT_TEXT
        else:
            yield number, {name: _text(content[name]) for name in wanted if name in content}


def _text(value: object) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value)


def _score(text: str, score_range: tuple[float, float]) -> float | None:
    if not _NUMBER.fullmatch(text.strip()):
        return None
    score = float(text.strip())  # strip knows separators that float does not
    return score if math.isfinite(score) and score_range[0] <= score <= score_range[1] else None
