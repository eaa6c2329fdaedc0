"""Models from checkpoints, for commands that run outside fairseq-train."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from fairseq_tickets import checkpoint
from fairseq_tickets.errors import UserError
from fairseq_tickets.files import PathLike
from fairseq_tickets.recorded import options

LANGUAGE_MODELLING = ("masked_lm", "multilingual_masked_lm", "legacy_masked_lm")


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
    from fairseq_tickets.plugin.origin import check_origin

    if not Path(path).is_file():
        raise UserError(f"--checkpoint {path} does not exist")
    saved = checkpoint.load(path, mmap=True, finite=False)  # its weights are looked at when the model loads
    name = options(saved, "task").get("_name" if saved.get("cfg") else "task")
    if name in LANGUAGE_MODELLING:
        raise UserError(
            f"--checkpoint {path} is a pre-trained model or one that `import` made (its task is {name}), not one "
            "fine-tuned with --task ticket_sentence_prediction; fine-tune it first: fairseq-train ... "
            f"--finetune-from-model {path}"
        )
    overrides = {} if data is None else {"data": str(data)}
    models, _, task = checkpoint_utils.load_model_ensemble_and_task([str(path)], arg_overrides=overrides)
    check_origin(path, task.source_dictionary.symbols, task.data_folder)
    model: nn.Module = models[0]
    model.eval()
    return model, task
