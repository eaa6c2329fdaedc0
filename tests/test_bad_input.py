"""What a new user gets wrong: one clear line, an exit code that is not 0, and nothing half-written.

Most cases run fairseq-train's main in this process and ask what its excepthook would print; a few, marked slow, are
whole commands.
"""

from __future__ import annotations

import errno
import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fairseq_tickets.cli import main
from fairseq_tickets.compat import user_error_line
from fairseq_tickets.parameters import ModelShape
from fairseq_tickets.tickets import SuperTicket

from .plugin import toy
from .plugin.training import arguments, train, validate

ROOT = Path(__file__).resolve().parents[1]
SHAPE = ModelShape(toy.LAYERS, toy.HEADS, toy.EMBED, toy.FFN)
Words = list[str]


class Toy:
    """A folder with good inputs, `made` once, and `at`, a folder for bad ones."""

    def __init__(self, made: Path, at: Path) -> None:
        self.data, self.model, self.at = made / "data", made / "model.pt", at

    def write(self, name: str, content: bytes) -> str:
        """A file with bad content; returns its path."""
        (self.at / name).write_bytes(content)
        return str(self.at / name)

    def copy_of_data(self, name: str = "data") -> Path:
        """The good data, to spoil."""
        return Path(shutil.copytree(self.data, self.at / name))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    toy.write_data(folder / "data")
    toy.write_checkpoint(folder / "model.pt", toy.ticket_roberta())
    return folder


@pytest.fixture
def good(made: Path, tmp_path: Path) -> Toy:
    return Toy(made, tmp_path)


class Malicious:
    """Its pickle makes a folder when it is loaded in the usual way."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.folder),)


def not_binarised(good: Toy) -> Words:
    (good.at / "raw").mkdir()
    (good.at / "raw" / "train.tsv").write_text("sentence\tlabel\nw1 w2\t0\n")
    return [str(good.at / "raw")]


def no_data(good: Toy) -> Words:
    return [str(good.at / "nowhere")]


def no_valid_split(good: Toy) -> Words:
    data = good.copy_of_data()
    (data / "input0" / "valid.idx").unlink()
    return [str(data)]


def empty_index(good: Toy) -> Words:
    data = good.copy_of_data()
    (data / "input0" / "train.idx").write_bytes(b"")
    return [str(data)]


def cut_binary(good: Toy) -> Words:
    data = good.copy_of_data()
    binary = data / "input0" / "train.bin"
    binary.write_bytes(binary.read_bytes()[:20])
    return [str(data)]


def missing_labels(good: Toy) -> Words:
    data = good.copy_of_data()
    (data / "label" / "train.idx").unlink()
    return [str(data)]


def other_dictionary(good: Toy) -> Words:
    data = good.copy_of_data()
    with open(data / "input0" / "dict.txt", "a") as file:
        file.write("one 1\nmore 1\n")
    return [str(data)]


def damaged_dictionary(good: Toy) -> Words:
    data = good.copy_of_data()
    (data / "input0" / "dict.txt").write_text("w0\nw1 many\n")
    return [str(data)]


def few_classes(good: Toy) -> Words:
    return [str(good.data), "--num-classes", "2"]


def damaged_task_json(good: Toy) -> Words:
    data = good.copy_of_data()
    (data / "task.json").write_text((data / "task.json").read_text()[:40])
    return [str(data)]


def regression_of_classes(good: Toy) -> Words:
    return [str(good.data), "--regression-target"]


def unknown_metric(good: Toy) -> Words:
    return [str(good.data), "--metric", "bleu"]


def metric_never_logged(good: Toy) -> Words:
    return [str(good.data), "--best-checkpoint-metric", "pearson"]


def ticket_of_another_size(good: Toy) -> Words:
    SuperTicket.full(ModelShape(2, 4, 12, 20)).save(good.at / "ticket.json")
    return [str(good.data), "--ticket", str(good.at / "ticket.json")]


def ticket_cut(good: Toy) -> Words:
    SuperTicket.full(SHAPE).save(good.at / "whole.json")
    text = (good.at / "whole.json").read_bytes()
    return [str(good.data), "--ticket", good.write("ticket.json", text[: len(text) // 2])]


def no_ticket(good: Toy) -> Words:
    return [str(good.data), "--ticket", str(good.at / "nowhere.json")]


def ticket_is_something_else(good: Toy) -> Words:
    return [str(good.data), "--ticket", good.write("ticket.json", b'{"some": "json"}')]


def other_architecture(good: Toy) -> Words:
    torch.save({"model": {"decoder.weight": torch.ones(2)}, "args": None}, good.at / "other.pt")
    return [str(good.data), "--finetune-from-model", str(good.at / "other.pt"), *shape_options()]


def other_shape(good: Toy) -> Words:
    return [str(good.data), "--encoder-ffn-embed-dim", "24"]


def no_shape(good: Toy) -> Words:
    torch.save({"model": torch.load(good.model, weights_only=True)["model"], "args": None}, good.at / "bare.pt")
    return [str(good.data), "--finetune-from-model", str(good.at / "bare.pt")]


def no_checkpoint(good: Toy) -> Words:
    return [str(good.data), "--finetune-from-model", str(good.at / "nowhere.pt")]


def truncated_checkpoint(good: Toy) -> Words:
    whole = good.model.read_bytes()
    return [str(good.data), "--finetune-from-model", good.write("cut.pt", whole[: len(whole) // 2])]


def empty_checkpoint(good: Toy) -> Words:
    return [str(good.data), "--finetune-from-model", good.write("empty.pt", b"")]


def text_for_a_checkpoint(good: Toy) -> Words:
    return [str(good.data), "--finetune-from-model", good.write("text.pt", b"hello\n")]


def malicious_checkpoint(good: Toy) -> Words:
    content = {"model": {}, "extra_state": Malicious(good.at / "made-by-pickle")}
    torch.save(content, good.at / "bad.pt")
    return [str(good.data), "--finetune-from-model", str(good.at / "bad.pt")]


def malicious_old_checkpoint(good: Toy) -> Words:
    bad = good.write("bad.pt", pickle.dumps({"model": Malicious(good.at / "made-by-pickle")}, protocol=2))
    return [str(good.data), "--finetune-from-model", bad]


def save_dir_is_a_file(good: Toy) -> Words:
    return [str(good.data), "--save-dir", good.write("out", b"")]


def save_dir_in_proc(good: Toy) -> Words:
    return [str(good.data), "--save-dir", "/proc/out"]


def shape_options() -> Words:
    return [
        *("--encoder-layers", "3", "--encoder-embed-dim", "12", "--encoder-ffn-embed-dim", "20"),
        *("--encoder-attention-heads", "4", "--max-positions", "16"),
    ]


CASES: list[tuple[Callable[[Toy], Words], list[str]]] = [
    (not_binarised, ["raw is not a binarised data folder", "fairseq-tickets prepare"]),
    (no_data, ["nowhere is not a binarised data folder"]),
    (no_valid_split, ["no split 'valid'", "valid.idx is missing"]),
    (empty_index, ["train.idx"]),
    (cut_binary, ["train.bin"]),
    (missing_labels, ["label/train.idx"]),
    (other_dictionary, ["the dictionary does not match the checkpoint", "37 entries", "35 rows"]),
    (damaged_dictionary, ["dict.txt"]),
    (few_classes, ["--num-classes 2 is too small", "names 3 labels"]),
    (damaged_task_json, ["task.json is not valid JSON"]),
    (regression_of_classes, ["--regression-target is set", "classification"]),
    (unknown_metric, ["--metric bleu is unknown", "accuracy, f1, mcc"]),
    (metric_never_logged, ["--best-checkpoint-metric pearson", "accuracy"]),
    (ticket_of_another_size, ["belongs to another model size", "layers 2", "layers 3"]),
    (ticket_cut, ["ticket.json is not valid JSON (damaged or cut?)"]),
    (no_ticket, ["cannot read ticket file", "nowhere.json", "No such file"]),
    (ticket_is_something_else, ["is not a ticket file"]),
    (other_architecture, ["other.pt", "another architecture"]),
    (other_shape, ["--encoder-ffn-embed-dim 24 contradicts", "which has 20"]),
    (no_shape, ["--encoder-attention-heads is not set"]),
    (no_checkpoint, ["nowhere.pt does not exist"]),
    (truncated_checkpoint, ["cut.pt is damaged or was cut short"]),
    (empty_checkpoint, ["empty.pt is empty"]),
    (text_for_a_checkpoint, ["text.pt is not a PyTorch checkpoint"]),
    (malicious_checkpoint, ["bad.pt is refused", "mkdir"]),
    (malicious_old_checkpoint, ["bad.pt is refused", "mkdir"]),
    (save_dir_is_a_file, ["--save-dir", "out"]),
    (save_dir_in_proc, ["--save-dir /proc/out"]),
]


def failure(data: Path, save_dir: Path, model: Path, *words: str) -> str:
    """The line that fairseq-train would end with; fails where it would be a traceback."""
    try:
        train(data, save_dir, model, *words)
    except Exception as error:  # whatever fairseq makes of it
        line = user_error_line(error)
        if line is None:
            raise
        return line
    raise AssertionError("the run should have failed")


@pytest.mark.parametrize(("spoil", "said"), CASES, ids=lambda value: getattr(value, "__name__", ""))
def test_fairseq_train_ends_with_one_line(good: Toy, spoil: Callable[[Toy], Words], said: list[str]) -> None:
    data, *words = spoil(good)
    before = {path: path.stat().st_mtime_ns for path in good.at.rglob("*")}
    line = failure(Path(data), good.at / "saved", good.model, *words)
    assert "\n" not in line and len(line) < 600
    for part in said:
        assert part in line
    assert not (good.at / "made-by-pickle").exists()
    after = {path: path.stat().st_mtime_ns for path in good.at.rglob("*")}
    assert {path for path in after if path not in before} <= {good.at / "saved"}  # fairseq makes the folder at once
    assert all(path.is_dir() or after[path] == before[path] for path in before)


def test_disk_full_while_saving(good: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    """The checkpoint before it stays whole, and no temporary file stays behind."""
    save_dir = good.at / "saved"
    train(good.data, save_dir, good.model, "--max-epoch", "1")
    whole = {path.name: path.read_bytes() for path in save_dir.iterdir()}
    assert "checkpoint_last.pt" in whole
    from fairseq_tickets import checkpoint

    write = checkpoint._Output.write

    def full(self: Any, data: Any) -> int:
        if self.handle.tell() > 5000:
            error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self.fault = error
            raise error
        return write(self, data)

    monkeypatch.setattr(checkpoint._Output, "write", full)
    line = failure(good.data, save_dir, good.model, "--max-epoch", "2")
    assert "No space left on device" in line and "checkpoint_" in line
    assert {path.name: path.read_bytes() for path in save_dir.iterdir()} == whole


@pytest.mark.parametrize("option", ["--heads", "--ffn"])
@pytest.mark.parametrize("level", ["1", "1.5", "-0.1", "much", "nan"])
def test_sparsity_out_of_range(
    good: Toy, scores: Path, option: str, level: str, capsys: pytest.CaptureFixture[str]
) -> None:
    levels = {"--heads": "0.3", "--ffn": "0.3", option: level}
    words = [f"{name}={value}" for name, value in levels.items()]
    assert main(["prune", "--scores", str(scores), *words, "--output", str(good.at / "t.json")]) != 0
    one_line(capsys, option.strip("-"), level)
    assert list(good.at.iterdir()) == []


def test_sparsity_zero(good: Toy, scores: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["prune", "--scores", str(scores), "--heads", "0", "--ffn", "0", "--output", str(good.at / "t.json")]
    assert main(words) != 0
    one_line(capsys, "prune nothing")
    assert list(good.at.iterdir()) == []


@pytest.fixture(scope="module")
def scores(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    at = tmp_path_factory.mktemp("scores")
    run = train(made / "data", at / "tuned", made / "model.pt", "--max-epoch", "1")
    words = ["--checkpoint", str(run.path()), "--data", str(made / "data"), "--output", str(at / "s.npz"), "--cpu"]
    assert main(["importance", *words]) == 0
    return at / "s.npz"


@pytest.mark.parametrize(
    ("checkpoint", "said"),
    [
        (b"", "is empty"),
        (b"hello", "not a PyTorch checkpoint"),
        (None, "does not exist"),
    ],
    ids=["empty", "text", "missing"],
)
def test_importance_of_no_checkpoint(
    good: Toy, checkpoint: bytes | None, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = good.at / "model.pt"
    if checkpoint is not None:
        path.write_bytes(checkpoint)
    words = ["--checkpoint", str(path), "--data", str(good.data), "--output", str(good.at / "s.npz"), "--cpu"]
    assert main(["importance", *words]) != 0
    one_line(capsys, "model.pt", said)
    assert not list(good.at.glob("*.npz*"))


def one_line(capsys: pytest.CaptureFixture[str], *said: str) -> None:
    printed = capsys.readouterr()
    lines = [line for line in printed.err.splitlines() if line.startswith("fairseq-tickets: error: ")]
    assert len(lines) == 1 and "Traceback" not in printed.err
    for part in said:
        assert part in lines[0]


def test_validating_a_damaged_checkpoint(good: Toy) -> None:
    cut = good.write("cut.pt", good.model.read_bytes()[:3000])
    with pytest.raises(Exception) as caught:
        validate(Path(cut), good.data)
    assert "cut.pt is damaged or was cut short" in str(user_error_line(caught.value))


# Whole commands

COMMANDS = {
    "no such user dir": (["--user-dir", "nowhere/at/all"], "--user-dir nowhere/at/all: there is no such folder"),
    "user dir is a file": (["--user-dir", __file__], "--user-dir"),
    "user dir registers nothing": (["--user-dir", "{empty}"], "--user-dir"),
    "truncated checkpoint": (["--finetune-from-model", "{cut}"], "is damaged or was cut short"),
    "malicious checkpoint": (["--finetune-from-model", "{bad}"], "is refused"),
    "few classes": (["--num-classes", "2"], "--num-classes 2 is too small"),
    "disk full": (["--save-dir", "{full}"], "No space left on device"),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", COMMANDS)
def test_the_real_command_ends_with_one_line(good: Toy, case: str, small_disk: Path | None) -> None:
    words, said = COMMANDS[case]
    if case == "disk full" and small_disk is None:
        pytest.skip("mounting a small file system is not permitted here")
    (good.at / "empty").mkdir()
    torch.save({"model": Malicious(good.at / "made-by-pickle")}, good.at / "bad.pt")
    names = {
        "empty": good.at / "empty",
        "cut": good.write("cut.pt", good.model.read_bytes()[:3000]),
        "bad": good.at / "bad.pt",
        "full": small_disk,
    }
    user_dir = [] if "user dir" in case else ["--user-dir", str(ROOT / "fairseq_tickets")]
    line = arguments(good.data, good.at / "out", good.model, *user_dir, *(word.format(**names) for word in words))
    done = subprocess.run(
        [str(Path(sys.executable).parent / "fairseq-train"), *line],
        cwd=good.at,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode not in (0, None)
    ours = [text for text in done.stderr.splitlines() if text.startswith("fairseq-tickets: error: ")]
    assert len(ours) == 1 and said in ours[0], done.stderr[-2000:]
    assert "Traceback" not in done.stderr
    assert not (good.at / "made-by-pickle").exists()
    assert not list(good.at.glob("out/*")) and (small_disk is None or not list(small_disk.rglob(".*")))


@pytest.fixture
def small_disk(tmp_path: Path) -> Any:
    """A file system of 64 KB, where the user may mount one."""
    at = tmp_path / "small-disk"
    at.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(at)], capture_output=True)
    yield at if done.returncode == 0 else None
    if done.returncode == 0:
        subprocess.run(["umount", str(at)], check=True)


def test_task_json_of_another_program(good: Toy) -> None:
    data = good.copy_of_data()
    (data / "task.json").write_text(json.dumps({"name": "something else"}))
    assert "is not a fairseq-tickets/task file" in failure(data, good.at / "saved", good.model)
