"""Imports go one way between the rooms of the package, fairseq stays where it is needed, and CONTRIBUTING says so."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "fairseq_tickets"

GROUND = {"ground"}
PAPERS = {*GROUND, "updates", "super_ticket", "dominant_ticket"}
MAY_IMPORT = {  # room -> the rooms below it; `ground` is the files that lie in no folder
    "ground": set(),
    "updates": GROUND,
    "super_ticket": {*GROUND, "updates"},
    "dominant_ticket": {*GROUND, "updates"},
    "data": GROUND,
    "analysis": GROUND,
    "convert": {*PAPERS, "data"},
    "hf": {*PAPERS, "data", "convert"},
    "plugin": {*PAPERS, "data"},
    "protocol": {*PAPERS, "data", "analysis", "convert", "hf", "plugin"},
    "cli": {*PAPERS, "data", "analysis", "convert", "hf", "plugin", "protocol"},
}
FAIRSEQ = {"fairseq", "fairseq_cli", "hydra", "omegaconf"}
USES_FAIRSEQ = {"plugin", "data", "protocol"}  # data writes its binary files, protocol starts its training
MODELS = {*FAIRSEQ, "torch", "transformers"}
EXCEPTIONS = {("__init__.py", "fairseq_tickets.plugin")}  # what --user-dir is for: only where fairseq is loaded already


def imported(path: Path, package: str) -> Iterator[str]:
    """Full names of the modules that a file imports, anywhere in it; of `from a import b` both a and a.b.

    Args:
        package: the dotted name of the folder that relative imports start from.
    """
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def room_of(parts: tuple[str, ...]) -> str:
    """The room of a path below the package, in parts, or of a dotted name's parts after the first."""
    return parts[0] if parts and (PACKAGE / parts[0]).is_dir() else "ground"


def wrong_turns(path: Path, inside: Path) -> list[str]:
    """What `path`, at `inside` below the package, imports that its room may not."""
    room = room_of(inside.parts)
    package = ".".join(["fairseq_tickets", *inside.parts[:-1]])
    found = []
    for name in sorted(set(imported(path, package))):
        top, *rest = name.split(".")
        if top == "fairseq_tickets" and rest and (inside.as_posix(), name) not in EXCEPTIONS:
            other = room_of(tuple(rest))
            if other != room and other not in MAY_IMPORT[room]:
                found.append(f"{inside}: {room} imports {name}")
        if (top in FAIRSEQ and room not in USES_FAIRSEQ) or (top in MODELS and room == "analysis"):
            found.append(f"{inside}: {room} imports {name}")
    return found


def test_every_room_is_named() -> None:
    rooms = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert rooms <= set(MAY_IMPORT), "a new room says in MAY_IMPORT, and in CONTRIBUTING, where it stands"
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert [room for room in sorted(rooms) if f"`{room}/`" not in text] == []


def test_imports_go_one_way() -> None:
    files = sorted(PACKAGE.rglob("*.py"))
    assert len(files) > 80
    assert [line for path in files for line in wrong_turns(path, path.relative_to(PACKAGE))] == []


def test_rooms_have_no_circle() -> None:
    """Each room stands above all that it may import, in the order of MAY_IMPORT."""
    order = list(MAY_IMPORT)
    for room, below in MAY_IMPORT.items():
        assert all(order.index(other) < order.index(room) for other in below), room


@pytest.mark.parametrize(
    ("inside", "line"),
    [
        ("tickets.py", "from fairseq_tickets import super_ticket"),
        ("tickets.py", "def f():\n    import fairseq_tickets.plugin.model"),
        ("super_ticket/x.py", "from ..dominant_ticket import l1"),
        ("super_ticket/x.py", "from fairseq_tickets.dominant_ticket.updates import parts_of"),
        ("plugin/x.py", "from fairseq_tickets.protocol import config"),
        ("convert/x.py", "import fairseq"),
        ("analysis/x.py", "from torch import nn"),
        ("analysis/x.py", "from ..cli import table"),
    ],
)
def test_a_wrong_turn_is_seen(tmp_path: Path, inside: str, line: str) -> None:
    (tmp_path / "x.py").write_text(line, encoding="utf-8")
    assert wrong_turns(tmp_path / "x.py", Path(inside))


def test_the_package_alone_loads_neither_fairseq_nor_pytorch(tmp_path: Path) -> None:
    code = "import sys, fairseq_tickets, fairseq_tickets.tickets; print({'fairseq', 'torch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout == "set()\n", done.stderr
