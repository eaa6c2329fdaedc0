"""What a step of a ColumnLinear does, counted: the cost is in the structure, and no stopwatch is needed to see it.

A product of an input that is not two axes one after the other is a trap: where nothing requires a gradient, PyTorch
makes it a batched product, and copies the weight once for every row of the first axis.
"""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fairseq_tickets.dominant_ticket.columns import ColumnLinear, apply_ticket
from fairseq_tickets.encoder_layer import TicketEncoderLayer
from fairseq_tickets.parameters import MATRICES, ModelShape
from fairseq_tickets.tickets import DominantTicket

from ..operations import BATCHED, PRODUCTS, Operations

BATCH, TOKENS, IN, OUT, K = 3, 5, 24, 40, 2
LAYOUTS = ["contiguous", "transposed", "first tokens"]


def laid_out(layout: str, width: int = IN) -> Tensor:
    """(batch, tokens, width) or (tokens, batch, width)."""
    torch.manual_seed(0)
    x = torch.randn(BATCH, TOKENS, width)
    return {"contiguous": x, "transposed": x.transpose(0, 1), "first tokens": x[:, :2]}[layout]


def autocast(precision: str) -> Any:
    return torch.autocast("cpu", torch.bfloat16) if precision == "bf16" else contextlib.nullcontext()


def step_of(layer: nn.Module, x: Tensor, precision: str) -> Operations:
    """The operations of forward and backward."""
    with Operations() as operations:
        with autocast(precision):
            y = layer(x)
        y.float().sum().backward()
    return operations


@pytest.mark.parametrize("needs_x", [True, False], ids=["gradient of x", "none"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("precision", "frozen", "conversions"),
    [("float32", None, 0), ("bf16", torch.bfloat16, 0), ("bf16", None, 1)],
    ids=["float32", "bf16", "bf16 with frozen float32"],
)
def test_a_step(precision: str, frozen: Any, conversions: int, layout: str, needs_x: bool) -> None:
    """Two products of the size of the weight, none batched, and no copy of the weight but one conversion."""
    layer = ColumnLinear.from_linear(nn.Linear(IN, OUT), [4, IN, 7], frozen)
    x = laid_out(layout).requires_grad_(needs_x)
    operations = step_of(layer, x, precision)
    assert operations.named(BATCHED) == []
    rows = x.numel() // IN
    shapes = [tuple(product.shape) for product in operations.named(PRODUCTS)]
    assert sorted(shapes) == sorted([(rows, OUT), (K, OUT), *([(rows, IN)] if needs_x else [])])
    assert len(operations.copies_of((OUT, IN))) == conversions
    expected = torch.bfloat16 if precision == "bf16" else torch.float32
    assert {product.dtype for product in operations.named(PRODUCTS)} == {expected}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_nothing_is_batched_or_copied_without_gradients(layout: str) -> None:
    layer = ColumnLinear.from_linear(nn.Linear(IN, OUT), [4], torch.bfloat16)
    frozen = ColumnLinear.from_linear(nn.Linear(IN, OUT), [IN])  # no column trains
    frozen.bias.requires_grad_(False)
    with torch.no_grad(), Operations() as operations:
        with autocast("bf16"):
            layer(laid_out(layout))
        frozen(laid_out(layout))
    assert operations.named(BATCHED) == [] and operations.copies_of((OUT, IN)) == []


def test_the_trap_is_there() -> None:
    """The reason for all this: plain F.linear. Should it go, the tests above have lost their point."""
    x, weight = laid_out("transposed"), torch.randn(OUT, IN)
    with torch.no_grad(), Operations() as operations:
        torch.nn.functional.linear(x, weight)
    assert [product.name for product in operations.named(PRODUCTS)] == ["bmm"]


EMBED, FFN, HEADS, LAYERS = 24, 40, 4, 2
SHAPE = ModelShape(LAYERS, HEADS, EMBED, FFN)


def ticketed(frozen: Any = None) -> list[TicketEncoderLayer]:
    torch.manual_seed(1)
    layers = [TicketEncoderLayer(EMBED, FFN, HEADS, 0.1, 0.1) for _ in range(LAYERS)]
    apply_ticket(layers, DominantTicket(SHAPE, {m: [[1], [2]] for m in MATRICES}), frozen)
    return layers


@pytest.mark.parametrize("source", ["frozen embeddings", "trained embeddings"])
@pytest.mark.parametrize(("precision", "frozen"), [("float32", None), ("bf16", torch.bfloat16)])
def test_layers_over_a_transposed_view(precision: str, frozen: Any, source: str) -> None:
    """What fairseq hands the first layer: (tokens, batch, embed) of (batch, tokens, embed). Of the last only the first
    token comes out. Products by hand: 12 forward; backward the same less what nobody asks for; 12 for the columns."""
    layers = ticketed(frozen)
    layers[-1].outputs = 1
    x = laid_out("transposed", EMBED).requires_grad_(source == "trained embeddings")
    with Operations() as operations:
        with autocast(precision):
            y = layers[1](layers[0](x))
        y.float().sum().backward()
    assert {tuple(product.shape)[0] for product in operations.named(BATCHED)} == {BATCH * HEADS}  # attention's
    assert len(operations.named(BATCHED)) == LAYERS * (2 + 4)
    plain = operations.named(PRODUCTS - BATCHED)
    below_the_first = 0 if source == "trained embeddings" else 3  # gradients of q, k and v by the embeddings
    assert len(plain) == 12 + 12 - below_the_first + 12
    rows = [product for product in plain if product.shape[0] == BATCH * TOKENS]
    few = [product for product in plain if product.shape[0] == BATCH]
    assert len(few) == 2 * 4  # q, W^O, FC1, FC2 of the last layer: its first token alone
    assert len(rows) == 24 - below_the_first - len(few)
    for width, height in ((EMBED, EMBED), (EMBED, FFN)):
        assert operations.copies_of((width, height)) == []
    assert {product.dtype for product in operations.named(PRODUCTS)} == (
        {torch.bfloat16} if precision == "bf16" else {torch.float32}
    )
    # Dropout's masks: elementwise products of two types take 20 times as long as those of one.
    elementwise = operations.named({"mul", "mul_", "addcmul", "addcmul_"})
    assert elementwise and all(len(set(operation.given)) == 1 for operation in elementwise)


def test_nothing_goes_below_the_lowest_layer_that_trains() -> None:
    torch.manual_seed(1)
    layers = [TicketEncoderLayer(EMBED, FFN, HEADS) for _ in range(LAYERS)]
    apply_ticket(layers, DominantTicket(SHAPE, {m: [[], [2]] for m in MATRICES}))
    with Operations() as forward:
        y = layers[1](layers[0](laid_out("transposed", EMBED)))
    with Operations() as backward:
        y.sum().backward()
    assert len(forward.named(PRODUCTS - BATCHED)) == 12
    assert len(backward.named(PRODUCTS - BATCHED)) == 3 + 6  # W^O, FC1 and FC2 by their inputs; six for the columns


@pytest.mark.parametrize("kept", [[0, 2], [1]])
def test_pruned_layers_and_gates(kept: list[int]) -> None:
    """Compact and gated layers of super tickets, as importance and sharing run them, over the same view."""
    torch.manual_seed(1)
    layer = TicketEncoderLayer(EMBED, FFN, HEADS)
    layer.prune_(kept, True)
    layer.requires_grad_(False)
    layer.head_gate, layer.ffn_gate = torch.ones(BATCH, 1, len(kept)), torch.ones(BATCH, 1)
    layer.head_gate.requires_grad_()
    with Operations() as operations:
        layer(laid_out("transposed", EMBED)).sum().backward()
    assert {tuple(product.shape)[0] for product in operations.named(BATCHED)} <= {BATCH * len(kept)}
    for weight in (layer.self_attn.q_proj.weight, layer.fc1.weight):
        assert operations.copies_of(weight.shape) == []
