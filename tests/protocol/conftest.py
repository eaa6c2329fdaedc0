"""A toy model and toy data, made once; protocols over them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable

import pytest
import yaml

from tests.plugin import toy


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with model.pt and the data folders `classes` and `scores`."""
    folder = tmp_path_factory.mktemp("inputs")
    toy.write_checkpoint(folder / "model.pt", toy.ticket_roberta())
    toy.write_data(folder / "classes")
    toy.write_data(folder / "scores", regression=True)
    return folder


Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path, inputs: Path) -> Write:
    """Write a small protocol; keywords replace its top-level keys."""

    def make(**changes: Any) -> Path:
        content: dict[str, Any] = {
            "experiment": "toy",
            "model": {"name": "toy", "path": str(inputs / "model.pt")},
            "tasks": {"RTE": {"data": str(inputs / "classes")}},
            "seeds": [1],
            "training": {"learning_rates": [1e-2], "batch_sizes": [8], "max_epoch": 2},
            "super_tickets": {"levels": [0.34], "keep": ["winning"]},
        }
        content.update(changes)
        path = tmp_path / "protocol.yaml"
        path.write_text(yaml.safe_dump({k: v for k, v in content.items() if v is not None}), encoding="utf-8")
        return path

    return make
