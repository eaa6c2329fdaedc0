"""The YAMLs of examples/ticket_sharing run in fairseq-hydra-train, on toy data, and their arithmetic is right."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
import yaml
from fairseq.dataclass.initialize import hydra_init
from hydra.core.global_hydra import GlobalHydra
from hydra.experimental import compose, initialize_config_dir

from fairseq_tickets.glue import TASK_METRICS
from fairseq_tickets.plugin.multitask.task_list import read_tasks

from ..plugin.multitask import toy as multitask_toy
from .test_configs import ROOT, TRAINING_EXAMPLES

FOLDER = ROOT / "examples" / "ticket_sharing"
LISTS = sorted((FOLDER / "tasks").glob("*.yaml"))


@pytest.mark.parametrize("path", LISTS, ids=lambda path: path.stem)
def test_lists_name_known_tasks(path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DATA", str(tmp_path))
    monkeypatch.setenv("TICKETS", str(tmp_path))
    entries = read_tasks(str(path))
    assert {entry.name for entry in entries} <= set(TASK_METRICS)
    for entry in entries:
        assert entry.data == str(tmp_path / entry.name)
        assert entry.ticket == (None if path.stem.endswith("mt_dnn") else str(tmp_path / f"{entry.name}.json"))


@pytest.mark.parametrize("tickets", [True, False], ids=["tickets", "mt_dnn"])
def test_config_runs(tmp_path: Path, tickets: bool) -> None:
    """Two updates and a validation in fairseq-hydra-train."""
    data = multitask_toy.write_tasks(tmp_path / "data")
    tasks = multitask_toy.write_list(data, tmp_path / "list" / "tasks.yaml", tickets=tickets)
    hydra_init("glue_small")
    GlobalHydra.instance().clear()
    words = [
        f"common.user_dir={ROOT / 'fairseq_tickets'}",
        f"task.tasks={tasks}",
        f"checkpoint.finetune_from_model={data / 'model.pt'}",
        f"checkpoint.save_dir={tmp_path / 'out'}",
        *("common.cpu=true", "optimization.max_update=2", "lr_scheduler.warmup_updates=1"),
    ]
    with initialize_config_dir(config_dir=str(FOLDER / "config")):
        config = compose("glue_small", overrides=words)
    run = multitask_toy.train_hydra(config, tmp_path / "out")
    assert len(run.losses) == 2
    assert {"score", "two_accuracy", "real_pearson"} <= set(run.valid[-1])
    assert run.path("best").is_file()


def test_schedule_is_what_the_header_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DATA", str(tmp_path))
    monkeypatch.setenv("TICKETS", str(tmp_path))
    text = (FOLDER / "config" / "glue_small.yaml").read_text(encoding="utf-8")
    config = yaml.safe_load(text)
    batch, epochs = config["dataset"]["batch_size"], config["optimization"]["max_epoch"]
    sizes = [
        entry.train_examples or TRAINING_EXAMPLES[entry.name]
        for entry in read_tasks(str(FOLDER / "tasks" / "glue_small.yaml"))
    ]
    batches = [math.ceil(size / batch) for size in sizes]
    updates = epochs * sum(batches)
    assert config["optimization"]["max_update"] == updates
    assert config["lr_scheduler"]["warmup_updates"] == updates // 10
    words = " ".join(" ".join(re.sub(r"^#", "", line) for line in text.splitlines() if line.startswith("#")).split())
    for part in (
        " + ".join(f"{size:,}" for size in sizes) + f" examples in batches of {batch}",
        " + ".join(map(str, batches)) + f" = {sum(batches)} updates an epoch; {epochs} epochs = {updates:,} updates",
        f"10 % of them warm-up = {updates // 10}.",
    ):
        assert part in words
