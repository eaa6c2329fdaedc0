"""fairseq's own loading and saving, led through `fairseq_tickets.checkpoint`.

So fairseq-train refuses what our commands refuse, a run that is killed while it saves leaves no broken
checkpoint_last.pt, and a checkpoint of another shape is one clear line.
"""

from __future__ import annotations

import os
from typing import Any

import torch
from fairseq import checkpoint_utils, models, trainer
from fairseq.logging import meters
from omegaconf.errors import ConfigAttributeError

from fairseq_tickets import saved_config
from fairseq_tickets.checkpoint import copy, load, misfit, save
from fairseq_tickets.errors import UserError


def install_into_fairseq() -> None:
    """Let fairseq load and save as here, for as long as the process lives; calling it again changes nothing.

    A load that does not fit the model becomes a UserError that names the first parameter at fault with both shapes.
    """
    if isinstance(checkpoint_utils.torch, _SafeTorch):
        return
    checkpoint_utils.torch = _SafeTorch()
    checkpoint_utils.PathManager = _whole_copies(checkpoint_utils.PathManager)
    checkpoint_utils.torch_persistent_save = _persistent_save(checkpoint_utils.torch_persistent_save)
    checkpoint_utils._upgrade_state_dict = _name_what_is_missing(checkpoint_utils._upgrade_state_dict)
    checkpoint_utils.verify_checkpoint_directory = _name_the_folder(checkpoint_utils.verify_checkpoint_directory)
    checkpoint_utils.load_model_ensemble_and_task = _name_the_reason(checkpoint_utils.load_model_ensemble_and_task)
    base = models.BaseFairseqModel
    base.load_state_dict = _name_the_misfit(base.load_state_dict)
    trainer.Trainer.load_checkpoint = _name_the_file(trainer.Trainer.load_checkpoint)


class _SafeTorch:
    """What fairseq.checkpoint_utils sees as `torch`: PyTorch, with the `load` of this file."""

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    @staticmethod
    def load(file: Any, map_location: Any = "cpu", **_: Any) -> dict[str, Any]:
        path = getattr(file, "name", file)
        state = load(path, map_location, mmap=True)
        saved_config.clean(state, f"checkpoint {path}")
        _check_records(state, path)
        return state


RECORDS = {"extra_state": dict, "optimizer_history": list, "task_state": dict}
METERS = {name for name, kind in vars(meters).items() if isinstance(kind, type) and issubclass(kind, meters.Meter)}


def _check_records(state: dict[str, Any], path: Any) -> None:
    """What fairseq reads beside weights and options: each of its kind; it makes meters by their class's name."""
    for name, kind in RECORDS.items():
        if state.get(name) is not None and not isinstance(state[name], kind):
            raise UserError(f"checkpoint {path} is damaged: {name} is a {type(state[name]).__name__}")
    if state.get("optimizer_history") == []:  # fairseq reads the last entry without asking
        state["optimizer_history"] = [{"optimizer_name": "", "lr_scheduler_state": {}, "num_updates": 0}]
    if not all(isinstance(entry, dict) for entry in state.get("optimizer_history") or ()):
        raise UserError(f"checkpoint {path} is damaged: optimizer_history holds something else than records")
    for group in ((state.get("extra_state") or {}).get("metrics") or {}).values():
        for meter in group:
            if not isinstance(meter, (list, tuple)) or len(meter) != 4 or meter[2] not in METERS:
                raise UserError(f"checkpoint {path} is damaged: its metrics are none of fairseq's")


def _whole_copies(manager: Any) -> Any:
    class PathManager(manager):  # type: ignore[misc]
        @staticmethod
        def copy(src_path: str, dst_path: str, overwrite: bool = False) -> bool:
            if manager.path_requires_pathmanager(dst_path) or (os.path.exists(dst_path) and not overwrite):
                return bool(manager.copy(src_path, dst_path, overwrite))
            copy(src_path, dst_path)
            return True

    return PathManager


def _persistent_save(original: Any) -> Any:
    def torch_persistent_save(obj: Any, filename: Any, async_write: bool = False) -> None:
        if async_write or not isinstance(filename, (str, os.PathLike)):
            original(obj, filename, async_write=async_write)
        else:
            save(obj, filename)

    return torch_persistent_save


def _name_what_is_missing(original: Any) -> Any:
    def upgrade_state_dict(state: dict[str, Any]) -> Any:
        try:
            return original(state)
        except KeyError as error:
            raise UserError(
                f"this is no checkpoint written by fairseq, or of another architecture: it lacks {error}; "
                "`fairseq-tickets import` makes one from a Hugging Face folder"
            ) from error

    return upgrade_state_dict


def _name_the_folder(original: Any) -> Any:
    def verify_checkpoint_directory(save_dir: str) -> None:
        try:
            original(save_dir)
        except OSError as error:
            raise UserError(f"--save-dir {save_dir}: cannot write there: {error.strerror or error}") from error

    return verify_checkpoint_directory


def _name_the_reason(original: Any) -> Any:
    """fairseq builds the task that a checkpoint records: what that needs may not be there, or nothing is recorded."""

    def load_model_ensemble_and_task(filenames: Any, *args: Any, **options: Any) -> Any:
        shown = ", ".join(map(str, filenames))
        try:
            return original(filenames, *args, **options)
        except FileNotFoundError as error:
            raise UserError(
                f"checkpoint {shown}: the task it records needs {error.filename}, which does not exist; a pre-trained "
                "model is not evaluated but fine-tuned first (fairseq-train ... --finetune-from-model)"
            ) from error
        except OSError as error:
            raise UserError(f"checkpoint {shown}: {error.strerror or error}") from error
        except ConfigAttributeError as error:
            raise UserError(f"checkpoint {shown} records too little to be evaluated: {error.args[0]}") from error

    return load_model_ensemble_and_task


def _name_the_misfit(original: Any) -> Any:
    def load_state_dict(self: Any, state_dict: Any, *args: Any, **options: Any) -> Any:
        try:
            return original(self, state_dict, *args, **options)
        except RuntimeError as error:
            fault = misfit(state_dict, self.state_dict())
            if fault is None:
                raise
            if any(name.endswith("relative_attention_bias.weight") for name in state_dict):
                fault += "; it has MPNet's relative position bias, which --arch ticket_roberta alone knows"
            raise UserError(f"the checkpoint does not fit the model: {fault}") from error

    return load_state_dict


def _name_the_file(original: Any) -> Any:
    def load_checkpoint(self: Any, filename: Any, *args: Any, **options: Any) -> Any:
        try:
            return original(self, filename, *args, **options)
        except Exception as error:  # fairseq raises a bare Exception, with the cause as its context
            cause = error if isinstance(error, UserError) else error.__context__
            if isinstance(cause, UserError) and str(filename) not in str(cause):
                raise UserError(f"{filename}: {cause}") from error
            raise

    return load_checkpoint
