"""`ticket_sentence_prediction`: fairseq's sentence_prediction with a ticket, GLUE's metrics and the selection split.

What `prepare` wrote in task.json (classes, metric, kind of target) need not be said again. A random part of the
validation split, fixed by its own seed, is for choosing a ticket (Liang et al. 2021, section 5.2: 10 % of dev);
metrics are logged for the whole split (`accuracy`), for that part (`accuracy_select`) and for the rest
(`accuracy_report`).
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

import numpy as np
import torch
from fairseq import models
from fairseq.data import SortDataset
from fairseq.dataclass import ChoiceEnum
from fairseq.tasks import register_task
from fairseq.tasks.sentence_prediction import SentencePredictionConfig, SentencePredictionTask
from omegaconf import open_dict
from torch import Tensor, nn

from fairseq_tickets.data.prepared import TASK_FILE, check_files, read_task
from fairseq_tickets.data.subset import nested_subset
from fairseq_tickets.dictionary import read_dictionary, symbols_digest
from fairseq_tickets.dominant_ticket.columns import apply_ticket as apply_columns
from fairseq_tickets.dominant_ticket.updates import parts_of, trainable_slices
from fairseq_tickets.encoder_layer import RECOMPUTE, encoder_layers
from fairseq_tickets.errors import UserError
from fairseq_tickets.heap import keep_freed_memory
from fairseq_tickets.metrics import METRICS, metrics_that_fit
from fairseq_tickets.parameters import is_dead_copy
from fairseq_tickets.plugin import labels, mixed_precision
from fairseq_tickets.plugin.chosen import ChosenDataset, MarkedDataset
from fairseq_tickets.plugin.criterion import warn_of_one_class
from fairseq_tickets.plugin.delta_checkpoints import delta_state
from fairseq_tickets.plugin.l1_criterion import TicketSentencePredictionL1Criterion
from fairseq_tickets.plugin.model import TicketForm, TicketRobertaModel
from fairseq_tickets.plugin.multitask.state import AUTO
from fairseq_tickets.plugin.optimizer import TicketTorchOptimizer
from fairseq_tickets.plugin.origin import check_origin
from fairseq_tickets.plugin.run_record import check_same_run, run_record
from fairseq_tickets.plugin.sentence_tasks import SentenceTask, SentenceTaskConfig
from fairseq_tickets.plugin.splits import check_split
from fairseq_tickets.plugin.start import Start, complete_inputs, complete_model, opened, section_of, start_of
from fairseq_tickets.plugin.trainable import moves_in_parts, note_parts, random_element_parts, unwrapped
from fairseq_tickets.task_record import RUN_STATE, dictionary_digest
from fairseq_tickets.tickets import SuperTicket, load_ticket
from fairseq_tickets.updates.parts import Part

logger = logging.getLogger(__name__)

COLUMNS, OPTIMIZER = "columns", "optimizer"


@dataclass
class TicketSentencePredictionConfig(SentenceTaskConfig, SentencePredictionConfig):
    """fairseq's options with defaults for RoBERTa, and ours."""

    ticket: Optional[str] = field(default=None, metadata={"help": "ticket file to train under"})
    ticket_form: TicketForm = field(  # type: ignore[valid-type]
        default="compact",
        metadata={"help": "super ticket: 'compact' removes pruned heads and FFNs, 'gated' multiplies them by 0"},
    )
    ticket_route: ChoiceEnum([COLUMNS, OPTIMIZER]) = field(  # type: ignore[valid-type]
        default=COLUMNS,
        metadata={
            "help": "dominant ticket: 'columns' splits the linear layers of ticket_roberta, 'optimizer' leaves the "
            "model as it is (always so for other archs) and needs --optimizer ticket"
        },
    )
    frozen_precision: str = field(
        default=mixed_precision.AUTO,
        metadata={
            "help": "dominant ticket, route 'columns': what frozen weights are kept in, 'float32' or 'bf16' (half the "
            "memory; checkpoints hold the exact ones all the same). 'auto' = as --precision, float32 under float16"
        },
    )
    recompute_attention: str = field(
        default="auto",
        metadata={
            "help": "dominant ticket, route 'columns', on a CPU: 'always' works attention weights out again in the "
            "backward pass in place of keeping them, 'never' keeps them, 'auto' keeps them up to 63 tokens"
        },
    )
    random_elements: Optional[float] = field(
        default=None,
        metadata={
            "help": "in place of a ticket, train a random share of the single elements of each encoder matrix, such as "
            "0.05; needs --optimizer ticket"
        },
    )
    random_elements_seed: int = field(default=1, metadata={"help": "seed of that choice; not the training seed"})
    delta_checkpoints: bool = field(
        default=False,
        metadata={
            "help": "dominant ticket in ticket_roberta: checkpoints hold only what is trained, with a delta file "
            "beside each; they need the checkpoint of --finetune-from-model to be loaded"
        },
    )
    train_examples: Optional[int] = field(
        default=None, metadata={"help": "train on so many random examples; subsets of one seed are nested"}
    )
    valid_examples: Optional[int] = field(
        default=None,
        metadata={"help": "evaluate on so many random examples of `valid`, fixed by --select-seed; for quick looks"},
    )
    start_head: str = field(
        default=AUTO,
        metadata={
            "help": "head of the checkpoint to start from that training goes on with, by name; 'auto' = the one of the "
            "same name or, from a checkpoint of several tasks, this task's, if there is one; 'new' = a new head"
        },
    )
    metric: Optional[str] = field(
        default=None, metadata={"help": f"comma-separated metrics of the task, from {', '.join(METRICS)}"}
    )


@register_task("ticket_sentence_prediction", dataclass=TicketSentencePredictionConfig)
class TicketSentencePredictionTask(SentenceTask, SentencePredictionTask):  # type: ignore[misc]
    """One sentence or sentence-pair task, under at most one ticket.

    Attributes:
        regression: True for real-valued targets.
        metric_names: metrics whose mean is the task's score.
        logged_metrics: these and the others that make sense for the task.
        selects: True when a part of an evaluated split is set aside for selection.
        label_names: of the classes, by index; empty for regression.
        positive: index of the class that F1 is of.
    """

    def __init__(self, cfg: Any, data_dictionary: Any, label_dictionary: Any) -> None:
        super().__init__(cfg, data_dictionary, label_dictionary)
        self.regression = bool(cfg.regression_target)
        default = "pearson,spearman" if self.regression else "accuracy"
        self.metric_names = tuple((cfg.metric or default).split(","))
        fitting = metrics_that_fit(self.regression, cfg.num_classes)
        self.logged_metrics = tuple(dict.fromkeys([*self.metric_names, *fitting]))
        self.selects = cfg.select_fraction > 0
        self.label_names = [] if self.regression else labels.names_of(label_dictionary)
        self.positive = labels.positive_class(self.label_names)

    @classmethod
    def setup_task(cls, cfg: Any, **kwargs: Any) -> "TicketSentencePredictionTask":
        """Read dictionaries and task.json.

        Raises:
            UserError: the folder isn't binarised, or an option contradicts the data.
        """
        data = Path(cfg.data)
        if not (data / "input0" / "dict.txt").is_file():
            raise UserError(
                f"{data} is not a binarised data folder: {data / 'input0' / 'dict.txt'} is missing; "
                "make it with `fairseq-tickets prepare`"
            )
        if not 0 <= cfg.select_fraction < 1:
            raise UserError(f"--select-fraction {cfg.select_fraction} must be at least 0 and less than 1")
        if cfg.random_elements is not None and (cfg.ticket or cfg.delta_checkpoints):
            other = "--ticket" if cfg.ticket else "--delta-checkpoints"
            raise UserError(f"--random-elements {cfg.random_elements} can't be combined with {other}")
        complete_from_task_json(cfg, data)
        complete_classes(cfg, data, cls.load_dictionary)
        check_metrics(cfg)
        task: TicketSentencePredictionTask = super().setup_task(cfg, **kwargs)
        if "f1" in task.logged_metrics and labels.POSITIVE not in task.label_names:
            logger.info(f"F1 is of class {task.label_names[task.positive]!r}, the second in label/dict.txt")
        task.check_best_metric(cfg.best_checkpoint_metric)
        return task

    @classmethod
    def load_dictionary(cls, filename: str) -> Any:
        """fairseq's dictionary; a damaged file is a UserError."""
        read_dictionary(filename)
        return super().load_dictionary(filename)

    def check_best_metric(self, metric: str) -> None:
        """Raise UserError, now and not after an epoch, when the best checkpoint is to go by what isn't measured."""
        name = metric[: -len(metric.rpartition("_")[2]) - 1] if metric.endswith(("_select", "_report")) else metric
        measured = (*self.logged_metrics, "score")
        if metric != "loss" and (name not in measured or (name != metric and not self.selects)):
            raise UserError(
                f"--best-checkpoint-metric {metric} is not measured here; choose from loss, {', '.join(measured)}"
                + (" (these also with _select or _report)" if self.selects else "")
            )

    def load_dataset(self, split: str, combine: bool = False, **kwargs: Any) -> Any:
        """Load a split.

        Raises:
            UserError: the split isn't there, isn't whole, or has no labels.
        """
        check_split(Path(self.cfg.data), split, self.regression, self.source_dictionary)
        labels.check_split_labels(
            Path(self.cfg.data), split, self.label_dictionary, 0 if self.regression else self.cfg.num_classes
        )
        dataset = super().load_dataset(split, combine, **kwargs)
        if split == "train" and self.cfg.length_bucket > 0 and isinstance(dataset, SortDataset):
            buckets = np.asarray(dataset.sizes[0]) // self.cfg.length_bucket
            dataset = self.datasets[split] = SortDataset(dataset.dataset, sort_order=[*dataset.sort_order, buckets])
        if split == "train" and self.cfg.train_examples is not None:
            chosen = random_part(len(dataset), self.cfg.train_examples, self.cfg.train_examples_seed, "train")
            dataset = self.datasets[split] = ChosenDataset(dataset, chosen)
        if split != "train":
            examples, chosen = len(dataset), list(range(len(dataset)))
            if split == "valid" and self.cfg.valid_examples is not None:
                chosen = random_part(examples, self.cfg.valid_examples, self.cfg.select_seed, "valid")
            if len(chosen) < examples:
                dataset = ChosenDataset(dataset, chosen)
            if self.selects:  # every split by a mask of its own: MNLI's second one has other examples
                selected = torch.zeros(examples, dtype=torch.bool)
                selected[chosen] = selection(len(chosen), self.cfg.select_fraction, self.cfg.select_seed)
                dataset = MarkedDataset(dataset, selected)
            self.datasets[split] = dataset
        return dataset

    @property
    def data_folder(self) -> str:
        """The binarised data."""
        return str(self.cfg.data)

    def parts_of_split(self, indices: Any, dataset: Any) -> Mapping[str, Any]:
        """All examples are of one folder."""
        return {self.data_folder: np.ones(len(indices), dtype=bool)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Called by fairseq with a checkpoint's task state, to evaluate it.

        Raises:
            UserError: the data's words or labels have other numbers than those that the checkpoint was trained with.
        """
        super().load_state_dict(state_dict)
        saved = state_dict.get(RUN_STATE)
        if saved is not None:
            check_numbers(saved, self, "")

    def build_model(self, cfg: Any, from_checkpoint: bool = False) -> nn.Module:
        """Build the model, give it its head, and put it under the ticket.

        A model built from one of our checkpoints takes its ticket from there, not from the file.

        Raises:
            UserError: the ticket can't be read or is for another model.
        """
        start = None if from_checkpoint else start_of(self.cfg)
        if not from_checkpoint:
            complete_model(cfg, start, arch_obeys_eps(cfg))
            complete_inputs(self.cfg, start, (Path(self.cfg.data) / "input1").is_dir())
            self.keep_record(start)
        with opened(cfg) as options:
            options["max_positions"] = options.get("max_positions") or self.cfg.max_positions
            self._positions = int(options["max_positions"])
        model: nn.Module = models.build_model(cfg, self, from_checkpoint)
        model.register_classification_head(  # type: ignore[operator]
            self.cfg.classification_head_name, num_classes=self.cfg.num_classes
        )
        if not isinstance(model, TicketRobertaModel):
            retire_dead_copies(model)
            if self.cfg.start_head != AUTO and not from_checkpoint:
                raise UserError(f"--start-head {self.cfg.start_head} needs --arch ticket_roberta, _base or _large")
        elif start is not None and not start.resumes:
            model.head_start = (self.cfg.classification_head_name, self.cfg.start_head, task_name(Path(self.cfg.data)))
        if from_checkpoint:
            need_head(model, self.cfg.classification_head_name)
        parts = self.trainable_parts(model) if not from_checkpoint else None
        note_parts(model, parts)
        return model

    def keep_record(self, start: Optional[Start]) -> None:
        """Note in the checkpoints to come what this run is made of; see run_record.py.

        Raises:
            UserError: training would go on from something else, or the data's words aren't the model's.
        """
        record = run_record(self.cfg, {self.cfg.classification_head_name: (self, self.cfg.ticket)}, several=False)
        check_start(start, self, record)
        self.state.merge_state_dict({RUN_STATE: record})

    def trainable_parts(self, model: nn.Module) -> Optional[Mapping[str, Sequence[Part]]]:
        """Put a fresh model under the ticket or the random elements that the options ask for.

        Returns:
            the parts of parameters that optimizer `ticket` may move; None = whatever requires a gradient.
        """
        if self.cfg.random_elements is not None:
            return random_element_parts(model, self.cfg.random_elements, self.cfg.random_elements_seed)
        parts = self.apply_ticket(model, self.cfg.ticket) if self.cfg.ticket else None
        if self.cfg.delta_checkpoints:
            base = (section_of(self.cfg, "checkpoint") or {}).get("finetune_from_model")
            self.state.merge_state_dict(delta_state(model, self.cfg.ticket, base))
        return parts

    def post_validate(self, model: nn.Module, stats: Mapping[str, Any], agg: Any) -> None:
        """Called by fairseq-train after each evaluation of a split."""
        warn_of_one_class(stats)

    def build_criterion(self, cfg: Any) -> Any:
        """Keep hold of the criterion: a penalty acts around the optimizer's step."""
        mixed_precision.settle(cfg, self.precision, mixed_precision.device_type(self.cfg.cpu))
        self._criterion = super().build_criterion(cfg)
        return self._criterion

    def begin_epoch(self, epoch: int, model: nn.Module) -> None:
        """Called by fairseq before an epoch's first update."""
        keep_freed_memory()

    def optimizer_step(self, optimizer: Any, model: nn.Module, update_num: int) -> None:
        """One update; gradients are averaged over examples and clipped.

        Raises:
            UserError: the ticket needs optimizer `ticket`, and another one is in use.
        """
        model = unwrapped(model)
        if moves_in_parts(model) and not isinstance(optimizer.optimizer, TicketTorchOptimizer):
            raise UserError(
                f"--optimizer {type(optimizer).__name__} would move more than the ticket allows; use --optimizer ticket"
            )
        penalised = isinstance(self._criterion, TicketSentencePredictionL1Criterion)
        if penalised:
            self._criterion.before_step(model, optimizer, update_num)
        stepped = mixed_precision.step(optimizer)
        if penalised and stepped:
            self._criterion.after_step(model, optimizer)

    def apply_ticket(self, model: nn.Module, path: str) -> Optional[Mapping[str, Sequence[Part]]]:
        """Put a fresh model under the ticket of a file.

        Returns:
            the parts of parameters that optimizer `ticket` may move; None = whatever requires a gradient.
        """
        ticket = load_ticket(path)
        logger.info(f"{path}: {ticket.describe()}")
        if isinstance(ticket, SuperTicket):
            if not isinstance(model, TicketRobertaModel):
                raise UserError(f"--ticket {path} is a super ticket: it needs --arch ticket_roberta, _base or _large")
            model.ticket_encoder.apply_super_ticket(ticket, str(self.cfg.ticket_form), f"ticket {path}")
            return None
        if isinstance(model, TicketRobertaModel) and self.cfg.ticket_route == COLUMNS:
            ticket.validate_for(model.ticket_encoder.shape, f"ticket {path}")
            model.encoder.requires_grad_(False)
            kept_in = mixed_precision.frozen_dtype(str(self.cfg.frozen_precision), self.precision)
            recompute = str(self.cfg.recompute_attention)
            if recompute not in RECOMPUTE:
                raise UserError(f"--recompute-attention {recompute} is unknown; choose from {', '.join(RECOMPUTE)}")
            apply_columns(encoder_layers(model), ticket, kept_in, recompute)
            return None
        return parts_of(trainable_slices(model.named_parameters(), ticket))


def random_part(examples: int, count: int, seed: int, split: str) -> list[int]:
    """Numbers of `count` of a split's examples, rising; parts of one seed are nested.

    Raises:
        UserError: naming the option, when there are not so many.
    """
    if not 1 <= count <= examples:
        raise UserError(f"--{split}-examples {count} must be 1 to {examples}, the examples there are")
    return nested_subset(range(examples), count, seed)


def task_name(data: Path) -> Optional[str]:
    """The task's name that `prepare` wrote; None for data made otherwise."""
    known = read_task(data)
    return str(known["name"]) if known else None


def need_head(model: nn.Module, name: str) -> None:
    """Refuse weights without this classification head when they are loaded; fairseq would evaluate a random one."""

    def upgrade(state: dict[str, Any], prefix: str) -> Any:
        del model.upgrade_state_dict_named
        heads = sorted({key.split(".")[1] for key in state if key.startswith("classification_heads.")})
        if name not in heads:
            raise UserError(
                f"the checkpoint has no classification head {name} to evaluate: "
                + (f"it has {', '.join(heads)} (--classification-head-name)" if heads else "fine-tune the model first")
            )
        return model.upgrade_state_dict_named(state, prefix)  # type: ignore[operator]

    model.upgrade_state_dict_named = upgrade  # type: ignore[assignment]


def retire_dead_copies(model: nn.Module) -> None:
    """Stock fairseq's layers hold every weight twice and run the second copy until they are trained: never do."""
    for name, parameter in model.named_parameters():
        if is_dead_copy(name):
            parameter.requires_grad_(False)
    for module in model.modules():
        if hasattr(module, "ever_training"):
            module.ever_training = True  # type: ignore[assignment]


def complete_from_task_json(cfg: Any, data: Path) -> None:
    """Fill in what `prepare` knows about the data; a contradiction is a UserError."""
    path = data / TASK_FILE
    known = read_task(data)
    if known:
        check_files(data, ["input0/dict.txt", "label/dict.txt"])
        regression = known["kind"] == "regression"
        if cfg.regression_target and not regression:
            raise UserError(f"--regression-target is set, but {path} says the task is a classification")
        classes = 1 if regression else int(known["num_classes"])
        with open_dict(cfg):
            cfg.regression_target = regression
            cfg.num_classes = classes if cfg.num_classes < 1 else cfg.num_classes
            cfg.metric = cfg.metric or ",".join(known["metrics"])


def complete_classes(cfg: Any, data: Path, load_dictionary: Callable[[str], Any]) -> None:
    """Fill in the number of classes from the label dictionary; a contradiction is a UserError."""
    path = data / "label" / "dict.txt"
    if cfg.regression_target:
        if cfg.num_classes > 1:
            raise UserError(
                f"--num-classes {cfg.num_classes} doesn't fit a regression: {data} has one score an example"
            )
        classes = 1
    else:
        if not path.is_file():
            scores = data / "label" / "train.label"
            hint = f"; {scores} holds scores: give --regression-target" if scores.is_file() else ""
            raise UserError(f"{path} is missing: a classification task needs its label dictionary{hint}")
        classes = labels.checked_classes(cfg.num_classes, labels.names_of(load_dictionary(str(path))), path)
    with open_dict(cfg):
        cfg.num_classes = classes


def check_metrics(cfg: Any) -> None:
    """Raise UserError for a metric that is unknown or doesn't fit the task."""
    fitting = metrics_that_fit(bool(cfg.regression_target), cfg.num_classes)
    for name in (cfg.metric or "").split(",") if cfg.metric else []:
        if name not in METRICS:
            raise UserError(f"--metric {name} is unknown; choose from {', '.join(METRICS)}")
        if name not in fitting:
            kind = "a regression" if cfg.regression_target else f"a classification with {cfg.num_classes} classes"
            raise UserError(f"--metric {name} doesn't fit {kind}; choose from {', '.join(fitting)}")


def arch_obeys_eps(cfg: Any) -> bool:
    """Is the model one of ours? Stock fairseq's layer norms have one epsilon."""
    with opened(cfg) as options:
        return str(options.get("_name") or options.get("arch")).startswith("ticket_")


def check_start(start: Optional[Start], task: "TicketSentencePredictionTask", record: Mapping[str, Any]) -> None:
    """Check what training starts from against the run to come and its data; `task` is any one of the run's.

    Raises:
        UserError: it is another run's checkpoint, or its words have other numbers than the data's.
    """
    if start is None:
        return
    check_same_run(start, task.cfg, record)
    check_origin(start.path, task.source_dictionary.symbols, task.cfg.data)
    if dictionary_digest(start.content) not in (None, record["dictionary"]):
        raise UserError(
            f"{task.cfg.data}/input0/dict.txt is not the dictionary that {start.path} was trained with: its words have "
            "other numbers; prepare the data with the model's own dict.txt"
        )


def check_numbers(saved: Mapping[str, Any], task: "TicketSentencePredictionTask", name: str) -> None:
    """Check that the data's words and labels have the numbers that a checkpoint's run record tells of.

    Args:
        saved: the record.
        task: reads the data.
        name: of the task in a run of several; "" in one of its own.

    Raises:
        UserError: naming the dictionary at fault.
    """
    data = task.cfg.data
    if saved.get("dictionary") != symbols_digest(task.source_dictionary.symbols):
        raise UserError(
            f"{data}/input0/dict.txt is not the dictionary that the checkpoint was trained with: its words have other "
            "numbers; prepare the data with the model's own dict.txt"
        )
    trained = ((saved.get("tasks") or {}).get(name) or {}).get("labels") or []
    if trained != task.label_names and sorted(trained) == sorted(task.label_names):
        raise UserError(
            f"{data}/label/dict.txt has the labels {', '.join(task.label_names)}, and the checkpoint was trained with "
            f"{', '.join(trained)}, in that order; prepare the data in the same order"
        )
    used = saved.get("inputs") or {}
    for option in ("init_token", "separator_token"):
        if option in used and used[option] != task.cfg[option]:
            given = f"--{option.replace('_', '-')} is {task.cfg[option]}"
            logger.warning(f"{given}, and the checkpoint was trained with {used[option]}")


def selection(examples: int, fraction: float, seed: int) -> Tensor:
    """A random part of a split: (examples,) bool with round(fraction * examples) True, at least 1, fixed by `seed`."""
    count = max(1, round(fraction * examples))
    chosen = np.random.Generator(np.random.PCG64(seed)).permutation(examples)[:count]
    mask = torch.zeros(examples, dtype=torch.bool)
    mask[torch.from_numpy(chosen)] = True
    return mask
