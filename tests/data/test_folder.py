"""Output folders are whole or absent, and written by one command at a time."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from fairseq_tickets import folders
from fairseq_tickets.data.folder import TASK_FILE, TASK_FORMAT, may_replace
from fairseq_tickets.errors import UserError
from fairseq_tickets.folders import filled_folder


def new_folder(path: Path, overwrite: bool = False) -> AbstractContextManager[Path]:
    return folders.new_folder(path, lambda: may_replace(path, overwrite))


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


def test_a_filled_folder_is_whole_or_untouched(tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.mkdir()
    (target / "a").write_text("old")
    with pytest.raises(UserError, match="cannot write .*out: No space left"), filled_folder(target, "a") as stage:
        (stage / "a").write_text("new")
        raise OSError(28, "No space left on device")
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "a"] and (target / "a").read_text() == "old"
    with filled_folder(target, "a") as stage:
        (stage / "a").write_text("new")
    assert (target / "a").read_text() == "new" and [path.name for path in tmp_path.iterdir()] == ["out"]


def test_files_of_an_earlier_model_do_not_stay(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    for name in ("vocab.txt", "dict.txt", "notes"):
        (tmp_path / "out" / name).write_text("old")
    with filled_folder(tmp_path / "out", "dict.txt", ["vocab.txt", "dict.txt", "vocab.json"]) as stage:
        (stage / "dict.txt").write_text("new")
        (stage / "dict.txt").chmod(0o600)
    left = {path.name: path.read_text() for path in (tmp_path / "out").iterdir()}
    assert left == {"dict.txt": "new", "notes": "old"}
    (tmp_path / "plain").touch()
    assert (tmp_path / "out" / "dict.txt").stat().st_mode == (tmp_path / "plain").stat().st_mode


KILLED_HOLDER = """
import os, sys
from fairseq_tickets.folders import new_folder
with new_folder(sys.argv[1], lambda: True) as stage:
    (stage / "part").touch()
    print("holding", flush=True)
    sys.stdin.read()
    os._exit(9)
"""


def test_one_command_at_a_time_and_what_a_killed_one_left_goes(tmp_path: Path) -> None:
    target = tmp_path / "out"
    holder = subprocess.Popen(
        [sys.executable, "-c", KILLED_HOLDER, str(target)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdin is not None and holder.stdout is not None
    assert holder.stdout.readline() == "holding\n"
    with pytest.raises(UserError, match=rf"out: process {holder.pid} on .* is writing it now"), new_folder(target):
        pass
    assert sorted(os.listdir(tmp_path)) == [".out.lock", ".out.tmp"]
    holder.communicate("")
    assert holder.returncode == 9 and sorted(os.listdir(tmp_path)) == [".out.lock", ".out.tmp"]
    with new_folder(target) as stage:
        assert list(stage.iterdir()) == []
    assert os.listdir(tmp_path) == ["out"]


def test_a_folder_that_appeared_meanwhile_is_kept(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot write .*not empty"), new_folder(tmp_path / "out"):
        prepared(tmp_path / "out")
    assert (tmp_path / "out" / "old").exists()


def test_an_old_folder_put_aside_by_a_killed_command_comes_back(tmp_path: Path) -> None:
    old = prepared(tmp_path / ".out.old")
    with pytest.raises(RuntimeError), new_folder(tmp_path / "out", overwrite=True):
        raise RuntimeError
    assert (tmp_path / "out" / "old").exists() and not old.exists()
