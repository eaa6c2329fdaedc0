"""Sentences out of documentation by hand-made examples, and the two tasks on a made-up library and on the real ones."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from fairseq_tickets.data import docstrings, sources
from fairseq_tickets.data.english import is_english, passages, sentences
from fairseq_tickets.errors import UserError

DOCSTRING = """
    Return the sorted copy of an array. The order of equal elements is kept, e.g. for records.

    This is *slower* than sorting in place, since ``a`` is copied
    first. See :func:`numpy.sort` for the other one of these functions.

    Parameters
    ----------
    a : array_like
        The array that is to be sorted by this function.

    Notes
    -----
    The algorithm is the one of the standard library. It needs memory of the size of the array.

    >>> sort([2, 1])
    The example output is not a sentence of this text.
"""


def test_passages_hold_prose_only_and_in_order() -> None:
    found = [passage for passage in passages(DOCSTRING) if any(passage)]
    assert found == [
        [
            "Return the sorted copy of an array.",
            "The order of equal elements is kept, e.g. for records.",
            "This is slower than sorting in place, since a is copied first.",
            "See sort for the other one of these functions.",
        ],
        [
            "The algorithm is the one of the standard library.",
            "It needs memory of the size of the array.",
        ],
    ]


def test_a_sentence_left_out_is_a_gap() -> None:
    text = "The first sentence is a good one. Call f(x) for it. The last sentence is a good one."
    assert list(sentences(text)) == [
        "The first sentence is a good one.",
        "",
        "The last sentence is a good one.",
    ]


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ("This is the smallest value that the type can hold.", True),
        ("too short to be a sentence of it.", False),  # no capital
        ("Returns the array.", False),  # fewer than six words
        ("This is a sentence of the text without an end", False),
        ("The value x_0 is the first one of the list.", False),  # markup or code
        ("The result is f(x) for each of the elements.", False),
        ("Bessel Jv Yv Kv Iv Hv Struve Kelvin Airy.", False),  # no common English words
        ("The word is a r\u00e9sum\u00e9 of all that is known.", False),  # not ASCII
        ("The bracket (is not closed in the sentence of this.", False),
        (" ".join(["The"] + ["word is"] * 20 + ["long."]), False),  # 42 words
    ],
)
def test_plain_english(sentence: str, expected: bool) -> None:
    assert is_english(sentence) is expected


@pytest.mark.parametrize(
    ("sentence", "masked"),
    [
        ("NumPy arrays and SciPy's functions.", "Library arrays and library's functions."),
        (
            "A torch.Tensor is like numpy.ndarray in Python 3.",
            "A library.array is like library.array in library 3.",
        ),
        ("Tensors of PyTorch.", "Arrays of library."),
        ("The tensorial product.", "The tensorial product."),
    ],
)
def test_names_are_masked(sentence: str, masked: str) -> None:
    assert sources.mask(sentence) == masked


def test_docstrings_of_a_source() -> None:
    source = '"""Module."""\nclass A:\n    """Class."""\n    def f(self):\n        """Method."""\n'
    source += 'add_newdoc("a", """x\nText.""")\n'
    source += 'print("""no\ndocumentation""")\n'
    assert sorted(filter(None, sources.docstrings(source))) == ["Class.", "Method.", "Module.", "x\nText."]
    assert list(sources.docstrings("not python (")) == []


def test_described_names_of_a_source() -> None:
    source = 'class AThing:\n    """Class."""\n    def get_it(self):\n        """Method."""\n    def bare(self): ...\n'
    source += 'def _private():\n    """Hidden."""\n'
    assert sorted(sources.described(source)) == [("AThing", "Class."), ("get_it", "Method.")]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("get_file_name", "get file name"),
        ("HTTPErrorHandler2", "http error handler 2"),
        ("__init__", "init"),
        ("spmatrix", "spmatrix"),
        ("Conv2d", "conv 2 d"),
    ],
)
def test_names_in_words(name: str, words: str) -> None:
    assert " ".join(sources.in_words(name)) == words


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Four made-up libraries of 40 files; a sentence says its library, file and number, one is in all files."""
    names = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    for name in docstrings.LIBRARIES:
        for file in range(40):
            where = f"{name} {name[::-1]} {names[file // 10]} {names[file % 10]}"
            text = " ".join(f"This is the {number} sentence of the file {where}." for number in names[:5])
            path = tmp_path / "lib" / name / f"m{file}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f'"""{text}\n\nThe same sentence is in all of the files."""\n', encoding="utf-8")
    monkeypatch.setattr(docstrings, "library_folder", lambda name: tmp_path / "lib" / name)
    return tmp_path


def rows(path: Path) -> list[list[str]]:
    return [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]


def test_origin(library: Path) -> None:
    docstrings.write_origin(library / "origin", train=200, dev=40, seed=1)
    header, *train = rows(library / "origin" / "train.tsv")
    _, *dev = rows(library / "origin" / "dev.tsv")
    assert header == ["sentence", "label"]
    assert Counter(label for _, label in train) == dict.fromkeys(docstrings.LIBRARIES, 50)
    assert Counter(label for _, label in dev) == dict.fromkeys(docstrings.LIBRARIES, 10)
    assert not any(name in sentence.lower() for sentence, _ in train + dev for name in docstrings.LIBRARIES)


def test_splits_share_no_file_and_no_sentence(library: Path) -> None:
    docstrings.write_follows(library / "follows", train=160, dev=48, seed=1)
    train = {sentence for row in rows(library / "follows" / "train.tsv")[1:] for sentence in row[:2]}
    dev = {sentence for row in rows(library / "follows" / "dev.tsv")[1:] for sentence in row[:2]}
    assert not train & dev
    assert not {sentence.split("file")[1] for sentence in train if "file " in sentence} & {
        sentence.split("file")[1] for sentence in dev if "file " in sentence
    }


def test_follows_is_true_to_its_labels(library: Path) -> None:
    docstrings.write_follows(library / "follows", train=160, dev=48, seed=1)
    header, *train = rows(library / "follows" / "train.tsv")
    assert header == ["sentence1", "sentence2", "label"]
    assert Counter(label for _, _, label in train) == {"follows": 80, "not_follows": 80}
    order = ["zero", "one", "two", "three", "four"]
    for first, second, label in train:
        if "same sentence" in second:
            continue
        same_file = first.split("file")[1] == second.split("file")[1]
        next_one = order.index(second.split()[3]) == order.index(first.split()[3]) + 1
        assert (same_file and next_one) == (label == "follows")
        assert first != second


@pytest.fixture
def functions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Four made-up libraries of 40 files of 5 functions, each described by a sentence that says its name."""
    digits = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    for library in docstrings.LIBRARIES:
        for file in range(40):
            text = ""
            for digit in digits[:5]:
                words = f"{library[::-1]} {digits[file // 10]} {digits[file % 10]} {digit}"
                text += f'def {words.replace(" ", "_")}():\n    """This is the thing called {words} in all of it.\n\n'
                text += '    The second paragraph is of no use to anyone."""\n'
            text += 'def shared_by_all():\n    """This is the function that all of the files have."""\n'
            text += 'def single():\n    """This one has a name of only one word."""\n'
            path = tmp_path / "lib" / library / f"m{file}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    monkeypatch.setattr(docstrings, "library_folder", lambda name: tmp_path / "lib" / name)
    return tmp_path


def test_describes_is_true_to_its_labels(functions: Path) -> None:
    docstrings.write_describes(functions / "describes", train=160, dev=48, seed=1)
    header, *train = rows(functions / "describes" / "train.tsv")
    _, *dev = rows(functions / "describes" / "dev.tsv")
    assert header == ["name", "sentence", "label"]
    for split, half in ((train, 80), (dev, 24)):
        assert Counter(label for _, _, label in split) == {"describes": half, "describes_another": half}
        own = [row for row in split if "shared" not in row[0]]
        assert all((f" {name} " in sentence) == (label == "describes") for name, sentence, label in own)
        assert len({name for name, _, _ in split}) == len({sentence for _, sentence, _ in split}) == len(split)
        # the wrong descriptions are those of the wrong half's own names, from the same library
        wrong = [row for row in own if row[2] == "describes_another"]
        assert all(name.split()[0] in sentence or "all of the files" in sentence for name, sentence, _ in wrong)
    assert not {name for name, _, _ in train} & {name for name, _, _ in dev}
    assert not any("single" in row[0] or "paragraph" in row[1] for row in train + dev)


def test_seconds_alone_tell_nothing(library: Path) -> None:
    """The wrong seconds are the seconds of the mixed pairs, so sentences of either label come from one place."""
    docstrings.write_follows(library / "follows", train=160, dev=48, seed=1)
    firsts = Counter(row[0] for row in rows(library / "follows" / "train.tsv")[1:])
    seconds = Counter(row[1] for row in rows(library / "follows" / "train.tsv")[1:])
    assert max(firsts.values()) == 1 and max(seconds.values()) == 1


def test_same_seed_same_files_another_seed_others(library: Path) -> None:
    for folder, seed in (("a", 1), ("b", 1), ("c", 2)):
        docstrings.write_follows(library / folder, 160, 48, seed)
    contents = [(library / folder / "train.tsv").read_bytes() for folder in "abc"]
    assert contents[0] == contents[1] != contents[2]


@pytest.mark.parametrize(
    ("train", "dev", "message"),
    [(4000, 40, "numpy has .* of 1000 train"), (4, 40, "at least 8"), (200, 0, "at least 8")],
)
def test_impossible_sizes(library: Path, train: int, dev: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        docstrings.write_origin(library / "origin", train, dev)


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sources.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="the package numpy is not installed"):
        docstrings.write_origin(tmp_path)


def test_real_documentation(tmp_path: Path) -> None:
    pytest.importorskip("scipy")
    docstrings.write_origin(tmp_path / "origin", train=160, dev=40)
    train, dev = rows(tmp_path / "origin" / "train.tsv")[1:], rows(tmp_path / "origin" / "dev.tsv")[1:]
    assert (len(train), len(dev)) == (160, 40) and not {row[0] for row in train} & {row[0] for row in dev}
    assert all(is_english(sentence) for sentence, _ in train + dev)
