"""SIGTERM, SIGHUP and Ctrl-C end every command alike: one line, an exit code that names the signal, nothing left."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from fairseq_tickets.cli import main
from tests.data.samples import write_pairs, write_wordpiece


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_stopped_while_writing(
    number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_pairs(tmp_path / "RTE")
    write_wordpiece(tmp_path / "tok")

    def stop(*args: object, **options: object) -> None:
        assert (tmp_path / ".out.tmp").is_dir()
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), signal.SIGHUP if number != signal.SIGINT else 0)  # a second one changes nothing

    monkeypatch.setattr("fairseq_tickets.data.prepare.write_binary", stop)
    before, handlers = set(os.listdir(tmp_path)), [signal.getsignal(n) for n in (number, signal.SIGHUP)]
    own = ["--train", f"{tmp_path}/RTE/train.tsv", "--columns", "sentence1,sentence2", "--tokenizer", f"{tmp_path}/tok"]
    assert main(["prepare", *own, "--output", str(tmp_path / "out")]) == 128 + number
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == f"fairseq-tickets: stopped by {number.name}"
    assert set(os.listdir(tmp_path)) == before
    assert [signal.getsignal(n) for n in (number, signal.SIGHUP)] == handlers


def test_nohup_is_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    old = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        monkeypatch.setattr("fairseq_tickets.cli.user_dir.run", lambda args: os.kill(os.getpid(), signal.SIGHUP) or 0)
        assert main(["user-dir"]) == 0
    finally:
        signal.signal(signal.SIGHUP, old)
