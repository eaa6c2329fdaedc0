"""Delta files: what training under a dominant ticket changed, and nothing else; one base serves many tasks.

A delta is a safetensors file, 5 MB for RoBERTa-large at k = 1, most of it the classification head:

    layers.{l}.{matrix}.columns   (out_features, k)   values of the ticket's dimensions, in the ticket's order; the bias
                                                      is one of the columns where the ticket has it
    classification_heads.*                            the head, under its own names
    metadata: format "fairseq-tickets/delta", version "1", ticket: its JSON, base: fingerprint of the base's encoder,
              and, where it is known, task: JSON of how sentences were joined and what the classes are called

Values are stored, not differences: applied to the base they give the trained model bit for bit. The base is known by
its fingerprint (`checkpoint.fingerprint`: encoder tensors, without heads); another one is refused.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from fairseq_tickets import safetensors_files
from fairseq_tickets.checkpoint import fingerprint
from fairseq_tickets.documents import parse_json
from fairseq_tickets.errors import UserError
from fairseq_tickets.files import PathLike
from fairseq_tickets.parameters import matrix_name, model_shape
from fairseq_tickets.task_record import TaskRecord, task_from_json
from fairseq_tickets.tickets import DominantTicket, ticket_from_json
from fairseq_tickets.weights import check_finite, checked_weights

FORMAT = "fairseq-tickets/delta"
VERSION = "1"
IN_CHECKPOINT = "dominant_delta"  # where a checkpoint written with --delta-checkpoints says so
HEADS_PREFIX = "classification_heads."


@dataclass
class Delta:
    """The trained part of a model.

    Attributes:
        ticket: which dimensions were trained.
        base: fingerprint of the encoder that training started from.
        columns: (layer, matrix) -> (out_features, k) values in the ticket's order; no entry where the ticket is empty.
        heads: classification heads by parameter name.
        task: how sentences were joined and what the classes are called; None where the delta doesn't say.
    """

    ticket: DominantTicket
    base: str
    columns: dict[tuple[int, str], Tensor]
    heads: dict[str, Tensor] = field(default_factory=dict)
    task: TaskRecord | None = None


def make_delta(tensors: Mapping[str, Tensor], ticket: DominantTicket, base: str) -> Delta:
    """Cut the ticket's columns and the classification heads out of a trained model.

    Args:
        tensors: the model's dense state dict; that of a model with `ColumnLinear` layers is dense too.
        ticket: the ticket it was trained under.
        base: fingerprint of the model that training started from.

    Raises:
        UserError: the model is of another size than the ticket.
    """
    _check_fit(tensors, ticket)
    columns = {(layer, m): _read(tensors, layer, m, dims) for layer, m, dims in ticket.items() if dims}
    heads = {name: tensor.detach().clone() for name, tensor in tensors.items() if name.startswith(HEADS_PREFIX)}
    return Delta(ticket, base, columns, heads)


def save_delta(path: PathLike, delta: Delta) -> None:
    """Write a delta file, whole or not at all; equal deltas are equal bytes.

    Raises:
        UserError: as `safetensors_files.write`.
    """
    tensors = {f"layers.{layer}.{m}.columns": values for (layer, m), values in delta.columns.items()}
    ticket = json.dumps(delta.ticket.to_json(), allow_nan=False)
    metadata = {"format": FORMAT, "version": VERSION, "ticket": ticket, "base": delta.base}
    if delta.task is not None:
        metadata["task"] = json.dumps(delta.task.to_json(), allow_nan=False)
    safetensors_files.write(path, {**tensors, **delta.heads}, metadata)


def load_delta(path: PathLike) -> Delta:
    """Read a delta file.

    Raises:
        UserError: missing, unreadable, cut, not a delta file, of another version, not what its own ticket says, or
            numbers that are no weights.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"delta file {path} does not exist")
    tensors, metadata = safetensors_files.read(path)
    if metadata.get("format") != FORMAT:
        raise UserError(f"{path} is not a delta file: its metadata do not say format {FORMAT}")
    if metadata.get("version") != VERSION:
        raise UserError(f"{path}: delta version {metadata.get('version')!r} is unknown; this package reads {VERSION}")
    try:
        ticket = ticket_from_json(parse_json(metadata["ticket"], f"{path}: the delta's ticket"), str(path))
        base = metadata["base"]
    except KeyError as error:
        raise UserError(f"{path}: the delta's metadata lack {error}") from error
    if not isinstance(ticket, DominantTicket):
        raise UserError(f"{path}: the delta's ticket is not a dominant ticket")
    if tensors:
        checked_weights(tensors, str(path))
        check_finite(tensors, str(path))
    columns = {}
    for layer, matrix, dims in ticket.items():
        if not dims:
            continue
        values = tensors.pop(f"layers.{layer}.{matrix}.columns", None)
        expected = (ticket.shape.out_features(matrix), len(dims))
        if values is None or tuple(values.shape) != expected:
            found = "missing" if values is None else f"{tuple(values.shape)}"
            raise UserError(f"{path}: layer {layer}, {matrix}: columns must be {expected} and are {found}")
        columns[layer, matrix] = values
    strange = [name for name in tensors if not name.startswith(HEADS_PREFIX)]
    if strange:
        raise UserError(f"{path}: {strange[0]} is neither in the ticket nor a classification head")
    check_heads(tensors, ticket.shape.embed_dim, str(path))
    return Delta(ticket, base, columns, tensors, _task(metadata.get("task")))


def check_heads(heads: Mapping[str, Tensor], embed_dim: int, source: str) -> None:
    """Check that `heads` are parts of classification heads as RoBERTa has them: dense, tanh, out_proj.

    Raises:
        UserError: another parameter, or a shape that doesn't fit the others or the model's width.
    """
    for name, tensor in heads.items():
        head, _, kind = name[len(HEADS_PREFIX) :].partition(".")
        inner, classes = (
            next((part.shape[0] for part in parts if part is not None and part.dim()), 0)
            for parts in (
                [heads.get(f"{HEADS_PREFIX}{head}.{matrix}.{kind}") for kind in ("bias", "weight")]
                for matrix in ("dense", "out_proj")
            )
        )
        known = {"dense.weight": (inner, embed_dim), "dense.bias": (inner,), "out_proj.bias": (classes,)}
        known["out_proj.weight"] = (classes, inner or tensor.shape[-1]) if tensor.dim() else ()
        if kind not in known:
            raise UserError(f"{source}: {name} is no part of a classification head; those are {', '.join(known)}")
        if tuple(tensor.shape) != known[kind] or 0 in known[kind] or not known[kind]:
            raise UserError(f"{source}: {name} is {tuple(tensor.shape)}; in its head it must be {known[kind]}")


def apply(tensors: Mapping[str, Tensor], delta: Delta) -> dict[str, Tensor]:
    """The trained model's tensors: a new dictionary, in which only what the delta changes is new.

    Raises:
        UserError: `tensors` are not the base that the delta was trained from.
    """
    _check_base(fingerprint(tensors), delta)
    _check_fit(tensors, delta.ticket)
    checked_weights(tensors, "the delta's base")  # in half precision it could not hold the delta's values
    changed = dict(tensors)
    for layer, matrix, dims in delta.ticket.items():
        if dims:
            for kind in ("weight", "bias"):
                name = matrix_name(layer, matrix, kind)
                changed[name] = tensors[name].detach().clone()
            _write(changed, layer, matrix, dims, delta.columns[layer, matrix])
    changed.update((name, tensor.clone()) for name, tensor in delta.heads.items())
    return changed


class DeltaBase:
    """A loaded base model that takes deltas on and off in milliseconds, in place.

        base = DeltaBase(model)             # reads the whole model once, for its fingerprint
        with base.using(load_delta("rte.delta.safetensors")):
            model(...)

    Args:
        model: a fairseq RoBERTa with dense layers (stock `roberta`, or `ticket_roberta` without a ticket).
        known_fingerprint: of the base, where it is known; needed where the model isn't in the file's precision.
    """

    def __init__(self, model: nn.Module, known_fingerprint: str | None = None) -> None:
        self._tensors = {name: parameter.detach() for name, parameter in model.named_parameters()}
        if any(name.endswith(".columns") for name in self._tensors):
            raise UserError("this model trains under a ticket; a delta needs the dense model that was its base")
        self.fingerprint = known_fingerprint or fingerprint(model.state_dict())
        self._before: Delta | None = None

    @property
    def applied(self) -> bool:
        """True while a delta is on."""
        return self._before is not None

    @torch.no_grad()
    def apply(self, delta: Delta) -> None:
        """Put a delta on; one that is on already is taken off first.

        Raises:
            UserError: the delta belongs to another base, or the model lacks its classification head. The model is then
                what it was.
        """
        _check_base(self.fingerprint, delta)
        _check_fit(self._tensors, delta.ticket)
        for name, tensor in delta.heads.items():
            if name not in self._tensors or self._tensors[name].shape != tensor.shape:
                raise UserError(f"the model has no {name} of shape {tuple(tensor.shape)}; register that head first")
        self.revert()
        columns = {key: _read(self._tensors, *key, delta.ticket.dimensions[key[1]][key[0]]) for key in delta.columns}
        heads = {name: self._tensors[name].clone() for name in delta.heads}
        self._before = Delta(delta.ticket, delta.base, columns, heads)
        self._put(delta)

    @torch.no_grad()
    def revert(self) -> None:
        """Take the delta off: the model is the base again, bit for bit. Nothing happens where none is on."""
        if self._before is not None:
            self._put(self._before)
            self._before = None

    @contextlib.contextmanager
    def using(self, delta: Delta) -> Iterator[None]:
        """Apply for the length of a `with` block."""
        self.apply(delta)
        try:
            yield
        finally:
            self.revert()

    def _put(self, delta: Delta) -> None:
        for (layer, matrix), values in delta.columns.items():
            _write(self._tensors, layer, matrix, delta.ticket.dimensions[matrix][layer], values)
        for name, tensor in delta.heads.items():
            self._tensors[name].copy_(tensor)


def _read(tensors: Mapping[str, Tensor], layer: int, matrix: str, dims: list[int]) -> Tensor:
    """(out_features, k): the ticket's dimensions of one matrix, the bias where it stands in the ticket."""
    weight = tensors[matrix_name(layer, matrix)].detach()
    bias = tensors[matrix_name(layer, matrix, "bias")].detach()
    return torch.stack([bias if index == weight.shape[1] else weight[:, index] for index in dims], 1)


def _write(tensors: Mapping[str, Tensor], layer: int, matrix: str, dims: list[int], values: Tensor) -> None:
    weight, bias = tensors[matrix_name(layer, matrix)], tensors[matrix_name(layer, matrix, "bias")]
    for position, index in enumerate(dims):
        target = bias if index == weight.shape[1] else weight[:, index]
        target.copy_(values[:, position])


def _task(text: str | None) -> TaskRecord | None:
    try:
        return None if text is None else task_from_json(parse_json(text, "the delta's task"))
    except UserError:  # beside what the delta is
        return None


def _check_base(found: str, delta: Delta) -> None:
    if found != delta.base:
        raise UserError(
            f"the delta was trained from another base: its base has fingerprint {delta.base[:16]}, "
            f"this model has {found[:16]}"
        )


def _check_fit(tensors: Mapping[str, Tensor], ticket: DominantTicket) -> None:
    ticket.validate_for(model_shape(tensors, ticket.shape.heads), "the delta's ticket")
