"""A toy encoder whose dimensions all differ, and sentences of unequal lengths."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fairseq_tickets.encoder_layer import TicketEncoderLayer

LAYERS, HEADS, EMBED, FFN, VOCAB, CLASSES = 3, 2, 8, 13, 17, 5
LENGTHS = (7, 3, 5, 1, 6, 4)
PAD = 1

Example = tuple[list[int], int]


class ToyClassifier(nn.Module):
    """Embeddings, three ticket layers, a classifier on the first token; dropout everywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(VOCAB, EMBED)
        self.embed_positions = nn.Embedding(max(LENGTHS) + 9, EMBED)
        self.layers = nn.ModuleList(
            TicketEncoderLayer(EMBED, FFN, HEADS, dropout=0.5, attention_dropout=0.5) for _ in range(LAYERS)
        )
        self.dropout = nn.Dropout(0.5)
        self.classifier = nn.Linear(EMBED, CLASSES)

    def forward(self, tokens: Tensor) -> Tensor:
        """(batch, tokens) -> (batch, classes)."""
        positions = torch.arange(tokens.shape[1])
        x = (self.embed_tokens(tokens) + self.embed_positions(positions)).transpose(0, 1)
        mask = tokens.eq(PAD)
        for layer in self.layers:
            x = layer(x, mask)
        return self.classifier(self.dropout(x[0]))


def collate(examples: list[Example], pad_to: int = 0) -> tuple[Tensor, Tensor]:
    """Examples -> padded (batch, tokens) and (batch,) labels."""
    width = max(pad_to, *(len(tokens) for tokens, _ in examples), 1)
    tokens = torch.full((len(examples), width), PAD)
    for row, (sentence, _) in enumerate(examples):
        tokens[row, : len(sentence)] = torch.tensor(sentence)
    return tokens, torch.tensor([label for _, label in examples])


def loss_of(model: nn.Module):
    """Per-example cross-entropy of a batch."""

    def loss_fn(batch: tuple[Tensor, Tensor]) -> Tensor:
        tokens, labels = batch
        return F.cross_entropy(model(tokens), labels, reduction="none")

    return loss_fn


def make_model(dtype: torch.dtype = torch.float64) -> ToyClassifier:
    """The same weights at every call; no weight is near zero, so that every head and FFN counts."""
    torch.manual_seed(3)
    model = ToyClassifier().to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return model


def make_examples() -> list[Example]:
    """Six sentences of unequal lengths with a label each."""
    generator = torch.Generator().manual_seed(5)
    return [
        (
            torch.randint(2, VOCAB, (length,), generator=generator).tolist(),
            int(torch.randint(CLASSES, (1,), generator=generator)),
        )
        for length in LENGTHS
    ]


@pytest.fixture
def model() -> ToyClassifier:
    """Toy model in float64, training."""
    return make_model()


@pytest.fixture
def examples() -> list[Example]:
    """Toy data."""
    return make_examples()
