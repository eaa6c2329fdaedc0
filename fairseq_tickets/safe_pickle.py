"""What a checkpoint's pickle may name, and nothing else: the allow-list behind `checkpoint.load`.

fairseq's checkpoints name more than tensors. Old ones hold an `argparse.Namespace`, some an omegaconf `DictConfig`
with fairseq's own config classes inside, and metrics can be NumPy scalars. The namespace and the scalars are allowed.
Every class of omegaconf and fairseq is replaced by an inert `StandIn`, which runs none of their code and needs neither
package; `plain` turns what comes out into dictionaries, lists and strings. Any other global is refused.
"""

from __future__ import annotations

import _compat_pickle  # the table that the pickle module itself uses
import argparse
import collections
import contextlib
import pickle
import pickletools
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

import numpy as np

FOREIGN = ("omegaconf.", "fairseq.")
SCALARS = (np.float16, np.float32, np.float64, np.int8, np.int16, np.int32, np.int64, np.uint8, np.bool_)
LEGACY_PICKLES = 4  # files written before PyTorch 1.6 open with: magic number, protocol, system information, the object


class StandIn:
    """In place of an object of omegaconf or fairseq: keeps what the pickle says, does nothing."""

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


def plain(value: Any) -> Any:
    """`value` with every StandIn replaced by what it stood for: containers, values, and enumerations by their value."""
    if isinstance(value, StandIn):
        state = value.__dict__.get("state")
        if isinstance(state, dict) and "_content" in state:
            return plain(state["_content"])
        if isinstance(state, dict) and "_val" in state:
            return plain(state["_val"])
        arguments = value.__dict__.get("arguments", ())
        return plain(arguments[0]) if len(arguments) == 1 else None
    if isinstance(value, dict):
        return {plain(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(plain(item) for item in value)
    if isinstance(value, argparse.Namespace):
        return argparse.Namespace(**{key: plain(item) for key, item in vars(value).items()})
    return value


def allowed_globals(named: set[str]) -> dict[str, Any]:
    """Full name -> what the pickle gets for it; `named` are the globals it asks for, for the classes stood in for."""
    multiarray = _multiarray()
    found: dict[str, Any] = {
        "argparse.Namespace": argparse.Namespace,
        "collections.OrderedDict": collections.OrderedDict,
        "collections.defaultdict": _empty_dict,
        "typing.Any": StandIn,
        "numpy.core.multiarray.scalar": multiarray.scalar,
        "numpy._core.multiarray.scalar": multiarray.scalar,
        "numpy.dtype": np.dtype,
    }
    for kind in (dict, list, tuple, str, int, float, bool, set):
        found[f"builtins.{kind.__name__}"] = kind
    for scalar in SCALARS:
        dtype = type(np.dtype(scalar))
        found[f"{dtype.__module__}.{dtype.__qualname__}"] = dtype
    found.update({name: StandIn for name in named if name.startswith(FOREIGN)})
    return found


def scan_globals(path: Path) -> set[str]:
    """Full names of the globals that a checkpoint's pickle asks for, found without running it."""
    names: set[str] = set()
    with contextlib.suppress(ValueError, EOFError, OSError, zipfile.BadZipFile, KeyError, IndexError):
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                for member in archive.namelist():
                    if member.endswith("data.pkl"):
                        with archive.open(member) as stream:
                            _scan(stream, names)
        else:
            with open(path, "rb") as handle:
                for _ in range(LEGACY_PICKLES):
                    _scan(handle, names)
    return names


def restricted_module(named: set[str]) -> ModuleType:
    """A stand-in for the `pickle` module, for PyTorch < 2.6: its Unpickler finds only allowed globals.

    `weights_only` has no allow-list by name there. This has the same rule: what is not on the list is refused before
    it is imported.
    """
    from torch import _weights_only_unpickler  # the list of what tensors need, which PyTorch keeps for itself

    globals_: dict[str, Any] = {**_weights_only_unpickler._get_allowed_globals(), **allowed_globals(named)}

    class Unpickler(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            full = _modern(module, name)
            if full not in globals_:
                raise pickle.UnpicklingError(f"global {full} is not allowed")
            return globals_[full]

    def load(file: BinaryIO, **options: Any) -> Any:
        return Unpickler(file, **options).load()

    module = ModuleType("restricted_pickle")
    vars(module).update(Unpickler=Unpickler, load=load, UnpicklingError=pickle.UnpicklingError)
    return module


def _scan(stream: Any, names: set[str]) -> None:
    strings: list[str] = []  # the last strings pushed; STACK_GLOBAL takes its module and name from them
    memo: dict[int, str] = {}
    last: Any = None
    argument: Any
    for operation, argument, _ in pickletools.genops(stream):
        name = operation.name
        if name in ("GLOBAL", "INST"):
            names.add(_modern(*str(argument).split(" ", 1)))
        elif name == "STACK_GLOBAL" and len(strings) >= 2:
            names.add(".".join(strings[-2:]))
        elif name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            key = len(memo) if name == "MEMOIZE" else argument
            memo[key] = last if isinstance(last, str) else ""
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            argument = memo.get(argument, "")
            strings.append(argument)
        elif isinstance(argument, str):
            strings.append(argument)
        if "PUT" not in name and name != "MEMOIZE":
            last = argument


def _modern(module: str, name: str = "") -> str:
    """Full name today: pickles of protocol 2 call modules and types by their Python 2 names."""
    module, name = _compat_pickle.NAME_MAPPING.get((module, name), (module, name))
    return f"{_compat_pickle.IMPORT_MAPPING.get(module, module)}.{name}"


def _empty_dict(*_: Any) -> dict[Any, Any]:
    return {}


def _multiarray() -> Any:
    return (getattr(np, "_core", None) or np.core).multiarray
