"""fairseq's checkpoints, read and written safely: the only place that calls torch.load and torch.save.

Reading has `weights_only` semantics: a pickle that would call anything outside a short allow-list (see safe_pickle.py)
is refused. Writing goes to a temporary file that is renamed when whole. `plugin/checkpoints.py` gives fairseq-train the
same two functions.
"""

from __future__ import annotations

import contextlib
import hashlib
import pickle
import shutil
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

import torch
from torch import Tensor

from fairseq_tickets import safe_pickle, safetensors_files
from fairseq_tickets.errors import UserError
from fairseq_tickets.files import PathLike, atomic_write
from fairseq_tickets.parameters import current_names, is_dead_copy

ZIP_START, PICKLE_START = b"PK\x03\x04", b"\x80"
STALE_SECONDS = 600
NAMED_ALLOW_LIST = hasattr(torch.serialization, "get_unsafe_globals_in_checkpoint")  # PyTorch >= 2.6
MEMORY_MAPPING = "mmap" in (torch.load.__kwdefaults__ or {}) or "mmap" in torch.load.__code__.co_varnames  # >= 2.1


def load(path: PathLike, map_location: Any = "cpu", mmap: bool = False) -> dict[str, Any]:
    """The dictionary in a checkpoint written by fairseq (any age) or PyTorch; {"model": tensors} from safetensors.

    `args` is an argparse.Namespace or None, `cfg` a plain dictionary, also where an omegaconf object was pickled. The
    names under "model" are those of fairseq 0.12.2, whatever naming the file has (`parameters.current_names`).

    Args:
        mmap: leave the tensors in the file until they are used, where PyTorch can (>= 2.1, files since 1.6).

    Raises:
        UserError: missing, unreadable, empty, cut, not a checkpoint, or a pickle that names something not allowed.
    """
    path = Path(path)
    start = _first_bytes(path)
    if path.suffix == ".safetensors":
        return {"model": _named(path, safetensors_files.read(path)[0])}
    if not start.startswith((ZIP_START, PICKLE_START)):
        raise UserError(f"{path} is not a PyTorch checkpoint")
    if start.startswith(ZIP_START) and not zipfile.is_zipfile(path):
        raise UserError(f"checkpoint {path} is damaged or was cut short")
    options: dict[str, Any] = {"map_location": map_location}
    if mmap and MEMORY_MAPPING and start.startswith(ZIP_START):
        options["mmap"] = True
    named = safe_pickle.scan_globals(path) if not NAMED_ALLOW_LIST else set()
    try:
        try:
            content = _load_allowed(path, named, options)
        except pickle.UnpicklingError:
            named = safe_pickle.scan_globals(path)
            if not any(name.startswith(safe_pickle.FOREIGN) for name in named):
                raise
            content = _load_allowed(path, named, options)  # once more, with stand-ins for the classes it names
    except (MemoryError, OSError):
        raise
    except Exception as error:  # a file can hold anything, so PyTorch can fail in any way
        raise UserError(_what_is_wrong(path, named or safe_pickle.scan_globals(path))) from error
    if not isinstance(content, dict):
        raise UserError(f"{path} is not a checkpoint: it holds a {type(content).__name__}, not a dictionary")
    for key in ("args", "cfg"):
        if key in content:
            content[key] = safe_pickle.plain(content[key])
    if isinstance(content.get("model"), Mapping):
        content["model"] = _named(path, content["model"])
    return content


def save(content: Any, path: PathLike) -> None:
    """Write a checkpoint: to a temporary file in the same folder, which is renamed when it is whole.

    Raises:
        UserError: no permission, or the disk is full; `path` is as it was before.
    """
    path = Path(path)
    _remove_stale(path)
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
        UserError: as `load`, or there are no tensors under "model".
    """
    model = load(path, mmap=True).get("model")
    if not isinstance(model, Mapping) or not all(isinstance(value, Tensor) for value in model.values()) or not model:
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


def _load_allowed(path: Path, named: set[str], options: dict[str, Any]) -> Any:
    if not NAMED_ALLOW_LIST:
        module = safe_pickle.restricted_module(named)
        if "weights_only" in torch.load.__code__.co_varnames:
            options = {**options, "weights_only": False}  # the module is the guard: PyTorch takes only one of the two
        return torch.load(path, pickle_module=module, **options)
    allowed: list[Any] = [(value, name) for name, value in safe_pickle.allowed_globals(named).items()]
    with torch.serialization.safe_globals(allowed):
        return torch.load(path, weights_only=True, **options)


def _named(path: Path, model: Mapping[str, Tensor]) -> dict[str, Tensor]:
    try:
        return current_names(model)
    except UserError as error:
        raise UserError(f"checkpoint {path} is damaged: {error}") from error


def _first_bytes(path: Path) -> bytes:
    try:
        with open(path, "rb") as handle:
            start = handle.read(len(ZIP_START))
    except FileNotFoundError:
        raise UserError(f"checkpoint {path} does not exist") from None
    except IsADirectoryError:
        raise UserError(f"checkpoint {path} is a folder, not a file") from None
    except OSError as error:
        raise UserError(f"cannot read checkpoint {path}: {error.strerror or error}") from error
    if not start:
        raise UserError(f"checkpoint {path} is empty (0 bytes)")
    return start


def _what_is_wrong(path: Path, named: set[str]) -> str:
    from torch import _weights_only_unpickler

    allowed = {**_weights_only_unpickler._get_allowed_globals(), **safe_pickle.allowed_globals(named)}
    refused = sorted(named - set(allowed))
    if refused:
        return (
            f"checkpoint {path} is refused: it would run {', '.join(refused[:3])}, which is not on the list of what a "
            "checkpoint may use"
        )
    if zipfile.is_zipfile(path) and "data.pkl" not in str(zipfile.ZipFile(path).namelist()):
        return f"{path} is not a PyTorch checkpoint"
    return f"checkpoint {path} is damaged or was cut short"


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


def _remove_stale(path: Path) -> None:
    """Remove what a killed process left of its writing in the same folder."""
    with contextlib.suppress(OSError):
        for left in path.parent.glob(f".*{path.suffix}.*.tmp"):
            if time.time() - left.stat().st_mtime > STALE_SECONDS:
                left.unlink()
