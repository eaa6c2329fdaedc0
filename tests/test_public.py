"""What is public: every name is there and documented, costs nothing until it is used, and README's ten lines run."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import fairseq_tickets as ft
from tests.convert.toy import hf_model, write_words
from tests.plugin.toy import dictionary

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("name", ft.PUBLIC)
def test_a_public_name_is_documented(name: str) -> None:
    assert inspect.getdoc(getattr(ft, name)), name
    assert name in dir(ft) and getattr(ft, name).__module__.startswith("fairseq_tickets.")


def test_other_names_are_not_there() -> None:
    with pytest.raises(AttributeError, match="no public name 'nonsense'"):
        ft.nonsense  # noqa: B018


def test_the_import_costs_nothing() -> None:
    code = "import sys, fairseq_tickets; sys.exit(bool({'torch', 'fairseq', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_quick_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from transformers import PreTrainedTokenizerFast

    text = (ROOT / "README.md").read_text(encoding="utf-8")
    block = re.search(r"## In Python\n.*?```python\n(.*?)```", text, re.DOTALL)
    assert block is not None and len(list(filter(None, block[1].splitlines()))) == 10
    monkeypatch.chdir(tmp_path)
    model = hf_model("Roberta", "ForSequenceClassification", vocab_size=35, num_attention_heads=5)
    model.save_pretrained("rte-hf")
    words = write_words(tmp_path / "words", dictionary().symbols) / "tokenizer.json"
    PreTrainedTokenizerFast(tokenizer_file=str(words), pad_token="<pad>", unk_token="<unk>").save_pretrained("rte-hf")
    shape = ft.ModelShape(3, 5, 10, 14)
    full = [[1] * 5 for _ in range(3)]
    ft.SuperTicket(shape, [[0, 1, 1, 1, 1], *full[1:]], [1, 1, 1]).save("rte20.json")
    ft.SuperTicket(shape, [[0, 0, 1, 1, 1], *full[1:]], [1, 1, 1]).save("mrpc20.json")
    exec(compile(block[1], "README.md", "exec"), {})
    assert "14 of 15 heads, 3 of 3 FFNs kept" in capsys.readouterr().out
    assert ft.load_ticket("mine.json").provenance["pruned_heads"] == 3
    assert type(model).from_pretrained("pruned").config.num_attention_heads == 5
