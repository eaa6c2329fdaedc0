"""Every YAML under examples/*/config runs in fairseq-hydra-train, on toy data, and its arithmetic is right."""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from fairseq.dataclass.initialize import hydra_init
from fairseq_cli import hydra_train
from hydra.core.global_hydra import GlobalHydra
from hydra.experimental import compose, initialize_config_dir

from fairseq_tickets.parameters import MATRICES, ModelShape
from fairseq_tickets.tickets import DominantTicket, SuperTicket

from ..plugin import toy
from ..plugin.training import Run, fresh_process, recorded

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = [  # of single tasks; test_ticket_sharing.py has those of several
    path for path in sorted((ROOT / "examples").glob("*/config/*.yaml")) if path.parent.parent.name != "ticket_sharing"
]
SHAPE = ModelShape(toy.LAYERS, toy.HEADS, toy.EMBED, toy.FFN)
TRAINING_EXAMPLES = {"rte": 2490, "mrpc": 3668, "sst2": 67349, "stsb": 5749}  # GLUE's official counts


def name_of(path: Path) -> str:
    return f"{path.parent.parent.name}/{path.stem}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("toy")
    toy.write_data(made / "classes", classes=2)
    toy.write_data(made / "scores", regression=True)
    toy.write_checkpoint(made / "model.pt", toy.ticket_roberta())
    SuperTicket(SHAPE, [[1, 0, 1, 1], [0, 0, 0, 0], [0, 1, 0, 0]], [1, 0, 1]).save(made / "super_tickets.json")
    dimensions = {matrix: [[0, SHAPE.in_features(matrix)]] * toy.LAYERS for matrix in MATRICES}
    DominantTicket(SHAPE, dimensions).save(made / "dominant_ticket.json")
    return made


def overrides(path: Path, folder: Path, save_dir: Path, ticket: bool) -> list[str]:
    """What a user gives, with toy data, on the CPU, and few updates."""
    data = "scores" if path.stem.startswith("stsb") else "classes"
    words = [
        f"common.user_dir={ROOT / 'fairseq_tickets'}",
        f"task.data={folder / data}",
        f"checkpoint.finetune_from_model={folder / 'model.pt'}",
        f"checkpoint.save_dir={save_dir}",
        *("common.cpu=true", "optimization.max_update=2", "lr_scheduler.warmup_updates=1"),
    ]
    return [*words, f"task.ticket={folder / path.parent.parent.name}.json"] if ticket else words


def train(path: Path, save_dir: Path, words: list[str]) -> Run:
    """fairseq-hydra-train in this process."""
    hydra_init(path.stem)
    GlobalHydra.instance().clear()
    with initialize_config_dir(config_dir=str(path.parent)):
        config = compose(path.stem, overrides=words)
    run = Run(save_dir)
    with fresh_process(), recorded(run):
        hydra_train._hydra_main(config)
    return run


def test_there_are_configs() -> None:
    assert {name_of(path) for path in CONFIGS} >= {f"super_tickets/{task}" for task in TRAINING_EXAMPLES} | {
        f"dominant_ticket/{task}_{step}" for task in TRAINING_EXAMPLES for step in ("l1", "dominant")
    }


@pytest.mark.parametrize("path", CONFIGS, ids=name_of)
def test_config_runs(path: Path, folder: Path, tmp_path: Path) -> None:
    """Two updates and a validation; under a ticket where the config is for one."""
    needs_ticket = not path.stem.endswith("_l1")
    run = train(path, tmp_path, overrides(path, folder, tmp_path, needs_ticket))
    assert len(run.losses) == 2
    assert all(math.isfinite(loss) for loss in run.losses)
    assert "score" in run.valid[-1]
    assert run.path("best").is_file()


@pytest.mark.parametrize("path", [path for path in CONFIGS if path.parent.parent.name == "super_tickets"], ids=name_of)
def test_super_ticket_configs_also_fine_tune_the_whole_model(path: Path, folder: Path, tmp_path: Path) -> None:
    assert len(train(path, tmp_path, overrides(path, folder, tmp_path, ticket=False)).losses) == 2


@pytest.mark.parametrize("path", CONFIGS, ids=name_of)
def test_schedule_is_what_the_header_says(path: Path) -> None:
    """updates = ceil(examples / batch) x epochs, and the warm-up its share, rounded down, in values and in words."""
    text = path.read_text(encoding="utf-8")
    config: dict[str, Any] = yaml.safe_load(text)
    examples, batch = TRAINING_EXAMPLES[path.stem.split("_")[0]], config["dataset"]["batch_size"]
    epochs, share = config["optimization"]["max_epoch"], (10 if path.parent.parent.name == "super_tickets" else 6)
    per_epoch = math.ceil(examples / batch)
    updates, warmup = per_epoch * epochs, per_epoch * epochs * share // 100
    assert config["optimization"]["max_update"] == updates
    assert config["lr_scheduler"]["warmup_updates"] == warmup
    words = " ".join(re.sub(r"^#", "", line) for line in text.splitlines() if line.startswith("#"))
    sentence = (
        f"{examples:,} examples / batch {batch} = {per_epoch:,} updates an epoch; "
        f"{epochs} epochs = {updates:,} updates; {share} % of them warm-up = {warmup:,}."
    )
    assert " ".join(sentence.split()) in " ".join(words.split())


@pytest.mark.parametrize("path", CONFIGS, ids=name_of)
def test_header_shows_the_launch_line(path: Path) -> None:
    line = f"fairseq-hydra-train --config-dir examples/{path.parent.parent.name}/config --config-name {path.stem} "
    assert line in path.read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_real_command_with_overrides(folder: Path, tmp_path: Path) -> None:
    path = ROOT / "examples" / "super_tickets" / "config" / "rte.yaml"
    command = [str(Path(sys.executable).parent / "fairseq-hydra-train"), "--config-dir", str(path.parent)]
    words = [
        *overrides(path, folder, tmp_path / "out", ticket=True),
        "task.ticket_form=gated",
        "optimization.lr=[0.003]",
    ]
    done = subprocess.run(
        [*command, "--config-name", path.stem, *words],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    printed = done.stdout + done.stderr
    assert done.returncode == 0, printed[-3000:]
    assert "5 of 12 heads" not in printed and "4 of 12 heads, 2 of 3 FFNs kept" in printed
    assert "score_select" in printed
    assert (tmp_path / "out" / "checkpoint_best.pt").is_file()
