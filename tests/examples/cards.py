"""Method cards as tests: the fenced blocks of a markdown file, run as they stand, and what each must leave behind.

A reader pastes the blocks of a card one after the other into one shell. So does `run_card`: bash, `set -e`, one folder,
and the variables that one block exports are there in the next. What a block promises stands in a table.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT = 600  # seconds a block may take; on a quiet machine none takes a minute
_FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block and what it must do.

    Attributes:
        language: bash or python; other blocks are not run.
        changes: text of the block -> what is run in its place. Each must occur, so that none outlives its reason.
        before: run ahead of the block: a name that the card takes as given.
        after: run behind it.
        writes: patterns of files that are not there before and not empty afterwards.
        prints: regular expressions that its output must hold, standard error included.
    """

    language: str
    changes: Mapping[str, str] = field(default_factory=dict)
    before: str = ""
    after: str = ""
    writes: Sequence[str] = ()
    prints: Sequence[str] = ()


def fenced(text: str) -> list[tuple[str, str]]:
    """(language, content) of every fenced block."""
    return _FENCE.findall(text)


def section(text: str, title: str) -> str:
    """What stands under a heading of the second level."""
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert found, f"there is no section {title!r}"
    return found[1]


def changed(text: str, changes: Mapping[str, str]) -> str:
    """`text` with every change made; AssertionError where one has nothing to change."""
    for old, new in changes.items():
        assert old in text, f"nothing to change any more: {old!r} is not in\n{text}"
        text = text.replace(old, new)
    return text


def pairs(text: str, blocks: Sequence[Block]) -> list[tuple[Block, str]]:
    """Each expectation with the program to run; AssertionError where the card has other blocks than the table."""
    found = fenced(text)
    assert [language for language, _ in found] == [block.language for block in blocks], "the card has other blocks"
    made = []
    for (_, content), block in zip(found, blocks):
        made.append((block, "\n".join(filter(None, (block.before, changed(content, block.changes), block.after)))))
    return made


def run_card(made: Sequence[tuple[Block, str]], folder: Path, **environment: str) -> None:
    """Run the programs in `folder`, one after the other, and check after each what it has to show."""
    for number, (block, program) in enumerate(made, start=1):
        if block.language not in ("bash", "python"):
            continue
        before = {path for pattern in block.writes for path in folder.glob(pattern)}
        assert not before, f"block {number}: already there: {before}"
        printed = _run(block.language, program, folder, environment)
        for pattern in block.writes:
            files = list(folder.glob(pattern))
            assert files and all(path.stat().st_size for path in files), f"block {number}: no {pattern}\n{printed}"
        for expression in block.prints:
            assert re.search(expression, printed, re.MULTILINE), f"block {number}: not printed: {expression}\n{printed}"


def _run(language: str, program: str, folder: Path, environment: Mapping[str, str]) -> str:
    """Output of a program, both streams; AssertionError where it fails."""
    binaries = str(Path(sys.executable).parent)
    variables = {**os.environ, "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}", **environment}
    variables["OMP_NUM_THREADS"] = (
        "1"  # a second thread makes so small a model slower, and on a busy machine much slower
    )
    if language == "python":
        command = ["python", "-c", program]
    else:
        kept = "trap 'export -p > .exported' EXIT\n[ ! -f .exported ] || . ./.exported\n"
        command = ["bash", "-c", f"set -euo pipefail\n{kept}{program}"]
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        printed, _ = process.communicate(timeout=TIMEOUT)
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)  # bash and what it started; without it a training run would go on
        raise
    assert process.returncode == 0, f"exit code {process.returncode}:\n{program}\n{printed[-5000:]}"
    return printed
