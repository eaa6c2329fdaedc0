"""Folders that a command fills: never over files of another kind."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fairseq_tickets.errors import UserError
from fairseq_tickets.files import atomic_write
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


def test_a_pipe_or_device_is_not_replaced_by_a_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="pipe: it is a device or pipe"), atomic_write(tmp_path / "pipe"):
        raise AssertionError("not reached")
    assert (tmp_path / "pipe").is_fifo() and len(list(tmp_path.iterdir())) == 1
