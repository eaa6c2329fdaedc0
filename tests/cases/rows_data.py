"""Files of sentences, tokenizers' files, and binarised folders."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..data.samples import write_gpt2, write_wordpiece
from ..plugin.toy import WORDS
from .case import Case

Make = Callable[[Path, Path], None]
OWN = ("fairseq-tickets", "prepare", "--tokenizer", "tok", "--output", "out")
TSV = (*OWN, "--train", "t.tsv", "--valid", "t.tsv", "--columns", "text")
JSONL = (*OWN, "--train", "t.jsonl", "--valid", "t.jsonl", "--columns", "text")
GLUE = ("fairseq-tickets", "prepare", "--tokenizer", "tok", "--glue", ".", "--output", "out", "--task")
TRAIN = ("fairseq-train", "data", "{toy}/model.pt", "--max-epoch", "1")
GOOD = "text\tlabel\nthe cat\tx\na dog\ty\nthe dog\tx\n"


def texts(files: dict[str, str | bytes]) -> Make:
    """Files, and a WordPiece tokenizer with its dictionary."""

    def make(toy: Path, at: Path) -> None:
        write_wordpiece(at / "tok")
        for name, content in files.items():
            (at / name).parent.mkdir(parents=True, exist_ok=True)
            (at / name).write_bytes(content.encode() if isinstance(content, str) else content)

    return make


def byte_pairs(names: tuple[str, str], merges: str | None = None, dictionary: str = "6 9\n3 5\n4 2\n") -> Make:
    """A byte-level BPE and a dictionary of numbers, as fairseq's RoBERTa has."""

    def make(toy: Path, at: Path) -> None:
        write_gpt2(at / "tok", names)
        if merges is not None:
            (at / "tok" / names[1]).write_bytes(merges.encode())
        (at / "tok" / "dict.txt").write_text(dictionary)
        (at / "t.tsv").write_text("text\tlabel\nthe a\tx\na the\ty\n", encoding="utf-8")

    return make


def damaged(name: str, change: Callable[[bytes], bytes]) -> Make:
    """The toy data with one file changed; they have no record of their files."""

    def make(toy: Path, at: Path) -> None:
        shutil.copytree(toy / "data", at / "data")
        path = at / "data" / name
        path.write_bytes(change(path.read_bytes()))

    return make


def prepared(change: Callable[[Path], None]) -> Make:
    """Data made by `prepare`, then changed."""

    def make(toy: Path, at: Path) -> None:
        from fairseq_tickets.cli import main

        words = [f"w{number}" for number in range(WORDS)]  # the toy model's
        rows = "".join(f"{' '.join(words[n : n + 3])}\tc{n % 3}\n" for n in range(9))
        texts({"t.tsv": "text\tlabel\n" + rows})(toy, at)
        (at / "tok" / "vocab.txt").write_text("\n".join(["[UNK]", *words]))
        (at / "tok" / "dict.txt").write_text("".join(f"{word} 1\n" for word in words))
        files = ["--train", f"{at}/t.tsv", "--valid", f"{at}/t.tsv", "--columns", "text"]
        assert main(["prepare", *files, "--tokenizer", f"{at}/tok", "--output", f"{at}/data"]) == 0
        change(at / "data")

    return make


def flip(name: str) -> Callable[[Path], None]:
    """Change one bit in the middle of a file."""

    def change(data: Path) -> None:
        content = bytearray((data / name).read_bytes())
        content[len(content) // 2] ^= 1
        (data / name).write_bytes(content)

    return change


def field(**fields: Any) -> Make:
    """The toy data with other fields in task.json."""
    return damaged("task.json", lambda old: json.dumps({**json.loads(old), **fields}).encode())


def split(name: str, **facts: Any) -> Callable[[Path], None]:
    """What out/task.json says of a split."""

    def check(at: Path) -> None:
        found = json.loads((at / "out" / "task.json").read_text())["splits"][name]
        assert {key: found[key] for key in facts} == facts

    return check


def same_numbers(at: Path) -> None:
    """ "the a" and "a the" in the numbers of the dictionary 6, 3, 4; Ġ is 4, "the" 6."""
    numbers = (at / "out" / "input0" / "train.bin").read_bytes()
    assert list(numbers[::2]) == [4, 6, 5, 2, 5, 6, 4, 2]


QQP = "question1\tquestion2\tis_duplicate\n" + "the cat\ta cat\t1\na dog\tthe dog\t0\n" * 3
ROWS = '{"text": "the cat", "label": "x"}\n{"text": "a dog", "label": "y"}\n' * 3
SNLI = "sentence1\tsentence2\tlabel1\tgold_label\n" + "the cat\ta cat\tneutral\tentailment\n" * 3
BPE = ("encoder.json", "vocab.bpe")
OUT, SAVED = ("out",), ("saved",)

CASES = (
    # lines of files that people have
    Case(
        "QQP: broken lines and quotes",
        texts({f"QQP/{s}.tsv": QQP + 'the cat\n"sat\t0\na "dog\tthe cat\t0\nthe\t\t1\n' for s in ("train", "dev")}),
        (*GLUE, "QQP"),
        code=0,
        check=split("train", kept=7, rejected={"bad column count": [8, 9], "empty sentence": [11]}),
        leaves=OUT,
    ),
    Case(
        "lists and objects where texts should be",
        texts({"t.jsonl": ROWS + '{"text": "a", "label": ["x"]}\n{"text": ["a"], "label": "x"}\n{"text": {}}\n'}),
        JSONL,
        code=0,
        check=split("train", kept=6, rejected={"a list or an object where a text should be": [7, 8, 9]}),
        leaves=OUT,
    ),
    Case(
        "deep nesting, keys twice and NaN in JSON lines",
        texts({"t.jsonl": ROWS + "[" * 99999 + '\n{"text": "a", "text": "the", "label": "x"}\n{"text": NaN}\n'}),
        JSONL,
        code=0,
        check=split("train", kept=6, rejected={"not a JSON object": [7, 8, 9]}),
        leaves=OUT,
    ),
    Case(
        "only deep nesting",
        texts({"t.jsonl": '{"a":' * 99999}),
        JSONL,
        r"1 of 1 lines are no examples, most often: not a JSON object",
    ),
    Case(
        "scores as texts without --regression",
        texts({"t.tsv": "text\tlabel\n" + "the cat\t0.5\na dog\t4.0\n" * 3}),
        TSV,
        r"warning: the 2 classes are numbers \(0.5, 4.0, ...\): if the label is a score, give --regression",
        code=0,
        leaves=OUT,
    ),
    Case(
        "a score after an odd separator",
        texts({"t.tsv": "text\tlabel\nthe cat\t\x1c3.5\na dog\t1e999\nthe\t2\na\t1_0\ncat\t4\n"}),
        (*TSV, "--regression", "0,5"),
        code=0,
        check=split("train", kept=3, rejected={"bad score": [3, 5]}),
        leaves=OUT,
    ),
    Case(
        "test labels that are all -1",
        texts(
            {
                **{f"SST-2/{s}.jsonl": '{"sentence": "a cat", "label": 1}\n' for s in ("train", "dev")},
                "SST-2/test.jsonl": '{"sentence": "a dog", "label": -1}\n' * 8,
            }
        ),
        (*GLUE, "SST-2"),
        code=0,
        check=split("test", kept=8, labelled=False),
        leaves=OUT,
    ),
    Case(
        "test labels of which some are -1",
        texts(
            {
                **{f"SST-2/{s}.jsonl": '{"sentence": "a cat", "label": 1}\n' for s in ("train", "dev")},
                "SST-2/test.jsonl": '{"sentence": "a dog", "label": 0}\n' * 3 + '{"sentence": "a", "label": -1}\n',
            }
        ),
        (*GLUE, "SST-2"),
        code=0,
        check=split("test", kept=3, labelled=True, rejected={"unknown label": [4]}),
        leaves=OUT,
    ),
    Case(
        "training labels that are all -1",
        texts({f"SST-2/{s}.jsonl": '{"sentence": "a cat", "label": -1}\n' for s in ("train", "dev")}),
        (*GLUE, "SST-2"),
        r"1 of 1 lines are no examples, most often: unknown label",
    ),
    Case(
        "more annotators than the header has, gold label last",
        texts(
            {
                f"SNLI/{s}.tsv": SNLI
                + "a dog\tthe dog"
                + "\tneutral" * 5
                + "\tcontradiction\na\tdog\tcat\tneutral\tneutral\n"
                for s in ("train", "dev")
            }
        ),
        (*GLUE, "SNLI"),
        code=0,
        check=split(
            "train",
            kept=4,
            label_counts={"contradiction": 1, "entailment": 3, "neutral": 0},
            rejected={"bad column count": [6]},
        ),
        leaves=OUT,
    ),
    Case(
        "fewer annotators than the header has, gold label first",
        texts(
            {
                f"SNLI/{s}.tsv": "gold_label\tsentence1\tsentence2\tlabel1\tlabel2\nneutral\ta\tthe\tneutral\n"
                "entailment\ta\tdog\tentailment\tneutral\nneutral\ta\tdog\tcat\n"
                for s in ("train", "dev")
            }
        ),
        (*GLUE, "SNLI"),
        code=0,
        check=split("train", kept=2, rejected={"bad column count": [4]}),
        leaves=OUT,
    ),
    Case("a column twice", texts({"t.tsv": "text\tlabel\tlabel\nthe\tx\ty\n"}), TSV, r"header .* has 2 columns label"),
    Case(
        "Windows line ends everywhere",
        texts({"t.tsv": GOOD.replace("\n", "\r\n"), "tok/dict.txt": "a 1\r\ncat 1\r\ndog 1\r\nthe 1\r\n"}),
        TSV,
        code=0,
        check=split("train", kept=3, unknown_tokens=0, rejected={}),
        leaves=OUT,
    ),
    # tokenizers' files
    Case("merges cut at a line end", byte_pairs(BPE, "#version: 0.2\nt h\n"), TSV, r"no merge makes 'the'"),
    Case("merges cut inside a line", byte_pairs(BPE, "#version: 0.2\nt h\nth"), TSV, r"line 3 is 'th'"),
    Case("merges with CR", byte_pairs(BPE, "#version: 0.2\rt h\rth e\r"), TSV, code=0, check=same_numbers, leaves=OUT),
    Case("merges of another model", byte_pairs(BPE, "t h\nth e\nh e\n"), TSV, r"don't belong together: 'he'"),
    Case(
        "other names of the BPE", byte_pairs(("vocab.json", "merges.txt")), TSV, code=0, check=same_numbers, leaves=OUT
    ),
    Case(
        "a dictionary of another BPE",
        byte_pairs(BPE, dictionary="6 1\n50256 1\n"),
        TSV,
        r"such as '50256', are unknown",
    ),
    Case(
        "a cut vocab.txt",
        texts({"t.tsv": GOOD, "tok/vocab.txt": "[UNK]\nthe\ncat\nsat\ndog\n"}),
        TSV,
        r"4 of its 8 words",
    ),
    Case("dict.txt is not UTF-8", texts({"t.tsv": GOOD, "tok/dict.txt": b"caf\xe9 1\n"}), TSV, r"is not UTF-8 text"),
    Case("dict.txt without counts", texts({"t.tsv": GOOD, "tok/dict.txt": "the\ncat\n"}), TSV, r"line 1 is 'the'"),
    # binarised folders without records, as fairseq-preprocess makes them
    Case(
        "a word number above the dictionary",
        damaged("input0/train.bin", lambda b: b"\x0f\x27" + b[2:]),
        TRAIN,
        r"number 9999",
        leaves=SAVED,
    ),
    Case(
        "a label below the specials",
        damaged("label/train.bin", lambda b: b"\0\0" + b[2:]),
        TRAIN,
        r"label of example 0",
        leaves=SAVED,
    ),
    Case(
        "exchanged pointers",
        damaged("input0/train.idx", lambda b: b[:-16] + b[-8:] + b[-16:-8]),
        TRAIN,
        r"does not begin",
        leaves=SAVED,
    ),
    Case(
        "the dictionary is not UTF-8",
        damaged("input0/dict.txt", lambda b: b"\xff 1\n" + b),
        TRAIN,
        r"is not UTF-8",
        leaves=SAVED,
    ),
    Case(
        "the label dictionary is not UTF-8",
        damaged("label/dict.txt", lambda b: b"\xff 1\n"),
        TRAIN,
        r"is not UTF-8",
        leaves=SAVED,
    ),
    Case("num_classes is text", field(num_classes="3"), TRAIN, r"num_classes is '3'", leaves=SAVED),
    Case("a metric that is a number", field(metrics=[1.5]), TRAIN, r"metrics is '\[1.5\]'", leaves=SAVED),
    Case("NaN classes", field(num_classes=float("nan")), TRAIN, r"task.json holds NaN", leaves=SAVED),
    Case(
        "task.json is a list",
        damaged("task.json", lambda b: b"[1]"),
        TRAIN,
        r"is not a fairseq-tickets/task file",
        leaves=SAVED,
    ),
    # folders that `prepare` made and recorded
    Case(
        "a flipped bit in the words",
        prepared(flip("input0/train.bin")),
        TRAIN,
        r"train.bin is damaged or exchanged",
        leaves=SAVED,
    ),
    Case(
        "a flipped bit in the labels",
        prepared(flip("label/valid.bin")),
        TRAIN,
        r"valid.bin is damaged or exchanged",
        leaves=SAVED,
    ),
    Case(
        "a flipped bit in dict.txt",
        prepared(flip("input0/dict.txt")),
        TRAIN,
        r"dict.txt is damaged or exchanged",
        leaves=SAVED,
    ),
    Case(
        "splits exchanged",
        prepared(lambda data: shutil.copy(data / "input0" / "dict.txt", data / "label" / "dict.txt") and None),
        TRAIN,
        r"label/dict.txt has \d+ bytes, but",
        leaves=SAVED,
    ),
    Case(
        "a file gone",
        prepared(lambda data: os.unlink(data / "label" / "train.bin")),
        TRAIN,
        r"No such file",
        leaves=SAVED,
    ),
)
