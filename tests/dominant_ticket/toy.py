"""Toy encoders whose dimensions all differ, so that a transposed axis or a mixed-up matrix fails."""

from __future__ import annotations

import torch
from torch import Tensor

from fairseq_tickets.dominant_ticket.baselines import random_like
from fairseq_tickets.parameters import EMBEDDINGS, MATRICES, ModelShape, matrix_name
from fairseq_tickets.tickets import DominantTicket

SHAPE = ModelShape(layers=3, heads=2, embed_dim=6, ffn_dim=10)
WORDS, POSITIONS = 13, 7


def encoder(shape: ModelShape = SHAPE, seed: int = 0, scale: float = 0.1) -> dict[str, Tensor]:
    """Random float32 tensors under fairseq's names, with embeddings, a norm and one dead copy a layer."""
    random = torch.Generator().manual_seed(seed)

    def draw(*size: int) -> Tensor:
        return torch.randn(*size, generator=random) * scale

    tensors = {EMBEDDINGS[0]: draw(WORDS, shape.embed_dim), EMBEDDINGS[1]: draw(POSITIONS, shape.embed_dim)}
    for layer in range(shape.layers):
        for matrix in MATRICES:
            rows, columns = shape.out_features(matrix), shape.in_features(matrix)
            tensors[matrix_name(layer, matrix)] = draw(rows, columns)
            tensors[matrix_name(layer, matrix, "bias")] = draw(rows)
        prefix = f"encoder.sentence_encoder.layers.{layer}."
        tensors[prefix + "final_layer_norm.weight"] = draw(shape.embed_dim)
        tensors[prefix + "fc1_weight"] = draw(shape.ffn_dim, shape.embed_dim)
        tensors[prefix + "out_proj_weight"] = draw(shape.embed_dim, shape.embed_dim)
    return tensors


def copy(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Deep copy."""
    return {name: tensor.clone() for name, tensor in tensors.items()}


def random_ticket(shape: ModelShape, k: int, seed: int) -> DominantTicket:
    """k random dimensions in every matrix of every layer."""
    first = DominantTicket(shape, {matrix: [list(range(k))] * shape.layers for matrix in MATRICES})
    return random_like(first, seed)
