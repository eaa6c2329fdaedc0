"""Mutants of checkpoints, deltas and safetensors files."""

from __future__ import annotations

import io
import json
import pickle
import random
import struct
import zipfile
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fairseq_tickets import checkpoint, safetensors_files, saved_config
from fairseq_tickets.convert.under_ticket import dense_model
from fairseq_tickets.dominant_ticket.delta import apply, load_delta, make_delta, save_delta
from fairseq_tickets.parameters import MATRICES
from fairseq_tickets.tickets import DominantTicket

from ..dominant_ticket import toy
from .mutate import fuzz, mutate_bytes, mutate_json, mutate_zip

MODEL = {"_name": "ticket_roberta", "encoder_layers": 3, "encoder_attention_heads": 2, "dropout": 0.1}
HEAD = {
    "classification_heads.h.dense.weight": torch.ones(6, 6),
    "classification_heads.h.dense.bias": torch.ones(6),
    "classification_heads.h.out_proj.weight": torch.ones(2, 6),
    "classification_heads.h.out_proj.bias": torch.ones(2),
}


def content() -> dict[str, Any]:
    """A checkpoint with all that old and new ones hold."""
    return {
        "args": Namespace(arch="roberta", task="masked_lm", encoder_layers=3, lr=[0.1], adam_betas="(0.9, 0.98)"),
        "cfg": {"_name": None, "model": MODEL, "task": {"_name": "masked_lm", "data": "."}, "common": {"seed": 1}},
        "model": {**toy.encoder(), **HEAD},
        "optimizer_history": [{"num_updates": 3, "optimizer_name": "FairseqAdam", "lr_scheduler_state": {}}],
        "extra_state": {"best": np.float64(0.5), "array": np.arange(3), "train_iterator": {"epoch": 1}},
        "last_optimizer_state": {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 0.1}]},
    }


def written(zipped: bool = True) -> bytes:
    made = io.BytesIO()
    torch.save(content(), made, _use_new_zipfile_serialization=zipped)
    return made.getvalue()


def use(path: Path) -> dict[str, Tensor]:
    """Read as every command reads, and as fairseq gets it; the model's weights."""
    found = checkpoint.load(path)
    mapped = checkpoint.encoder_tensors(path)
    checkpoint.fingerprint(mapped)
    dense_model(found)
    saved_config.clean(found, "it")
    pickle.dumps((found["args"], found["cfg"])) if "cfg" in found and "args" in found else None
    return found["model"]


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return found.keys() == expected.keys() and all(torch.equal(t, expected[name]) for name, t in found.items())


def test_bytes_of_a_checkpoint(tmp_path: Path) -> None:
    """What the checksums cover is the original wherever a mutant is taken."""
    good = written()
    (tmp_path / "c.pt").write_bytes(good)
    expected = content()["model"]

    def read(path: Path) -> None:
        assert same(use(path), expected)

    fuzz(tmp_path / "c.pt", lambda dice: mutate_bytes(good, dice), read)


def test_members_of_a_checkpoint(tmp_path: Path) -> None:
    """Members changed under fitting checksums: names, instructions, numbers."""
    good = written()
    (tmp_path / "c.pt").write_bytes(good)
    fuzz(tmp_path / "c.pt", lambda dice: mutate_zip(good, dice), use)


def test_instructions_of_a_pickle(tmp_path: Path) -> None:
    good = written()
    (tmp_path / "c.pt").write_bytes(good)

    def mutate(dice: random.Random) -> bytes:
        made = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(good)) as old, zipfile.ZipFile(made, "w") as new:
            for info in old.infolist():
                data = old.read(info)
                new.writestr(info, mutate_bytes(data, dice) if info.filename.endswith("data.pkl") else data)
        return made.getvalue()

    fuzz(tmp_path / "c.pt", mutate, use)


def test_older_checkpoints(tmp_path: Path) -> None:
    good = written(zipped=False)
    (tmp_path / "c.pt").write_bytes(good)
    fuzz(tmp_path / "c.pt", lambda dice: mutate_bytes(good, dice), use)


@pytest.mark.parametrize("section", ["model", "task", "common", None])
def test_options(tmp_path: Path, section: str | None) -> None:
    """A config whose values are anything: what is taken is plain."""
    good = content()
    torch.save(good, tmp_path / "c.pt")

    def mutate(dice: random.Random) -> bytes:
        state = content()
        try:
            changed = json.loads(mutate_json(state["cfg"] if section is None else state["cfg"][section], dice))
        except (ValueError, RecursionError):
            changed = None
        state["cfg"] = changed if section is None else {**state["cfg"], section: changed}
        made = io.BytesIO()
        try:
            torch.save(state, made)
        except RecursionError:  # nested deeper than a pickle can be written
            return b""
        return made.getvalue()

    fuzz(tmp_path / "c.pt", mutate, use)


def delta(path: Path) -> dict[str, Tensor]:
    base = toy.encoder()
    dims = {matrix: [[1, toy.SHAPE.in_features(matrix)], [], [0]] for matrix in MATRICES}
    tuned = {name: tensor + 1 for name, tensor in base.items()}
    save_delta(path, make_delta({**tuned, **HEAD}, DominantTicket(toy.SHAPE, dims), checkpoint.fingerprint(base)))
    return base


def test_deltas(tmp_path: Path) -> None:
    base = delta(tmp_path / "d.safetensors")
    good = (tmp_path / "d.safetensors").read_bytes()
    fuzz(tmp_path / "d.safetensors", lambda dice: mutate_bytes(good, dice), lambda path: apply(base, load_delta(path)))


def test_headers_of_safetensors(tmp_path: Path) -> None:
    delta(tmp_path / "d.safetensors")
    good = (tmp_path / "d.safetensors").read_bytes()
    length = struct.unpack("<Q", good[:8])[0]
    header = json.loads(good[8 : 8 + length])

    def mutate(dice: random.Random) -> bytes:
        text = mutate_json(header, dice)
        return struct.pack("<Q", len(text)) + text + good[8 + length :]

    def read(path: Path) -> None:
        tensors, _ = safetensors_files.read(path)
        assert sum(tensor.numel() * tensor.element_size() for tensor in tensors.values()) <= path.stat().st_size
        load_delta(path)

    fuzz(tmp_path / "d.safetensors", mutate, read)
