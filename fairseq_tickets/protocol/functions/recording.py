"""What fairseq-train logs while it runs in this process: the training curve and every evaluation, unrounded."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from typing import Any, cast

from fairseq_tickets.super_ticket.pruning import weight_remaining

METRIC_NAMES = ("loss", "accuracy", "f1", "mcc", "pearson", "spearman", "score", "classes_predicted")
PARTS = ("", "_select", "_report")


class Recorder:
    """A context in which evaluations (by the task's hook `post_validate`) and logged updates are collected.

    Meanwhile it stands in fairseq's progress bar for the logger, so that nothing is missed whatever levels, filters and
    handlers the process has, and passes on what it is told.

    Args:
        best_metric: what the best epoch is chosen by.
        tasks: names of the tasks of `ticket_multitask`, whose metrics are NAME_accuracy and so on; none for one task.

    Attributes:
        epochs: one entry an epoch, as in the result file.
        curve: training loss and accuracy since the last entry, by update.
        trainable, total: numbers of parameters; see `_count`.
        seconds: how long it all took.
    """

    def __init__(self, best_metric: str, tasks: Sequence[str] = ()) -> None:
        self._several = bool(tasks)
        self._metrics = [prefix + name for prefix in ("", *(f"{task}_" for task in tasks)) for name in METRIC_NAMES]
        self.best_metric = best_metric
        self.epochs: list[dict[str, Any]] = []
        self.curve: list[dict[str, float]] = []
        self.trainable = self.total = 0
        self.seconds = 0.0
        self._encoder_size: tuple[int, int] | None = None
        self._evaluations: list[dict[str, float]] = []
        self._updates = 0

    def __enter__(self) -> Recorder:
        from fairseq.logging import progress_bar

        from fairseq_tickets.plugin.multitask.task import TicketMultitaskTask
        from fairseq_tickets.plugin.task import TicketSentencePredictionTask

        self._task = cast(Any, TicketMultitaskTask if self._several else TicketSentencePredictionTask)
        self._hook = self._task.post_validate

        def post_validate(task: Any, model: Any, stats: dict[str, Any], agg: Any) -> None:
            self._hook(task, model, stats, agg)
            self._evaluated(model, stats)

        self._task.post_validate = post_validate
        self._bar = cast(Any, progress_bar)
        self._logger, self._bar.logger = self._bar.logger, self
        self.name = self._logger.name
        self._began = time.monotonic()
        return self

    def __exit__(self, *error: Any) -> None:
        self.seconds = time.monotonic() - self._began
        self._task.post_validate, self._bar.logger = self._hook, self._logger

    def info(self, message: str) -> None:
        """Called by fairseq's progress bar, one JSON object a line, under the `name` of what it is about."""
        with self._bar.rename_logger(self._logger, self.name):
            self._logger.info(message)
        if self.name not in ("train_inner", "train"):
            return
        values = json.loads(message)
        if self.name == "train_inner":
            point = {"update": int(values["num_updates"]), "train_loss": float(values["loss"])}
            if "accuracy" in values:
                point["train_accuracy"] = float(values["accuracy"])
            self.curve.append(point)
        else:
            self._end_of_epoch(values)

    def best_epoch(self) -> dict[str, Any]:
        """The epoch with the best score; of equals the last, as fairseq keeps its checkpoint."""
        best = self.epochs[0]
        for epoch in self.epochs:
            if epoch["valid"][self.best_metric] >= best["valid"][self.best_metric]:
                best = epoch
        return best

    def weight_remaining(self, ticket: Any) -> dict[str, float]:
        """Part of the weights a super ticket leaves; 1 for every other model."""
        from fairseq_tickets.tickets import SuperTicket

        if not isinstance(ticket, SuperTicket) or self._encoder_size is None:
            return {"encoder": 1.0, "without_embeddings": 1.0}
        return weight_remaining(ticket.shape, ticket, *self._encoder_size)

    def _evaluated(self, model: Any, stats: dict[str, Any]) -> None:
        if not self.total:
            self._count(model)
        wanted = [name + part for name in self._metrics for part in PARTS]
        values = {name: float(stats[name]) for name in wanted if name in stats and math.isfinite(float(stats[name]))}
        self._updates = int(stats["num_updates"])
        self._evaluations.append(values)

    def _end_of_epoch(self, logged: dict[str, str]) -> None:
        """fairseq logs an epoch after it has evaluated it."""
        if not self._evaluations:
            return
        valid = dict(self._evaluations[0])
        for mismatched in self._evaluations[1:]:  # MNLI's second dev set, split `valid1`
            known = [name for name in mismatched if name.split("_")[-1] in ("accuracy", "loss")]
            valid.update({f"{name}_mm": mismatched[name] for name in known})
        self.epochs.append(
            {
                "epoch": int(logged["epoch"]),
                "updates": self._updates,
                "train_loss": float(logged["train_loss"]),
                "valid": valid,
            }
        )
        self._evaluations = []

    def _count(self, model: Any) -> None:
        """Parameters of encoder and task head: the language-model head is never used, and split-off columns of a matrix
        stand for what is counted in the matrix already."""
        encoder = model.encoder.sentence_encoder
        self._encoder_size = (encoder.embed_tokens.weight.shape[0], encoder.embed_positions.weight.shape[0])
        from fairseq_tickets.plugin.trainable import noted_parts

        used = {name: parameter for name, parameter in model.named_parameters() if ".lm_head." not in name}
        _, parts = noted_parts(used.values())
        for name, parameter in used.items():
            if parameter.requires_grad:
                # what several tasks share is noted once for each of them
                moving = [parameter] if self._several else [part.read(parameter) for part in parts[name]]
                self.trainable += sum(part.numel() for part in moving)
            self.total += 0 if name.endswith(".columns") else parameter.numel()
