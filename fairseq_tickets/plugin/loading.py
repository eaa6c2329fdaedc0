"""Models from checkpoints, for commands that run outside fairseq-train."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from torch import nn

from fairseq_tickets import checkpoint
from fairseq_tickets.errors import UserError
from fairseq_tickets.files import PathLike

SHAPE_KEYS = (
    "encoder_layers",
    "encoder_embed_dim",
    "encoder_ffn_embed_dim",
    "encoder_attention_heads",
    "max_positions",
    "layernorm_eps",
    "relative_attention_buckets",
)


def checkpoint_options(path: PathLike) -> dict[str, Any]:
    """Options of the model a checkpoint was saved with, from its config or, in old ones, its arguments."""
    state = checkpoint.load(path)
    config, arguments = state.get("cfg"), state.get("args")
    if config is not None:
        plain = OmegaConf.to_container(config) if isinstance(config, DictConfig) else config
        model = plain.get("model")
        if isinstance(model, dict):
            return dict(model)
        return dict(vars(model)) if model is not None else {}
    return dict(vars(arguments)) if arguments is not None else {}


def checkpoint_shape(path: PathLike) -> dict[str, Any]:
    """The model's dimensions as far as the checkpoint's options tell them.

    Raises:
        UserError: the file is missing or no checkpoint.
    """
    if not Path(path).is_file():
        raise UserError(f"--finetune-from-model {path} does not exist")
    options = checkpoint_options(path)
    return {name: options[name] for name in SHAPE_KEYS if options.get(name) is not None}


def load_finetuned(path: PathLike, data: PathLike | None = None) -> tuple[nn.Module, Any]:
    """A fine-tuned model under its own ticket, in evaluation mode, and its task.

    Args:
        path: checkpoint written by fairseq-train with this plugin.
        data: data folder to use in place of the one the checkpoint names.

    Raises:
        UserError: no such file, not a checkpoint, no dictionary where it says, or weights that don't fit.
    """
    from fairseq import checkpoint_utils

    from fairseq_tickets import plugin  # noqa: F401  (registers the components)

    if not Path(path).is_file():
        raise UserError(f"--checkpoint {path} does not exist")
    overrides = {} if data is None else {"data": str(data)}
    models, _, task = checkpoint_utils.load_model_ensemble_and_task([str(path)], arg_overrides=overrides)
    model: nn.Module = models[0]
    model.eval()
    return model, task
