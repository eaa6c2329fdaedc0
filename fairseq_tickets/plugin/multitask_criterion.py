"""The loss of `ticket_multitask`: a batch's own head, target and gates, and metrics of every task.

Liang et al. 2021, Algorithm 1, line 7: a batch of task i runs through θ^i = M(θ, Ω^i), the encoder under its ticket.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from fairseq.logging import metrics
from torch import Tensor, nn

from fairseq_tickets.metrics import task_score
from fairseq_tickets.plugin.criterion import (
    PredictionsMeter,
    TicketSentencePredictionCriterion,
    TicketSentencePredictionCriterionConfig,
    example_losses,
)

_LOSS, _COUNT, _RIGHT = "loss of ", "examples of ", "right of "


class TicketMultitaskCriterion(TicketSentencePredictionCriterion):
    """Mean over the examples of an update, whichever tasks they are of; `ticket_sentence_prediction` for several tasks.

    Logs `loss`, `NAME_loss` and, where it makes sense, `NAME_accuracy` in training. In evaluation also every metric of
    every task as `NAME_METRIC`, the mean of the task's own metrics as `NAME_score`, and the mean over tasks as `score`;
    with a selection part each once more with `_select` and `_report`.
    """

    def __init__(self, cfg: TicketSentencePredictionCriterionConfig, task: Any) -> None:
        super(TicketSentencePredictionCriterion, self).__init__(task)

    def forward(
        self, model: nn.Module, sample: dict[str, Any], reduce: bool = True
    ) -> tuple[Tensor, int, dict[str, Any]]:
        """The loss of a batch of one task.

        Returns:
            the loss, summed over examples if `reduce` else (batch,); the number of examples; what to log.
        """
        name = sample["task"]
        task = self.task.tasks[name]
        logits = self.logits(model, sample)
        losses = example_losses(logits, sample["target"], task.regression)
        predictions = logits.detach().view(-1) if task.regression else logits.detach().argmax(-1)
        targets = sample["target"].view(-1)
        log: dict[str, Any] = {
            "loss": losses.detach().sum(),
            "ntokens": sample["ntokens"],
            "nsentences": len(targets),
            "sample_size": len(targets),
        }
        zero = torch.zeros_like(log["loss"])
        for other, its in self.task.tasks.items():  # keys and kinds alike on all workers, whose logs are added up
            own = other == name
            log[_LOSS + other] = log["loss"] if own else zero
            log[_COUNT + other] = len(targets) if own else 0
            if not its.regression:
                log[_RIGHT + other] = (predictions == targets).sum() if own else zero
        if not self.training:
            ids = sample["id"].view(-1)
            columns = [ids, predictions, targets, task.selected(ids)]
            log["predictions"] = torch.stack([c.detach().double().cpu() for c in columns], 1).tolist()
            log["task"] = name
            log["metrics"] = {n: list(t.metric_names) for n, t in self.task.tasks.items()}
            log["logged"] = list(task.logged_metrics)
            log["selection"] = task.selects
        return (losses.sum() if reduce else losses), len(targets), log

    def logits(self, model: nn.Module, sample: dict[str, Any]) -> Tensor:
        """(batch, classes) of the batch's head, under its task's ticket; float32 or wider."""
        name = sample["task"]
        self.task.gate(model, name)
        logits, _ = model(**sample["net_input"], features_only=True, classification_head_name=name)
        wide: Tensor = logits if logits.dtype == torch.float64 else logits.float()
        return wide

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
                _log_predictions(log)


def _log_predictions(log: Mapping[str, Any]) -> None:
    name = log["task"]
    metrics.log_custom(PredictionsMeter, _meter(name), log["predictions"])
    for part in ("all", "select", "report") if log["selection"] else ("all",):
        suffix = "" if part == "all" else f"_{part}"
        for metric in log["logged"]:
            metrics.log_derived(f"{name}_{metric}{suffix}", _metric(name, metric, part))
        metrics.log_derived(f"{name}_score{suffix}", _average({name: log["metrics"][name]}, part))
        metrics.log_derived(f"score{suffix}", _average(log["metrics"], part))


def _total(logs: Sequence[Mapping[str, Any]], key: str) -> Any:
    return sum(log.get(key, 0) for log in logs)


def _meter(name: str) -> str:
    return f"_predictions of {name}"


def _metric(name: str, metric: str, part: str) -> Callable[[Any], float]:
    return lambda logged: logged[_meter(name)].value(metric, part)


def _average(metric_names: Mapping[str, Sequence[str]], part: str) -> Callable[[Any], float]:
    def score(logged: Any) -> float:
        scores = []
        for name, own in metric_names.items():
            if _meter(name) in logged:  # a split such as MNLI's second one belongs to some of the tasks only
                values = {metric: logged[_meter(name)].value(metric, part) for metric in own}
                scores.append(math.nan if np.isnan(list(values.values())).any() else task_score(values, list(own)))
        return float(np.mean(scores))

    return score
