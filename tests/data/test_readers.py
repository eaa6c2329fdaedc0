"""Reading task files: one row of a table for each thing that real files do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fairseq_tickets.data.readers import read_examples
from fairseq_tickets.errors import UserError

HEADER = b"index\tsentence1\tsentence2\tlabel\n"
GOOD = b"0\tIt rains.\tIt is wet.\tyes\n"
PAIR = ("sentence1", "sentence2")


def write(folder: Path, content: bytes, name: str = "train.tsv") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


ACCEPTED = [
    ("plain", HEADER + GOOD, [("It rains.", "It is wet.", "yes")]),
    (
        "byte order mark before the header",
        b"\xef\xbb\xbf" + HEADER + GOOD,
        [("It rains.", "It is wet.", "yes")],
    ),
    ("carriage returns", (HEADER + GOOD).replace(b"\n", b"\r\n"), [("It rains.", "It is wet.", "yes")]),
    ("missing last newline", (HEADER + GOOD)[:-1], [("It rains.", "It is wet.", "yes")]),
    (
        "a lone quotation mark is text",
        HEADER + b'0\t" It rains.\tHe said "no\tyes\n',
        [('" It rains.', 'He said "no', "yes")],
    ),
    ("outer spaces go", HEADER + b"0\t It rains. \tIt is wet.\t yes\n", [("It rains.", "It is wet.", "yes")]),
    (
        "Unicode line ends are inside sentences",
        HEADER + "0\ta\u2028b\tc\x85d\tno\n".encode(),
        [("a\u2028b", "c\x85d", "no")],
    ),
    (
        "columns in another order",
        b"label\tsentence2\tsentence1\nno\tsecond\tfirst\n",
        [("first", "second", "no")],
    ),
]


@pytest.mark.parametrize(("content", "expected"), [row[1:] for row in ACCEPTED], ids=[row[0] for row in ACCEPTED])
def test_accepted(tmp_path: Path, content: bytes, expected: list[tuple[str, str, str]]) -> None:
    examples = read_examples(write(tmp_path, content), PAIR, "label", ("yes", "no"))
    assert list(zip(*examples.sentences, examples.labels)) == expected
    assert examples.lines == [2] and examples.total == 1 and examples.rejected == {}


REJECTED = [
    ("not UTF-8", b"1\tcaf\xe9\tb\tyes\n"),
    ("blank line", b"\n"),
    ("bad column count", b"1\ta\tb\n"),
    ("bad column count", b"1\ta\tb\tyes\textra\n"),
    ("empty sentence", b"1\t\tb\tyes\n"),
    ("empty sentence", b"1\ta\t  \tyes\n"),
    ("unknown label", b"1\ta\tb\tmaybe\n"),
    ("unknown label", b"1\ta\tb\t-\n"),  # SNLI and MNLI write this where annotators disagree
    ("unknown label", b"1\ta\tb\t\n"),
]


@pytest.mark.parametrize(("reason", "line"), REJECTED)
def test_rejected_lines_are_named(tmp_path: Path, reason: str, line: bytes) -> None:
    examples = read_examples(write(tmp_path, HEADER + GOOD + line + GOOD), PAIR, "label", ("yes", "no"))
    assert examples.rejected == {reason: [3]}
    assert examples.lines == [2, 4] and examples.total == 3 and len(examples.labels) == 2


@pytest.mark.parametrize(
    ("text", "score"),
    [("5.000", 5.0), ("0", 0.0), (" 2.5 ", 2.5), ("1e0", 1.0)]
    + [(bad, None) for bad in ("", "high", "nan", "inf", "5.1", "-0.1", "1_0", "0x1")],
)
def test_scores(tmp_path: Path, text: str, score: float | None) -> None:
    content = HEADER + b"0\ta\tb\t3.5\n" + f"1\ta\tb\t{text}\n".encode()
    examples = read_examples(write(tmp_path, content), PAIR, "label", None, (0.0, 5.0))
    assert examples.scores == ([3.5] if score is None else [3.5, score])
    assert examples.rejected == ({"bad score": [3]} if score is None else {})


def test_no_label_column_means_unlabelled(tmp_path: Path) -> None:
    examples = read_examples(write(tmp_path, b"index\tsentence1\tsentence2\n0\ta\tb\n"), PAIR, "label", ("yes", "no"))
    assert len(examples) == 1 and not examples.labelled


def test_files_without_header(tmp_path: Path) -> None:
    layouts = {3: ("sentence1", "sentence2", "label"), 2: PAIR}
    examples = read_examples(
        write(tmp_path, b"\xef\xbb\xbfa\tb\tyes\nc\td\n"), PAIR, "label", ("yes", "no"), None, layouts
    )
    assert examples.sentences == [["a"], ["b"]] and examples.lines == [1]
    assert examples.rejected == {"bad column count": [2]}
    unlabelled = read_examples(write(tmp_path, b"a\tb\n"), PAIR, "label", ("yes", "no"), None, layouts)
    assert len(unlabelled) == 1 and not unlabelled.labelled


def test_json_lines(tmp_path: Path) -> None:
    rows = [
        {"text": "a", "gold": 1},
        {"text": "b", "gold": "0"},
        ["a", 1],
        {"gold": 1},
        {"text": None, "gold": 1},
    ]
    content = b"\n".join(json.dumps(row).encode() for row in rows) + b"\n{cut\n" + b'{"text": "c", "gold": 1}\n' * 4
    examples = read_examples(write(tmp_path, content, "train.jsonl"), ("text",), "gold", ("0", "1"))
    assert examples.labels == ["1", "0", "1", "1", "1", "1"]
    assert examples.rejected == {"not a JSON object": [3, 6], "missing column": [4], "empty sentence": [5]}


FATAL = [
    ("empty file", b"", "is empty"),
    ("only a header", HEADER, "holds no examples"),
    ("another header", b"a\tb\n1\t2\n", "lacks sentence1, sentence2"),
    ("commas", b"sentence1,sentence2,label\na,b,yes\n", "separated by tabs"),
    ("mostly bad", HEADER + GOOD + b"1\ta\tb\tmaybe\n" * 2, "2 of 3 lines .* unknown label .line 3"),
    ("UTF-16", HEADER.decode().encode("utf-16"), "UTF-16"),
]


@pytest.mark.parametrize(("content", "message"), [row[1:] for row in FATAL], ids=[row[0] for row in FATAL])
def test_wrong_files_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_examples(write(tmp_path, content), PAIR, "label", ("yes", "no"))


def test_half_bad_is_still_read(tmp_path: Path) -> None:
    examples = read_examples(write(tmp_path, HEADER + GOOD + b"1\ta\tb\tmaybe\n"), PAIR, "label", ("yes", "no"))
    assert len(examples) == 1


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot read .*absent.tsv: No such file"):
        read_examples(tmp_path / "absent.tsv", PAIR, "label")
