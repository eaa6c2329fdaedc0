"""Tickets: small readable JSON files that say which part of a pre-trained model matters.

`SuperTicket` (Liang et al. 2021, section 3) keeps or drops whole attention heads and FFNs: the masks ξ and ν.
`DominantTicket` (Gong et al. 2022, section 3.3) lists, for six matrices a layer, the few input dimensions to train.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Union

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
        if len(self.heads) != self.shape.layers or any(len(row) != self.shape.heads for row in self.heads):
            raise UserError(
                f"super ticket: heads must be {self.shape.layers} lists of {self.shape.heads} numbers (layers x heads)"
            )
        if len(self.ffn) != self.shape.layers:
            raise UserError(f"super ticket: ffn must be one number for each of the {self.shape.layers} layers")
        for value in [*self.ffn, *(v for row in self.heads for v in row)]:
            if isinstance(value, bool) or value not in (0, 1):
                raise UserError(f"super ticket: {value!r} is neither 1 (kept) nor 0 (pruned)")

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
        if set(self.dimensions) != set(MATRICES):
            raise UserError(f"dominant ticket: dimensions must name exactly {', '.join(MATRICES)}")
        for matrix in MATRICES:
            rows = self.dimensions[matrix]
            if len(rows) != self.shape.layers:
                raise UserError(f"dominant ticket: {matrix} must have one list for each of {self.shape.layers} layers")
            bias = self.shape.in_features(matrix)
            for layer, row in enumerate(rows):
                for index in row:
                    if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index <= bias:
                        raise UserError(
                            f"dominant ticket: layer {layer}, {matrix}: dimension {index!r} is out of range; "
                            f"it must be 0 to {bias} ({bias} is the bias)"
                        )
                if len(set(row)) != len(row):
                    raise UserError(f"dominant ticket: layer {layer}, {matrix}: a dimension is listed twice in {row}")
        if self.counts is not None:
            lengths = {m: [len(row) for row in self.dimensions[m]] for m in MATRICES}
            if {m: [len(row) for row in rows] for m, rows in self.counts.items()} != lengths:
                raise UserError("dominant ticket: counts must have the same layout as dimensions")

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
    if content.get("version") != VERSION:
        raise UserError(f"{source}: ticket version {content.get('version')!r} is unknown; this package reads {VERSION}")
    try:
        shape = _shape(content["model"])
        provenance = dict(content.get("provenance", {}))
        if content["format"] == SUPER_FORMAT:
            return SuperTicket(shape, [list(row) for row in content["heads"]], list(content["ffn"]), provenance)
        counts = content.get("counts")
        return DominantTicket(
            shape,
            _rows(content["dimensions"]),
            None if counts is None else _rows(counts),
            provenance,
        )
    except UserError as error:
        raise UserError(f"{source}: {error}") from error
    except KeyError as error:
        raise UserError(f"{source}: the ticket lacks {error}") from error
    except (TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{source}: the ticket is malformed: {error}") from error


def _rows(table: Mapping[str, Sequence[Sequence[int]]]) -> dict[str, list[list[int]]]:
    return {matrix: [list(row) for row in rows] for matrix, rows in table.items()}


def _shape(model: Mapping[str, int]) -> ModelShape:
    shape = ModelShape(*(model[name] for name in ModelShape._fields))
    for name, value in shape._asdict().items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise UserError(f"model.{name} is {value!r}; it must be a whole number of at least 1")
    return shape


def _same_shape(ticket: ModelShape, model: ModelShape, source: str) -> None:
    if ticket != model:
        theirs = ", ".join(f"{name} {value}" for name, value in ticket._asdict().items())
        ours = ", ".join(f"{name} {value}" for name, value in model._asdict().items())
        raise UserError(f"{source} belongs to another model size: the ticket has {theirs}; the model has {ours}")
