"""Counts of out-weighted parameters, and their file: how many of each input dimension moved beyond σ.

Gong et al. 2022, section 3.3 and Figure 2. The file, written by `extract`, is a NumPy archive (.npz) without pickle:
for each of the six matrices an array under its name, (layers, in_features + 1) int, the number of parameters with
|Δθ| > σ in each input dimension, the bias last; and `provenance`, JSON text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fairseq_tickets.arrays import IntArray, read_arrays, write_arrays
from fairseq_tickets.documents import check_plain, parse_json
from fairseq_tickets.errors import UserError
from fairseq_tickets.files import PathLike
from fairseq_tickets.parameters import MATRICES


@dataclass
class DimensionCounts:
    """Out-weighted parameters of every input dimension.

    Attributes:
        counts: matrix name -> int64 (layers, in_features + 1), each from 0 to the matrix's out_features.
        provenance: σ, λ, task, seed, checksums, package version.
    """

    counts: dict[str, IntArray]
    provenance: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if set(self.counts) != set(MATRICES):
            raise UserError(f"counts must name exactly {', '.join(MATRICES)}")
        for matrix, values in self.counts.items():
            if values.ndim != 2 or not len(values) or values.shape[1] < 2 or values.dtype.kind not in "iu":
                raise UserError(f"{matrix} {values.shape} must be whole numbers of the shape (layers, in_features + 1)")
        layers = len(self.counts[MATRICES[0]])
        for matrix, values in self.counts.items():
            wanted = (layers, self._in_features(matrix) + 1)
            if values.shape != wanted:
                raise UserError(f"{matrix} {values.shape} must be (layers, in_features + 1), here {wanted}")
            most = self.out_features(matrix)
            if int(values.min()) < 0 or int(values.max()) > most:
                raise UserError(f"{matrix} must hold counts of at least 0 and at most {most}, its output's width")

    def out_features(self, matrix: str) -> int:
        """Number of parameters in one input dimension of `matrix`."""
        return self._in_features("fc2" if matrix == "fc1" else "q_proj")

    def save(self, path: PathLike) -> None:
        """Write the file; whole or not at all."""
        check_plain(self.provenance, f"cannot write {path}: provenance")
        text = np.array(json.dumps(self.provenance))
        write_arrays(path, {"provenance": text, **{m: self.counts[m] for m in MATRICES}}, compress=True)

    @classmethod
    def load(cls, path: PathLike) -> DimensionCounts:
        """Read a counts file.

        Raises:
            UserError: missing, damaged or cut, not a counts file, or values of another kind, shape or range.
        """
        source = f"counts file {path}"
        arrays = read_arrays(path, "counts", {"provenance": "text", **dict.fromkeys(MATRICES, "whole")})
        provenance = parse_json(arrays.pop("provenance"), f"{source}: its provenance")
        if not isinstance(provenance, Mapping):
            raise UserError(f"{source}: its provenance is no object")
        try:
            return cls(arrays, dict(provenance))
        except UserError as error:
            raise UserError(f"{source}: {error}") from error

    def _in_features(self, matrix: str) -> int:
        return int(self.counts["fc2" if matrix == "fc2" else "q_proj"].shape[1]) - 1
