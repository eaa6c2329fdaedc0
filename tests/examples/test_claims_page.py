"""examples/RESULTS.md says what its own command makes of the results in examples/."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from fairseq_tickets.cli import main
from tests.examples.cards import fenced

ROOT = Path(__file__).parents[2]


def test_the_page_is_made_from_the_results(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    page = (ROOT / "examples" / "RESULTS.md").read_text(encoding="utf-8")
    language, command = fenced(page)[0]
    program, *arguments = shlex.split(command.replace("\\\n", " "))
    assert (language, program) == ("bash", "fairseq-tickets")
    monkeypatch.chdir(ROOT)
    assert main(arguments) == 0
    assert capsys.readouterr().out == page, "made from other results; run its command with --output examples/RESULTS.md"


def test_the_readme_says_what_the_page_says() -> None:
    page = (ROOT / "examples" / "RESULTS.md").read_text(encoding="utf-8")
    rows = re.findall(
        r"^\| .*\| (.* \[.*\]) \| (.*) \|$", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    judged = [(effect, said) for effect, said in rows if not effect.startswith("effect")]
    assert len(judged) > 3
    for effect, said in judged:
        assert any(effect in line and said in line for line in page.splitlines()), f"{effect}, {said}: not on the page"
