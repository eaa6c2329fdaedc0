"""Tickets: small readable JSON files that say which part of a pre-trained model matters.

`SuperTicket` (Liang et al. 2021, section 3) keeps or drops whole attention heads and FFNs: the masks ξ and ν.
`DominantTicket` (Gong et al. 2022, section 3.3) lists, for six matrices a layer, the few input dimensions to train.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Union

from fairseq_tickets.documents import is_whole, shown
from fairseq_tickets.errors import UserError
from fairseq_tickets.files import PathLike, read_json, write_json
from fairseq_tickets.parameters import MATRICES, ModelShape

SUPER_FORMAT = "fairseq-tickets/super"
DOMINANT_FORMAT = "fairseq-tickets/dominant"
VERSION = 1


@dataclass
class SuperTicket:
    """Kept attention heads and FFNs.

    Attributes:
        shape: the model the ticket belongs to.
        heads: (layers, heads) of 0 and 1; 1 = kept, ξ in the paper.
        ffn: (layers,) of 0 and 1; 1 = kept, ν in the paper.
        provenance: where it came from: task, seed, fractions, keep, checksums, package version.
    """

    shape: ModelShape
    heads: list[list[int]]
    ffn: list[int]
    provenance: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        layers, heads = self.shape.layers, self.shape.heads
        if not _is_table(self.heads, layers) or any(len(row) != heads for row in self.heads):
            raise UserError(f"super ticket: heads must be {layers} lists of {heads} numbers (layers x heads)")
        if not isinstance(self.ffn, list) or len(self.ffn) != layers:
            raise UserError(f"super ticket: ffn must be one number for each of the {layers} layers")
        for value in [*self.ffn, *(v for row in self.heads for v in row)]:
            if not is_whole(value, 0, 1):
                raise UserError(f"super ticket: {shown(value)} is neither 1 (kept) nor 0 (pruned)")

    @classmethod
    def full(cls, shape: ModelShape) -> SuperTicket:
        """The ticket that keeps everything."""
        return cls(shape, [[1] * shape.heads for _ in range(shape.layers)], [1] * shape.layers)

    def validate_for(self, shape: ModelShape, source: str) -> None:
        """Raise UserError unless the ticket fits a model of `shape`; `source` names the ticket in the message."""
        _same_shape(self.shape, shape, source)

    def kept_heads(self, layer: int) -> list[int]:
        """Indices of the heads kept in `layer`, rising."""
        return [head for head, kept in enumerate(self.heads[layer]) if kept]

    def to_json(self) -> dict[str, Any]:
        """The file's content."""
        return {
            "format": SUPER_FORMAT,
            "version": VERSION,
            "model": self.shape._asdict(),
            "heads": self.heads,
            "ffn": self.ffn,
            "provenance": self.provenance,
        }

    def save(self, path: PathLike) -> None:
        """Write the ticket; whole or not at all."""
        write_json(path, self.to_json())

    def describe(self) -> str:
        """One line: what is kept."""
        heads = sum(map(sum, self.heads))
        return (
            f"super ticket: {heads} of {self.shape.layers * self.shape.heads} heads, "
            f"{sum(self.ffn)} of {self.shape.layers} FFNs kept"
        )


@dataclass
class DominantTicket:
    """Trainable input dimensions of every matrix.

    Attributes:
        shape: the model the ticket belongs to.
        dimensions: matrix name -> one list per layer, best dimension first, possibly empty; `in_features` is the bias.
        counts: the number of out-weighted parameters behind each dimension, same layout, or None.
        provenance: σ, top_k, λ, task, seed, checksums, package version.
    """

    shape: ModelShape
    dimensions: dict[str, list[list[int]]]
    counts: dict[str, list[list[int]]] | None = None
    provenance: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._check_table("dimensions", self.dimensions)
        for layer, matrix, row in self.items():
            bias = self.shape.in_features(matrix)
            for index in row:
                if not is_whole(index, 0, bias):
                    raise UserError(
                        f"dominant ticket: layer {layer}, {matrix}: dimension {shown(index)} is out of range; "
                        f"it must be 0 to {bias} ({bias} is the bias)"
                    )
            if len(set(row)) != len(row):
                raise UserError(
                    f"dominant ticket: layer {layer}, {matrix}: a dimension is listed twice in {shown(row)}"
                )
        if self.counts is None:
            return
        self._check_table("counts", self.counts)
        for layer, matrix, row in self.items():
            counts, most = self.counts[matrix][layer], self.shape.out_features(matrix)
            if len(counts) != len(row):
                raise UserError(
                    f"dominant ticket: layer {layer}, {matrix}: counts must have the same layout as dimensions"
                )
            for count in counts:
                if not is_whole(count, 0, most):
                    raise UserError(
                        f"dominant ticket: layer {layer}, {matrix}: the count {shown(count)} must be a whole number "
                        f"from 0 to {most}, the parameters of a dimension"
                    )

    def _check_table(self, name: str, table: Any) -> None:
        if not isinstance(table, Mapping) or set(table) != set(MATRICES):
            raise UserError(f"dominant ticket: {name} must name exactly {', '.join(MATRICES)}")
        for matrix in MATRICES:
            if not _is_table(table[matrix], self.shape.layers):
                raise UserError(
                    f"dominant ticket: {name}: {matrix} must have one list for each of {self.shape.layers} layers"
                )

    def validate_for(self, shape: ModelShape, source: str) -> None:
        """Raise UserError unless the ticket fits a model of `shape`; `source` names the ticket in the message."""
        _same_shape(self.shape, shape, source)

    def items(self) -> Iterator[tuple[int, str, list[int]]]:
        """Yield (layer, matrix, dimensions), layer by layer, matrices in the order of MATRICES."""
        for layer in range(self.shape.layers):
            for matrix in MATRICES:
                yield layer, matrix, self.dimensions[matrix][layer]

    def trainable_parameters(self) -> int:
        """Exact number of trainable elements: each dimension, the bias included, holds out_features of them."""
        return sum(len(dims) * self.shape.out_features(matrix) for _, matrix, dims in self.items())

    def to_json(self) -> dict[str, Any]:
        """The file's content."""
        content: dict[str, Any] = {
            "format": DOMINANT_FORMAT,
            "version": VERSION,
            "model": self.shape._asdict(),
            "dimensions": self.dimensions,
        }
        if self.counts is not None:
            content["counts"] = self.counts
        content["provenance"] = self.provenance
        return content

    def save(self, path: PathLike) -> None:
        """Write the ticket; whole or not at all."""
        write_json(path, self.to_json())

    def describe(self) -> str:
        """One line: how much is trainable."""
        chosen = sum(len(dims) for _, _, dims in self.items())
        return f"dominant ticket: {chosen} dimensions, {self.trainable_parameters():,} trainable parameters"


Ticket = Union[SuperTicket, DominantTicket]


def load_ticket(path: PathLike) -> Ticket:
    """Read a ticket of either kind.

    Raises:
        UserError: the file is missing, not JSON, of another format or version, or not consistent in itself.
    """
    return ticket_from_json(read_json(path, "ticket"), str(path))


def load_super_ticket(path: PathLike) -> SuperTicket:
    """Read a super ticket; a UserError says so when the file holds another kind."""
    ticket = load_ticket(path)
    if not isinstance(ticket, SuperTicket):
        raise UserError(f"ticket file {path} is a dominant ticket; a super ticket is needed here")
    return ticket


def load_dominant_ticket(path: PathLike) -> DominantTicket:
    """Read a dominant ticket; a UserError says so when the file holds another kind."""
    ticket = load_ticket(path)
    if not isinstance(ticket, DominantTicket):
        raise UserError(f"ticket file {path} is a super ticket; a dominant ticket is needed here")
    return ticket


def ticket_from_json(content: Any, source: str) -> Ticket:
    """Ticket from the content of its file; `source` names it in errors."""
    if not isinstance(content, Mapping) or content.get("format") not in (SUPER_FORMAT, DOMINANT_FORMAT):
        raise UserError(f"{source} is not a ticket file: its format must be {SUPER_FORMAT} or {DOMINANT_FORMAT}")
    version = content.get("version")
    if not is_whole(version, VERSION, VERSION):
        raise UserError(f"{source}: ticket version {shown(version)} is unknown; this package reads {VERSION}")
    kind = content["format"]
    for name in ("model", "heads", "ffn") if kind == SUPER_FORMAT else ("model", "dimensions"):
        if name not in content:
            raise UserError(f"{source}: the ticket lacks {name!r}")
    provenance = content.get("provenance", {})
    if not isinstance(provenance, Mapping):
        raise UserError(f"{source}: provenance is {shown(provenance)}; it must be an object")
    try:
        shape = ModelShape.from_json(content["model"])
        if kind == SUPER_FORMAT:
            return SuperTicket(shape, content["heads"], content["ffn"], dict(provenance))
        return DominantTicket(shape, content["dimensions"], content.get("counts"), dict(provenance))
    except UserError as error:
        raise UserError(f"{source}: {error}") from error


def _is_table(rows: Any, layers: int) -> bool:
    """True for one list a layer."""
    return isinstance(rows, list) and len(rows) == layers and all(isinstance(row, list) for row in rows)


def _same_shape(ticket: ModelShape, model: ModelShape, source: str) -> None:
    if ticket != model:
        theirs = ", ".join(f"{name} {value}" for name, value in ticket._asdict().items())
        ours = ", ".join(f"{name} {value}" for name, value in model._asdict().items())
        raise UserError(f"{source} belongs to another model size: the ticket has {theirs}; the model has {ours}")
