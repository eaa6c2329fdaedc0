"""The two array files (.npz, no pickle): importance scores of paper S and out-weighted counts of paper D.

Scores file: `heads` (layers, heads) float, raw mean |dL/dξ|; `ffn` (layers,) float, raw mean |dL/dν|;
`examples` int; `provenance` JSON text. Counts file, written by extraction: for each of the six matrices an
array under its name, (layers, in_features + 1) int, the number of parameters with |Δθ| > σ in each input
dimension, the bias last; and `provenance`.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fairseq_tickets.errors import UserError
from fairseq_tickets.files import PathLike, atomic_write
from fairseq_tickets.parameters import MATRICES

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


class Scores(NamedTuple):
    """Importance of every head (layers, heads) and FFN (layers,), not normalised; where they come from."""

    heads: FloatArray
    ffn: FloatArray
    provenance: dict[str, Any]


class Counts(NamedTuple):
    """Matrix name -> (layers, in_features + 1) counts of out-weighted parameters; and its origin."""

    counts: dict[str, IntArray]
    provenance: dict[str, Any]


def load_scores(path: PathLike) -> Scores:
    """Read a scores file.

    Raises:
        UserError: missing, damaged, pickled, or with negative, infinite or ill-shaped scores.
    """
    arrays = _load(path, "scores", ("heads", "ffn"))
    heads, ffn = arrays["heads"].astype(np.float64), arrays["ffn"].astype(np.float64)
    if heads.ndim != 2 or ffn.shape != heads.shape[:1] or not heads.size:
        raise UserError(
            f"scores file {path}: heads {heads.shape} must be (layers, heads) and ffn {ffn.shape} (layers,)"
        )
    for name, values in (("heads", heads), ("ffn", ffn)):
        if not np.isfinite(values).all() or (values < 0).any():
            raise UserError(f"scores file {path}: {name} holds a negative or infinite score; importance is at least 0")
    return Scores(heads, ffn, _provenance(arrays, path, "scores"))


def load_counts(path: PathLike) -> Counts:
    """Read a counts file.

    Raises:
        UserError: missing, damaged, pickled, or with negative, fractional or ill-shaped counts.
    """
    arrays = _load(path, "counts", MATRICES)
    layers = len(arrays[MATRICES[0]]) if arrays[MATRICES[0]].ndim == 2 else 0
    counts = {}
    for matrix in MATRICES:
        values = arrays[matrix]
        if values.ndim != 2 or len(values) != layers or values.shape[1] < 2:
            raise UserError(f"counts file {path}: {matrix} {values.shape} must be (layers, in_features + 1)")
        if values.dtype.kind not in "iu" or (values < 0).any():
            raise UserError(f"counts file {path}: {matrix} must hold whole numbers of at least 0")
        counts[matrix] = values.astype(np.int64)
    return Counts(counts, _provenance(arrays, path, "counts"))


def save_counts(path: PathLike, counts: Mapping[str, IntArray], provenance: Mapping[str, Any]) -> None:
    """Write a counts file, whole or not at all; `counts` as in `Counts`."""
    with atomic_write(path) as temporary, open(temporary, "wb") as handle:
        arrays: dict[str, Any] = {matrix: np.asarray(counts[matrix]) for matrix in MATRICES}
        np.savez_compressed(handle, provenance=np.array(json.dumps(dict(provenance))), **arrays)


def _load(path: PathLike, what: str, needed: tuple[str, ...]) -> dict[str, NDArray[Any]]:
    try:
        with open(path, "rb") as handle, np.load(handle, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except OSError as error:
        raise UserError(
            f"cannot read {what} file {path}: {error.strerror or 'not an .npz file (damaged or cut?)'}"
        ) from error
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error, AttributeError, TypeError) as error:
        raise UserError(f"{what} file {path} is not a readable .npz file (damaged or cut?): {error}") from error
    missing = [name for name in needed if name not in arrays]
    if missing:
        raise UserError(f"{path} is not a {what} file: it lacks {', '.join(missing)}")
    return arrays


def _provenance(arrays: Mapping[str, NDArray[Any]], path: PathLike, what: str) -> dict[str, Any]:
    if "provenance" not in arrays:
        return {}
    try:
        content = json.loads(str(arrays["provenance"]))
    except ValueError as error:
        raise UserError(f"{what} file {path}: its provenance is not JSON: {error}") from error
    return content if isinstance(content, dict) else {}
