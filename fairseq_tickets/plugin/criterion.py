"""`ticket_sentence_prediction`: the task loss, with GLUE's metrics taken over the whole split.

Correlations, F1 and MCC are no averages over batches. In evaluation every batch hands on its predictions, with the
ids of their examples, and the metrics are worked out from all of them; each example counts once, whichever worker saw
it.
"""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from fairseq.criterions import FairseqCriterion, register_criterion
from fairseq.dataclass import FairseqDataclass
from fairseq.logging import meters, metrics
from torch import Tensor, nn

from fairseq_tickets.metrics import METRICS, f1, task_score
from fairseq_tickets.plugin import mixed_precision

logger = logging.getLogger(__name__)


@dataclass
class TicketSentencePredictionCriterionConfig(FairseqDataclass):
    """Head and kind of target."""

    classification_head_name: str = field(
        default="sentence_classification_head", metadata={"help": "name of the task head"}
    )
    regression_target: bool = field(
        default=False, metadata={"help": "real-valued target; read from the data's task.json where there is one"}
    )


CLASSES_PREDICTED = "classes_predicted"


class PredictionsMeter(meters.Meter):  # type: ignore[misc]
    """All predictions of a split: example id -> (prediction, target, is it in the selection part)."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self.rows: dict[int, tuple[float, float, bool]] = {}

    def update(self, rows: Sequence[Sequence[float]]) -> None:
        """Add rows of (id, prediction, target, selected)."""
        for index, prediction, target, selected in rows:
            self.rows[int(index)] = (prediction, target, bool(selected))

    def value(self, metric: str, part: str, positive: int = 1) -> float:
        """A metric over "all", "select" or "report", F1 of class `positive`; nan where the part is empty."""
        kept = [r for r in self.rows.values() if part == "all" or r[2] == (part == "select")]
        if not kept:
            return math.nan
        predictions, targets = [r[0] for r in kept], [r[1] for r in kept]
        return f1(predictions, targets, positive) if metric == "f1" else METRICS[metric](predictions, targets)

    def classes_predicted(self) -> int:
        """How many classes are predicted at all; 1 = the model says the same of every example."""
        return len({row[0] for row in self.rows.values()})

    @property
    def smoothed_value(self) -> float:
        """Number of examples."""
        return float(len(self.rows))

    def state_dict(self) -> dict[str, Any]:
        """Plain lists, so that the state can live in a checkpoint."""
        return {"rows": [[index, *row] for index, row in self.rows.items()]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.reset()
        self.update(state_dict["rows"])


meters.PredictionsMeter = PredictionsMeter  # fairseq looks meters up in its module when it resumes


@register_criterion("ticket_sentence_prediction", dataclass=TicketSentencePredictionCriterionConfig)
class TicketSentencePredictionCriterion(FairseqCriterion):  # type: ignore[misc]
    """Cross-entropy in nats for classes, squared error for real targets, summed over examples."""

    def __init__(self, cfg: TicketSentencePredictionCriterionConfig, task: Any) -> None:
        super().__init__(task)
        self.classification_head_name = cfg.classification_head_name

    def task_and_head(self, sample: dict[str, Any]) -> tuple[Any, str]:
        """The task that a batch belongs to, and the name of its head."""
        return self.task, self.classification_head_name

    def forward(
        self, model: nn.Module, sample: dict[str, Any], reduce: bool = True
    ) -> tuple[Tensor, int, dict[str, Any]]:
        """The loss of a batch.

        Returns:
            the loss, summed over examples if `reduce` else (batch,); the number of examples; what to log.
        """
        task, _ = self.task_and_head(sample)
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
        if not task.regression:
            log["ncorrect"] = (predictions == targets).sum()
        if not self.training:
            ids = sample["id"].view(-1)
            selected = sample.get("selected")
            columns = [ids, predictions, targets, torch.zeros_like(ids) if selected is None else selected]
            log["predictions"] = torch.stack([c.detach().double().cpu() for c in columns], 1).tolist()
            log["metrics"] = list(task.metric_names)
            log["logged"] = list(task.logged_metrics)
            log["selection"] = task.selects
            log["positive"] = task.positive
            log["classes"] = not task.regression
        return (losses.sum() if reduce else losses), len(targets), log

    def logits(self, model: nn.Module, sample: dict[str, Any]) -> Tensor:
        """(batch, classes), float32 or wider."""
        _, head = self.task_and_head(sample)
        tokens = sample["net_input"]["src_tokens"]
        with mixed_precision.autocast(self.task.precision, tokens.device.type):
            logits, _ = model(**sample["net_input"], features_only=True, classification_head_name=head)
        wide: Tensor = logits if logits.dtype == torch.float64 else logits.float()
        return wide

    def logging_outputs_can_be_summed(self) -> bool:
        """In training they can; in evaluation they hold predictions."""
        return bool(self.training)

    @staticmethod
    def reduce_metrics(logging_outputs: list[dict[str, Any]]) -> None:
        """Log the mean loss and, from evaluation's predictions, the metrics of the split."""
        sample_size = sum(log.get("sample_size", 0) for log in logging_outputs)
        if not sample_size:
            return
        loss = sum(log.get("loss", 0) for log in logging_outputs)
        metrics.log_scalar("loss", loss / sample_size, sample_size, round=4)
        rows = [row for log in logging_outputs for row in log.get("predictions", [])]
        if not rows:
            if "ncorrect" in logging_outputs[0]:
                correct = sum(log["ncorrect"] for log in logging_outputs)
                metrics.log_scalar("accuracy", correct / sample_size, sample_size, round=4)
            return
        log_evaluation(next(log for log in logging_outputs if "metrics" in log), rows, "_predictions")


def log_evaluation(log: Mapping[str, Any], rows: Sequence[Sequence[float]], meter: str, prefix: str = "") -> None:
    """Log a task's metrics and score, over all and by part.

    Args:
        log: what `forward` logged about the task.
        rows: predictions, as `PredictionsMeter.update` takes them.
        meter: name of the meter that collects them.
        prefix: comes before the names of metrics.
    """
    metrics.log_custom(PredictionsMeter, meter, rows)
    if log["classes"]:
        metrics.log_derived(f"{prefix}{CLASSES_PREDICTED}", lambda logged: logged[meter].classes_predicted())
    for part, suffix in parts(log).items():
        for name in log["logged"]:
            metrics.log_derived(f"{prefix}{name}{suffix}", _metric(meter, name, part, log["positive"]))
        metrics.log_derived(f"{prefix}score{suffix}", mean_score({meter: (log["metrics"], log["positive"])}, part))


def warn_of_one_class(stats: Mapping[str, Any], prefix: str = "") -> None:
    """Say so where a model predicts one class only: its accuracy is that class's share, and its MCC is 0."""
    if stats.get(f"{prefix}{CLASSES_PREDICTED}") == 1:
        of = f"task {prefix[:-1]}: " if prefix else ""
        logger.warning(f"{of}all predictions are of one class: accuracy is that class's share, MCC is 0 by definition")


def parts(log: Mapping[str, Any]) -> dict[str, str]:
    """The parts of the split that there are, and what is added to the names of their metrics."""
    return {"all": "", "select": "_select", "report": "_report"} if log["selection"] else {"all": ""}


def mean_score(tasks: Mapping[str, tuple[Sequence[str], int]], part: str) -> Callable[[Any], float]:
    """The mean over tasks of the task's score; `tasks` has, by the name of a meter, metrics and F1's class.

    Tasks without predictions are left out: a split such as MNLI's second one belongs to some of the tasks only.
    """

    def score(logged: Any) -> float:
        scores = []
        for meter, (own, positive) in tasks.items():
            if meter in logged:
                values = {name: logged[meter].value(name, part, positive) for name in own}
                scores.append(math.nan if np.isnan(list(values.values())).any() else task_score(values, list(own)))
        return float(np.mean(scores))

    return score


def example_losses(logits: Tensor, targets: Tensor, regression: bool) -> Tensor:
    """Loss of every example, (batch,): cross-entropy in nats, or squared error."""
    if regression:
        return F.mse_loss(logits.view(-1), targets.view(-1).to(logits.dtype), reduction="none")
    return F.cross_entropy(logits, targets.view(-1), reduction="none")


def _metric(meter: str, name: str, part: str, positive: int) -> Callable[[Any], float]:
    return lambda logged: logged[meter].value(name, part, positive)
