"""From importance scores to a super ticket: one-shot pruning of heads and FFNs, and how much weight remains.

Liang et al. 2021, sections 3 and 5.4. Head scores are ℓ2-normalised within each layer, then all heads are
ranked over all layers; FFNs are ranked among FFNs. Winning tickets prune the lowest scores, losing tickets
the highest, random tickets a uniform sample without replacement of the same numbers.

What the paper leaves open: p % prunes floor(p · count), computed exactly from the decimal number the user
wrote; equal scores are pruned in the order of (layer, head); a seed fixes one order for random tickets, so
that for every `keep` a higher level's ticket is part of a lower level's. Keeping at least n heads in each
layer is an option (off by default); it protects the heads that the order in use would prune last.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, Union

import numpy as np
import numpy.typing as npt

from fairseq_tickets import __version__
from fairseq_tickets.documents import shown
from fairseq_tickets.errors import UserError
from fairseq_tickets.parameters import MATRICES, ModelShape
from fairseq_tickets.scores import ImportanceScores
from fairseq_tickets.tickets import SuperTicket

KEEP = ("winning", "random", "losing")
Level = Union[float, str, Fraction]
_WRITTEN = re.compile(r"[+-]?([0-9]{0,20}(\.[0-9]{0,40})?([eE][+-]?[0-9]{1,3})?|[0-9]{1,9}/0*[1-9][0-9]{0,8})")


def super_ticket(
    scores: ImportanceScores,
    heads: Level,
    ffn: Level,
    keep: str = "winning",
    seed: int = 0,
    min_heads_per_layer: int = 0,
    scores_sha256: str | None = None,
) -> SuperTicket:
    """Prune a fraction of the heads and a fraction of the FFNs, once.

    Args:
        scores: raw scores, with the model's dimensions in their provenance.
        heads: fraction of all heads to prune, 0 to less than 1; exact as a string ("0.3") or a float's
        shortest form.
        ffn: fraction of all FFNs to prune, likewise.
        keep: "winning", "random" or "losing".
        seed: of the random order, at least 0; used by "random" only.
        min_heads_per_layer: no layer ends with fewer heads.
        scores_sha256: checksum of the scores' file, for the provenance.

    Raises:
        UserError: a fraction, seed or keep out of range, nothing to prune at this level, scores that are all the
            same, or min_heads_per_layer leaves too few heads to prune.
    """
    shape = scores.shape
    if keep not in KEEP:
        raise UserError(f"keep is {keep!r}; it must be one of {', '.join(KEEP)}")
    head_count = prune_count(heads, shape.layers * shape.heads, "heads")
    ffn_count = prune_count(ffn, shape.layers, "ffn")
    if head_count + ffn_count == 0:
        raise UserError(
            f"heads {heads} and ffn {ffn} prune nothing: floor(fraction x count) is 0 both for the model's "
            f"{shape.layers * shape.heads} heads and for its {shape.layers} FFNs"
        )
    for name, count, values in (("heads", head_count, normalise_heads(scores.heads)), ("FFNs", ffn_count, scores.ffn)):
        if count and keep != "random" and values.size > 1 and (values == values.flat[0]).all():
            raise UserError(f"all {name} have the same score: a {keep} ticket would be decided by position alone")
    head_order, ffn_order = pruning_orders(scores, keep, seed)
    pruned_heads = _first(head_order, head_count, shape.heads, min_heads_per_layer)
    pruned_ffn = ffn_order[:ffn_count]
    mask = np.ones(shape.layers * shape.heads, dtype=np.int64)
    mask[pruned_heads] = 0
    ffn_mask = np.ones(shape.layers, dtype=np.int64)
    ffn_mask[pruned_ffn] = 0
    provenance: dict[str, Any] = {
        "keep": keep,
        "heads": float(_exact(heads, "heads")),
        "ffn": float(_exact(ffn, "ffn")),
        "pruned_heads": head_count,
        "pruned_ffn": ffn_count,
        "seed": seed if keep == "random" else None,
        "min_heads_per_layer": min_heads_per_layer,
        "scores": dict(scores.provenance, examples=scores.examples, sha256=scores_sha256),
        "package_version": __version__,
    }
    ticket = SuperTicket(shape, mask.reshape(shape.layers, shape.heads).tolist(), ffn_mask.tolist(), provenance)
    vocab_size, positions = scores.provenance.get("vocab_size"), scores.provenance.get("positions")
    remaining = weight_remaining(shape, ticket, vocab_size or 0, positions or 0)
    if vocab_size is None or positions is None:
        del remaining["encoder"]
    provenance["weight_remaining"] = remaining
    return ticket


def normalise_heads(heads: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Divide each layer's head scores, (layers, heads), by their ℓ2 norm; a layer of zeros stays zeros."""
    largest = heads.max(axis=1, keepdims=True)  # scaling first keeps tiny scores from vanishing when squared
    scaled = heads / np.where(largest > 0, largest, 1.0)
    norms = np.sqrt((scaled**2).sum(axis=1, keepdims=True))
    normalised: npt.NDArray[np.float64] = scaled / np.where(norms > 0, norms, 1.0)
    return normalised


def prune_count(fraction: Level, count: int, option: str) -> int:
    """floor(fraction · count), exact for the decimal number written: 0.3 of 10 is 3, also as a float.

    Raises:
        UserError: naming `option`, unless 0 <= fraction < 1.
    """
    exact = _exact(fraction, option)
    if not 0 <= exact < 1:
        raise UserError(f"{option} is {fraction}; it must be from 0 to less than 1 (0.2 prunes 20 %)")
    return int(exact * count)


def pruning_orders(scores: ImportanceScores, keep: str, seed: int) -> tuple[list[int], list[int]]:
    """Heads (as layer · heads + head) and FFNs (as layer), the first to be pruned first; of every level."""
    if keep == "random":
        if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
            raise UserError(f"seed is {seed!r}; it must be a whole number of at least 0")
        # PCG64's raw stream is the same in every NumPy version; ordering by it is a uniform permutation.
        bits = np.random.PCG64(seed)
        head_keys: npt.NDArray[Any] = bits.random_raw(scores.heads.size)
        ffn_keys: npt.NDArray[Any] = bits.random_raw(scores.ffn.size)
    else:
        sign = 1.0 if keep == "winning" else -1.0
        head_keys = sign * normalise_heads(scores.heads).ravel()
        ffn_keys = sign * scores.ffn
    # Stable: equal keys stay in the order of (layer, head).
    return np.argsort(head_keys, kind="stable").tolist(), np.argsort(ffn_keys, kind="stable").tolist()


def check_within(ticket: SuperTicket, earlier: SuperTicket, what: str) -> None:
    """Refuse a ticket that keeps what an earlier one has pruned: pruning in steps only goes on.

    A pruned structure has the importance 0, so it is pruned first again; but for structures that are kept and whose
    importance is 0 too.

    Raises:
        UserError: naming `what` and the structure.
    """
    for layer, (heads, before) in enumerate(zip(ticket.heads, earlier.heads)):
        for head, (kept, was) in enumerate(zip(heads, before)):
            if kept and not was:
                raise UserError(f"{what}: head {head} of layer {layer} is pruned already, but others score no higher")
        if ticket.ffn[layer] and not earlier.ffn[layer]:
            raise UserError(f"{what}: the FFN of layer {layer} is pruned already, but others score no higher")


def weight_remaining(shape: ModelShape, ticket: SuperTicket, vocab_size: int, positions: int) -> dict[str, float]:
    """Fraction of the weights that stays, 0 to 1, counting weights and biases.

    "encoder": of embeddings (tokens, positions, their layer norm) and layers; it gives the paper's 0.93 and
    0.86 for BERT-base at 10 % and 20 %. "without_embeddings": of the layers alone. A head's weights are its
    rows of W^Q, W^K and W^V with their biases and its columns of W^O; W^O's bias and the layer norms can't be
    pruned. Task heads, pooler and language-model head are not counted.
    """
    ticket.validate_for(shape, "ticket")
    d, per_head = shape.embed_dim, shape.embed_dim // shape.heads
    head = 3 * (d * per_head + per_head) + per_head * d
    ffn = sum(shape.out_features(m) * (shape.in_features(m) + 1) for m in MATRICES if m in ("fc1", "fc2"))
    fixed = d + 2 * 2 * d  # W^O's bias, two layer norms
    layers = shape.layers * (shape.heads * head + ffn + fixed)
    embeddings = (vocab_size + positions) * d + 2 * d
    pruned_heads = shape.layers * shape.heads - sum(map(sum, ticket.heads))
    pruned = pruned_heads * head + (shape.layers - sum(ticket.ffn)) * ffn
    return {"encoder": 1 - pruned / (layers + embeddings), "without_embeddings": 1 - pruned / layers}


def _exact(fraction: Level, option: str) -> Fraction:
    """The number as written; its digits and exponent have limits, since 1e999999999 is exact in a gigabyte."""
    if isinstance(fraction, Fraction):
        return fraction
    text = str(fraction).strip()
    if not _WRITTEN.fullmatch(text) or not any(character.isdigit() for character in text.lower().split("e")[0]):
        raise UserError(f"{option} is {shown(fraction)}; it must be a number from 0 to less than 1, such as 0.2")
    return Fraction(text)


def _first(order: Sequence[int], count: int, heads: int, minimum: int) -> list[int]:
    """The first `count` of `order`, passing over the last `minimum` heads of each layer."""
    if not 0 <= minimum <= heads:
        raise UserError(f"min_heads_per_layer is {minimum}; it must be from 0 to the model's {heads} heads")
    protected: dict[int, int] = {}
    free = []
    for index in reversed(order):
        layer = index // heads
        if protected.get(layer, 0) < minimum:
            protected[layer] = protected.get(layer, 0) + 1
        else:
            free.append(index)
    if count > len(free):
        raise UserError(
            f"min_heads_per_layer {minimum} leaves {len(free)} heads to prune; this level prunes {count}: "
            "lower one of them"
        )
    return free[::-1][:count]
