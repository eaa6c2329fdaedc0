"""Folders that a command fills: never over files of another kind."""

from __future__ import annotations

from pathlib import Path

import pytest

from fairseq_tickets.errors import UserError
from fairseq_tickets.folders import MARKS, filled_folder


@pytest.mark.parametrize("mark", MARKS)
def test_a_folder_of_another_kind_is_left_alone(tmp_path: Path, mark: str) -> None:
    (tmp_path / mark).write_text("{}")
    (tmp_path / "vocab.json").write_text("{}")
    refused = pytest.raises(UserError, match=f"holds {mark}, which is of another kind")
    with refused, filled_folder(tmp_path, "model.pt", ("vocab.json",)):
        raise AssertionError("not reached")
    assert {path.name for path in tmp_path.iterdir()} == {mark, "vocab.json"}


@pytest.mark.parametrize("mark", MARKS)
def test_a_folder_of_the_same_kind_is_filled_anew(tmp_path: Path, mark: str) -> None:
    (tmp_path / mark).write_text("old")
    with filled_folder(tmp_path, mark) as stage:
        (stage / mark).write_text("new")
    assert (tmp_path / mark).read_text() == "new"
