"""Toy data and a toy checkpoint, made once."""

from __future__ import annotations

from pathlib import Path

import pytest

from . import toy


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`data` (3 classes), `binary` (2 classes), `scores` (regression), and `model.pt`."""
    made = tmp_path_factory.mktemp("toy")
    toy.write_data(made / "data")
    toy.write_data(made / "binary", valid=23, classes=2, seed=6)
    toy.write_data(made / "scores", valid=23, regression=True)
    toy.write_checkpoint(made / "model.pt", toy.ticket_roberta())
    return made
