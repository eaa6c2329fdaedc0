"""Every command, struck at every change of the file system: nothing half-written is believed, nothing stays.

The quick test strikes at some points of each command, the slow one at all; see `crash.py` for what is counted.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from fairseq_tickets.cli import demo, main
from fairseq_tickets.files import atomic_write

from .analysis.samples import single_task_runs, write
from .crash import FULL, KILL, STOP, every, survive
from .data.samples import write_pairs, write_wordpiece
from .plugin import toy
from .plugin.training import train

SCORES = ("--checkpoint", "tuned.pt", "--data", "data", "--cpu")
TUNED = ("--pretrained", "model.pt", "--finetuned", "tuned.pt", "--sigma", "1e-6")
PREPARE = ("--train", "RTE/train.tsv", "--valid", "RTE/dev.tsv", "--columns", "sentence1,sentence2")
EXPORT = ("export", "--checkpoint", "tuned.pt", "--output")
DELTA = ("--to", "delta", "--ticket", "dominant.json", "--base", "model.pt")
SALIENCE = ("--pretrained", "model.pt", "--data", "data", "--examples", "8", "--batch-size", "4", "--cpu")
PEFT = ("--delta", "delta.safetensors", "--base", "model.pt", "--to", "peft")
COMMANDS: dict[str, tuple[str, ...]] = {
    "import": ("import", "--model", "hf", "--output", "imported"),
    "import again": ("import", "--model", "hf", "--output", "older"),
    "prepare": ("prepare", *PREPARE, "--tokenizer", "tok", "--output", "new/data"),
    "prepare again": ("prepare", *PREPARE, "--tokenizer", "tok", "--output", "old", "--overwrite"),
    "prepare, own tokenizer": ("prepare", *PREPARE, "--train-sentencepiece", "15", "--output", "o"),
    "importance": ("importance", *SCORES, "--output", "s.npz"),
    "prune": ("prune", "--scores", "scores.npz", "--heads", "0.3", "--ffn", "0.4", "--output", "new/t.json"),
    "extract": ("extract", *TUNED, "--top-k", "2", "--output", "t.json", "--counts", "c.npz"),
    "salience": ("salience", *SALIENCE, "--output", "new/t.json", "--salience", "s.npz"),
    "explain": ("explain", "counts.npz", "inputs.npz", "--output", "e.md", "--plot", "e.png"),
    "export a file": (*EXPORT, "plain.pt"),
    "export a folder": (*EXPORT, "plain"),
    "export to Hugging Face": (*EXPORT, "out", "--to", "hf"),
    "export again": (*EXPORT, "hf", "--to", "hf"),
    "export a delta": ("export", "--checkpoint", "columns.pt", *DELTA, "--output", "d.safetensors"),
    "export to peft": ("export", *PEFT, "--output", "adapter"),
    "export to peft again": ("export", *PEFT, "--output", "peft"),
    "import from peft": ("import", "--adapter", "peft", "--base", "model.pt", "--output", "d.safetensors"),
    "table": ("table", "levels", "results", "--output", "t.md"),
    "plot": ("plot", "phase-transition", "results", "--task", "RTE", "--output", "p.png"),
    "jaccard": ("jaccard", "A=dominant.json", "B=dominant.json", "--output", "j.json"),
    "report": ("report", "results", "scores.npz", "counts.npz", "inputs.npz", "dominant.json", "--output", "r.html"),
    "claims": ("claims", "results", "--output", "c.md"),
    "dimensions": ("dimensions", "dominant.json", "--output", "d.md"),
}


def demo_import() -> None:
    """The demo's first step."""
    demo._model("hf", Path("runs"))


def demo_data() -> None:
    """The demo's second step, with other sentences than those of the installed packages, which take long to collect."""

    def write_describes(folder: Path, *sizes: int) -> None:
        for name in ("train", "dev"):
            with atomic_write(folder / f"{name}.tsv") as temporary:
                temporary.write_text("name\tsentence\tlabel\n")

    with mock.patch("fairseq_tickets.data.docstrings.write_describes", write_describes):
        demo._embedded_data(Path("runs"))


ACTIONS: dict[str, Callable[[], Any]] = {
    "demo: model": demo_import,
    "demo: data": demo_data,
    **{name: partial(main, words) for name, words in COMMANDS.items()},
}


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the commands read, made once."""
    folder = tmp_path_factory.mktemp("good")
    toy.write_data(folder / "data")
    toy.write_checkpoint(folder / "model.pt", toy.ticket_roberta())
    run = train(folder / "data", folder / "run", folder / "model.pt", "--max-epoch", "1")
    run.path().rename(folder / "tuned.pt")
    shutil.rmtree(folder / "run")
    write_pairs(folder / "RTE")
    write_wordpiece(folder / "tok")
    write(folder / "results", single_task_runs(("RTE",), seeds=2))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for words in (
            ("importance", *SCORES, "--output", "scores.npz"),
            ("extract", *TUNED, "--top-k", "1", "--output", "dominant.json", "--counts", "counts.npz"),
            ("salience", *SALIENCE, "--metric", "activation", "--output", "other.json", "--salience", "inputs.npz"),
            (*EXPORT, "hf", "--to", "hf"),
            ("prepare", *PREPARE, "--tokenizer", "tok", "--output", "old"),
        ):
            assert main(words) == 0, words
        run = train(Path("data"), Path("run"), Path("model.pt"), "--max-epoch", "1", "--ticket", "dominant.json")
        run.path().rename("columns.pt")
        shutil.rmtree("run")
        assert main(("export", "--checkpoint", "columns.pt", *DELTA, "--output", "delta.safetensors")) == 0
        assert main(("export", *PEFT, "--output", "peft")) == 0
        words_of_toy = ["<s>", "<pad>", "</s>", "<unk>", *(f"w{n}" for n in range(toy.WORDS)), "<mask>"]
        (folder / "hf" / "vocab.json").write_text(
            "{" + ", ".join(f'"{word}": {number}' for number, word in enumerate(words_of_toy)) + "}"
        )
        assert main(("import", "--model", "hf", "--output", "older")) == 0
        (folder / "older" / "added_tokens.json").write_text("{}")
    return folder


def survives(name: str, good: Path, at: Path, how: str, **more: Any) -> int:
    """Number of changes that the command makes; see `survive`."""
    warm = at.with_name("warm")
    shutil.copytree(good, warm)
    with pytest.MonkeyPatch.context() as patch:  # so that no fork has to load modules
        patch.chdir(warm)
        assert not ACTIONS[name]()
    copy = partial(shutil.copytree, good, dirs_exist_ok=True)
    return survive(ACTIONS[name], copy, at, how, **more)


@pytest.mark.parametrize("name", ACTIONS)
def test_killed_here_and_there(name: str, good: Path, tmp_path: Path) -> None:
    assert survives(name, good, tmp_path / "at", KILL, points=every(15)) > 3


@pytest.mark.slow
@pytest.mark.parametrize("how", [KILL, STOP, FULL])
@pytest.mark.parametrize("name", ACTIONS)
def test_struck_everywhere(name: str, how: str, good: Path, tmp_path: Path) -> None:
    assert survives(name, good, tmp_path / "at", how) > 3
