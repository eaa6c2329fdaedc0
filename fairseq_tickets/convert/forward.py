"""The encoder as a function of its tensors, without fairseq: to measure what an export changes."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from fairseq_tickets.convert.names import EMBED_POSITIONS, EMBED_TOKENS, HEADS, RELATIVE_BIAS, SENTENCE_ENCODER
from fairseq_tickets.convert.shape import ModelConfig
from fairseq_tickets.encoder_layer import TicketEncoderLayer
from fairseq_tickets.parameters import LAYERS_PREFIX
from fairseq_tickets.relative_position import relative_position_bias

PADDING = 1


@torch.no_grad()
def hidden_states(tensors: Mapping[str, Tensor], config: ModelConfig, tokens: Tensor, eps: float) -> Tensor:
    """Output of the last layer, in evaluation mode.

    Args:
        tensors: dense weights under fairseq's names.
        config: sizes and activation, the fields of arch `ticket_roberta`.
        tokens: (batch, tokens) numbers of fairseq's dictionary, 1 = padding.
        eps: of every layer norm.

    Returns:
        (batch, tokens, embed); rows at padding mean nothing.
    """
    embed = int(config["encoder_embed_dim"] or 0)
    padding = tokens.eq(PADDING)
    positions = tokens.ne(PADDING).cumsum(1) * tokens.ne(PADDING) + PADDING
    x = F.embedding(tokens, tensors[EMBED_TOKENS]) + F.embedding(positions, tensors[EMBED_POSITIONS])
    norm = f"{SENTENCE_ENCODER}layernorm_embedding."
    x = F.layer_norm(x, (embed,), tensors[norm + "weight"], tensors[norm + "bias"], eps)
    x = (x * padding.logical_not().unsqueeze(-1)).transpose(0, 1)
    for index in range(int(config["encoder_layers"] or 0)):
        layer = TicketEncoderLayer(
            embed,
            int(config["encoder_ffn_embed_dim"] or 0),
            int(config["encoder_attention_heads"] or 0),
            activation=str(config["activation_fn"]),
            layer_norm_eps=eps,
        ).eval()
        prefix = f"{LAYERS_PREFIX}{index}."
        layer.load_state_dict({n[len(prefix) :]: t for n, t in tensors.items() if n.startswith(prefix)})
        if RELATIVE_BIAS in tensors:
            layer.self_attn.position_bias = relative_position_bias(tensors[RELATIVE_BIAS], tokens.shape[1])
        x = layer(x, padding)
    return x.transpose(0, 1)


def logits(tensors: Mapping[str, Tensor], hidden: Tensor, head: str) -> Tensor:
    """A classification head on the first token, with tanh: (batch, tokens, embed) -> (batch, classes)."""
    dense, out_proj = (
        (tensors[f"{HEADS}{head}.{module}.weight"], tensors[f"{HEADS}{head}.{module}.bias"])
        for module in ("dense", "out_proj")
    )
    return F.linear(torch.tanh(F.linear(hidden[:, 0], *dense)), *out_proj)


def measuring_tokens(words: int, length: int) -> Tensor:
    """Eight sequences of random words, always the same: (8, length) numbers below `words`."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(4, max(words - 1, 5), (8, length), generator=generator)
    tokens[:, 0], tokens[:, -1] = 0, 2
    return tokens


def eps_difference(tensors: Mapping[str, Tensor], config: ModelConfig, eps: float, head: str | None) -> float:
    """Largest change of a logit (without a head: of a hidden state) when layer norms use `eps`.

    Measured on `measuring_tokens` of 32 words, fewer where the model's positions end sooner.
    """
    length = min(32, int(config["max_positions"] or 0))
    tokens = measuring_tokens(tensors[EMBED_TOKENS].shape[0], length)
    own, other = (hidden_states(tensors, config, tokens, e) for e in (float(config["layernorm_eps"] or 0.0), eps))
    if head is not None:
        own, other = (logits(tensors, hidden, head) for hidden in (own, other))
    return float((own - other).abs().max())
