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

import contextlib
from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fairseq_tickets.attention import attention
from fairseq_tickets.dropout import add_dropped, dropout

RECOMPUTE = ("auto", "always", "never")
RECOMPUTE_FROM = 64


class SelfAttention(nn.Module):
    """Multi-head self-attention over (batch, tokens, embed) with a gate for each head and removable heads.

    Attributes:
        kept_heads: original indices of the heads still there, rising.
        head_gate: None, or a tensor broadcastable to (batch, tokens, kept heads) that multiplies each head's output
            before W^O. A buffer that is not saved.
        position_bias: None, or (1, heads, tokens, tokens), added to the scores of every example; see
            relative_position.py. Set by the encoder for each forward pass.
        recompute: one of RECOMPUTE: keep no attention weights for the backward pass, but work them out again; "auto"
            does so from RECOMPUTE_FROM tokens on: what they take grows with the square of the length, and of what a
            mostly frozen layer keeps they are a sixth at 64 tokens. On a CPU alone: a GPU's fused kernel keeps none.
    """

    def __init__(self, embed_dim: int, num_heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        if embed_dim % num_heads:
            raise ValueError(f"embed_dim {embed_dim} must be a multiple of num_heads {num_heads}")
        self.embed_dim = embed_dim
        self.head_dim = embed_dim // num_heads
        self.kept_heads = list(range(num_heads))
        self.dropout = dropout
        self.recompute = "never"
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
            x: (batch, tokens, embed).
            padding_mask: (batch, tokens), True where the token is padding and must not be attended to.
            queries: only the first so many tokens ask and are returned; None = all.

        Returns:
            (batch, queries, embed), the bias of W^O included.
        """
        asking = x if queries is None else x[:, :queries].contiguous()
        batch, tokens, _ = asking.shape
        if not self.kept_heads:
            assert self.out_proj.bias is not None
            return self.out_proj.bias.expand(batch, tokens, -1)
        heads = len(self.kept_heads)
        q, k, v = self.q_proj(asking), self.k_proj(x), self.v_proj(x)  # (batch, tokens, heads * head_dim)
        bias = None if self.position_bias is None else self.position_bias[:, self.kept_heads, :tokens].to(q.dtype)
        again = self.recompute == "always" or (self.recompute == "auto" and x.shape[1] >= RECOMPUTE_FROM)
        a = attention(q, k, v, heads, padding_mask, bias, self.dropout if self.training else 0.0, again)
        if self.head_gate is not None:
            gate = self.head_gate[:, :tokens].unsqueeze(-1).to(a.dtype)  # (1 or batch, 1 or tokens, heads, 1)
            a = (a.reshape(batch, tokens, heads, -1) * gate).flatten(2)
        out: Tensor = self.out_proj(a)
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
        recompute_activation: keep the FFN's inner state once, before gelu, and work gelu out again in the backward
            pass: a quarter less memory where all weights train. Other functions' derivatives need the result alone.
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
        self.recompute_activation = False
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
        x = _working_type(x.transpose(0, 1)).contiguous()  # (batch, tokens, embed)
        a = self.self_attn(x, encoder_padding_mask, self.outputs)
        x = self.self_attn_layer_norm(add_dropped(x[:, : self.outputs], a, self.dropout, self.training))
        if self.fc1 is not None and self.fc2 is not None:
            z = self._ffn(x, self.fc1, self.fc2)
            if self.ffn_gate is None:
                x = add_dropped(x, z, self.dropout, self.training)
            else:
                gate = self.ffn_gate[:, : self.outputs].unsqueeze(-1).to(z.dtype)  # (1 or batch, 1 or tokens, 1)
                x = x + dropout(z, self.dropout, self.training) * gate
        out: Tensor = self.final_layer_norm(x)
        return out.transpose(0, 1)

    def _ffn(self, x: Tensor, fc1: nn.Linear, fc2: nn.Linear) -> Tensor:
        h = fc1(x)
        inner = self.activation(h)
        if self.training and self.activation_dropout:
            inner = dropout(inner, self.activation_dropout)
        elif self.recompute_activation and inner.requires_grad and self.activation is F.gelu:
            h = h.detach()
            with made_again(inner, lambda: self.activation(h)):
                out: Tensor = fc2(inner)
            return out
        out = fc2(inner)
        return out

    def prune_(self, heads: Sequence[int], ffn: bool) -> None:
        """Make the layer compact in place: keep the heads with these original indices, and the FFN if `ffn`."""
        self.self_attn.prune_(heads)
        if not ffn:
            self.fc1 = self.fc2 = None


def encoder_layers(model: nn.Module) -> list[TicketEncoderLayer]:
    """The layers of a model, first to last."""
    return [module for module in model.modules() if isinstance(module, TicketEncoderLayer)]


@contextlib.contextmanager
def recomputing(layers: Sequence[TicketEncoderLayer]) -> Iterator[None]:
    """While open, these layers keep neither attention weights nor the FFN's activations for the backward pass."""
    before = [(layer, layer.self_attn.recompute, layer.recompute_activation) for layer in layers]
    for layer in layers:
        layer.self_attn.recompute, layer.recompute_activation = "always", True
    try:
        yield
    finally:
        for layer, attention, activation in before:
            layer.self_attn.recompute, layer.recompute_activation = attention, activation


@contextlib.contextmanager
def made_again(x: Tensor, make: Callable[[], Tensor]) -> Iterator[None]:
    """While open, what autograd would keep of `x` or of a view of all of it is made by `make` in the backward pass."""
    place, count = x.data_ptr(), x.numel()

    def pack(tensor: Tensor) -> Tensor | torch.Size:
        return tensor.shape if tensor.data_ptr() == place and tensor.numel() == count else tensor

    def unpack(kept: Tensor | torch.Size) -> Tensor:
        return kept if isinstance(kept, Tensor) else make().view(kept)

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        yield


def head_rows(heads: Sequence[int], head_dim: int) -> Tensor:
    """Row indices of q, k and v (and column indices of W^O) that belong to `heads`: (len(heads) * head_dim,)."""
    starts = torch.tensor(list(heads), dtype=torch.long) * head_dim
    return (starts[:, None] + torch.arange(head_dim)).reshape(-1)


def autocast_dtype(device_type: str) -> torch.dtype | None:
    """The type that autocast would convert to on this kind of device; None where it is off. PyTorch 1.13 to today."""
    if hasattr(torch, "get_autocast_dtype"):  # PyTorch 2.4 and later
        return torch.get_autocast_dtype(device_type) if torch.is_autocast_enabled(device_type) else None
    if device_type == "cuda":
        return torch.get_autocast_gpu_dtype() if torch.is_autocast_enabled() else None
    return torch.get_autocast_cpu_dtype() if torch.is_autocast_cpu_enabled() else None


def _working_type(x: Tensor) -> Tensor:
    """x in the type that autocast asks for, once for all that reads it: the residual stream too runs in bf16."""
    dtype = autocast_dtype(x.device.type)
    return x if dtype is None else x.to(dtype)


def _replace(linear: nn.Linear, weight: Tensor, bias: Tensor) -> None:
    """Give `linear` new tensors; requires_grad stays what it was."""
    linear.out_features, linear.in_features = weight.shape
    linear.weight = nn.Parameter(weight.contiguous().clone(), requires_grad=linear.weight.requires_grad)
    linear.bias = nn.Parameter(bias.clone(), requires_grad=linear.bias.requires_grad)


ACTIVATIONS = {"gelu": F.gelu, "relu": torch.relu, "tanh": torch.tanh}
