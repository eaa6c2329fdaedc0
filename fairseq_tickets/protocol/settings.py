"""How a model is trained on a task, as a protocol file says it. What is written below a key is its help."""

from collections.abc import Iterable
from typing import Annotated, Any, Literal, Optional, TypeVar, Union

from annotated_types import Ge, Le
from pydantic import PrivateAttr, field_validator, model_validator

from fairseq_tickets.protocol.values import (
    Above0,
    AtLeast0,
    Below1,
    Between,
    Count,
    FilePath,
    Flag,
    Natural,
    Number,
    Part,
    Section,
    Several,
)

T = TypeVar("T", bound="Training")


class Training(Section):
    """How a model is trained; every key but the two lists determines the result of a run."""

    learning_rates: Several[Above0] = (5e-5, 1e-4, 2e-4)
    """the grid, with batch_sizes"""
    batch_sizes: Several[Count] = (8, 16, 32)
    max_epoch: Count = 6
    """most epochs; the learning rate decays over all of them"""
    patience: Natural = 0
    """stop after so many epochs without a better score; 0 = never"""
    optimizer: Literal["adamax", "adamw", "sgd"] = "adamax"
    weight_decay: AtLeast0 = 0.0
    warmup: Annotated[Number, Ge(0), Le(1)] = 0.1
    """part of all updates"""
    clip_norm: AtLeast0 = 1.0
    """largest norm of the gradient; 0 = no limit"""
    dropout: Below1 = 0.1
    """of embeddings, attention and FFN outputs"""
    attention_dropout: Below1 = 0.1
    """of attention weights"""
    head_dropout: Below1 = 0.1
    """of the task head"""
    max_positions: Optional[Annotated[Natural, Ge(2)]] = None
    """examples are cut to so many tokens; null = what the model can take"""
    separator_token: Optional[Natural] = None
    """number of the token before the second sentence: 2 for RoBERTa, null for BERT"""
    select_fraction: Between = 0.1
    """the part of dev kept for selection"""
    select_seed: Natural = 1
    best_epoch: Literal["select", "all"] = "select"
    """take the epoch with the best score on the part kept for selection, or on all of dev"""
    log_interval: Count = 10
    """updates between two points of the training curve"""
    length_bucket: Natural = 0
    """batches of examples whose lengths differ by less than so many tokens, to waste less on padding; 0 = no"""
    device: Literal["cpu", "cuda"] = "cpu"
    amp: Flag = False
    """mixed precision on a GPU"""
    precision: Literal["float32", "bf16"] = "float32"
    """bf16 is autocast, on a CPU too; part of a run's key when it is not float32"""
    threads: Count = 1
    """of PyTorch; on the CPU another number gives other roundings"""

    @model_validator(mode="after")
    def _fits_together(self: T) -> T:
        return self.checked()

    def checked(self: T) -> T:
        """The same; ValueError where mixed precision is asked for twice."""
        if self.amp and self.precision != "float32":
            raise ValueError(f"precision is {self.precision!r} and amp is true; take one of them")
        return self

    def over(self: T, base: "Training") -> T:
        """The same, with what is not said here as in `base`; ValueError where the two don't go together."""
        unsaid = {name: getattr(base, name) for name in Training.model_fields if name not in self.model_fields_set}
        return self.model_copy(update=unsaid).checked()

    def grid(self, learning_rates: Iterable[float] = ()) -> list[tuple[float, int]]:
        """Settings to search: learning rate and batch size; at these rates, or its own."""
        rates = tuple(learning_rates) or self.learning_rates
        return [(lr, batch_size) for batch_size in self.batch_sizes for lr in rates]

    def config(self, lr: float, batch_size: int) -> dict[str, Any]:
        """The `config` of one run."""
        names = [name for name in Training.model_fields if name not in ("learning_rates", "batch_sizes")]
        if self.precision == "float32":  # keys of before there was a choice stay what they were
            names.remove("precision")
        return {"lr": lr, "batch_size": batch_size, **{name: getattr(self, name) for name in names}}


class Task(Training):
    """One task, with its own values of any key of `training`."""

    data: Optional[FilePath] = None
    """prepared folder; null = prepare from `glue`"""
    subset: Optional[Union[Count, Part]] = None
    """train on so many examples (a whole number above 1) or such a part only; null = all. Results say partial_data."""
    subset_seed: Natural = 1
    """of `subset` and `fractions`; subsets of one seed are nested"""
    dev_subset: Optional[Count] = None
    """evaluate on so many examples of dev, fixed by select_seed; null = all. Results say partial_data."""
    fractions: Several[Part] = (1.0,)
    """parts of the training data to repeat everything on"""
    metrics: Optional[Several[Literal["accuracy", "f1", "mcc", "pearson", "spearman"]]] = None
    """what the task is judged by; null = what the data's task.json says"""
    _name: str = PrivateAttr("")

    @field_validator("subset")
    @classmethod
    def _all_is_a_part(cls, value: Union[int, float, None]) -> Union[int, float, None]:
        return 1.0 if value == 1 else value

    @property
    def name(self) -> str:
        """Its key in the file."""
        return self._name
