"""What a parameter's name says: which layer, which matrix, weight or bias; and the shape of a model from its tensors.

Names are those of stock fairseq RoBERTa checkpoints. Both papers act on six matrices a layer: the projections
W^Q, W^K, W^V, W^O (q_proj, k_proj, v_proj, out_proj) and the feed-forward W^FC1, W^FC2 (fc1, fc2). A weight is stored
(out_features, in_features); an *input dimension* is a column of it, and the bias counts as dimension `in_features`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from fairseq_tickets.documents import is_whole, shown
from fairseq_tickets.errors import UserError

MATRICES = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")
PAPER_NAMES = {"q_proj": "W^Q", "k_proj": "W^K", "v_proj": "W^V", "out_proj": "W^O", "fc1": "W^FC1", "fc2": "W^FC2"}
LAYERS_PREFIX = "encoder.sentence_encoder.layers."
LARGEST = 1 << 20  # of a model's layers, heads and widths: ten times the largest in the field
EMBEDDINGS = ("encoder.sentence_encoder.embed_tokens.weight", "encoder.sentence_encoder.embed_positions.weight")

_MATRIX = re.compile(r"layers\.(\d+)\.(?:self_attn\.)?(q_proj|k_proj|v_proj|out_proj|fc1|fc2)\.(weight|bias)$")
_LAYER = r"(encoder\.sentence_encoder\.layers\.\d+\.)"
_JOINT = re.compile(_LAYER + r"self_attn\.in_proj_(weight|bias)$")
_OLD_NORM = re.compile(_LAYER + r"layer_norms\.([01])\.")
_NORMS = ("self_attn_layer_norm", "final_layer_norm")
_DEAD_COPY = re.compile(r"layers\.\d+\.(in_proj|out_proj|fc1|fc2)_(weight|bias)$")


class ParameterRole(NamedTuple):
    """Where a parameter of the six matrices sits."""

    layer: int
    matrix: str
    kind: str  # "weight" or "bias"


class ModelShape(NamedTuple):
    """The dimensions that a ticket must fit."""

    layers: int
    heads: int
    embed_dim: int
    ffn_dim: int

    @classmethod
    def from_json(cls, content: Any) -> ModelShape:
        """The shape that a file names under "model".

        Raises:
            UserError: not the four whole numbers, one out of range, or heads that do not divide the width.
        """
        if not isinstance(content, Mapping) or set(content) != set(cls._fields):
            raise UserError(f"model is {shown(content)}; it must give {', '.join(cls._fields)}")
        for name, value in content.items():
            if not is_whole(value, 1, LARGEST):
                raise UserError(f"model.{name} is {shown(value)}; it must be a whole number from 1 to {LARGEST:,}")
        shape = cls(**content)
        if shape.embed_dim % shape.heads:
            raise UserError(f"model.heads is {shape.heads}; it must divide embed_dim, which is {shape.embed_dim}")
        return shape

    def in_features(self, matrix: str) -> int:
        """Width of the input of `matrix`; one of MATRICES."""
        return self.ffn_dim if matrix == "fc2" else self.embed_dim

    def out_features(self, matrix: str) -> int:
        """Width of the output of `matrix`; one of MATRICES."""
        return self.ffn_dim if matrix == "fc1" else self.embed_dim


def parse(name: str) -> ParameterRole | None:
    """Role of a parameter of the six matrices, None for every other name (embeddings, norms, heads, dead copies)."""
    found = _MATRIX.search(name)
    return ParameterRole(int(found[1]), found[2], found[3]) if found else None


def matrix_name(layer: int, matrix: str, kind: str = "weight") -> str:
    """Full parameter name in a fairseq RoBERTa checkpoint; the inverse of `parse`."""
    attention = "self_attn." if matrix.endswith("_proj") else ""
    return f"{LAYERS_PREFIX}{layer}.{attention}{matrix}.{kind}"


def is_dead_copy(name: str) -> bool:
    """True for the second, meaningless copy of a layer weight that stock fairseq 0.12.2 keeps and saves."""
    return _DEAD_COPY.search(name) is not None


def current_names(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """A RoBERTa's tensors under the names that fairseq 0.12.2 gives them; those of today pass through, in their order.

    The released RoBERTa files are older: the encoder was called `decoder`, its first layer norm `emb_layer_norm`, and
    q, k and v were one matrix `in_proj_weight`, in that order; before that, a layer's norms were `layer_norms.0` and
    `.1`. fairseq renames them when a model loads (`upgrade_state_dict`), which is too late for whoever reads the file.

    Raises:
        UserError: a parameter is there under two names, or a joint matrix isn't three of one size.
    """
    old_root = any(name.startswith("decoder.sentence_encoder.") for name in tensors)
    found: dict[str, Any] = {}
    for name, tensor in tensors.items():
        new = name
        if old_root and name.startswith("decoder."):
            new = "encoder." + name[len("decoder.") :]
        if new.startswith("encoder.sentence_encoder."):
            new = new.replace(".emb_layer_norm.", ".layernorm_embedding.")
            new = _OLD_NORM.sub(lambda match: f"{match[1]}{_NORMS[int(match[2])]}.", new)
        joint = _JOINT.match(new)
        if joint is None:
            parts = {new: tensor}
        elif tensor.dim() == 0 or tensor.shape[0] % 3:
            raise UserError(
                f"{name} is {tuple(tensor.shape)}; it holds q, k and v, so its rows must be a multiple of 3"
            )
        else:
            names = (f"{joint[1]}self_attn.{projection}_proj.{joint[2]}" for projection in "qkv")
            parts = dict(zip(names, tensor.chunk(3)))
        for part in parts:
            if part in found or (part != name and part in tensors):
                raise UserError(f"{part} is there twice, once under its old name {name}")
        found.update(parts)
    return found


def model_shape(tensors: Mapping[str, Any], heads: int) -> ModelShape:
    """Shape of an encoder from its named tensors; the number of heads can't be read off tensors and is given.

    Raises:
        UserError: no encoder layers under fairseq's RoBERTa names.
    """
    layers = {role.layer for role in map(parse, tensors) if role is not None}
    fc1 = matrix_name(0, "fc1")
    if not layers or fc1 not in tensors:
        raise UserError(f"no RoBERTa encoder here: no parameter is named like {fc1}")
    ffn_dim, embed_dim = tensors[fc1].shape
    return ModelShape(len(layers), heads, int(embed_dim), int(ffn_dim))
