"""Where a training run starts, and what it takes over from there: the settings that decide what the model computes.

fairseq loads weights and asks for nothing else. A checkpoint with another epsilon, activation or number of heads than
the options say has the right shapes and computes wrong numbers; so what the checkpoint records fills in what isn't
given, and a given option that contradicts it is refused.
"""

from __future__ import annotations

import contextlib
import logging
import math
from argparse import Namespace
from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Optional

from omegaconf import DictConfig, open_dict

from fairseq_tickets import checkpoint
from fairseq_tickets.errors import UserError
from fairseq_tickets.plugin.origin import separator_of
from fairseq_tickets.recorded import FUNCTION, SHAPE, model_settings, options

logger = logging.getLogger(__name__)

LAST = "checkpoint_last.pt"  # fairseq's default of --restore-file
STOCK_EPS = 1e-5  # stock fairseq's layer norms have no other


@dataclass(frozen=True)
class Start:
    """The checkpoint that fairseq will load.

    Attributes:
        path: the file.
        resumes: True when training goes on from there, optimizer and all; False when it starts from its weights.
        option: what named it: --save-dir, --restore-file or --finetune-from-model.
    """

    path: Path
    resumes: bool
    option: str

    @cached_property
    def content(self) -> dict[str, Any]:
        """What is in it; tensors stay in the file where PyTorch can leave them there."""
        if not self.path.exists():
            raise UserError(f"{self.option} {self.path} does not exist")
        return checkpoint.load(self.path, mmap=True)


def start_of(cfg: Any) -> Optional[Start]:
    """Which checkpoint a run starts from, by the rule of fairseq's `checkpoint_utils.load_checkpoint`; None = none.

    Args:
        cfg: any section of the run's config.
    """
    asked = section_of(cfg, "checkpoint")
    if asked is None:
        return None
    restore, save_dir, base = asked.get("restore_file"), asked.get("save_dir"), asked.get("finetune_from_model")
    if restore and restore != LAST:
        return Start(Path(restore), not asked.get("reset_optimizer"), "--restore-file")
    last = Path(save_dir or ".") / LAST
    if last.is_file():
        return Start(last, not asked.get("reset_optimizer"), "--save-dir")
    if asked.get("continue_once"):
        return Start(Path(asked["continue_once"]), not asked.get("reset_optimizer"), "--continue-once")
    return Start(Path(base), False, "--finetune-from-model") if base else None


def section_of(cfg: Any, name: str) -> Any:
    """A section of the whole config that `cfg` is a part of; None where it stands alone."""
    if not isinstance(cfg, DictConfig):
        return None
    whole = cfg._get_root()
    return whole[name] if isinstance(whole, DictConfig) and name in whole else None


def complete_model(cfg: Any, start: Optional[Start], arch_obeys_eps: bool) -> None:
    """Fill in the model's options that aren't given from the checkpoint to start from.

    Args:
        cfg: the model's options.
        start: see `start_of`.
        arch_obeys_eps: False for stock fairseq's models, whose layer norms have one epsilon.

    Raises:
        UserError: an option contradicts the checkpoint.
    """
    if start is None:
        return
    recorded = model_settings(start.content, start.path)
    with opened(cfg) as given:
        for name in (*SHAPE, *FUNCTION):
            if name not in recorded:
                continue
            # --max-positions is also the task's limit on examples; the position table is the checkpoint's matter
            if given.get(name) is None or name == "max_positions":
                given[name] = recorded[name]
            elif not _same(given[name], recorded[name]):
                message = (
                    f"--{name.replace('_', '-')} {given[name]} contradicts {start.path}, which has {recorded[name]}"
                )
                if name != "pooler_activation_fn":
                    raise UserError(f"{message}: its weights were made for that; leave the option out")
                logger.warning(f"{message}: a head that is taken over from there will compute something else")
        if not arch_obeys_eps and not _same(recorded.get("layernorm_eps", STOCK_EPS), STOCK_EPS):
            raise UserError(
                f"{start.path} has layer norms with epsilon {recorded['layernorm_eps']}, and this --arch computes with "
                f"{STOCK_EPS}; use --arch ticket_roberta"
            )


def complete_inputs(cfg: Any, start: Optional[Start], pairs: bool) -> None:
    """Join pairs as the model to start from knows them, where --separator-token isn't given; in the saved config too.

    Args:
        cfg: the task's options.
        start: see `start_of`.
        pairs: True when the data have two sentences.
    """
    known: dict[str, Optional[int]] = {}
    if start is not None:
        recorded = options(start.content, "task")
        if "classification_head_name" in recorded or "tasks_resolved" in recorded:  # fine-tuned on sentences
            known = {name: recorded.get(name) for name in ("init_token", "separator_token")}
        elif pairs and (own := separator_of(start.path)) is not None:
            known = {"separator_token": own if own >= 0 else None}
    separator = cfg.separator_token
    if separator is None and pairs:
        separator = known.get("separator_token")
        if separator is not None:
            logger.info(f"separator_token {separator}: what {start.path} joins pairs by")  # type: ignore[union-attr]
    separator = None if separator is not None and separator < 0 else separator
    for section in (cfg, section_of(cfg, "task")):
        if section is not None:
            with open_dict(section):
                section.separator_token = separator
    for name, value in known.items():
        if (pairs or name == "init_token") and cfg[name] != value:
            option = f"--{name.replace('_', '-')}"
            logger.warning(f"{option} is {cfg[name]}, and {start.path} was trained with {value}")  # type: ignore[union-attr]


@contextlib.contextmanager
def opened(cfg: Any) -> Iterator[MutableMapping[str, Any]]:
    """A model's options as a mapping that can be written to; fairseq's older archs, like roberta, get a Namespace."""
    if isinstance(cfg, Namespace):
        yield vars(cfg)
    else:
        with open_dict(cfg):
            yield cfg


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, (int, float)) and isinstance(other, (int, float)):
        return math.isclose(one, other, rel_tol=1e-6)
    return str(one) == str(other)
