"""The packages that setup.py makes hold the startup hook, and stock fairseq's commands start with it."""

from __future__ import annotations

import ast
import base64
import csv
import hashlib
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PTH = "fairseq_tickets.pth"


def hook_source() -> str:
    """The line of the .pth file, computed from setup.py without running it."""
    tree = ast.parse((ROOT / "setup.py").read_text(encoding="utf-8"))
    names: dict[str, str] = {}
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            name = node.targets[0].id
            if name in ("HOOK", "LOAD", "ONCE"):
                names[name] = ast.literal_eval(node.value)
    return f"import sys; {names['ONCE']} or exec({names['HOOK']!r}, dict(sys=sys, load={names['LOAD']!r}))\n"


def test_hook_is_one_line_that_site_runs() -> None:
    source = hook_source()
    assert source.startswith("import ") and source.count("\n") == 1
    compile(source, PTH, "exec")


def test_hook_is_set_once_however_often_the_file_is_read(tmp_path: Path) -> None:
    code = hook_source() * 3 + "print([f.__name__ for f in sys.meta_path if 'Tickets' in getattr(f, '__name__', '')])"
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout == "['FairseqTicketsHook']\n", done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["build_wheel", "build_editable"])
def test_wheels_hold_the_hook_and_list_it(tmp_path: Path, kind: str) -> None:
    source = tmp_path / "source"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(source)], check=True)
    for name in ("setup.py", "pyproject.toml"):
        (source / name).write_bytes((ROOT / name).read_bytes())
    code = f"from setuptools import build_meta; build_meta.{kind}({str(tmp_path)!r})"
    done = subprocess.run([sys.executable, "-c", code], cwd=source, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        assert archive.namelist().count(PTH) == 1
        content = archive.read(PTH)
        (record,) = (name for name in archive.namelist() if name.endswith(".dist-info/RECORD"))
        rows = {row[0]: row for row in csv.reader(archive.read(record).decode().splitlines())}
        assert ("fairseq_tickets/compat.py" in archive.namelist()) == (kind == "build_wheel")
        assert not [name for name in archive.namelist() if name.startswith(("tests/", "scripts/"))]
    assert content.decode() == hook_source()
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
    assert rows[PTH] == [PTH, f"sha256={digest}", str(len(content))]


@pytest.mark.slow
def test_source_distribution_holds_every_file(tmp_path: Path) -> None:
    """Tests, benchmarks, examples with their results: so the tests of an unpacked one can run."""
    source = tmp_path / "source"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(source)], check=True)
    shutil.copy(ROOT / "MANIFEST.in", source)
    code = f"from setuptools import build_meta; build_meta.build_sdist({str(tmp_path)!r})"
    done = subprocess.run([sys.executable, "-c", code], cwd=source, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    (made,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(made) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    listed = subprocess.run(["git", "ls-files"], cwd=source, capture_output=True, text=True, check=True).stdout.split()
    assert set(listed) - held == {".gitignore"}


def test_every_requirement_is_pinned() -> None:
    """What setup.py asks for, in any extra, stands in a file of requirements or the Makefile at one version."""
    texts = [path.read_text() for path in ROOT.glob("requirements*.txt")]
    pinned = [name for text in texts for name in re.findall(r"^([\w-]+)==", text, re.MULTILINE)]
    pinned += re.findall(r'"([\w-]+)==', (ROOT / "Makefile").read_text())
    tree = ast.parse((ROOT / "setup.py").read_text(encoding="utf-8"))
    asked = {
        match.group(1)
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        for match in [re.fullmatch(r"([\w-]+)(?:>=|==)[\d.]+", node.value)]
        if match
    }
    assert len(asked) > 10
    assert {name.lower() for name in asked} <= {name.lower() for name in pinned}
    assert "torchaudio" not in pinned


@pytest.mark.slow
@pytest.mark.parametrize("command", ["fairseq-train", "fairseq-hydra-train", "fairseq-preprocess", "fairseq-validate"])
def test_stock_commands_start(run_command, command: str) -> None:  # type: ignore[no-untyped-def]
    done = run_command(command, ["--help"])
    assert done.returncode == 0, done.stderr
    assert "sage: " in done.stdout or "Hydra" in done.stdout
    assert "Traceback" not in done.stderr


def test_user_dir_names_the_package(run_command) -> None:  # type: ignore[no-untyped-def]
    found = Path(run_command("fairseq-tickets", ["user-dir"]).stdout.strip())
    assert (found / "__init__.py").is_file() and found.name == "fairseq_tickets"
