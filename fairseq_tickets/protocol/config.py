"""A protocol file: what to train on what, how, and which tickets; checked strictly before anything runs.

    experiment: minilm                       # names the folder of runs and the field of the results
    model: {name: minilm, path: models/minilm}       # folder of `fairseq-tickets import`
    glue: $GLUE_DIR                          # where tasks without `data` are; they are prepared into a cache
    tasks:
      RTE:
      SST-2: {subset: 6000, head_dropout: 0.1}       # any key of `training`, and subset, dev_subset, fractions, data
    seeds: [1, 2, 3]
    search_seeds: 1
    training: {learning_rates: [1e-4], batch_sizes: [16], max_epoch: 6}
    super_tickets: {levels: [0.1, 0.2], keep: {default: [winning], RTE: [winning, random]}}  # lists, or by task
    early: {after: [0.01, 0.05, 0.1, 0.25, 0.5], levels: [0.2]}          # parts of fine-tuning after which to score
    iterative: {step: 0.1, levels: [0.2]}        # prune a tenth at a time
    adaptation: {source: MNLI, targets: [SNLI, SciTail], fractions: [0.001, 0.01, 0.1, 1]}
    dominant: {top_k: [1, 3], methods: [dominant, random_dimensions, salience], salience: {metric: gradient}}
    sharing: {training: {learning_rates: [1e-4], batch_sizes: [32]}, then: {learning_rates: [1e-4]}}

The sections of recipes stand beside these, in super_tickets.py and so on. Defaults are those of Liang et al. 2021
(section 5.2, appendix A.1.2): Adamax, linear decay after 10 % warm-up, gradient norm 1, 6 epochs, 8 levels. Paths are
relative to the current folder.
"""

from pathlib import Path
from typing import Any, Optional

from pydantic import Field, PrivateAttr, ValidationError, field_validator, model_validator

from fairseq_tickets.data.tasks import TASKS
from fairseq_tickets.documents import shown
from fairseq_tickets.errors import UserError
from fairseq_tickets.files import read_yaml
from fairseq_tickets.parameters import ModelShape
from fairseq_tickets.protocol.recipes.adaptation import Adaptation
from fairseq_tickets.protocol.recipes.dominant import Dominant
from fairseq_tickets.protocol.recipes.early import Early
from fairseq_tickets.protocol.recipes.iterative import Iterative
from fairseq_tickets.protocol.recipes.sharing import Sharing
from fairseq_tickets.protocol.recipes.super_tickets import SuperTickets
from fairseq_tickets.protocol.settings import Task, Training
from fairseq_tickets.protocol.values import (
    Count,
    FilePath,
    Flag,
    IfNamed,
    Name,
    Natural,
    Section,
    Several,
    about,
    check_keys,
    refusal,
)

SECTIONS = ("super_tickets", "early", "iterative", "sharing", "adaptation", "dominant")  # in the order of their needs


class ModelFolder(Section):
    """The pre-trained model."""

    path: FilePath
    """folder of `fairseq-tickets import`, or its model.pt"""
    name: Name = Field(default_factory=lambda data: data.get("path", Path()).name, validate_default=True)
    """for tables; that of the folder if absent"""


class Protocol(Section):
    """A whole protocol file."""

    experiment: Name
    """names the folder of runs and the field of the results"""
    model: ModelFolder
    glue: Optional[FilePath] = None
    """folder of the tasks that have no `data`"""
    tokenizer: FilePath = Field(default_factory=lambda data: data["model"].path)
    """file or folder; the model's if absent"""
    training: Training = Training()
    """of all tasks"""
    tasks: dict[str, Task]
    seeds: Several[Natural] = (1, 2, 3, 4, 5)
    search_seeds: Count = Field(default_factory=lambda data: len(data["seeds"]))
    """learning rates and batch sizes are searched on so many of the seeds, the first ones; the others run the best of
    them only; all if absent"""
    super_tickets: IfNamed[SuperTickets] = None
    early: IfNamed[Early] = None
    iterative: IfNamed[Iterative] = None
    sharing: IfNamed[Sharing] = None
    adaptation: IfNamed[Adaptation] = None
    dominant: IfNamed[Dominant] = None
    keep_checkpoints: Flag = False
    """also those that no step needs any more"""
    _path: Path = PrivateAttr(Path())

    @property
    def path(self) -> Path:
        """The file."""
        return self._path

    @field_validator("experiment")
    @classmethod
    def _names_a_folder(cls, name: str) -> str:
        if not name.replace("-", "").replace("_", "").replace(".", "").isalnum() or name.startswith("."):
            raise ValueError(f"is {shown(name)}; it names a folder: letters, digits, - _ and .")
        return name

    @model_validator(mode="after")
    def _fits_together(self) -> "Protocol":
        """What one key says of another; sections of recipes are made whole by it."""
        if not self.tasks:
            raise ValueError("tasks is empty; name at least one task")
        for name, own in self.tasks.items():
            with about(f"tasks: {name}"):
                task = self.tasks[name] = own.over(self.training)
            task._name = name
            if task.data is None and name not in TASKS:
                raise ValueError(
                    f"tasks: unknown task {shown(name)}; it must be one of {', '.join(TASKS)}, or have `data`: "
                    "a folder made by `fairseq-tickets prepare`"
                )
            if task.data is None and self.glue is None:
                raise ValueError(f"tasks: {name} has no `data`, and there is no `glue` folder to prepare it from")
        if self.search_seeds > len(self.seeds):
            raise ValueError(f"search_seeds is {self.search_seeds}, but there are only {len(self.seeds)} seeds")
        for name in SECTIONS:
            section = getattr(self, name)
            with about(name):
                object.__setattr__(self, name, section and section.of(self))  # nobody has seen the model yet
        if self.super_tickets is None and self.dominant is None and self.sharing is None:
            raise ValueError("it asks for nothing: it needs a section super_tickets, dominant or sharing")
        return self

    def check(self, shape: ModelShape) -> None:
        """Refuse what makes no sense for a model, before anything runs."""
        for name in ("super_tickets", "iterative"):
            section = getattr(self, name)
            if section is not None:
                with about(f"{self.path}: {name}", UserError):
                    section.check(shape)


def load_protocol(path: Path) -> Protocol:
    """Read and check a protocol file.

    Raises:
        UserError: no such file, no YAML, an unknown key, task or metric, or a value out of its range; the message
            names it and what is allowed.
    """
    return protocol_from(read_yaml(path, "protocol"), path)


def protocol_from(content: Any, path: Path) -> Protocol:
    """Protocol from a file's content; see `load_protocol`."""
    check_keys(content, str(path))
    try:
        protocol = Protocol.model_validate(content)
    except ValidationError as error:
        raise refusal(error, Protocol, content, str(path)) from None
    protocol._path = path
    return protocol
