"""Importance scores of every attention head and FFN, and their file.

Scores are raw: the mean over examples of |∂L(x)/∂ξ| (Liang et al. 2021, section 3), before the layer-wise ℓ2
normalisation, which belongs to pruning. The file is a NumPy archive (.npz) without pickle; the same scores
always give the same bytes.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from fairseq_tickets.errors import UserError
from fairseq_tickets.files import PathLike, atomic_write
from fairseq_tickets.parameters import ModelShape

FORMAT = "fairseq-tickets/scores"
VERSION = 1
_DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, KeyError, ValueError, TypeError, AttributeError)


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

    heads: npt.NDArray[np.float64]
    ffn: npt.NDArray[np.float64]
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
        if self.examples < 1:
            raise UserError(f"scores: {self.examples} examples; at least 1 is needed")

    @property
    def shape(self) -> ModelShape:
        """Dimensions of the scored model; UserError where the provenance lacks or contradicts them."""
        model: Any = self.provenance.get("model")
        try:
            shape = ModelShape(*(int(model[name]) for name in ModelShape._fields))
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"scores: the provenance must give the model's {ModelShape._fields}") from error
        if self.heads.shape != (shape.layers, shape.heads):
            raise UserError(
                f"scores: {self.heads.shape} (layers, heads) scores do not fit the model of "
                f"{shape.layers} layers and {shape.heads} heads that the provenance names"
            )
        return shape

    def save(self, path: PathLike) -> None:
        """Write the file; whole or not at all."""
        header = {"format": FORMAT, "version": VERSION, **self.provenance}
        with atomic_write(path) as temporary, open(temporary, "wb") as handle:
            np.savez(
                handle,
                heads=self.heads,
                ffn=self.ffn,
                examples=np.int64(self.examples),
                provenance=np.array(json.dumps(header, sort_keys=True, allow_nan=False)),
            )

    @classmethod
    def load(cls, path: PathLike) -> ImportanceScores:
        """Read a file of scores.

        Raises:
            UserError: missing, damaged or cut, not a scores file, another version, wrong shapes, or pickled.
        """
        try:
            with open(path, "rb") as handle, np.load(handle, allow_pickle=False) as archive:
                arrays = {name: archive[name] for name in ("heads", "ffn", "examples", "provenance")}
        except OSError as error:
            raise UserError(f"cannot read scores file {path}: {error.strerror or error}") from error
        except _DAMAGED as error:
            raise UserError(f"scores file {path} is damaged, cut, or not made by `importance`: {error}") from error
        try:
            provenance = json.loads(str(arrays["provenance"][()]))
            if provenance.pop("format") != FORMAT or provenance.pop("version") != VERSION:
                raise UserError(f"its format must be {FORMAT}, version {VERSION}")
            return cls(arrays["heads"], arrays["ffn"], int(arrays["examples"]), provenance)
        except UserError as error:
            raise UserError(f"scores file {path}: {error}") from error
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise UserError(f"scores file {path} is malformed: {error}") from error
