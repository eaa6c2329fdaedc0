"""From a pre-trained and an L1-fine-tuned model to a dominant ticket (Gong et al. 2022, section 3.3, algorithm 1).

    Δθ = θ − θ₀,   m_σ,i = 1{|Δθ_i| > σ}                                                          (equation 2)

Out-weighted parameters are counted for every *input dimension* of each matrix, that is for every column of PyTorch's
(out_features, in_features) weight; the bias counts as dimension `in_features` (the paper's 1024 and 4096). The k
dimensions with the highest counts make the ticket. The paper leaves open: ties (ours: larger Σ|Δθ|, then the smaller
index), and what "None" in its table 1 means (ours: fewer than k dimensions have any out-weighted parameter).

σ belongs to a learning rate: Adam moves a weight by about the learning rate per update, so a run with ten times the
learning rate needs about ten times the σ. `report` shows where σ lies in the distribution of |Δθ|.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, Optional

import torch
from torch import Tensor

from fairseq_tickets.errors import UserError
from fairseq_tickets.parameters import (
    EMBEDDINGS,
    MATRICES,
    PAPER_NAMES,
    ModelShape,
    matrix_name,
    model_shape,
    parse,
)
from fairseq_tickets.tickets import DominantTicket
from fairseq_tickets.weights import FULL, HALF, WIDEN

DEFAULT_SIGMA = 5e-5
BLOCK = 1 << 18  # elements; 1 MB of float32, so that the temporary tensors stay in the cache
Progress = Callable[[int, int], None]


class Counts(NamedTuple):
    """Of one matrix, for every input dimension and, last, the bias.

    Attributes:
        out_weighted: (in_features + 1,) int64, number of parameters with |Δθ| > σ.
        distance: (in_features + 1,) float64, Σ|Δθ|.
        largest: max |Δθ|.
    """

    out_weighted: Tensor
    distance: Tensor
    largest: float


class ModelCounts(NamedTuple):
    """Of a whole model: matrix name -> one `Counts` per layer."""

    shape: ModelShape
    sigma: float
    counts: dict[str, list[Counts]]

    def tables(self) -> dict[str, Any]:
        """Numbers of out-weighted parameters: matrix name -> NumPy array (layers, in_features + 1), the bias last."""
        return {name: torch.stack([row.out_weighted for row in rows]).numpy() for name, rows in self.counts.items()}


class Delta(NamedTuple):
    """Δθ of some rows of one matrix, float32: weight (rows, in_features) and bias (rows,)."""

    weight: Tensor
    bias: Tensor


def count_dimensions(delta_weight: Tensor, delta_bias: Tensor, sigma: float) -> Counts:
    """Count the out-weighted parameters of one matrix per input dimension.

    Args:
        delta_weight: (out_features, in_features).
        delta_bias: (out_features,).
        sigma: a parameter counts when |Δθ| is larger, not when equal.
    """
    weight, bias = delta_weight.abs(), delta_bias.abs()
    counts = torch.cat([(weight > sigma).sum(0, dtype=torch.int32), (bias > sigma).sum(0, dtype=torch.int32)[None]])
    # Summed in float64, so that the order of dimensions with equal counts does not hang on rounding.
    distance = torch.cat([weight.sum(0, dtype=torch.float64), bias.sum(dtype=torch.float64)[None]])
    return Counts(counts.long(), distance, float(torch.maximum(weight.max(), bias.max())))


def top_dimensions(counts: Counts, top_k: int) -> list[int]:
    """The `top_k` dimensions: by count, then Σ|Δθ|, then the smaller index; dimensions that count 0 never enter."""
    by_distance = torch.sort(counts.distance, descending=True, stable=True).indices
    order = by_distance[torch.sort(counts.out_weighted[by_distance], descending=True, stable=True).indices]
    return [int(index) for index in order[:top_k] if counts.out_weighted[index] > 0]


def extract(
    pretrained: Mapping[str, Tensor],
    finetuned: Mapping[str, Tensor],
    heads: int,
    sigma: float = DEFAULT_SIGMA,
    top_k: int = 1,
    progress: Optional[Progress] = None,
) -> DominantTicket:
    """Extract the dominant ticket: `count_model`, then `ticket_from_counts`, whose arguments these are.

    Raises:
        UserError: the models don't belong together or are unusable (half precision, NaN, equal), or σ or k make no
            sense for them. The message says which and why.
    """
    check_top_k(check_pair(pretrained, finetuned, heads), top_k)
    return ticket_from_counts(count_model(pretrained, finetuned, heads, sigma, progress), top_k)


def count_model(
    pretrained: Mapping[str, Tensor],
    finetuned: Mapping[str, Tensor],
    heads: int,
    sigma: float = DEFAULT_SIGMA,
    progress: Optional[Progress] = None,
) -> ModelCounts:
    """Count out-weighted parameters, one matrix at a time: memory-mapped tensors are never all in memory.

    Args:
        pretrained: θ₀ by fairseq RoBERTa name; all but the encoder's tensors is ignored.
        finetuned: θ, the same names.
        heads: attention heads of a layer, which tensors don't tell and the ticket file states.
        sigma: threshold σ of equation 2.
        progress: called with (matrices done, matrices in all).

    Raises:
        UserError: as `extract`.
    """
    shape = check_pair(pretrained, finetuned, heads)
    check_sigma(sigma)
    check_finite(pretrained, "pre-trained")
    check_finite(finetuned, "fine-tuned")
    counts: dict[str, list[Counts]] = {matrix: [] for matrix in MATRICES}
    for layer in range(shape.layers):
        for matrix in MATRICES:
            blocks = (count_dimensions(*delta, sigma) for delta in deltas(pretrained, finetuned, layer, matrix))
            counted = functools.reduce(_add, blocks)
            if not torch.isfinite(counted.distance).all():
                _refuse_not_finite(pretrained, finetuned, layer, matrix)
            counts[matrix].append(counted)
            if progress is not None:
                progress(layer * len(MATRICES) + MATRICES.index(matrix) + 1, shape.layers * len(MATRICES))
    largest = max(counted.largest for rows in counts.values() for counted in rows)
    if largest == 0.0:
        raise UserError(
            "the pre-trained and the fine-tuned checkpoint hold the same encoder weights (every Δθ is 0); "
            "--finetuned must name the model after L1 fine-tuning"
        )
    if largest <= sigma:
        raise UserError(
            f"sigma {sigma:g} leaves no out-weighted parameter: the largest |Δθ| is {largest:.3g}; choose a smaller "
            "sigma (it scales with the learning rate; --report shows the distribution)"
        )
    return ModelCounts(shape, sigma, counts)


def ticket_from_counts(counted: ModelCounts, top_k: int = 1) -> DominantTicket:
    """The ticket of the `top_k` dimensions of every matrix; several k can be had from one count.

    Raises:
        UserError: k is below 1 or larger than a matrix.
    """
    check_top_k(counted.shape, top_k)
    dimensions, counts = {}, {}
    for matrix in MATRICES:
        rows = counted.counts[matrix]
        dimensions[matrix] = [top_dimensions(row, top_k) for row in rows]
        counts[matrix] = [
            [int(row.out_weighted[index]) for index in chosen] for row, chosen in zip(rows, dimensions[matrix])
        ]
    return DominantTicket(counted.shape, dimensions, counts, {"sigma": counted.sigma, "top_k": top_k})


def check_sigma(sigma: float) -> None:
    """Raise UserError when σ makes no sense, whatever the weights are."""
    if not (math.isfinite(sigma) and 0.0 <= sigma < 1.0):
        raise UserError(
            f"sigma is {sigma:g}; it is a threshold on |Δθ| and must be at least 0 and below 1 "
            f"(the paper's is {DEFAULT_SIGMA:g})"
        )


def sigma_hint(sigma: float, lr: float | None) -> str | None:
    """Advice where σ lies below the learning rate, so that one update may already count as having moved; else None."""
    if lr is None or not lr > sigma:
        return None
    return (
        f"sigma {sigma:g} is below the learning rate {lr:g}: Adam moves a weight by about the learning rate in one "
        "update, so nearly everything may count as moved; choose sigma with extract --report"
    )


def check_top_k(shape: ModelShape, top_k: int) -> None:
    """Raise UserError when k is below 1 or larger than the narrowest matrix, bias included."""
    smallest = min(MATRICES, key=shape.in_features)
    limit = shape.in_features(smallest) + 1
    if isinstance(top_k, bool) or not 1 <= top_k <= limit:
        raise UserError(
            f"top_k is {top_k}; it must be 1 to {limit}, the input dimensions of {PAPER_NAMES[smallest]} with its bias"
        )


def check_pair(pretrained: Mapping[str, Tensor], finetuned: Mapping[str, Tensor], heads: int) -> ModelShape:
    """Shape of two models that belong together, without reading a weight.

    Raises:
        UserError: shapes, vocabularies or precision don't allow a difference, or a matrix is missing.
    """
    shape = model_shape(pretrained, heads)
    if heads < 1 or shape.embed_dim % heads:
        raise UserError(f"heads is {heads}; it must divide the model's width, {shape.embed_dim}")
    other = model_shape(finetuned, heads)
    if shape != other:
        raise UserError(
            f"the two models have different sizes: pre-trained {_describe(shape)}; fine-tuned {_describe(other)}"
        )
    for name, what in zip(EMBEDDINGS, ("vocabularies", "position tables")):
        if name in pretrained and name in finetuned and pretrained[name].shape != finetuned[name].shape:
            raise UserError(
                f"the two models have different {what}: {name} is {_size(pretrained[name])} in the pre-trained "
                f"and {_size(finetuned[name])} in the fine-tuned checkpoint; they are not one model before and after"
            )
    for layer in range(shape.layers):
        for matrix in MATRICES:
            rows, columns = shape.out_features(matrix), shape.in_features(matrix)
            for kind, size in (("weight", (rows, columns)), ("bias", (rows,))):
                name = matrix_name(layer, matrix, kind)
                for tensors, which in ((pretrained, "pre-trained"), (finetuned, "fine-tuned")):
                    _check_tensor(tensors, name, size, which)
    return shape


def deltas(
    pretrained: Mapping[str, Tensor],
    finetuned: Mapping[str, Tensor],
    layer: int,
    matrix: str,
    block: Optional[int] = None,
) -> Iterator[Delta]:
    """Yield Δθ of one matrix, in blocks of whole rows with about `block` elements (default `BLOCK`)."""
    name, bias = matrix_name(layer, matrix), matrix_name(layer, matrix, "bias")
    out_features, in_features = pretrained[name].shape
    rows = max(1, (block or BLOCK) // in_features)
    for start in range(0, out_features, rows):
        part = slice(start, start + rows)
        weights, biases = (
            (finetuned[key][part].detach() - pretrained[key][part].detach()).float() for key in (name, bias)
        )
        yield Delta(weights, biases)


def check_finite(tensors: Mapping[str, Tensor], which: str) -> None:
    """Raise UserError when any tensor outside the six matrices holds NaN or infinity; `which` names the checkpoint.

    The six matrices are checked by `count_model` as it reads them.
    """
    for name, tensor in tensors.items():
        if parse(name) is None and tensor.is_floating_point():
            for rows in torch.split(tensor.detach().flatten(), 1 << 22):
                if not torch.isfinite(rows).all():
                    raise UserError(f"the {which} checkpoint is damaged: {name} holds NaN or infinity")


def _check_tensor(tensors: Mapping[str, Tensor], name: str, size: tuple[int, ...], which: str) -> None:
    if name not in tensors:
        raise UserError(f"the {which} checkpoint lacks {name}")
    tensor = tensors[name]
    if tuple(tensor.shape) != size:
        expected = " x ".join(map(str, size))
        raise UserError(f"the {which} checkpoint's {name} is {_size(tensor)}; it must be {expected}")
    if tensor.dtype not in (*FULL, *HALF):
        raise UserError(f"the {which} checkpoint's {name} is {str(tensor.dtype)[6:]}; weights are float32 or float64")
    if tensor.dtype in HALF:
        raise UserError(
            f"the {which} checkpoint is in half precision ({name} is {str(tensor.dtype).replace('torch.', '')}), "
            "which cannot resolve sigma: near 0.1 float16 numbers lie 6e-5 apart and bfloat16 numbers 5e-4; "
            "fine-tune with float32 weights (--amp keeps them, --fp16 does not), and from them: "
            f"{WIDEN}"
        )


def _add(first: Counts, second: Counts) -> Counts:
    return Counts(
        first.out_weighted + second.out_weighted,
        first.distance + second.distance,
        max(first.largest, second.largest),
    )


def _refuse_not_finite(
    pretrained: Mapping[str, Tensor], finetuned: Mapping[str, Tensor], layer: int, matrix: str
) -> None:
    for tensors, which in ((pretrained, "pre-trained"), (finetuned, "fine-tuned")):
        for kind in ("weight", "bias"):
            name = matrix_name(layer, matrix, kind)
            bad = int(torch.isfinite(tensors[name]).logical_not().sum())
            if bad:
                raise UserError(
                    f"the {which} checkpoint is damaged: layer {layer}, {matrix} {kind}: "
                    f"{bad} values are NaN or infinite ({name})"
                )
    raise UserError(f"layer {layer}, {matrix}: Δθ is too large for float32")


def _describe(shape: ModelShape) -> str:
    return f"{shape.layers} layers, {shape.embed_dim} wide, FFN {shape.ffn_dim}"


def _size(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape))
