"""What `ticket_sentence_prediction` and `ticket_multitask` have in common: options, precision, longest example."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Optional

import numpy as np
from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from omegaconf import II

from fairseq_tickets.errors import UserError
from fairseq_tickets.plugin import mixed_precision


@dataclass
class SentenceTaskConfig(FairseqDataclass):
    """Options of both, with defaults for RoBERTa."""

    init_token: Optional[int] = field(default=0, metadata={"help": "token put before each example; 0 is <s>"})
    separator_token: Optional[int] = field(
        default=None,
        metadata={
            "help": "token put before the second sentence: 2 (</s>) for RoBERTa, none for BERT; default: what the "
            "checkpoint to start from was trained or imported with, else none; -1 = none"
        },
    )
    shorten_method: ChoiceEnum(["none", "truncate", "random_crop"]) = field(  # type: ignore[valid-type]
        default="truncate", metadata={"help": "what to do with examples longer than --max-positions"}
    )
    max_positions: int = field(default=512, metadata={"help": "max tokens per example"})
    precision: str = field(
        default=mixed_precision.AUTO,
        metadata={
            "help": "what the model runs in: 'float32', 'bf16' or (GPUs) 'float16'; losses, optimizer state and saved "
            "weights stay float32. 'auto' = float32, or with --amp bf16 on a CPU and float16 on a GPU"
        },
    )
    length_bucket: int = field(
        default=0,
        metadata={
            "help": "batch training examples whose lengths differ by less than this many tokens: less padding; 0 = off"
        },
    )
    select_fraction: float = field(
        default=0.1, metadata={"help": "part of the validation split for selection (metrics *_select); 0 = none"}
    )
    select_seed: int = field(default=1, metadata={"help": "seed of the selection part; not the training seed"})
    train_examples_seed: int = field(
        default=1, metadata={"help": "seed of the subset that --train-examples chooses; not the training seed"}
    )
    seed: int = II("common.seed")
    best_checkpoint_metric: str = II("checkpoint.best_checkpoint_metric")
    amp: bool = II("common.amp")
    fp16: bool = II("common.fp16")
    bf16: bool = II("common.bf16")
    cpu: bool = II("common.cpu")


class SentenceTask:
    """Goes before a class of fairseq's tasks, whose `cfg` is a SentenceTaskConfig."""

    cfg: Any
    _positions: Optional[int] = None  # that the model has, once there is one

    @cached_property
    def precision(self) -> str:
        """What the model runs in: "float32", "bf16" or "float16".

        Raises:
            UserError: the options ask for what can't be; see `mixed_precision.chosen_precision`.
        """
        return mixed_precision.chosen_precision(self.cfg)

    def max_positions(self) -> int:
        """Longest example: what the options allow and, once there is a model, what it has positions for."""
        return min(int(self.cfg.max_positions), self._positions or int(self.cfg.max_positions))

    def parts_of_split(self, indices: Any, dataset: Any) -> Mapping[str, Any]:
        """Where examples come from, for errors -> a mask of those among `indices`."""
        raise NotImplementedError

    def filter_indices_by_size(
        self, indices: Any, dataset: Any, max_positions: Any = None, ignore_invalid_inputs: bool = False
    ) -> Any:
        """As fairseq's, which leaves examples out that are too long and not shortened.

        Raises:
            UserError: one is too long for a validation, or all that a task has in the split are.
        """
        method = str(self.cfg.shorten_method)
        hint = "; leave --shorten-method none out, and they are cut" if method == "none" else ""
        try:
            kept = super().filter_indices_by_size(  # type: ignore[misc]
                indices, dataset, max_positions, ignore_invalid_inputs
            )
        except Exception as error:
            if "--skip-invalid-size-inputs-valid-test" not in str(error):  # fairseq's has no class of its own
                raise
            raise UserError(f"{', '.join(self.parts_of_split(indices, dataset))}: {error}{hint}") from error
        left = np.isin(indices, kept)
        for place, own in self.parts_of_split(indices, dataset).items():
            if own.any() and not (own & left).any():
                raise UserError(
                    f"{place}: all {int(own.sum())} examples of a split are longer than {max_positions} tokens, the "
                    f"least of --max-positions, --max-tokens and the model's positions{hint}"
                )
        return kept
