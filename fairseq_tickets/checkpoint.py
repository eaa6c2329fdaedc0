"""fairseq's checkpoints, read and written safely: the only place that calls torch.load and torch.save.

A pickle that names anything outside a short allow-list (safe_pickle.py) is refused before PyTorch reads it, as are
containers that are damaged or claim more than they hold (archive.py) and numbers that are no weights (weights.py).
Writing goes to a temporary file that is renamed when whole. `plugin/checkpoints.py` gives fairseq-train the same two
functions.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import logging
import re
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

import torch
from torch import Tensor

from fairseq_tickets import archive, safe_pickle, safetensors_files
from fairseq_tickets.errors import UserError
from fairseq_tickets.files import PathLike, atomic_write, remove_abandoned
from fairseq_tickets.parameters import current_names, is_dead_copy
from fairseq_tickets.weights import check_finite, checked_weights, half_precision

NAMED_ALLOW_LIST = hasattr(torch.serialization, "get_unsafe_globals_in_checkpoint")  # PyTorch >= 2.6
logger = logging.getLogger(__name__)


def load(path: PathLike, map_location: Any = "cpu", mmap: bool = False, finite: bool = True) -> dict[str, Any]:
    """The dictionary in a checkpoint written by fairseq (any age) or PyTorch; {"model": tensors} from safetensors.

    `args` is an argparse.Namespace or None, `cfg` a plain dictionary or None, also where an omegaconf object was
    pickled. "model", where it is there, holds weights by the names of fairseq 0.12.2, whatever naming the file has
    (`parameters.current_names`); half precision is allowed, and said in a warning.

    Args:
        mmap: leave the tensors in the file until they are used (files since PyTorch 1.6).
        finite: refuse weights that are NaN or infinite; False for those who look themselves as they read.

    Raises:
        UserError: missing, unreadable, empty, cut, damaged, not a checkpoint, a pickle that names something not
            allowed, or a model that isn't one (`weights.checked_weights`), or holds NaN or infinity.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        content: dict[str, Any] = {"model": safetensors_files.read(path)[0]}
    else:
        content = _content(path, map_location, mmap)
    for key, kind in (("args", argparse.Namespace), ("cfg", dict)):
        if content.get(key) is not None and not isinstance(content[key], kind):
            found = type(content[key]).__name__
            raise UserError(f"checkpoint {path} is damaged: its {key} are a {found}, not a {kind.__name__}")
    if "model" in content:
        model = checked_weights(content["model"], f"checkpoint {path}", half=True)
        if finite:
            check_finite(model, f"checkpoint {path}")
        narrow = half_precision(model)
        if narrow is not None:
            logger.warning(
                "%s holds half-precision weights (%s is %s); they are widened", path, narrow, model[narrow].dtype
            )
        try:
            content["model"] = current_names(model)
        except UserError as error:
            raise UserError(f"checkpoint {path} is damaged: {error}") from error
    return content


def save(content: Any, path: PathLike) -> None:
    """Write a checkpoint: to a temporary file in the same folder, which is renamed when it is whole.

    Raises:
        UserError: no permission, or the disk is full; `path` is as it was before.
    """
    path = Path(path)
    with contextlib.suppress(OSError):  # fairseq names each checkpoint anew, so no other write removes these
        remove_abandoned(path.parent, rf".+{re.escape(path.suffix)}")
    with atomic_write(path) as temporary, open(temporary, "wb") as handle:
        output = _Output(handle)
        try:
            torch.save(content, cast("IO[bytes]", output))
        except Exception:
            if output.fault is not None:  # PyTorch reports a failed write as a RuntimeError of its own
                raise output.fault from None
            raise


def copy(source: PathLike, target: PathLike) -> None:
    """Copy a file so that `target` is the old one or the whole new one at any moment.

    Raises:
        UserError: as `save`.
    """
    with atomic_write(target) as temporary:
        shutil.copyfile(source, temporary)


def encoder_tensors(path: PathLike) -> dict[str, Tensor]:
    """Name -> tensor of a checkpoint's model, memory-mapped where PyTorch can, without fairseq's dead copies.

    Raises:
        UserError: as `load`, NaN or infinity too, or there is no model.
    """
    model = load(path, mmap=True).get("model")
    if model is None:
        raise UserError(f"{path} is not a fairseq checkpoint: it has no model (no tensors under the key 'model')")
    return {name: tensor for name, tensor in model.items() if not is_dead_copy(name)}


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """Hex SHA-256 over names, shapes, types and bytes of an encoder's tensors, in the order of the names.

    Left out: heads (they are not the encoder), dead copies, and fairseq's `version` markers. So two files with the
    same encoder have the same fingerprint, whatever else they hold.
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        if is_head(name) or is_dead_copy(name) or name.endswith(".version"):
            continue
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(cast(bytes, tensor.reshape(-1).view(torch.uint8).numpy()))  # by its buffer, not copied
    return digest.hexdigest()


def is_head(name: str) -> bool:
    """True for parameters of a classification head or the language-model head."""
    return "classification_heads." in name or ".lm_head." in name or name.startswith("lm_head.")


def misfit(given: Mapping[str, Any], model: Mapping[str, Any]) -> str | None:
    """The first way in which the tensors `given` don't fit those of `model`, in words; None if they do."""
    for name, tensor in model.items():
        if name in given and tuple(given[name].shape) != tuple(tensor.shape):
            return (
                f"{name} has shape {tuple(given[name].shape)} in the checkpoint and {tuple(tensor.shape)} in the model"
            )
    for names, fault in (
        ([name for name in model if name not in given], "the checkpoint does not have"),
        ([name for name in given if name not in model], "the model does not have"),
    ):
        if names:
            others = f" (nor {len(names) - 1} more)" if len(names) > 1 else ""
            return f"{fault} {names[0]}{others}"
    return None


# Reading


def _content(path: Path, map_location: Any, mmap: bool) -> dict[str, Any]:
    names = archive.named_globals(path)
    refused = safe_pickle.refused(names)
    unwanted = [safe_pickle.UNWANTED[name] for name in refused if name in safe_pickle.UNWANTED]
    if unwanted and all(name.startswith("torch.") for name in refused):
        raise UserError(f"checkpoint {path} holds {unwanted[0]}; weights must be dense numbers")
    if refused:
        raise UserError(
            f"checkpoint {path} is refused: it would run {', '.join(refused[:3])}, which is not on the list of what a "
            "checkpoint may use"
        )
    options: dict[str, Any] = {"map_location": map_location, "mmap": mmap and zipfile.is_zipfile(path)}
    try:
        content = _load_allowed(path, safe_pickle.allowed_globals(names), options)
    except MemoryError as error:
        raise UserError(f"checkpoint {path} needs more memory than there is ({path.stat().st_size:,} bytes)") from error
    except Exception as error:  # a file can hold anything, so PyTorch can fail in any way
        raise archive.damaged(path) from error
    if not isinstance(content, dict):
        raise UserError(f"{path} is not a checkpoint: it holds a {type(content).__name__}, not a dictionary")
    made: dict[str, Any] = safe_pickle.plain(content, f"checkpoint {path}")
    return made


def _load_allowed(path: Path, allowed: dict[str, Any], options: dict[str, Any]) -> Any:
    if not NAMED_ALLOW_LIST:  # then the module is the guard: PyTorch takes only one of the two
        module = safe_pickle.restricted_module(allowed)
        return torch.load(str(path), pickle_module=module, weights_only=False, **options)
    named: list[Any] = [(value, name) for name, value in allowed.items()]
    with torch.serialization.safe_globals(named):
        return torch.load(str(path), weights_only=True, **options)


# Writing


class _Output:
    """A file that remembers the first error of a write."""

    def __init__(self, handle: BinaryIO) -> None:
        self.handle = handle
        self.fault: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return self.handle.write(data)
        except OSError as error:
            self.fault = self.fault or error
            raise

    def flush(self) -> None:
        self.handle.flush()
