"""Importance scores of every attention head and FFN, and their file.

Scores are raw: the mean over examples of |∂L(x)/∂ξ| (Liang et al. 2021, section 3), before the layer-wise ℓ2
normalisation, which belongs to pruning. The file is a NumPy archive (.npz) without pickle: `heads` (layers, heads)
and `ffn` (layers,) float, `examples` int, `provenance` JSON text. The same scores always give the same bytes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fairseq_tickets.arrays import FloatArray, read_arrays, write_arrays
from fairseq_tickets.documents import check_plain, is_whole, parse_json, shown
from fairseq_tickets.errors import UserError
from fairseq_tickets.files import PathLike
from fairseq_tickets.parameters import ModelShape

FORMAT = "fairseq-tickets/scores"
VERSION = 1
_MANY = 1 << 40  # no data set has more examples, no vocabulary more words


@dataclass
class ImportanceScores:
    """How much the loss feels each head and each FFN.

    Attributes:
        heads: float64 (layers, heads), at least 0; I_MHA of the paper, not normalised.
        ffn: float64 (layers,), at least 0; I_FFN of the paper.
        examples: number of examples averaged over.
        provenance: "model" (layers, heads, embed_dim, ffn_dim), "granularity", and what the maker adds: task,
            checkpoint's checksum, vocab_size, positions, package version.
    """

    heads: FloatArray
    ffn: FloatArray
    examples: int
    provenance: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.heads = np.asarray(self.heads, dtype=np.float64)
        self.ffn = np.asarray(self.ffn, dtype=np.float64)
        if self.heads.ndim != 2 or self.heads.size == 0:
            raise UserError(f"scores: heads have the shape {self.heads.shape}; it must be (layers, heads)")
        if self.ffn.shape != self.heads.shape[:1]:
            raise UserError(f"scores: ffn has the shape {self.ffn.shape}; it must be {self.heads.shape[:1]}")
        for name, values in (("heads", self.heads), ("ffn", self.ffn)):
            if not np.isfinite(values).all() or (values < 0).any():
                raise UserError(f"scores: {name} holds a number that is negative or not finite")
        if not is_whole(self.examples, 1, _MANY):
            raise UserError(f"scores: {shown(self.examples)} examples; it must be a whole number of at least 1")
        for name in ("vocab_size", "positions"):
            size = self.provenance.get(name)
            if size is not None and not is_whole(size, 0, _MANY):
                raise UserError(f"scores: {name} in the provenance is {shown(size)}; it must be a whole number")

    @property
    def shape(self) -> ModelShape:
        """Dimensions of the scored model; UserError where the provenance lacks or contradicts them."""
        try:
            shape = ModelShape.from_json(self.provenance.get("model"))
        except UserError as error:
            raise UserError(f"scores: the provenance's {error}") from error
        if self.heads.shape != (shape.layers, shape.heads):
            raise UserError(
                f"scores: {self.heads.shape} (layers, heads) scores do not fit the model of "
                f"{shape.layers} layers and {shape.heads} heads that the provenance names"
            )
        return shape

    def save(self, path: PathLike) -> None:
        """Write the file; whole or not at all."""
        header = {"format": FORMAT, "version": VERSION, **self.provenance}
        check_plain(header, f"cannot write {path}: provenance")
        arrays = {
            "heads": self.heads,
            "ffn": self.ffn,
            "examples": np.int64(self.examples),
            "provenance": np.array(json.dumps(header, sort_keys=True)),
        }
        write_arrays(path, arrays)

    @classmethod
    def load(cls, path: PathLike) -> ImportanceScores:
        """Read a file of scores.

        Raises:
            UserError: missing, damaged or cut, not a scores file, another version, or values of another kind,
                shape or range.
        """
        source = f"scores file {path}"
        kinds = {"heads": "numbers", "ffn": "numbers", "examples": "whole", "provenance": "text"}
        arrays = read_arrays(path, "scores", kinds)
        provenance = parse_json(arrays["provenance"], f"{source}: its provenance")
        if not isinstance(provenance, dict) or provenance.pop("format", None) != FORMAT:
            raise UserError(f"{source}: its format must be {FORMAT}")
        version = provenance.pop("version", None)
        if not is_whole(version, VERSION, VERSION):
            raise UserError(f"{source}: version {shown(version)} is unknown; this package reads {VERSION}")
        if arrays["examples"].shape:
            raise UserError(f"{source}: examples has the shape {arrays['examples'].shape}; it must be one number")
        try:
            return cls(arrays["heads"], arrays["ffn"], int(arrays["examples"]), provenance)
        except UserError as error:
            raise UserError(f"{source}: {error}") from error
