"""Salience of every input dimension, and its file: what `fairseq-tickets salience` measured, for figures and tables.

The file is a NumPy archive (.npz) without pickle: for each of the six matrices an array under its name,
(layers, in_features + 1) float, the bias last; `gain_attention` and `gain_ffn`, (layers, embed_dim) float, the absolute
gain |γ| of the layer norm that feeds W^Q, W^K and W^V, and of the one that feeds W^FC1; and `provenance`, JSON text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fairseq_tickets.arrays import FloatArray, read_arrays, write_arrays
from fairseq_tickets.documents import check_plain, parse_json
from fairseq_tickets.errors import UserError
from fairseq_tickets.files import PathLike
from fairseq_tickets.parameters import MATRICES

FORMAT = "fairseq-tickets/salience"
GAINS = ("gain_attention", "gain_ffn")


@dataclass
class DimensionSalience:
    """What was measured, and where it comes from.

    Attributes:
        scores: matrix name -> float64 (layers, in_features + 1), at least 0.
        gains: "gain_attention", "gain_ffn" -> float64 (layers, embed_dim), at least 0.
        provenance: metric, examples, task, checkpoint's checksum, package version.
    """

    scores: dict[str, FloatArray]
    gains: dict[str, FloatArray]
    provenance: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        layers, width = self.scores["q_proj"].shape if self.scores["q_proj"].ndim == 2 else (0, 0)
        inner = self.scores["fc2"].shape[-1]
        for name, values in (*self.scores.items(), *self.gains.items()):
            wanted = (layers, width - 1 if name in GAINS else inner if name == "fc2" else width)
            if values.shape != wanted or not layers or width < 2 or inner < 2:
                raise UserError(f"{name} has the shape {values.shape}; here it must be {wanted}")
            if not np.isfinite(values).all() or (values < 0).any():
                raise UserError(f"{name} holds a number that is negative or not finite")

    def gain(self, matrix: str) -> FloatArray | None:
        """|γ| of the layer norm that feeds a matrix, (layers, in_features); None where none does, W^O and W^FC2."""
        name = {"q_proj": GAINS[0], "k_proj": GAINS[0], "v_proj": GAINS[0], "fc1": GAINS[1]}.get(matrix)
        return None if name is None else self.gains[name]

    def save(self, path: PathLike) -> None:
        """Write the file; whole or not at all."""
        header = {"format": FORMAT, "version": 1, **self.provenance}
        check_plain(header, f"cannot write {path}: provenance")
        text = np.array(json.dumps(header, sort_keys=True))
        write_arrays(path, {"provenance": text, **self.scores, **self.gains}, compress=True)

    @classmethod
    def load(cls, path: PathLike) -> DimensionSalience:
        """Read a salience file.

        Raises:
            UserError: missing, damaged or cut, not a salience file, or values of another kind, shape or range.
        """
        source = f"salience file {path}"
        arrays = read_arrays(path, "salience", {"provenance": "text", **dict.fromkeys((*MATRICES, *GAINS), "numbers")})
        provenance = parse_json(arrays["provenance"], f"{source}: its provenance")
        if not isinstance(provenance, Mapping) or (provenance.get("format"), provenance.get("version")) != (FORMAT, 1):
            raise UserError(f"{source}: its format must be {FORMAT}, version 1")
        facts = {name: value for name, value in provenance.items() if name not in ("format", "version")}
        try:
            return cls({m: arrays[m] for m in MATRICES}, {g: arrays[g] for g in GAINS}, facts)
        except UserError as error:
            raise UserError(f"{source}: {error}") from error
