"""Checkpoints, deltas and weight files: what runs code, what claims too much, what is no weight, what is damaged."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from fairseq_tickets import checkpoint
from fairseq_tickets.dominant_ticket.delta import load_delta, make_delta, save_delta
from fairseq_tickets.parameters import MATRICES, ModelShape
from fairseq_tickets.tickets import DominantTicket

from ..plugin import toy
from .case import Case

SHAPE = ModelShape(toy.LAYERS, toy.HEADS, toy.EMBED, toy.FFN)
HEAD = "classification_heads.sentence_classification_head."
Change = Callable[[dict[str, torch.Tensor]], Any]
DELTA = ("fairseq-tickets", "export", "--delta", "d.safetensors", "--base", "{toy}/model.pt", "--output", "o.pt")
COLUMNS = "layers.1.fc1.columns"


def delta(change: Change) -> Callable[[Path, Path], None]:
    """A delta file of the toy's tuned model, its tensors changed."""

    def make(toy_folder: Path, at: Path) -> None:
        base = checkpoint.encoder_tensors(toy_folder / "model.pt")
        dims = {matrix: [[2, SHAPE.in_features(matrix)]] * SHAPE.layers for matrix in MATRICES}
        tuned = checkpoint.encoder_tensors(toy_folder / "tuned.pt")
        made = make_delta(tuned, DominantTicket(SHAPE, dims), checkpoint.fingerprint(base))
        path = at / "d.safetensors"
        save_delta(path, made)
        assert load_delta(path).heads.keys() == made.heads.keys()
        from safetensors import safe_open

        with safe_open(path, framework="pt") as file:
            tensors, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
        change(tensors)
        save_file(tensors, path, metadata)

    return make


def column(dtype: torch.dtype) -> Callable[[Path, Path], None]:
    return delta(lambda tensors: tensors.update({COLUMNS: tensors[COLUMNS].to(dtype)}))


def head(name: str, tensor: torch.Tensor) -> Callable[[Path, Path], None]:
    return delta(lambda tensors: tensors.update({HEAD + name: tensor}))


DELTAS = (
    Case("delta unchanged", delta(lambda _: None), DELTA, code=0, leaves=("o.pt",)),
    *(
        Case(f"delta columns {dtype}", column(dtype), DELTA, rf"{COLUMNS} is {str(dtype)[6:]}; weights are float32")
        for dtype in (torch.int64, torch.bool, torch.uint8, torch.float8_e4m3fn)
    ),
    Case("delta columns float16", column(torch.float16), DELTA, r"half precision: .*columns is float16"),
    Case("delta head of another width", head("dense.weight", torch.zeros(12, 5)), DELTA, r"must be \(12, 12\)"),
    Case("delta head of one axis", head("out_proj.weight", torch.zeros(3)), DELTA, r"must be \(3, 12\)"),
    Case("delta head bool", head("dense.bias", torch.ones(12) > 0), DELTA, r"dense.bias is bool; weights are"),
    Case("delta head of another name", head("strange", torch.zeros(3)), DELTA, "no part of a classification head"),
    Case("delta with infinity", head("dense.bias", torch.full((12,), torch.inf)), DELTA, "12 values that are NaN"),
)

CASES = (*DELTAS,)
