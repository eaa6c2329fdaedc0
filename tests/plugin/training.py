"""fairseq-train and fairseq-validate in this process: the same parser, config and loop, without 4 s of imports."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from fairseq import checkpoint_utils, options
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.logging import metrics
from fairseq_cli import train as fairseq_train
from fairseq_cli import validate as fairseq_validate
from omegaconf import DictConfig

from fairseq_tickets import plugin  # noqa: F401  (registers the components, as --user-dir does)
from fairseq_tickets.plugin.criterion import TicketSentencePredictionCriterion
from fairseq_tickets.plugin.loading import load_finetuned

# Worker processes of the data loader cost seconds to end and bring nothing for toy data.
COMMON = ["--cpu", "--num-workers", "0", "--no-progress-bar", "--log-format", "json", "--seed", "7"]
NO_DROPOUT = ["--dropout", "0", "--attention-dropout", "0", "--pooler-dropout", "0"]


@dataclass
class Run:
    """What a training run reported."""

    save_dir: Path
    valid: list[dict[str, float]] = field(default_factory=list)  # exact statistics, one for each validation
    losses: list[float] = field(default_factory=list)  # exact mean training loss of every update

    def checkpoint(self, name: str = "last") -> dict[str, Any]:
        """A checkpoint it wrote."""
        from fairseq_tickets import checkpoint

        return checkpoint.load(self.path(name))

    def path(self, name: str = "last") -> Path:
        """Where it is."""
        return self.save_dir / f"checkpoint_{name}.pt"


def arguments(data: Path, save_dir: Path, model: Path | None, *more: str) -> list[str]:
    """Command line of fairseq-train for toy data; `more` comes last and so wins."""
    start = ["--finetune-from-model", str(model)] if model else []
    return [
        str(data),
        *("--task", "ticket_sentence_prediction", "--arch", "ticket_roberta"),
        *("--criterion", "ticket_sentence_prediction", *start),
        *("--optimizer", "adam", "--lr", "0.01", "--lr-scheduler", "fixed", "--batch-size", "4"),
        *("--max-epoch", "2", "--save-dir", str(save_dir), "--no-epoch-checkpoints"),
        *("--best-checkpoint-metric", "score", "--maximize-best-checkpoint-metric"),
        *COMMON,
        *more,
    ]


def train(data: Path, save_dir: Path, model: Path | None, *more: str) -> Run:
    """Run fairseq-train's main; see `arguments`."""
    return run_config(config(arguments(data, save_dir, model, *more)), save_dir)


def config(words: list[str]) -> Any:
    """fairseq's config for a command line.

    fairseq composes it with hydra in 1.5 s of deep copies. So that is done once for each choice of components and of
    options given (of the model's those that are not given are absent), and the values that differ are then set in it.
    """
    parsed = options.parse_args_and_arch(options.get_training_parser(), words)
    key = tuple(getattr(parsed, name) for name in COMPONENTS), frozenset(vars(parsed))
    if key not in _composed:
        _composed[key] = parsed, convert_namespace_to_omegaconf(parsed)
    known, composed = _composed[key]
    made = copy.deepcopy(composed)
    changed = {name: value for name, value in vars(parsed).items() if vars(known).get(name) != value}
    for group in (node for node in made.values() if isinstance(node, DictConfig)):
        for name in changed.keys() & set(group):
            value = changed[name]
            group[name] = int(value) if isinstance(value, str) and value.isdigit() else value  # as hydra reads it
    return made


COMPONENTS = ("task", "arch", "criterion", "optimizer", "lr_scheduler")
_composed: dict[tuple[tuple[str, ...], frozenset[str]], tuple[Any, Any]] = {}


def run_config(config: Any, save_dir: Path) -> Run:
    """Run fairseq-train's main on a finished config and record what it reports."""
    run = Run(save_dir)
    with fresh_process(), recorded(run):
        fairseq_train.main(config)
    return run


def validate(path: Path, data: Path, *more: str) -> dict[str, float]:
    """Run fairseq-validate's main; returns what it printed last."""
    words = [str(data), "--path", str(path), "--batch-size", "3", *COMMON, *more]
    return validate_words(
        [*words, *("--task", "ticket_sentence_prediction", "--criterion", "ticket_sentence_prediction")]
    )


def validate_words(words: list[str]) -> dict[str, float]:
    """Run fairseq-validate's main on a command line; returns what it printed last."""
    parsed = options.parse_args_and_arch(options.get_validation_parser(), words)
    given = options.parse_args_and_arch(options.get_validation_parser(), words, suppress_defaults=True)
    printed: list[dict[str, float]] = []
    with (
        fresh_process(),
        mock.patch.object(
            fairseq_validate.progress_bar.JsonProgressBar,
            "print",
            lambda self, stats, tag=None, step=None: printed.append(
                {k: float(getattr(v, "avg", v)) for k, v in stats.items()}
            ),
        ),
    ):
        fairseq_validate.main(convert_namespace_to_omegaconf(parsed), override_args=given)
    return printed[-1]


@contextlib.contextmanager
def fresh_process() -> Iterator[None]:
    """fairseq keeps the best score and its meters in globals; a run must not see those of the one before."""
    vars(checkpoint_utils.save_checkpoint).pop("best", None)
    vars(fairseq_train.should_stop_early).pop("best", None)
    metrics.reset()
    with torch.random.fork_rng(devices=[]):
        yield


@contextlib.contextmanager
def recorded(run: Run) -> Iterator[None]:
    """Write exact figures into `run`: fairseq itself logs them rounded."""
    get_stats, reduce = fairseq_train.get_valid_stats, TicketSentencePredictionCriterion.reduce_metrics

    def get_valid_stats(*args: Any) -> Any:
        stats = get_stats(*args)
        run.valid.append({key: float(getattr(value, "avg", value)) for key, value in stats.items()})
        return stats

    def reduce_metrics(logs: list[dict[str, Any]]) -> None:
        if not any("predictions" in log for log in logs):
            run.losses.append(float(sum(log["loss"] for log in logs)) / sum(log["sample_size"] for log in logs))
        reduce(logs)

    with (
        mock.patch.object(fairseq_train, "get_valid_stats", get_valid_stats),
        mock.patch.object(TicketSentencePredictionCriterion, "reduce_metrics", staticmethod(reduce_metrics)),
    ):
        yield


def predictions(path: Path, data: Path, split: str = "valid") -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ids, outputs and targets of a split, predicted one example at a time by a checkpoint loaded afresh."""
    model, task = load_finetuned(path, data)
    dataset = task.load_dataset(split)
    ids, outputs, targets = [], [], []
    with torch.no_grad():
        for index in range(len(dataset)):
            sample = dataset.collater([dataset[index]])
            logits, _ = model(
                **sample["net_input"], features_only=True, classification_head_name="sentence_classification_head"
            )
            ids.append(int(sample["id"][0]))
            outputs.append(float(logits[0, 0]) if task.regression else int(logits.argmax()))
            targets.append(float(sample["target"][0]))
    return np.array(ids), np.array(outputs), np.array(targets)
