"""`ticket_multitask`: several sentence tasks on one encoder, each under its own super ticket.

Tickets sharing, Liang et al. 2021, section 4 and Algorithm 1. Heads and FFNs in no task's ticket are removed before
training. A batch has examples of one task and is gated by that task's ticket; optimizer `ticket` then moves what the
ticket keeps, and leaves the rest of the encoder, other tasks' heads and all their optimizer state bit for bit as they
were. An update of several batches (--update-freq, data-parallel workers) moves what any of their tasks' tickets keeps.
Without tickets this is the MT-DNN of the paper's section 6.

What the paper leaves open: embeddings, layer norms and W^O's biases, which tickets say nothing about, move in every
update; a task without a ticket among tasks with one keeps the whole encoder.
"""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Optional

from fairseq import models
from fairseq.dataclass import ChoiceEnum
from fairseq.tasks import FairseqTask, register_task
from omegaconf import II, OmegaConf, open_dict
from torch import nn

from fairseq_tickets.errors import UserError
from fairseq_tickets.heap import keep_freed_memory
from fairseq_tickets.parameters import ModelShape
from fairseq_tickets.plugin import mixed_precision
from fairseq_tickets.plugin.criterion import warn_of_one_class
from fairseq_tickets.plugin.model import COMPACT, TicketForm, TicketRobertaModel
from fairseq_tickets.plugin.multitask.criterion import TicketMultitaskCriterion
from fairseq_tickets.plugin.multitask.data import (
    ANNEALED,
    PROPORTIONAL,
    TEMPERATURE,
    MultitaskDataset,
    sampling_exponent,
)
from fairseq_tickets.plugin.multitask.task_list import TaskEntry, entries_from_text, entries_to_text, read_tasks
from fairseq_tickets.plugin.optimizer import TicketTorchOptimizer
from fairseq_tickets.plugin.run_record import check_same_run, run_record
from fairseq_tickets.plugin.sentence_tasks import SentenceTask, SentenceTaskConfig
from fairseq_tickets.plugin.start import Start, complete_inputs, complete_model, start_of
from fairseq_tickets.plugin.task import (
    TicketSentencePredictionConfig,
    TicketSentencePredictionTask,
    arch_obeys_eps,
    check_numbers,
    check_start,
    retire_dead_copies,
)
from fairseq_tickets.plugin.trainable import note_parts, unwrapped
from fairseq_tickets.super_ticket.parts import sharing_parts
from fairseq_tickets.super_ticket.pruning import weight_remaining
from fairseq_tickets.super_ticket.sharing import union
from fairseq_tickets.task_record import RUN_STATE
from fairseq_tickets.tickets import SuperTicket, load_super_ticket

logger = logging.getLogger(__name__)

CRITERION = "ticket_sentence_prediction"


@dataclass
class TicketMultitaskConfig(SentenceTaskConfig):
    """The list of tasks, how they are mixed, and what `ticket_sentence_prediction` has for each of them."""

    tasks: Optional[str] = field(
        default=None,
        metadata={
            "help": "YAML file that lists the tasks: of each its name, data, ticket and more; examples/ticket_sharing "
            "has one"
        },
    )
    tasks_resolved: Optional[str] = field(
        default=None, metadata={"help": "filled in by the task itself, so that a checkpoint needs no YAML file"}
    )
    ticket_form: TicketForm = field(  # type: ignore[valid-type]
        default=COMPACT,
        metadata={"help": "heads and FFNs in no task's ticket: 'compact' removes them, 'gated' multiplies them by 0"},
    )
    task_sampling: ChoiceEnum([PROPORTIONAL, TEMPERATURE, ANNEALED]) = field(  # type: ignore[valid-type]
        default=PROPORTIONAL,
        metadata={
            "help": "examples of a task in an epoch: 'proportional' = all, once; 'temperature' = more of small tasks; "
            "'annealed' = from proportional to nearly equal over the epochs"
        },
    )
    task_temperature: float = field(
        default=2.0, metadata={"help": "T of --task-sampling temperature: shares are as n^(1/T), n examples"}
    )
    max_epoch: int = II("optimization.max_epoch")


@register_task("ticket_multitask", dataclass=TicketMultitaskConfig)
class TicketMultitaskTask(SentenceTask, FairseqTask):  # type: ignore[misc]
    """Several tasks, one encoder, one head and at most one ticket for each.

    Attributes:
        entries: the list of tasks.
        tasks: by name, the single task that reads its data and knows its metrics.
        weight_remaining: by task, and for "union" and "average" (the paper's "average compression"): fractions of the
            encoder's weights; empty without tickets.
    """

    def __init__(self, cfg: Any, entries: list[TaskEntry], tasks: Mapping[str, TicketSentencePredictionTask]) -> None:
        super().__init__(cfg)
        self.entries = entries
        self.tasks = dict(tasks)
        self.dictionary = next(iter(self.tasks.values())).source_dictionary
        self.weight_remaining: dict[str, float] = {}

    @classmethod
    def setup_task(cls, cfg: Any, **kwargs: Any) -> "TicketMultitaskTask":
        """Read the list of tasks, their dictionaries and task.json files.

        Raises:
            UserError: something in them is wrong, or tasks have different dictionaries.
        """
        if cfg.tasks and (Path(cfg.tasks).is_file() or not cfg.tasks_resolved):
            entries = read_tasks(cfg.tasks)
        elif cfg.tasks_resolved:
            entries = entries_from_text(cfg.tasks_resolved)
        else:
            raise UserError("--tasks is not set: it names the YAML file that lists the tasks")
        if cfg.task_temperature <= 0:
            raise UserError(f"--task-temperature {cfg.task_temperature} must be above 0")
        if str(cfg.task_sampling) == ANNEALED and cfg.max_epoch < 1:
            raise UserError("--task-sampling annealed needs --max-epoch: it says by when sampling is nearly equal")
        tasks = {entry.name: _single_task(cfg, entry) for entry in entries}
        first = entries[0]
        for entry in entries[1:]:
            if tasks[entry.name].source_dictionary.indices != tasks[first.name].source_dictionary.indices:
                raise UserError(
                    f"tasks {first.name} and {entry.name} have different dictionaries: {first.data}/input0/dict.txt "
                    f"and {entry.data}/input0/dict.txt; prepare both with the checkpoint's own dict.txt"
                )
        task = cls(cfg, entries, tasks)
        task.check_best_metric(cfg.best_checkpoint_metric)
        return task

    def check_best_metric(self, metric: str) -> None:
        """Raise UserError when the best checkpoint is to go by what isn't measured."""
        measured = {"loss": False, "score": True}
        for name, task in self.tasks.items():
            measured[f"{name}_loss"] = False
            measured.update({f"{name}_{known}": True for known in (*task.logged_metrics, "score")})
        names = [*measured]
        if self.cfg.select_fraction > 0:
            names += [name + part for name, parted in measured.items() if parted for part in ("_select", "_report")]
        if metric not in names:
            raise UserError(
                f"--best-checkpoint-metric {metric} is not measured here; choose from {', '.join(measured)}"
                + (" (the metrics also with _select or _report)" if self.cfg.select_fraction > 0 else "")
            )

    def load_dataset(self, split: str, combine: bool = False, **kwargs: Any) -> Any:
        """Load a split of all tasks; splits other than train and valid may be missing in some, but not in all.

        Raises:
            UserError: the split isn't there, or has no examples.
        """
        training = split == "train"
        chosen = [
            entry
            for entry in self.entries
            if split in ("train", "valid") or (Path(entry.data) / "input0" / f"{split}.idx").is_file()
        ]
        if not chosen:
            raise UserError(f"no task has a split {split!r}: there is no input0/{split}.idx in their data folders")
        datasets = {}
        for entry in chosen:
            if _is_empty(entry, split):
                raise UserError(f"task {entry.name} has no examples: split {split!r} of {entry.data} is empty")
            datasets[entry.name] = self.tasks[entry.name].load_dataset(split, combine, **kwargs)
        made = MultitaskDataset(
            datasets,
            {entry.name: entry.weight for entry in chosen},
            partial(sampling_exponent, str(self.cfg.task_sampling), self.cfg.task_temperature, self.cfg.max_epoch),
            self.cfg.seed,
            shuffle=training,
            bucket=self.cfg.length_bucket,
        )
        logger.info(f"{split}: " + ", ".join(f"{name} {len(dataset):,}" for name, dataset in datasets.items()))
        self.datasets[split] = made
        return made

    def build_model(self, cfg: Any, from_checkpoint: bool = False) -> Any:
        """Build the model, give it a head for each task, and put it under the union of the tasks' tickets.

        A model built from one of our checkpoints takes its tickets from there, not from the files.

        Raises:
            UserError: a ticket can't be read or is for another model.
        """
        if not from_checkpoint:
            start = start_of(self.cfg)
            complete_model(cfg, start, arch_obeys_eps(cfg))
            self._complete_inputs(start)
            self._keep_record(start)
            self._keep_list(cfg)
        with open_dict(cfg):
            cfg.max_positions = cfg.get("max_positions") or self.cfg.max_positions
        self._positions = int(cfg.max_positions)
        for task in self.tasks.values():
            task._positions = self._positions
        model: Any = models.build_model(cfg, self, from_checkpoint)
        names = [entry.name for entry in self.entries]
        for entry in self.entries:
            model.register_classification_head(entry.name, num_classes=self.tasks[entry.name].cfg.num_classes)
            if entry.head_dropout is not None:
                model.classification_heads[entry.name].dropout.p = entry.head_dropout
        tickets: dict[str, SuperTicket] = {}
        if isinstance(model, TicketRobertaModel):
            model.tasks, model.needs_all_heads = names, from_checkpoint
            if not from_checkpoint:
                tickets = self.apply_tickets(model)
        else:
            retire_dead_copies(model)
            if any(entry.ticket for entry in self.entries):
                raise UserError("tickets need --arch ticket_roberta, _base or _large")
        note_parts(model, sharing_parts(model, names, tickets))
        return model

    def _complete_inputs(self, start: Optional[Start]) -> None:
        """Join all tasks' pairs as the model to start from knows them."""
        pairs = any((Path(entry.data) / "input1").is_dir() for entry in self.entries)
        complete_inputs(self.cfg, start, pairs)
        for task in self.tasks.values():
            task.cfg.separator_token = self.cfg.separator_token

    def _keep_record(self, start: Optional[Start]) -> None:
        """As `TicketSentencePredictionTask.keep_record`, for all tasks."""
        parts = {entry.name: (self.tasks[entry.name], entry.ticket) for entry in self.entries}
        record = run_record(self.cfg, parts, several=True)
        check_same_run(start, self.cfg, record)
        for task in self.tasks.values():
            check_start(start, task, record)
        self.state.merge_state_dict({RUN_STATE: record})

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As `TicketSentencePredictionTask.load_state_dict`, for all tasks."""
        super().load_state_dict(state_dict)
        if RUN_STATE in state_dict:
            for name, task in self.tasks.items():
                check_numbers(state_dict[RUN_STATE], task, name)

    def _keep_list(self, cfg: Any) -> None:
        """Write the list of tasks into what the trainer saves: `self.cfg` is a copy, the model's options are not."""
        everything = cfg._get_root()
        if "task" in everything and "tasks_resolved" in everything.task:
            everything.task.tasks_resolved = entries_to_text(self.entries)

    def apply_tickets(self, model: TicketRobertaModel) -> dict[str, SuperTicket]:
        """Read the tasks' tickets, prune what is in none of them, and report the weight that remains."""
        shape = model.ticket_encoder.shape
        tickets = {}
        for entry in self.entries:
            if entry.ticket:
                tickets[entry.name] = load_super_ticket(entry.ticket)
                tickets[entry.name].validate_for(shape, f"ticket {entry.ticket} of task {entry.name}")
        if not tickets:
            return {}
        for entry in self.entries:
            tickets.setdefault(entry.name, SuperTicket.full(shape))
        tickets = {entry.name: tickets[entry.name] for entry in self.entries}
        model.ticket_encoder.apply_super_ticket(union(list(tickets.values())), str(self.cfg.ticket_form))
        model.set_task_tickets(tickets)
        encoder = model.encoder.sentence_encoder
        self.weight_remaining = remaining(
            shape, tickets, encoder.embed_tokens.weight.shape[0], encoder.embed_positions.weight.shape[0]
        )
        for name, share in self.weight_remaining.items():
            what = tickets[name].describe() if name in tickets else ""
            logger.info(f"weight remaining, {name}: {100 * share:.1f} %" + (f" ({what})" if what else ""))
        return tickets

    def build_criterion(self, cfg: Any) -> TicketMultitaskCriterion:
        """The criterion `ticket_sentence_prediction` for several tasks.

        Raises:
            UserError: another criterion is asked for.
        """
        name = getattr(cfg, "_name", None)
        if name != CRITERION:
            raise UserError(f"--criterion {name} knows one task only; --task ticket_multitask needs {CRITERION}")
        mixed_precision.settle(cfg, self.precision, mixed_precision.device_type(self.cfg.cpu))
        return TicketMultitaskCriterion(cfg, self)

    def begin_epoch(self, epoch: int, model: nn.Module) -> None:
        """Called by fairseq before an epoch's first update."""
        keep_freed_memory()

    def gate(self, model: nn.Module, name: str) -> None:
        """Gate the encoder by a task's ticket for what comes next; no ticket = open gates."""
        model = unwrapped(model)
        if isinstance(model, TicketRobertaModel):
            model.ticket_encoder.set_gates(model.task_tickets.get(name))

    def train_step(
        self,
        sample: dict[str, Any],
        model: nn.Module,
        criterion: Any,
        optimizer: Any,
        update_num: int,
        ignore_grad: bool = False,
    ) -> Any:
        """Forward and backward of a batch; its task joins those of the update. A dummy batch joins nothing."""
        if isinstance(optimizer.optimizer, TicketTorchOptimizer):
            optimizer.optimizer.activate([] if ignore_grad else [sample["task"]])
        return super().train_step(sample, model, criterion, optimizer, update_num, ignore_grad)

    def optimizer_step(self, optimizer: Any, model: nn.Module, update_num: int) -> None:
        """One update of what the update's tasks may move.

        Raises:
            UserError: there are tickets, and another optimizer than `ticket` is in use.
        """
        model = unwrapped(model)
        if getattr(model, "task_tickets", None) and not isinstance(optimizer.optimizer, TicketTorchOptimizer):
            raise UserError(
                f"--optimizer {type(optimizer).__name__} would move more than the tickets allow; use --optimizer ticket"
            )
        optimizer.step()

    def post_validate(self, model: nn.Module, stats: Mapping[str, Any], agg: Any) -> None:
        """Called by fairseq-train after each evaluation of a split."""
        for name in self.tasks:
            warn_of_one_class(stats, f"{name}_")

    @property
    def data_folder(self) -> str:
        """The binarised data of the first task, whose dictionary is that of all."""
        return self.entries[0].data

    def parts_of_split(self, indices: Any, dataset: Any) -> Mapping[str, Any]:
        """Examples by task."""
        own = dataset.tasks_of(indices)
        return {f"task {name} ({self.tasks[name].data_folder})": own == i for i, name in enumerate(dataset.names)}

    @property
    def source_dictionary(self) -> Any:
        """The tasks' common dictionary."""
        return self.dictionary

    @property
    def target_dictionary(self) -> Any:
        """As `source_dictionary`."""
        return self.dictionary


def remaining(
    shape: ModelShape, tickets: Mapping[str, SuperTicket], vocabulary: int, positions: int
) -> dict[str, float]:
    """Share of the encoder's weights, embeddings included, that each task's ticket keeps; "union" is what the model
    keeps, "average" the mean over tasks, which the paper reports in table 3."""
    shares = {
        name: weight_remaining(shape, ticket, vocabulary, positions)["encoder"] for name, ticket in tickets.items()
    }
    whole = weight_remaining(shape, union(list(tickets.values())), vocabulary, positions)["encoder"]
    return {**shares, "union": whole, "average": math.fsum(shares.values()) / len(shares)}


def _single_task(cfg: Any, entry: TaskEntry) -> TicketSentencePredictionTask:
    single = OmegaConf.structured(TicketSentencePredictionConfig())
    shared = ("init_token", "separator_token", "shorten_method", "max_positions", "select_fraction", "select_seed")
    for key in (*shared, "train_examples_seed", "seed"):
        single[key] = cfg[key]
    single.data = entry.data
    single.classification_head_name = entry.name
    single.regression_target = bool(entry.regression)
    single.num_classes = entry.classes or (1 if entry.regression else -1)
    single.metric = entry.metric
    single.train_examples, single.valid_examples = entry.train_examples, entry.valid_examples
    single.best_checkpoint_metric = "loss"
    try:
        return TicketSentencePredictionTask.setup_task(single)
    except UserError as error:
        raise UserError(f"task {entry.name}: {error}") from error


def _is_empty(entry: TaskEntry, split: str) -> bool:
    binary = Path(entry.data) / "input0" / f"{split}.bin"
    return binary.is_file() and binary.stat().st_size == 0
