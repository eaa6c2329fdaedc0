"""The command itself: which command, and what the system refuses."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fairseq_tickets.cli import main, table
from fairseq_tickets.cli.numbers import number, whole
from fairseq_tickets.errors import UserError


@pytest.mark.parametrize(
    "error, line",
    [
        (PermissionError(13, "Permission denied", "a.json"), "the system refused a.json: Permission denied"),
        (OSError(36, "File name too long", "n" * 9), "the system refused nnnnnnnnn: File name too long"),
        (OSError("no number"), "the system refused: no number"),
        (MemoryError(), "not enough memory for this input on this machine"),
    ],
)
def test_what_the_system_refuses_is_one_line(
    error: BaseException, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(args: argparse.Namespace) -> int:
        raise error

    monkeypatch.setattr(table, "run", refused)
    assert main(["table", "S1", "x"]) == 2
    assert capsys.readouterr().err == f"fairseq-tickets: error: {line}\n"
    monkeypatch.setenv("FAIRSEQ_TICKETS_DEBUG", "1")
    with pytest.raises(type(error)):
        main(["table", "S1", "x"])


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(args: argparse.Namespace) -> int:
        raise TypeError("a bug")

    monkeypatch.setattr(table, "run", wrong)
    with pytest.raises(TypeError):
        main(["table", "S1", "x"])


def test_a_name_that_is_no_utf8_is_printed(tmp_path: Path) -> None:
    name = str(tmp_path).encode() + b"/\xff.json"
    code = "import sys; from fairseq_tickets.cli import main; sys.exit(main(sys.argv[1:]))"
    command: list[Any] = [sys.executable, "-c", code, "dimensions", name]
    done = subprocess.run(command, capture_output=True, timeout=120)
    assert done.returncode == 2 and b"\\udcff.json: No such file" in done.stderr, done.stderr


@pytest.mark.parametrize("text", ["1", "+7", " 3 ", "10"])
def test_whole_numbers(text: str) -> None:
    assert whole("--n", 1, 10)(text) == int(text)


@pytest.mark.parametrize(
    "text, says",
    [
        ("0", "--n is 0; it must be at least 1"),
        ("11", "--n is 11; it must be at most 10"),
        *((text, "--n is .*; it must be a whole number") for text in ("", "1.0", "1e1", "٣", "1_0", "9" * 30, "x")),
    ],
)
def test_wrong_whole_numbers(text: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        whole("--n", 1, 10)(text)


def test_numbers() -> None:
    assert number("--x", 0, 1)("5e-5") == 5e-5
    for text in ("nan", "inf", "1e999", "", "1_0", "x"):
        with pytest.raises(UserError, match="--x is .*; it must be a number"):
            number("--x", 0, 1)(text)
    with pytest.raises(UserError, match="--x is 2; it must be at most 1"):
        number("--x", 0, 1)("2")
