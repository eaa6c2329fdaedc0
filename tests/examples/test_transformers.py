"""examples/transformers runs as it is written, and peft loads what it makes."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

from tests.convert.minilm import minilm_folder

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "transformers" / "find_train_share.py"


@pytest.mark.filterwarnings(
    "ignore:.*is_gradient_checkpointing:FutureWarning",
    "ignore:unclosed file:ResourceWarning",
)
@pytest.mark.slow
def test_find_train_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from peft import AutoPeftModelForSequenceClassification

    minilm_folder()
    assert len(SCRIPT.read_text().splitlines()) <= 40
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), str(tmp_path)])
    runpy.run_path(str(SCRIPT))
    said = capsys.readouterr().out
    assert float(said.rpartition("accuracy ")[2].split(";")[0]) > 0.4  # of four classes
    model = AutoPeftModelForSequenceClassification.from_pretrained(tmp_path / "adapter", num_labels=4)
    assert model.peft_config["default"].r == 3
