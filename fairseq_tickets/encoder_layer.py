"""One post-norm Transformer encoder layer, as in BERT and RoBERTa, whose heads and FFN can be gated or really removed.

Super tickets (Liang et al. 2021, section 3) give every attention head h a mask variable ξ_h and every FFN one
variable ν:

    MHA(x) = Σ_h ξ_h H_h(x) W_h^O + b^O        FFN(z) = ν FFN(z)

`head_gate` and `ffn_gate` are those variables, one for all examples or one for each; without a gate nothing is
multiplied. `prune_` is the compact form of the same function: rows, columns and FFNs are removed. A layer without
heads adds W^O's bias; a layer without FFN adds nothing and its layer norm still runs.

Why a layer of our own: fairseq 0.12.2's MultiheadAttention reads the raw weights of its projections, so nothing can be
hooked in, and its encoder layer keeps a second, dead copy of all weights. Parameter names here are fairseq's.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

RECOMPUTE = ("auto", "always", "never")
RECOMPUTE_FROM = 256
_HAS_FUSED_ATTENTION = hasattr(F, "scaled_dot_product_attention")  # PyTorch 2.0 and later


class SelfAttention(nn.Module):
    """Multi-head self-attention over (tokens, batch, embed) with a gate for each head and removable heads.

    Attributes:
        kept_heads: original indices of the heads still there, rising.
        head_gate: None, or a tensor broadcastable to (batch, tokens, kept heads) that multiplies each head's output
            before W^O. A buffer that is not saved.
        position_bias: None, or (1, heads, tokens, tokens), added to the scores of every example; see
            relative_position.py. Set by the encoder for each forward pass.
        recompute: one of RECOMPUTE: keep no attention weights for the backward pass, but work them out again; "auto"
            does so from RECOMPUTE_FROM tokens on, where they would be most of what the layer keeps. On a CPU alone:
            a GPU's fused kernel keeps none in any case.
    """

    def __init__(self, embed_dim: int, num_heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        if embed_dim % num_heads:
            raise ValueError(f"embed_dim {embed_dim} must be a multiple of num_heads {num_heads}")
        self.embed_dim = embed_dim
        self.head_dim = embed_dim // num_heads
        self.kept_heads = list(range(num_heads))
        self.dropout = dropout
        self.recompute = "auto"
        self.position_bias: Tensor | None = None
        self.q_proj = nn.Linear(embed_dim, embed_dim)
        self.k_proj = nn.Linear(embed_dim, embed_dim)
        self.v_proj = nn.Linear(embed_dim, embed_dim)
        self.out_proj = nn.Linear(embed_dim, embed_dim)
        self.head_gate: Tensor | None
        self.register_buffer("head_gate", None, persistent=False)

    def forward(self, x: Tensor, padding_mask: Tensor | None = None, queries: int | None = None) -> Tensor:
        """Attend.

        Args:
            x: (tokens, batch, embed).
            padding_mask: (batch, tokens), True where the token is padding and must not be attended to.
            queries: only the first so many tokens ask and are returned; None = all.

        Returns:
            (queries, batch, embed), the bias of W^O included.
        """
        asking = x if queries is None else x[:queries]
        tokens, batch, _ = asking.shape
        if not self.kept_heads:
            assert self.out_proj.bias is not None
            return self.out_proj.bias.expand(tokens, batch, -1)
        heads = len(self.kept_heads)
        q, k, v = (
            projection(y).view(-1, batch, heads, self.head_dim).permute(1, 2, 0, 3)
            for projection, y in ((self.q_proj, asking), (self.k_proj, x), (self.v_proj, x))
        )  # (batch, heads, tokens, head_dim)
        attend = None if padding_mask is None else padding_mask.logical_not()[:, None, None, :]
        if self.position_bias is not None:
            bias = self.position_bias[:, self.kept_heads, :tokens].to(q.dtype)
            attend = bias if attend is None else bias.masked_fill(attend.logical_not(), float("-inf"))
        dropout = self.dropout if self.training else 0.0
        again = self.recompute == "always" or (self.recompute == "auto" and x.shape[0] >= RECOMPUTE_FROM)
        if again and dropout and not x.is_cuda and torch.is_grad_enabled():
            a = checkpoint(_attention, q, k, v, attend, dropout, use_reentrant=False)
        else:
            a = _attention(q, k, v, attend, dropout)  # (batch, heads, tokens, head_dim)
        if self.head_gate is not None:
            a = a * self.head_gate[..., :tokens, :].transpose(-1, -2).unsqueeze(-1).to(a.dtype)
        out: Tensor = self.out_proj(a.permute(2, 0, 1, 3).reshape(tokens, batch, heads * self.head_dim))
        return out

    @torch.no_grad()
    def prune_(self, kept: Sequence[int]) -> None:
        """Keep only the heads with these original indices; rows of q, k, v and columns of W^O of the others go."""
        positions = [self.kept_heads.index(head) for head in kept]
        rows = head_rows(positions, self.head_dim).to(self.q_proj.weight.device)
        for projection in (self.q_proj, self.k_proj, self.v_proj):
            _replace(projection, projection.weight[rows], projection.bias[rows])
        _replace(self.out_proj, self.out_proj.weight[:, rows], self.out_proj.bias)
        self.kept_heads = [self.kept_heads[position] for position in positions]
        if not self.kept_heads:  # tensors without elements never get a gradient
            for parameter in (
                *(p for m in (self.q_proj, self.k_proj, self.v_proj) for p in m.parameters()),
                self.out_proj.weight,
            ):
                parameter.requires_grad_(False)


class TicketEncoderLayer(nn.Module):
    """Post-norm encoder layer: x = LN(x + MHA(x)); x = LN(x + FFN(x)).

    Args:
        embed_dim: width of the residual stream.
        ffn_dim: inner width of the FFN.
        num_heads: attention heads, before any pruning.
        dropout, attention_dropout, activation_dropout: probabilities, 0 to 1.
        activation: "gelu" (exact, as in BERT and RoBERTa), "relu" or "tanh".
        layer_norm_eps: 1e-5 in fairseq, 1e-12 in BERT and MiniLM.

    Attributes:
        ffn_gate: None, or a tensor broadcastable to (batch, tokens) that multiplies the FFN's whole output, its bias
            included, before the residual connection. A buffer that is not saved.
        outputs: None, or how many tokens, from the first, come out. A task head that reads the first token alone needs
            no other of the last layer.
    """

    load_to_BT = False  # fairseq's TransformerEncoder asks; its "fast path" would run the dead copies

    def __init__(
        self,
        embed_dim: int,
        ffn_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        activation_dropout: float = 0.0,
        activation: str = "gelu",
        layer_norm_eps: float = 1e-5,
    ) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation {activation!r} must be one of {', '.join(ACTIVATIONS)}")
        self.embed_dim, self.ffn_dim, self.num_heads = embed_dim, ffn_dim, num_heads
        self.self_attn = SelfAttention(embed_dim, num_heads, attention_dropout)
        self.self_attn_layer_norm = nn.LayerNorm(embed_dim, eps=layer_norm_eps)
        self.fc1: nn.Linear | None = nn.Linear(embed_dim, ffn_dim)
        self.fc2: nn.Linear | None = nn.Linear(ffn_dim, embed_dim)
        self.final_layer_norm = nn.LayerNorm(embed_dim, eps=layer_norm_eps)
        self.activation = ACTIVATIONS[activation]
        self.dropout, self.activation_dropout = dropout, activation_dropout
        self.outputs: int | None = None
        self.ffn_gate: Tensor | None
        self.register_buffer("ffn_gate", None, persistent=False)

    @property
    def kept_heads(self) -> list[int]:
        """Original indices of the heads still there."""
        return self.self_attn.kept_heads

    @property
    def has_ffn(self) -> bool:
        """False once the FFN is removed."""
        return self.fc1 is not None

    @property
    def head_gate(self) -> Tensor | None:
        """The gate of `self_attn`; see there."""
        return self.self_attn.head_gate

    @head_gate.setter
    def head_gate(self, gate: Tensor | None) -> None:
        self.self_attn.head_gate = gate

    def forward(self, x: Tensor, encoder_padding_mask: Tensor | None = None) -> Tensor:
        """Run the layer.

        Args:
            x: (tokens, batch, embed).
            encoder_padding_mask: (batch, tokens), True where the token is padding; None = no padding.

        Returns:
            (tokens, batch, embed), or of `outputs` tokens.
        """
        a = self.self_attn(x, encoder_padding_mask, self.outputs)
        x = self.self_attn_layer_norm(x[: self.outputs] + self._drop(a, self.dropout))
        if self.fc1 is None or self.fc2 is None:
            normed: Tensor = self.final_layer_norm(x)
            return normed
        z = self._drop(self.activation(self.fc1(x)), self.activation_dropout)
        z = self._drop(self.fc2(z), self.dropout)
        if self.ffn_gate is not None:
            z = z * self.ffn_gate.transpose(0, 1)[: self.outputs].unsqueeze(-1).to(z.dtype)
        out: Tensor = self.final_layer_norm(x + z)
        return out

    def prune_(self, heads: Sequence[int], ffn: bool) -> None:
        """Make the layer compact in place: keep the heads with these original indices, and the FFN if `ffn`."""
        self.self_attn.prune_(heads)
        if not ffn:
            self.fc1 = self.fc2 = None

    def _drop(self, x: Tensor, p: float) -> Tensor:
        return F.dropout(x, p, self.training) if p else x


def encoder_layers(model: nn.Module) -> list[TicketEncoderLayer]:
    """The layers of a model, first to last."""
    return [module for module in model.modules() if isinstance(module, TicketEncoderLayer)]


def head_rows(heads: Sequence[int], head_dim: int) -> Tensor:
    """Row indices of q, k and v (and column indices of W^O) that belong to `heads`: (len(heads) * head_dim,)."""
    starts = torch.tensor(list(heads), dtype=torch.long) * head_dim
    return (starts[:, None] + torch.arange(head_dim)).reshape(-1)


def _attention(q: Tensor, k: Tensor, v: Tensor, attend: Tensor | None, dropout: float) -> Tensor:
    if _HAS_FUSED_ATTENTION:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=attend, dropout_p=dropout)
    scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    if attend is not None and attend.dtype != torch.bool:
        scores = scores + attend
    elif attend is not None:
        scores = scores.masked_fill(attend.logical_not(), float("-inf"))
    return F.dropout(scores.softmax(-1), dropout) @ v


def _replace(linear: nn.Linear, weight: Tensor, bias: Tensor) -> None:
    """Give `linear` new tensors; requires_grad stays what it was."""
    linear.out_features, linear.in_features = weight.shape
    linear.weight = nn.Parameter(weight.clone(), requires_grad=linear.weight.requires_grad)
    linear.bias = nn.Parameter(bias.clone(), requires_grad=linear.bias.requires_grad)


ACTIVATIONS = {"gelu": F.gelu, "relu": torch.relu, "tanh": torch.tanh}
