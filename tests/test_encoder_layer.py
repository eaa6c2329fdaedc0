"""The gated and the compact form are one function, and equal PyTorch's own layer."""

from __future__ import annotations

import pytest
import torch

from fairseq_tickets.encoder_layer import TicketEncoderLayer, head_rows

TOKENS, BATCH, EMBED, FFN, HEADS = 5, 3, 12, 20, 4


@pytest.fixture()
def layer() -> TicketEncoderLayer:
    torch.manual_seed(0)
    made = TicketEncoderLayer(EMBED, FFN, HEADS, layer_norm_eps=1e-12).double()
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return made


@pytest.fixture()
def inputs() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    mask = torch.zeros(BATCH, TOKENS, dtype=torch.bool)
    mask[1, 3:] = True
    mask[2, 4:] = True
    return torch.randn(TOKENS, BATCH, EMBED, dtype=torch.double), mask


def test_equals_pytorchs_encoder_layer(layer: TicketEncoderLayer, inputs: tuple[torch.Tensor, torch.Tensor]) -> None:
    theirs = torch.nn.TransformerEncoderLayer(
        EMBED, HEADS, FFN, dropout=0.0, activation="gelu", layer_norm_eps=1e-12
    ).double()
    a = layer.self_attn
    with torch.no_grad():
        theirs.self_attn.in_proj_weight.copy_(torch.cat([a.q_proj.weight, a.k_proj.weight, a.v_proj.weight]))
        theirs.self_attn.in_proj_bias.copy_(torch.cat([a.q_proj.bias, a.k_proj.bias, a.v_proj.bias]))
    theirs.self_attn.out_proj.load_state_dict(a.out_proj.state_dict())
    assert layer.fc1 is not None and layer.fc2 is not None
    theirs.linear1.load_state_dict(layer.fc1.state_dict())
    theirs.linear2.load_state_dict(layer.fc2.state_dict())
    theirs.norm1.load_state_dict(layer.self_attn_layer_norm.state_dict())
    theirs.norm2.load_state_dict(layer.final_layer_norm.state_dict())
    x, mask = inputs
    ours, expected = layer(x, mask), theirs(x, src_key_padding_mask=mask)
    real = mask.logical_not().t()
    torch.testing.assert_close(ours[real], expected[real], rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("kept", "ffn"),
    [([0, 1, 2, 3], True), ([1, 3], True), ([2], False), ([], True), ([], False)],
    ids=["all", "half the heads", "one head, no FFN", "no head", "nothing"],
)
def test_compact_equals_gated(
    layer: TicketEncoderLayer, inputs: tuple[torch.Tensor, torch.Tensor], kept: list[int], ffn: bool
) -> None:
    x, mask = inputs
    layer.head_gate = torch.tensor([[[float(head in kept) for head in range(HEADS)]]])
    layer.ffn_gate = torch.tensor([[float(ffn)]])
    gated = layer(x, mask)
    layer.head_gate = layer.ffn_gate = None
    before = sum(p.numel() for p in layer.parameters())
    layer.prune_(kept, ffn)
    torch.testing.assert_close(layer(x, mask), gated, rtol=0, atol=1e-12)
    head = EMBED // HEADS * (4 * EMBED + 3)  # rows of q, k, v with biases, columns of W^O
    feed_forward = 2 * EMBED * FFN + EMBED + FFN
    assert before - sum(p.numel() for p in layer.parameters()) == (HEADS - len(kept)) * head + (not ffn) * feed_forward


def test_layer_without_heads_adds_the_output_bias(
    layer: TicketEncoderLayer, inputs: tuple[torch.Tensor, torch.Tensor]
) -> None:
    x, mask = inputs
    layer.prune_([], True)
    torch.testing.assert_close(layer.self_attn(x, mask), layer.self_attn.out_proj.bias.expand(TOKENS, BATCH, EMBED))


def test_gates_are_per_example_and_per_token(
    layer: TicketEncoderLayer, inputs: tuple[torch.Tensor, torch.Tensor]
) -> None:
    x, mask = inputs
    plain = layer(x, mask)
    layer.ffn_gate = torch.tensor([[1.0], [0.0], [1.0]])  # (batch, 1): only the second example loses its FFN
    changed = (layer(x, mask) - plain).abs().amax(dim=(0, 2))
    assert changed[0] == 0 and changed[1] > 0 and changed[2] == 0
    layer.ffn_gate = torch.ones(BATCH, TOKENS)
    layer.ffn_gate[0, 2] = 0.0
    changed = (layer(x, mask) - plain).abs().amax(dim=2)  # (tokens, batch)
    assert (changed > 0).nonzero().tolist() == [[2, 0]]


def test_head_rows_by_hand() -> None:
    assert head_rows([0, 2], 3).tolist() == [0, 1, 2, 6, 7, 8]


def test_gates_are_not_saved(layer: TicketEncoderLayer) -> None:
    layer.head_gate = torch.ones(1, 1, HEADS)
    assert not [name for name in layer.state_dict() if "gate" in name]


@pytest.mark.parametrize("gates", [None, "example", "token"])
def test_the_first_outputs_are_those_of_all(
    layer: TicketEncoderLayer, inputs: tuple[torch.Tensor, torch.Tensor], gates: str | None
) -> None:
    """Values and gradients, with every shape of gate."""
    x, mask = inputs
    x.requires_grad_()
    tokens = TOKENS if gates == "token" else 1
    if gates is not None:
        layer.head_gate, layer.ffn_gate = torch.rand(BATCH, tokens, HEADS).double(), torch.rand(BATCH, tokens).double()
    found = []
    for outputs in (None, 2):
        layer.outputs = outputs
        y = layer(x, mask)[:2]
        found.append((y, *torch.autograd.grad(y.pow(2).sum(), [x, *layer.parameters()])))
    for whole, part in zip(*found):
        torch.testing.assert_close(part, whole, rtol=0, atol=1e-12)


@pytest.mark.parametrize("activation", ["gelu", "relu", "tanh"])
def test_recomputing_is_the_same_for_less_memory(inputs: tuple[torch.Tensor, torch.Tensor], activation: str) -> None:
    """Bit for bit, dropout included."""
    x, mask = inputs
    layer = TicketEncoderLayer(EMBED, FFN, HEADS, dropout=0.2, attention_dropout=0.3, activation=activation).double()
    found, saved = [], []
    for attention, inner in (("never", False), ("always", False), ("always", True)):
        layer.self_attn.recompute, layer.recompute_activation = attention, inner
        torch.manual_seed(5)
        seen: dict[int, int] = {}

        def pack(tensor: torch.Tensor, seen: dict[int, int] = seen) -> torch.Tensor:
            seen[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            y = layer(x.requires_grad_(), mask)
        found.append((y, *torch.autograd.grad(y.pow(2).sum(), [x, *layer.parameters()])))
        saved.append(sum(seen.values()))
    for again in found[1:]:
        assert all(torch.equal(one, other) for one, other in zip(found[0], again))
    assert saved[1] < saved[0]
    if activation == "gelu":
        unseen = layer.fc2.weight.numel() * 8  # our own hooks come before the counting ones
        assert saved[1] - saved[2] - unseen == BATCH * TOKENS * FFN * 8
    else:  # whose derivatives are made from their results, which are kept anyway
        assert saved[1] == saved[2]
