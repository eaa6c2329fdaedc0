"""Output folders are whole or absent."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest

from fairseq_tickets.data.folder import TASK_FILE, TASK_FORMAT, new_folder
from fairseq_tickets.errors import UserError


def prepared(folder: Path) -> Path:
    folder.mkdir()
    (folder / TASK_FILE).write_text(json.dumps({"format": TASK_FORMAT}), encoding="utf-8")
    (folder / "old").touch()
    return folder


def test_made_with_its_parents_and_nothing_left_over(tmp_path: Path) -> None:
    with new_folder(tmp_path / "a" / "b") as folder:
        (folder / "file").touch()
        assert not (tmp_path / "a" / "b").exists()
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["file"]
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b"]


def test_failure_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), new_folder(tmp_path / "out") as folder:
        (folder / "file").touch()
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_full_disk_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot write .*out: No space left"), new_folder(tmp_path / "out"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert list(tmp_path.iterdir()) == []


def test_existing_folder_is_refused_or_replaced(tmp_path: Path) -> None:
    old = prepared(tmp_path / "out")
    with pytest.raises(UserError, match="exists already; --overwrite"), new_folder(old):
        pass
    with new_folder(old, overwrite=True) as folder:
        (folder / "new").touch()
        assert (old / "old").exists()
    assert [path.name for path in old.iterdir()] == ["new"] and list(tmp_path.iterdir()) == [old]


def test_failed_overwrite_keeps_the_old(tmp_path: Path) -> None:
    old = prepared(tmp_path / "out")
    with pytest.raises(RuntimeError), new_folder(old, overwrite=True):
        raise RuntimeError
    assert (old / "old").exists() and list(tmp_path.iterdir()) == [old]


@pytest.mark.parametrize("content", [None, "{}", "[1]", "{cut"])
def test_a_folder_that_is_not_ours_is_never_replaced(tmp_path: Path, content: str | None) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis").touch()
    if content is not None:
        (tmp_path / "home" / TASK_FILE).write_text(content, encoding="utf-8")
    with (
        pytest.raises(UserError, match="no folder of prepared data"),
        new_folder(tmp_path / "home", overwrite=True),
    ):
        pass
    assert (tmp_path / "home" / "thesis").exists()


def test_empty_folder_is_filled_and_a_file_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with new_folder(tmp_path / "empty") as folder:
        (folder / "file").touch()
    assert (tmp_path / "empty" / "file").exists()
    with (
        pytest.raises(UserError, match="not a folder"),
        new_folder(tmp_path / "empty" / "file", overwrite=True),
    ):
        pass
