"""Checkpoints: what loads, what is refused and in which words, and that a file is whole or absent."""

from __future__ import annotations

import argparse
import errno
import fcntl
import os
import pickle
import signal
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fairseq_tickets import checkpoint, files
from fairseq_tickets.errors import UserError

LAYER = "encoder.sentence_encoder.layers.0."
BOTH_LISTS = pytest.mark.parametrize("named_allow_list", [checkpoint.NAMED_ALLOW_LIST, False], ids=["torch", "ours"])
BOTH_FORMATS = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])


class Planted:
    """Writes a file if it is ever unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.mark}",)


def state(**more: Any) -> dict[str, Any]:
    return {"model": OrderedDict([("a.weight", torch.arange(6.0).reshape(2, 3))]), **more}


def write(path: Path, content: Any, zipped: bool = True, protocol: int = 2) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=zipped, pickle_protocol=protocol)
    return path


@BOTH_FORMATS
@BOTH_LISTS
def test_old_checkpoint_with_arguments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zipped: bool, named_allow_list: bool
) -> None:
    monkeypatch.setattr(checkpoint, "NAMED_ALLOW_LIST", named_allow_list)
    args = argparse.Namespace(arch="roberta_base", lr=[0.1], dropout=0.1, user_dir=None)
    scalars = {"best": np.float64(0.75), "updates": np.int64(3), "small": np.float32(0.5), "yes": np.bool_(True)}
    found = checkpoint.load(write(tmp_path / "c.pt", state(args=args, cfg=None, extra_state=scalars), zipped))
    assert found["args"] == args and found["cfg"] is None
    assert found["extra_state"] == scalars
    torch.testing.assert_close(found["model"]["a.weight"], torch.tensor([[0.0, 1, 2], [3, 4, 5]]))


@BOTH_FORMATS
@BOTH_LISTS
def test_checkpoint_with_pickled_omegaconf(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zipped: bool, named_allow_list: bool
) -> None:
    """The tree is as omegaconf itself flattens it, though none of its code ran."""
    from fairseq.dataclass.configs import CheckpointConfig
    from omegaconf import OmegaConf

    monkeypatch.setattr(checkpoint, "NAMED_ALLOW_LIST", named_allow_list)
    config = OmegaConf.create(
        {
            "checkpoint": OmegaConf.structured(CheckpointConfig),
            "task": {"_name": "sentence_prediction", "list": [1, 2.5, {"deep": None}, [True]], "needed": "???"},
            "copied": "${task._name}",
        }
    )
    found = checkpoint.load(write(tmp_path / "c.pt", state(args=None, cfg=config), zipped))
    assert type(found["cfg"]) is dict
    assert found["cfg"] == OmegaConf.to_container(config, resolve=False)
    assert found["cfg"]["checkpoint"]["save_dir"] == "checkpoints"


def test_config_with_a_namespace_inside(tmp_path: Path) -> None:
    """fairseq 0.12.2 writes the model's options so, for architectures without a config class."""
    found = checkpoint.load(write(tmp_path / "c.pt", state(cfg={"model": argparse.Namespace(encoder_layers=3)})))
    assert found["cfg"]["model"].encoder_layers == 3


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("protocol", [2, 4])
@BOTH_FORMATS
@BOTH_LISTS
def test_planted_call_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zipped: bool, named_allow_list: bool, protocol: int
) -> None:
    monkeypatch.setattr(checkpoint, "NAMED_ALLOW_LIST", named_allow_list)
    path = write(tmp_path / "c.pt", state(extra_state=Planted(tmp_path / "ran")), zipped, protocol)
    with pytest.raises(UserError, match=r"c\.pt is refused: it would run (posix|nt)\.system,"):
        checkpoint.load(path)
    assert not (tmp_path / "ran").exists()
    pickle.loads(pickle.dumps(Planted(tmp_path / "ran")))  # the trap works: without the guard it goes off
    assert (tmp_path / "ran").exists()


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@BOTH_LISTS
@pytest.mark.parametrize(
    "name",
    ["builtins eval", "builtins getattr", "subprocess Popen", "omegaconf.evil os.system", "torch.hub load"],
)
def test_other_globals_do_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, named_allow_list: bool
) -> None:
    """A bare pickle that calls `name` with one string, at protocol 0: refused, or stood in for."""
    monkeypatch.setattr(checkpoint, "NAMED_ALLOW_LIST", named_allow_list)
    module, attribute = name.split()
    path = tmp_path / "c.pt"
    path.write_bytes(b"\x80\x02c" + f"{module}\n{attribute}\n".encode() + b"X\x01\x00\x00\x001\x85R.")
    with pytest.raises(UserError) as refused:
        checkpoint.load(path)
    assert "\n" not in str(refused.value)
    if not name.startswith("omegaconf."):
        assert f"it would run {module}.{attribute}," in str(refused.value)


def whole(tmp_path: Path) -> bytes:
    return write(tmp_path / "whole.pt", state(args=argparse.Namespace(a=1))).read_bytes()


def legacy(tmp_path: Path) -> bytes:
    return write(tmp_path / "legacy.pt", state(args=argparse.Namespace(a=1)), zipped=False).read_bytes()


DAMAGED = [
    ("empty", lambda folder: b"", r"is empty \(0 bytes\)"),
    ("text", lambda folder: b"not a checkpoint at all\n", "is not a PyTorch checkpoint"),
    ("a few bytes", lambda folder: b"PK\x03\x04", "is damaged or was cut short"),
    ("half", lambda folder: whole(folder)[: len(whole(folder)) // 2], "is damaged or was cut short"),
    ("last byte gone", lambda folder: whole(folder)[:-1], "is damaged or was cut short"),
    ("legacy half", lambda folder: legacy(folder)[: len(legacy(folder)) // 2], "is damaged or was cut short"),
    ("legacy tail", lambda folder: legacy(folder)[:-5], "is damaged or was cut short"),
    ("a pickle", lambda folder: pickle.dumps({"model": {}}), "is damaged or was cut short|is not a PyTorch"),
]


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@BOTH_LISTS
@pytest.mark.parametrize(("content", "message"), [row[1:] for row in DAMAGED], ids=[row[0] for row in DAMAGED])
def test_damaged_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: Any, message: str, named_allow_list: bool
) -> None:
    monkeypatch.setattr(checkpoint, "NAMED_ALLOW_LIST", named_allow_list)
    path = tmp_path / "bad.pt"
    path.write_bytes(content(tmp_path))
    with pytest.raises(UserError, match=message) as caught:
        checkpoint.load(path)
    assert "bad.pt" in str(caught.value) and "\n" not in str(caught.value)


def test_files_that_are_something_else(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        checkpoint.load(tmp_path / "none.pt")
    with pytest.raises(UserError, match="is a folder"):
        checkpoint.load(tmp_path)
    np.savez(tmp_path / "scores.npz", heads=np.ones(3))
    with pytest.raises(UserError, match=r"scores\.npz is not a PyTorch checkpoint"):
        checkpoint.load(tmp_path / "scores.npz")
    with pytest.raises(UserError, match="it holds a Tensor, not a dictionary"):
        checkpoint.load(write(tmp_path / "t.pt", torch.ones(2)))
    with pytest.raises(UserError, match="it has no model"):
        checkpoint.encoder_tensors(write(tmp_path / "m.pt", {"weights": torch.ones(2)}))
    (tmp_path / "x.safetensors").write_bytes(b"12345678 not safe")
    with pytest.raises(UserError, match="is not a whole safetensors file"):
        checkpoint.load(tmp_path / "x.safetensors")


# Tensors


def test_encoder_tensors_and_fingerprint(tmp_path: Path) -> None:
    torch.manual_seed(1)
    encoder = {f"{LAYER}fc1.weight": torch.randn(5, 3), f"{LAYER}fc1.bias": torch.randn(5).bfloat16()}
    stock = {
        **encoder,
        f"{LAYER}fc1_weight": torch.randn(5, 3),
        "encoder.sentence_encoder.version": torch.tensor([3.0]),
        "classification_heads.h.dense.weight": torch.randn(3, 3),
        "encoder.lm_head.bias": torch.randn(7),
    }
    path = write(tmp_path / "c.pt", {"model": stock})
    tensors = checkpoint.encoder_tensors(path)
    assert set(tensors) == set(stock) - {f"{LAYER}fc1_weight"}
    mark = checkpoint.fingerprint(tensors)
    assert mark == checkpoint.fingerprint(dict(reversed(encoder.items())))  # heads, order and markers don't count
    for name in encoder:  # every one of these does
        for changed in (encoder[name] + 1, encoder[name].double(), encoder[name].flatten()[None]):
            assert checkpoint.fingerprint({**encoder, name: changed}) != mark
    assert checkpoint.fingerprint({f"{LAYER}fc1.weight": encoder[f"{LAYER}fc1.weight"]}) != mark


def test_fingerprint_by_hand() -> None:
    import hashlib

    tensor = torch.tensor([[1.0, 2.0]])
    expected = hashlib.sha256(b"w (1, 2) torch.float32\n" + np.array([1, 2], "<f4").tobytes()).hexdigest()
    assert checkpoint.fingerprint({"w": tensor}) == expected
    assert checkpoint.fingerprint({"w": torch.tensor([[1.0, 9.0, 2.0]])[:, ::2]}) == expected  # whatever the strides


def test_safetensors(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({f"{LAYER}fc2.bias": torch.arange(3.0)}, tmp_path / "m.safetensors")
    torch.testing.assert_close(
        checkpoint.encoder_tensors(tmp_path / "m.safetensors")[f"{LAYER}fc2.bias"], torch.tensor([0.0, 1, 2])
    )


MISFITS = [
    ({"a": (2, 3), "b": (4,)}, {"a": (2, 3), "b": (4,)}, None),
    ({"a": (2, 3), "b": (5,)}, {"a": (2, 3), "b": (4,)}, "b has shape (5,) in the checkpoint and (4,) in the model"),
    ({"a": (2, 3)}, {"a": (2, 3), "b": (4,), "c": (1,)}, "the checkpoint does not have b (nor 1 more)"),
    ({"a": (2, 3), "z": (1,)}, {"a": (2, 3)}, "the model does not have z"),
]


@pytest.mark.parametrize(("given", "model", "expected"), MISFITS)
def test_misfit(given: dict[str, Any], model: dict[str, Any], expected: str | None) -> None:
    tensors = [{name: torch.zeros(shape) for name, shape in side.items()} for side in (given, model)]
    assert checkpoint.misfit(*tensors) == expected


# Writing


def test_save_and_load(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "c.pt"
    checkpoint.save(state(args=argparse.Namespace(x=1)), path)
    assert checkpoint.load(path)["args"].x == 1
    assert [file.name for file in path.parent.iterdir()] == ["c.pt"]


def test_full_disk_is_one_line_and_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "c.pt"
    checkpoint.save(state(step=1), path)
    old = path.read_bytes()
    written = 0

    def fail_later(self: Any, data: Any) -> int:
        nonlocal written
        written += len(data)
        if written > 500:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return int(self.handle.write(data))

    class Full:
        def __init__(self, handle: Any) -> None:
            self.handle = handle

        write = fail_later

        def flush(self) -> None:
            self.handle.flush()

    real = checkpoint._Output.__init__
    monkeypatch.setattr(checkpoint._Output, "__init__", lambda self, handle: real(self, Full(handle)))
    with pytest.raises(UserError, match=r"cannot write .*c\.pt: No space left on device"):
        checkpoint.save(state(step=2, big=torch.zeros(1000)), path)
    assert path.read_bytes() == old
    assert [file.name for file in tmp_path.iterdir()] == ["c.pt"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_really_full_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """/dev/full answers every write with ENOSPC, so PyTorch's own writer meets a real one."""
    opened = open

    def redirect(file: Any, mode: str = "r", *args: Any, **options: Any) -> Any:
        return opened("/dev/full" if mode == "wb" else file, mode, *args, **options)

    monkeypatch.setattr(checkpoint, "open", redirect, raising=False)
    with pytest.raises(UserError, match=r"cannot write .*c\.pt: No space left on device"):
        checkpoint.save(state(big=torch.zeros(100_000)), tmp_path / "c.pt")
    assert list(tmp_path.iterdir()) == []


def test_no_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(files.tempfile, "mkstemp", refuse)  # the tests may run as root, whom no mode stops
    with pytest.raises(UserError, match=r"cannot write .*c\.pt: Permission denied"):
        checkpoint.save(state(), tmp_path / "c.pt")


def test_error_of_another_kind_is_not_hidden(tmp_path: Path) -> None:
    with pytest.raises((AttributeError, pickle.PicklingError, TypeError)):
        checkpoint.save(state(bad=lambda: None), tmp_path / "c.pt")
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path: Path) -> None:
    """Also of a checkpoint with another name; not what a living process has locked, nor other files."""
    left, locked, other = (tmp_path / f".{name}.abcd_123.tmp" for name in ("old.pt", "new.pt", "notes.txt"))
    for path in (left, locked, other):
        path.touch()
    with open(locked) as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        checkpoint.save(state(), tmp_path / "c.pt")
    assert {path.name for path in tmp_path.iterdir()} == {"c.pt", locked.name, other.name}


KILLED = """
import os, sys, torch
from fairseq_tickets import checkpoint
path, how = sys.argv[1], sys.argv[2]
checkpoint.save({"model": {"w": torch.zeros(1000)}, "step": 1}, path)
class Killer:
    def __init__(self, handle): self.handle, self.left = handle, 3
    def write(self, data):
        self.left -= 1
        if self.left == 0:
            self.handle.write(bytes(data)[: len(data) // 2]); self.handle.flush()
            print("half written", flush=True)
            os.kill(os.getpid(), 9)
        return self.handle.write(data)
    def flush(self): self.handle.flush()
checkpoint._Output = lambda handle: type("Output", (Killer,), {"fault": None})(handle)
if how == "save":
    checkpoint.save({"model": {"w": torch.ones(1000)}, "step": 2}, path)
else:
    import shutil
    def half(source, target):
        data = open(source, "rb").read()
        with open(target, "wb") as handle: handle.write(data[: len(data) // 2])
        print("half written", flush=True)
        os.kill(os.getpid(), 9)
    shutil.copyfile = half
    checkpoint.copy(path, path.replace("last", "best"))
"""


@pytest.mark.parametrize("how", ["save", "copy"])
def test_kill_in_the_middle_of_a_save(tmp_path: Path, how: str) -> None:
    path = tmp_path / "checkpoint_last.pt"
    done = subprocess.run([sys.executable, "-c", KILLED, str(path), how], capture_output=True, text=True, timeout=120)
    assert done.returncode == -signal.SIGKILL and done.stdout == "half written\n", done.stderr
    assert checkpoint.load(path)["step"] == 1
    assert not (tmp_path / "checkpoint_best.pt").exists()
