"""Every YAML under examples/*/config runs in fairseq-hydra-train, on toy data, and its arithmetic is right."""

from __future__ import annotations

import math
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

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
SUPER = ROOT / "examples" / "super_tickets" / "config" / "super_tickets.yaml"
SHAPE = ModelShape(toy.LAYERS, toy.HEADS, toy.EMBED, toy.FFN)
TRAINING_EXAMPLES = {"RTE": 2490, "MRPC": 3668, "SST-2": 67349, "STS-B": 5749}  # GLUE's official counts


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


class Row(NamedTuple):
    """A task's line in the table of a header."""

    task: str
    examples: int
    batch: int
    an_epoch: int
    max_update: int
    warmup_updates: int


def table_of(path: Path) -> list[Row]:
    """The table of tasks in a config's header."""
    found = re.findall(r"^# (\S+) +(\d+) +(\d+) +(\d+) +(\d+) +(\d+)(?: .*)?$", path.read_text(), re.MULTILINE)
    return [Row(task, *map(int, numbers)) for task, *numbers in found]


def launch_line(path: Path) -> list[str]:
    """The first command in a config's header, in words."""
    text = re.sub(r"\\\n# *", "", path.read_text(encoding="utf-8"))
    found = re.search(r"^# +(fairseq-hydra-train .*)$", text, re.MULTILINE)
    assert found, f"{path} shows no launch line"
    return shlex.split(found[1])


def overrides(path: Path, folder: Path, save_dir: Path, data: str = "classes", ticket: bool = True) -> list[str]:
    """What the launch line gives, with toy data, on the CPU, and few updates; with or without a ticket."""
    given = dict(word.split("=", 1) for word in launch_line(path) if "=" in word)
    assert {"optimization.max_update", "lr_scheduler.warmup_updates"} <= set(given)
    ticket_file = str(folder / f"{path.parent.parent.name}.json")
    changes = {
        "common.user_dir": str(ROOT / "fairseq_tickets"),
        "task.data": str(folder / data),
        "checkpoint.finetune_from_model": str(folder / "model.pt"),
        "checkpoint.save_dir": str(save_dir),
        **{"common.cpu": "true", "optimization.max_update": "2", "lr_scheduler.warmup_updates": "1"},
        **({"task.ticket": ticket_file} if ticket or "task.ticket" in given else {}),
    }
    return [f"{key}={value}" for key, value in {**given, **changes}.items()]


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
    assert {path.stem for path in CONFIGS} == {"super_tickets", "l1", "dominant"}


@pytest.mark.parametrize("data", ["classes", "scores"])
@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_config_runs(path: Path, data: str, folder: Path, tmp_path: Path) -> None:
    """Two updates and a validation; under a ticket where the config is for one."""
    run = train(path, tmp_path, overrides(path, folder, tmp_path, data, ticket=path.stem != "l1"))
    assert len(run.losses) == 2
    assert all(math.isfinite(loss) for loss in run.losses)
    assert "score" in run.valid[-1]
    assert run.path("best").is_file()


def test_super_tickets_also_fine_tunes_the_whole_model(folder: Path, tmp_path: Path) -> None:
    assert len(train(SUPER, tmp_path, overrides(SUPER, folder, tmp_path, ticket=False)).losses) == 2


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_schedules_are_what_the_header_says(path: Path) -> None:
    """max_update = ceil(examples / batch) x epochs, and the warm-up its share, rounded down, for every task."""
    text = path.read_text(encoding="utf-8")
    config: dict[str, Any] = yaml.safe_load(text)
    assert config["optimization"]["max_update"] == config["lr_scheduler"]["warmup_updates"] == "???"
    rows = table_of(path)
    assert {row.task: row.examples for row in rows} == TRAINING_EXAMPLES
    epochs, share = config["optimization"]["max_epoch"], (10 if path == SUPER else 6)
    assert f"and {share} % of it, rounded down, as warm-up" in text
    for row in rows:
        if row.batch != config["dataset"]["batch_size"]:
            assert f"{row.task} dataset.batch_size={row.batch} as well" in text
        updates = math.ceil(row.examples / row.batch) * epochs
        assert row[3:] == (updates // epochs, updates, updates * share // 100), row.task


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_header_shows_the_launch_line(path: Path) -> None:
    """For this file, with the numbers that the table has for the task whose data it names."""
    line = launch_line(path)
    assert line[:5] == [
        *("fairseq-hydra-train", "--config-dir", f"examples/{path.parent.parent.name}/config"),
        *("--config-name", path.stem),
    ]
    given = dict(word.split("=", 1) for word in line[5:])
    (row,) = (row for row in table_of(path) if row.task == Path(given["task.data"]).name)
    assert given["optimization.max_update"] == str(row.max_update)
    assert given["lr_scheduler.warmup_updates"] == str(row.warmup_updates)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_value_that_nobody_gave_is_asked_for(path: Path, folder: Path, tmp_path: Path) -> None:
    given = overrides(path, folder, tmp_path, ticket=path.stem != "l1")
    words = [word for word in given if "_update" not in word and "save_dir" not in word]
    with pytest.raises(Exception, match="no value for") as caught:
        train(path, tmp_path, words)
    named = str(caught.value).split(":")[0].removeprefix("no value for ").split(", ")
    assert set(named) == {"optimization.max_update", "lr_scheduler.warmup_updates", "checkpoint.save_dir"}


@pytest.mark.slow
def test_the_real_command_with_overrides(folder: Path, tmp_path: Path) -> None:
    path = SUPER
    command = [str(Path(sys.executable).parent / "fairseq-hydra-train"), "--config-dir", str(path.parent)]
    words = [
        *overrides(path, folder, tmp_path / "out"),
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
