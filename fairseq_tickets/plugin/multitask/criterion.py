"""The loss of `ticket_multitask`: a batch's own head, target and gates, and metrics of every task.

Liang et al. 2021, Algorithm 1, line 7: a batch of task i runs through θ^i = M(θ, Ω^i), the encoder under its ticket.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from fairseq.logging import metrics
from torch import Tensor, nn

from fairseq_tickets.plugin.criterion import TicketSentencePredictionCriterion, log_evaluation, mean_score, parts

_LOSS, _COUNT, _RIGHT = "loss of ", "examples of ", "right of "


class TicketMultitaskCriterion(TicketSentencePredictionCriterion):
    """Mean over the examples of an update, whichever tasks they are of; `ticket_sentence_prediction` for several tasks.

    Logs `loss`, `NAME_loss` and, where it makes sense, `NAME_accuracy` in training. In evaluation also every metric of
    every task as `NAME_METRIC`, the mean of the task's own metrics as `NAME_score`, and the mean over tasks as `score`;
    with a selection part each once more with `_select` and `_report`.
    """

    def task_and_head(self, sample: dict[str, Any]) -> tuple[Any, str]:
        """The batch's own."""
        return self.task.tasks[sample["task"]], sample["task"]

    def forward(
        self, model: nn.Module, sample: dict[str, Any], reduce: bool = True
    ) -> tuple[Tensor, int, dict[str, Any]]:
        """The loss of a batch of one task, and what to log, also by task."""
        loss, size, log = super().forward(model, sample, reduce)
        zero = torch.zeros_like(log["loss"])
        right = log.pop("ncorrect", zero)
        for name, task in self.task.tasks.items():  # keys and kinds alike on all workers, whose logs are added up
            own = name == sample["task"]
            log[_LOSS + name] = log["loss"] if own else zero
            log[_COUNT + name] = size if own else 0
            if not task.regression:
                log[_RIGHT + name] = right if own else zero
        if not self.training:
            log["task"] = sample["task"]
            log["metrics of all"] = {
                _meter(name): (list(task.metric_names), task.positive) for name, task in self.task.tasks.items()
            }
        return loss, size, log

    def logits(self, model: nn.Module, sample: dict[str, Any]) -> Tensor:
        """(batch, classes) of the batch's head, under its task's ticket; float32 or wider."""
        self.task.gate(model, sample["task"])
        return super().logits(model, sample)

    @staticmethod
    def reduce_metrics(logging_outputs: list[dict[str, Any]]) -> None:
        """Log losses and, from evaluation's predictions, the metrics of the tasks and their average."""
        sample_size = sum(log.get("sample_size", 0) for log in logging_outputs)
        if not sample_size:
            return
        metrics.log_scalar("loss", _total(logging_outputs, "loss") / sample_size, sample_size, round=4)
        evaluated = any("predictions" in log for log in logging_outputs)
        for key in [key for key in logging_outputs[0] if key.startswith(_COUNT)]:
            name = key[len(_COUNT) :]
            count = _total(logging_outputs, key)
            if count:
                metrics.log_scalar(f"{name}_loss", _total(logging_outputs, _LOSS + name) / count, count, round=4)
                if not evaluated and _RIGHT + name in logging_outputs[0]:
                    right = _total(logging_outputs, _RIGHT + name)
                    metrics.log_scalar(f"{name}_accuracy", right / count, count, round=4)
        for log in logging_outputs:
            if "predictions" in log:
                log_evaluation(log, log["predictions"], _meter(log["task"]), f"{log['task']}_")
                for part, suffix in parts(log).items():
                    metrics.log_derived(f"score{suffix}", mean_score(log["metrics of all"], part))


def _total(logs: Sequence[Mapping[str, Any]], key: str) -> Any:
    return sum(log.get(key, 0) for log in logs)


def _meter(name: str) -> str:
    return f"_predictions of {name}"
