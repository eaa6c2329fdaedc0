"""Precision of training: options that can't be had, or contradict each other."""

from __future__ import annotations

from pathlib import Path

from .case import Case


def nothing(toy: Path, at: Path) -> None:
    """The toy folder's data and model are enough."""


TRAIN = ("fairseq-train", "{toy}/data", "{toy}/model.pt", "--max-update", "1")

FOLDER = ("saved",)  # fairseq makes it before it looks at anything

CASES = (
    Case(
        "unknown precision",
        nothing,
        (*TRAIN, "--precision", "half"),
        r"--precision half is unknown.*bf16",
        leaves=FOLDER,
    ),
    Case(
        "float16 on a CPU",
        nothing,
        (*TRAIN, "--precision", "float16"),
        r"--precision float16 needs a GPU",
        leaves=FOLDER,
    ),
    Case(
        "a precision and --fp16",
        nothing,
        (*TRAIN, "--precision", "bf16", "--fp16"),
        r"bf16 can't be.*--fp16",
        leaves=FOLDER,
    ),
    Case(
        "a precision and --bf16",
        nothing,
        (*TRAIN, "--precision", "float32", "--bf16"),
        r"float32 can't be.*--bf16",
        leaves=FOLDER,
    ),
    Case(
        "float32 and --amp",
        nothing,
        (*TRAIN, "--precision", "float32", "--amp"),
        r"float32 contradicts --amp",
        leaves=FOLDER,
    ),
)
