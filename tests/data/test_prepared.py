"""Damage under a finished task.json never becomes a number."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fairseq_tickets.data.indexed import HEAD, check_sentences, read_sequences
from fairseq_tickets.data.prepare import prepare
from fairseq_tickets.data.prepared import check_files, read_task
from fairseq_tickets.data.tasks import TaskSpec
from fairseq_tickets.errors import UserError
from tests.data.samples import write_pairs, write_wordpiece
from tests.plugin import toy

SPEC = TaskSpec("toy", ("sentence1", "sentence2"), ("no", "yes"))


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("good")
    write_pairs(folder)
    files = {"train": folder / "train.tsv", "valid": folder / "dev.tsv", "test": folder / "test.tsv"}
    prepare(SPEC, files, folder / "data", tokenizer=write_wordpiece(folder / "tok"))
    return folder / "data"


@pytest.fixture
def data(good: Path, tmp_path: Path) -> Path:
    return shutil.copytree(good, tmp_path / "data")


def test_every_file_is_recorded_and_every_changed_byte_shows(data: Path) -> None:
    names = {path.relative_to(data).as_posix() for path in data.rglob("*") if path.is_file()} - {"task.json"}
    task = read_task(data)
    assert task is not None and set(task["files"]) == names and len(names) == 18
    check_files(data, names)
    for name in names:
        content = (data / name).read_bytes()
        for place in {*range(0, len(content), 41), len(content) - 1}:
            (data / name).write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
            with pytest.raises(UserError, match="is damaged or exchanged"):
                check_files(data, [name])
        (data / name).write_bytes(content[:-1])
        with pytest.raises(UserError, match="bytes, but .*task.json says"):
            check_files(data, [name])
        (data / name).unlink()
        with pytest.raises(UserError, match="No such file"):
            check_files(data, [name])
        (data / name).write_bytes(content)
    check_files(data, names)
    (data / "input0" / "valid1.bin").write_bytes(b"")
    with pytest.raises(UserError, match="not among the files"):
        check_files(data, ["input0/valid1.bin", "input0/valid1.idx"])


def changed(**fields: Any) -> Callable[[dict[str, Any]], None]:
    return lambda task: task.update(fields)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (changed(format="x"), "is not a fairseq-tickets/task file"),
        (changed(version=3), "version is 3; this package reads 1 to 2"),
        (changed(version=True), "version is True"),
        (changed(kind="both"), "kind is 'both'"),
        (changed(kind=["classification"]), "kind is"),
        (changed(kind="regression"), "num_classes is '2'"),
        (changed(name=7), "name is '7'"),
        (changed(num_classes=2.0), "num_classes is '2.0'"),
        (changed(num_classes="2"), "num_classes is '2'"),
        (changed(num_classes=3), "num_classes is '3'"),
        (changed(num_classes=None), "num_classes is 'None'"),
        (changed(labels=["no", "no"]), "labels is"),
        (changed(labels="no"), "labels is"),
        (changed(labels=["no", 1]), "labels is"),
        (changed(metrics=[1.5]), r"metrics is '\[1.5\]'"),
        (changed(metrics=[]), "metrics is"),
        (changed(metrics="accuracy"), "metrics is"),
        (changed(metrics=["accuracy", "accuracy"]), "metrics is"),
        (changed(metrics=["pearson"]), "metrics is"),
        (changed(metric="mcc"), "metrics is"),
        (changed(regression_range=[0, 1]), "regression_range is"),
        (changed(splits=[1]), "splits is"),
        (changed(files=None), "files is"),
        (changed(files={"../x": {"bytes": 1, "sha256": "0" * 64}}), "files is"),
        (changed(files={"input0/train.bin": {"bytes": True, "sha256": "0" * 64}}), "files is"),
        (changed(files={"input0/train.bin": {"bytes": 1, "sha256": "0"}}), "files is"),
    ],
)
def test_every_field_has_a_kind(data: Path, change: Callable[[dict[str, Any]], None], message: str) -> None:
    task = json.loads((data / "task.json").read_text())
    change(task)
    (data / "task.json").write_text(json.dumps(task))
    with pytest.raises(UserError, match=message) as caught:
        read_task(data)
    assert len(str(caught.value).splitlines()) == 1


def test_values_that_are_no_json_and_folders_without_records(data: Path) -> None:
    text = (data / "task.json").read_text()
    (data / "task.json").write_text(text.replace('"num_classes": 2', '"num_classes": NaN'))
    with pytest.raises(UserError, match="NaN"):
        read_task(data)
    task = json.loads(text)
    del task["files"]
    (data / "task.json").write_text(json.dumps({**task, "version": 1}))
    (data / "input0" / "train.bin").write_bytes(b"")
    check_files(data, ["input0/train.bin"])  # a folder of an earlier version: nothing to compare with
    (data / "task.json").unlink()
    assert read_task(data) is None


# In folders without records the structure alone tells: three items of 6, 5 and 4 numbers of 2 bytes.
def pointer(place: int, value: int) -> Callable[[bytearray, bytearray], None]:
    def change(index: bytearray, binary: bytearray) -> None:
        at = len(index) - 8 * 3 + 8 * place
        index[at : at + 8] = value.to_bytes(8, "little", signed=True)

    return change


def lengths(*values: int) -> Callable[[bytearray, bytearray], None]:
    def change(index: bytearray, binary: bytearray) -> None:
        sizes = np.array(values, "<i4")
        index[HEAD : HEAD + 12] = sizes.tobytes()
        index[HEAD + 12 :] = (2 * (np.cumsum(sizes, dtype="<i8") - sizes)).tobytes()

    return change


def number(place: int, value: int) -> Callable[[bytearray, bytearray], None]:
    def change(index: bytearray, binary: bytearray) -> None:
        binary[2 * place : 2 * place + 2] = value.to_bytes(2, "little")

    return change


def byte(place: int, value: int) -> Callable[[bytearray, bytearray], None]:
    def change(index: bytearray, binary: bytearray) -> None:
        index[place] = value

    return change


def shorter(index: bytearray, binary: bytearray) -> None:
    del binary[-2:]


def cut(index: bytearray, binary: bytearray) -> None:
    del index[-1:]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (pointer(1, 22), "item 2 does not begin where"),
        (pointer(0, -2), "item 1 does not begin where"),
        (lengths(5, 6, 4), "example 1 does not end with </s>"),
        (lengths(11, 0, 4), "item 2 has length 0"),
        (lengths(-1, 12, 4), "item 1 has length -1"),
        (lengths(6, 5, 5), "train.bin is damaged or cut short, or train.idx is of another folder"),
        (number(7, 9999), "number 9999 in example 2, but the dictionary has 35 words"),
        (number(10, 7), "example 2 does not end with </s>"),
        (shorter, "is damaged or cut short"),
        (cut, "train.idx is damaged or cut short"),
        (byte(0, 0), "it is no index of memory-mapped data"),
        (byte(9, 2), "it is no index of memory-mapped data"),
        (byte(17, 4), "item 2 does not begin where"),
        (byte(17, 7), "train.idx is damaged or cut short"),
        (byte(18, 2), "train.idx is damaged or cut short"),
    ],
)
def test_structure_without_records(
    tmp_path: Path, change: Callable[[bytearray, bytearray], None], message: str
) -> None:
    toy.write_data(tmp_path / "data", train=3, seed=6)
    prefix = tmp_path / "data" / "input0" / "train"
    index, binary = bytearray(Path(f"{prefix}.idx").read_bytes()), bytearray(Path(f"{prefix}.bin").read_bytes())
    lengths(6, 5, 4)(index, binary)
    binary[:] = np.array([4, 5, 6, 7, 8, 2, 9, 8, 7, 6, 2, 5, 5, 5, 2], "<u2").tobytes()
    for kind, content in (("idx", index), ("bin", binary)):
        Path(f"{prefix}.{kind}").write_bytes(content)
    good = read_sequences(prefix)
    check_sentences(good, 35, 2)
    assert good.sizes.tolist() == [6, 5, 4] and good.numbers[6] == 9
    change(index, binary)
    for kind, content in (("idx", index), ("bin", binary)):
        Path(f"{prefix}.{kind}").write_bytes(content)
    with pytest.raises(UserError, match=message):
        check_sentences(read_sequences(prefix), 35, 2)
