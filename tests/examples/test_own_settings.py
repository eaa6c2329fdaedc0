"""Own settings laid over an example's config, and keys that don't exist, in fairseq-hydra-train as users run it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from ..conftest import RunCommand

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "examples" / "super_tickets" / "config" / "super_tickets.yaml"
COMMAND = [
    "--config-name",
    "super_tickets",
    "lr_scheduler.warmup_updates=1",
    "common.user_dir=null",
    "task.data=/nowhere",
]
PATHS = ["checkpoint.finetune_from_model=/nowhere/model.pt", "checkpoint.save_dir=saved"]


@pytest.mark.slow
def test_own_settings_win_and_unknown_keys_are_named(run_command: RunCommand, tmp_path: Path) -> None:
    shutil.copyfile(CONFIG, tmp_path / "super_tickets.yaml")
    (tmp_path / "own").mkdir()
    own = "# @package _global_\ndataset: {batch_size: 8}\noptimization: {max_update: 2}\n"
    (tmp_path / "own" / "mine.yaml").write_text(own)
    words = ["--config-dir", tmp_path, *COMMAND, *PATHS, "+own=mine"]
    user_dir = f"common.user_dir={ROOT / 'fairseq_tickets'}"
    shown = run_command("fairseq-hydra-train", [*words, user_dir, "--cfg", "job"], cwd=tmp_path)
    made = yaml.safe_load(shown.stdout)
    assert made["dataset"]["batch_size"] == 8 and made["optimization"]["max_update"] == 2
    wrong = run_command("fairseq-hydra-train", [*words, user_dir, "+task.tiket=x"], cwd=tmp_path)
    assert wrong.returncode != 0 and "Traceback" not in wrong.stderr
    assert "ticket_sentence_prediction has no option tiket: did you mean ticket?" in wrong.stderr


def test_help_shows_the_options_of_the_components(capsys: pytest.CaptureFixture[str]) -> None:
    from fairseq import options

    from fairseq_tickets import plugin  # noqa: F401  (registers the components)

    words = ["--task", "ticket_sentence_prediction", "--arch", "ticket_roberta", "--optimizer", "ticket", "--help"]
    with pytest.raises(SystemExit) as stopped:
        options.parse_args_and_arch(
            options.get_training_parser(), [*words, "--criterion", "ticket_sentence_prediction_l1"]
        )
    shown = capsys.readouterr().out
    assert stopped.value.code == 0
    for option in ("--ticket", "--train-examples", "--l1-weight", "--separator-token", "--ticket-optimizer"):
        assert f"\n  {option} " in shown, option
