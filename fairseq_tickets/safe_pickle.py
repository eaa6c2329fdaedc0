"""What a checkpoint's pickle may name, and nothing else: looked at before PyTorch reads it.

`look` runs the pickle's instructions with inert objects in place of everything it names. That imports and calls
nothing, yet finds exactly which globals it asks for and which stored bytes its tensors claim; `refused` compares the
names with the list here. Only then may PyTorch read the file, with `weights_only` as a second wall.

fairseq's checkpoints name more than tensors. Old ones hold an `argparse.Namespace`, some an omegaconf `DictConfig`
with fairseq's own config classes inside, and metrics can be NumPy numbers. The namespace is allowed. Every class of
omegaconf, fairseq and NumPy is replaced by a `StandIn`, which runs none of their code and needs neither package;
`plain` turns what comes out into dictionaries, lists, strings, and NumPy's plain numbers.
"""

from __future__ import annotations

import _compat_pickle  # the table that the pickle module itself uses
import argparse
import math
import pickle
from collections import OrderedDict
from collections.abc import Iterable
from types import ModuleType
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fairseq_tickets.errors import UserError
from fairseq_tickets.weights import check_extent

_Steps: Any = pickle._Unpickler  # Python's own, whose steps can be overridden

MAX_DEPTH = 100
MAX_NODES = 2_000_000  # values in a checkpoint beside its tensors' numbers
SCALARS = (str, int, float, bool, bytes, type(None))
NUMBERS = frozenset("f2 f4 f8 i1 i2 i4 i8 u1 u2 u4 u8 b1".split())  # NumPy's kinds that are read
# name -> what it makes, for tensors that are no weights
UNWANTED = {
    "torch._utils._rebuild_sparse_tensor": "a sparse tensor",
    "torch._utils._rebuild_sparse_csr_tensor": "a sparse tensor",
    "torch._utils._rebuild_meta_tensor_no_storage": "a tensor without data",
    "torch._utils._rebuild_qtensor": "a quantised tensor",
    "torch._utils._rebuild_nested_tensor": "a nested tensor",
}
# what stands for the classes of other packages; those of fairseq's and omegaconf's configs need no code of theirs
FOREIGN = ("omegaconf.", "fairseq.", "typing.")
BUILTIN_TYPES = frozenset(f"builtins.{kind}" for kind in ("dict", "list", "tuple", "str", "int", "float", "bool"))


class StandIn:
    """In place of an object of another package: keeps what the pickle says, does nothing."""

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


class Kind(StandIn):
    """numpy.dtype."""


class Number(StandIn):
    """A NumPy scalar: kind and bytes."""


class Array(StandIn):
    """A NumPy array; its state is version, shape, kind, whether in Fortran's order, bytes."""


class Found(NamedTuple):
    """What a pickle asks for.

    Attributes:
        names: full names of globals.
        stored: of each storage that a tensor lies in: key of its record, name of its class, number of elements.
    """

    names: set[str]
    stored: list[tuple[str, str, int]]


def look(stream: BinaryIO) -> Found:
    """What the next pickle in `stream` asks for, found without running it.

    Raises:
        Exception: of many kinds, where it isn't a whole pickle; ValueError where it can't be one of a checkpoint.
    """
    looker = _Looker(stream)
    looker.load()
    return Found(looker.names, looker.stored)


def refused(names: Iterable[str]) -> list[str]:
    """Those of `names` that no checkpoint may use, sorted."""
    return sorted(set(names) - set(allowed_globals(names)))


def allowed_globals(names: Iterable[str]) -> dict[str, Any]:
    """Full name -> what the pickle gets for it, of those of `names` that are on the list."""
    known = {**_tensor_globals(), **_OWN}
    stood_in = {name: StandIn for name in names if name.startswith(FOREIGN) or name in BUILTIN_TYPES}
    return {**{name: known[name] for name in names if name in known}, **stood_in}


def restricted_module(allowed: dict[str, Any]) -> ModuleType:
    """A stand-in for the `pickle` module, for PyTorch < 2.6, whose `weights_only` has no allow-list by name.

    Its Unpickler finds only what is in `allowed`, and builds state into nothing but new objects.
    """

    class Unpickler(_Steps):  # type: ignore[misc]
        dispatch = dict(_Steps.dispatch)

        def find_class(self, module: str, name: str) -> Any:
            full = _modern(module, name)
            if full not in allowed:
                raise pickle.UnpicklingError(f"global {full} is not allowed")
            return allowed[full]

        def load_build(self) -> None:
            if not isinstance(self.stack[-2], (StandIn, argparse.Namespace, OrderedDict, Tensor)):
                raise pickle.UnpicklingError("state for an object that has none")
            super().load_build()

        dispatch[pickle.BUILD[0]] = load_build

    def load(file: BinaryIO, **options: Any) -> Any:
        return Unpickler(file, **options).load()

    module = ModuleType("restricted_pickle")
    vars(module).update(Unpickler=Unpickler, load=load, UnpicklingError=pickle.UnpicklingError)
    return module


def plain(value: Any, source: str) -> Any:
    """A copy of `value`, a checkpoint's content, with every StandIn replaced by what it stood for.

    That is containers, values, enumerations by their value, NumPy's numbers and arrays of numbers. Tensors are the same
    objects.

    Raises:
        UserError: nested deeper than MAX_DEPTH (or inside itself), more than MAX_NODES values, a key that is no plain
            value, NumPy objects that are not numbers, or a tensor that claims more than its file holds.
    """
    return _Plain(source).of(value, 0)


class _Plain:
    def __init__(self, source: str) -> None:
        self.source = source
        self.nodes = 0

    def of(self, value: Any, depth: int) -> Any:
        self.nodes += 1
        if depth > MAX_DEPTH or self.nodes > MAX_NODES:
            raise UserError(
                f"{self.source} is refused: it is nested deeper than {MAX_DEPTH} levels, holds itself, or holds more "
                f"than {MAX_NODES:,} values"
            )
        if isinstance(value, Tensor):
            check_extent("a tensor", value, self.source)
            return value
        if isinstance(value, dict):
            made = OrderedDict() if isinstance(value, OrderedDict) else {}
            for key, item in value.items():
                made[self.key(key, depth)] = self.of(item, depth + 1)
            return made
        if isinstance(value, (list, tuple, set, frozenset)):
            items = [self.of(item, depth + 1) for item in value]
            return (
                items
                if isinstance(value, list)
                else torch.Size(items)
                if isinstance(value, torch.Size)
                else (tuple(items) if isinstance(value, tuple) else set(items))
            )
        if isinstance(value, argparse.Namespace):
            options = argparse.Namespace()
            for key, item in vars(value).items():
                if not isinstance(key, str) or not key.isidentifier() or key.startswith("__"):
                    raise UserError(f"{self.source} is refused: an option in it is named {str(key)[:40]!r}")
                setattr(options, key, self.of(item, depth + 1))
            return options
        if isinstance(value, StandIn):
            return self.stood_for(value, depth)
        return value

    def key(self, key: Any, depth: int) -> Any:
        made = self.of(key, depth + 1)
        if not _is_key(made):
            raise UserError(f"{self.source} is damaged: a {type(made).__name__} stands where a name must stand")
        return made

    def stood_for(self, value: StandIn, depth: int) -> Any:
        arguments, state = vars(value).get("arguments", ()), vars(value).get("state")
        if isinstance(value, Number) and len(arguments) == 2:
            return self.numbers(arguments[0], (), False, arguments[1])[()]
        if isinstance(value, Array) and isinstance(state, tuple) and len(state) == 5:
            return self.numbers(state[2], state[1], bool(state[3]), state[4])
        if isinstance(value, (Kind, Number, Array)):
            raise UserError(f"{self.source} is refused: it holds a NumPy object that is neither number nor array")
        if isinstance(state, dict) and ("_content" in state or "_val" in state):
            return self.of(state["_content"] if "_content" in state else state["_val"], depth + 1)
        return self.of(arguments[0], depth + 1) if len(arguments) == 1 else None

    def numbers(self, kind: Any, shape: Any, fortran: bool, raw: Any) -> Any:
        """A NumPy array of plain numbers, if `raw` has just the bytes for it."""
        name = kind.arguments[0] if isinstance(kind, Kind) and kind.arguments else None
        state = kind.state if isinstance(kind, Kind) else None
        order = state[1] if isinstance(state, tuple) and len(state) > 1 else "="
        sizes = isinstance(shape, tuple) and len(shape) <= 32 and all(type(n) is int and n >= 0 for n in shape)
        if name not in NUMBERS or order not in ("<", ">", "=", "|") or not sizes or not isinstance(raw, bytes):
            raise UserError(
                f"{self.source} is refused: it holds NumPy data of kind {str(name)[:40]!r}, not plain numbers"
            )
        dtype = np.dtype(name).newbyteorder(order)
        if math.prod(shape) * dtype.itemsize != len(raw):
            raise UserError(f"{self.source} is damaged: a NumPy array of shape {shape} in {len(raw):,} bytes")
        made = np.frombuffer(raw, dtype).reshape(shape, order="F" if fortran else "C")
        return made.astype(dtype.newbyteorder("="))


def _is_key(key: Any) -> bool:
    """True for a plain value or a tuple of them: what can be hashed without looking into anything deep."""
    return isinstance(key, SCALARS) or (isinstance(key, tuple) and all(isinstance(part, SCALARS) for part in key))


class _Inert:
    """In place of anything that a pickle names: takes whatever is done to it."""

    name = ""

    def __new__(cls, *_: Any, **__: Any) -> Any:
        return object.__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def _nothing(self, *_: Any) -> None:
        pass

    append = extend = add = __setitem__ = __setstate__ = _nothing


class _Looker(_Steps):  # type: ignore[misc]
    dispatch = dict(_Steps.dispatch)

    def __init__(self, stream: BinaryIO) -> None:
        super().__init__(stream, encoding="latin1")
        self.names: set[str] = set()
        self.stored: list[tuple[str, str, int]] = []

    def find_class(self, module: str, name: str) -> Any:
        full = _modern(module, name)
        self.names.add(full)
        return _OWN_CALLS.get(full) or type("_Inert", (_Inert,), {"name": full})

    def persistent_load(self, pid: Any) -> Any:
        kind = pid[1] if isinstance(pid, tuple) and len(pid) in (5, 6) and pid[0] == "storage" else None
        if not (isinstance(kind, type) and issubclass(kind, _Inert)):
            raise ValueError("no storage")
        key, place, size = pid[2:5]
        if not isinstance(key, str) or not isinstance(place, str) or type(size) is not int or size < 0:
            raise ValueError("no storage")
        self.stored.append((key, kind.name, size))
        return _Inert()

    # A key that is nested deep can't be hashed without overflowing the stack, so keys are looked at first.

    def load_setitem(self) -> None:
        _check_keys(self.stack[-2:-1])
        super().load_setitem()

    def load_setitems(self) -> None:
        _check_keys(self.stack[::2])
        super().load_setitems()

    def load_dict(self) -> None:
        _check_keys(self.stack[::2])
        super().load_dict()

    def load_additems(self) -> None:
        _check_keys(self.stack)
        super().load_additems()

    def load_frozenset(self) -> None:
        _check_keys(self.stack)
        super().load_frozenset()

    dispatch[pickle.SETITEM[0]] = load_setitem
    dispatch[pickle.SETITEMS[0]] = load_setitems
    dispatch[pickle.DICT[0]] = load_dict
    dispatch[pickle.ADDITEMS[0]] = load_additems
    dispatch[pickle.FROZENSET[0]] = load_frozenset


def _check_keys(keys: Iterable[Any]) -> None:
    if not all(_is_key(key) or isinstance(key, _Inert) for key in keys):
        raise ValueError("a key that is no plain value")


def _modern(module: str, name: str = "") -> str:
    """Full name today: pickles of protocol 2 call modules and types by their Python 2 names."""
    module, name = _compat_pickle.NAME_MAPPING.get((module, name), (module, name))
    return f"{_compat_pickle.IMPORT_MAPPING.get(module, module)}.{name}"


def _tensor_globals() -> dict[str, Any]:
    """Of PyTorch's own list: what plain tensors need. Storages and dtypes by their class, the rest by name."""
    from torch import _weights_only_unpickler  # the list that PyTorch keeps for itself

    rebuild = ("_utils._rebuild_tensor", "_utils._rebuild_tensor_v2", "_utils._rebuild_parameter")
    names = {f"torch.{name}" for name in (*rebuild, "nn.parameter.Parameter", "Tensor", "Size", "device")}
    return {
        name: value
        for name, value in _weights_only_unpickler._get_allowed_globals().items()
        if name in names or isinstance(value, torch.dtype) or (name.startswith("torch.") and name.endswith("Storage"))
    }


def _empty_dict(*_: Any) -> dict[Any, Any]:
    return {}


def _ordered(pairs: Any = ()) -> Any:
    _check_keys(pair[0] for pair in pairs)
    return OrderedDict(pairs)


def _set(items: Any = ()) -> set[Any]:
    _check_keys(items)
    return set(items)


def _latin1(text: str, encoding: str = "latin1") -> bytes:
    """_codecs.encode, by which pickles of protocol 2 hold bytes."""
    if encoding not in ("latin1", "latin-1"):
        raise ValueError("bytes in another encoding")
    return text.encode("latin1")


def _array(*_: Any) -> Array:
    return Array()


_OWN: dict[str, Any] = {
    "argparse.Namespace": argparse.Namespace,
    "collections.OrderedDict": OrderedDict,
    "collections.defaultdict": _empty_dict,
    "builtins.set": _set,
    "_codecs.encode": _latin1,
    "numpy.dtype": Kind,
    "numpy.ndarray": Array,
    **{f"numpy.{core}.multiarray.scalar": Number for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray._reconstruct": _array for core in ("core", "_core")},
}
_OWN_CALLS = {"collections.OrderedDict": _ordered, "builtins.set": _set, "_codecs.encode": _latin1}  # while looking
