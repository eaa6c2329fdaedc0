"""Every row of the case tables: the right value, or one clear line and an exit code that is not 0."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

from fairseq_tickets.cli import main
from fairseq_tickets.compat import user_error_line

from ..plugin import toy
from ..plugin.training import train, validate_words
from .case import Case

FILES = sorted(Path(__file__).parent.glob("rows_*.py"))
ROWS = [importlib.import_module(f".{path.stem}", __package__) for path in FILES]
CASES = [case for rows in ROWS for case in rows.CASES]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy folder; see `case.Toy`."""
    folder = tmp_path_factory.mktemp("toy")
    toy.write_data(folder / "data")
    toy.write_checkpoint(folder / "model.pt", toy.ticket_roberta())
    run = train(folder / "data", folder / "run", folder / "model.pt", "--max-epoch", "1")
    run.path().rename(folder / "tuned.pt")
    words = ["--checkpoint", str(folder / "tuned.pt"), "--data", str(folder / "data"), "--cpu"]
    assert main(["importance", *words, "--output", str(folder / "scores.npz")]) == 0
    return folder


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_case(
    case: Case, good: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    case.make(good, tmp_path)
    before = {path.name for path in tmp_path.iterdir()}
    capsys.readouterr()
    program, *words = (word.replace("{toy}", str(good)) for word in case.command)
    code, error = run(program, words, capsys)
    assert code == case.code, error
    assert re.search(case.says, error), error
    if case.check is not None:
        case.check(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} <= before | set(case.leaves)


def run(program: str, words: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Exit code and the one error line (or, with code 0, all that was printed) of a command, in this process."""
    if program == "fairseq-tickets":
        code = main(words)
        printed = capsys.readouterr()
        if not code:
            return 0, printed.out + printed.err
        lines = [line for line in printed.err.splitlines() if line.startswith("fairseq-tickets: error: ")]
        assert len(lines) == 1 and "Traceback" not in printed.err, printed.err
        return code, lines[0]
    try:
        if program == "fairseq-train":  # DATA MODEL (or -), then more options
            train(Path(words[0]), Path("saved"), None if words[1] == "-" else Path(words[1]), *words[2:])
        elif program == "fairseq-validate":
            validate_words(words)
        else:
            raise AssertionError(f"no such program: {program}")
    except Exception as error:
        line = user_error_line(error)
        assert line is not None, f"a traceback: {error!r}"
        return 2, line
    printed = capsys.readouterr()
    return 0, printed.out + printed.err
