"""`ticket_roberta`: RoBERTa that loads stock checkpoints, honours tickets, and has no second copy of its weights.

fairseq's RobertaModel is kept whole (embeddings, heads, loading); only its encoder layers are ours, because those of
0.12.2 can't be gated, pruned or split by columns (see encoder_layer.py). Parameter names stay fairseq's.

A super ticket is part of the checkpoint: the buffers `ticket_heads` (layers, heads) and `ticket_ffn` (layers,) are
saved beside the weights, so that a checkpoint evaluated anywhere is evaluated under its ticket.
"""

from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Optional

import torch
from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from fairseq.models import register_model
from fairseq.models.roberta import RobertaEncoder, RobertaModel
from fairseq.models.roberta.model import base_architecture
from fairseq.models.transformer import TransformerEncoder
from torch import Tensor, nn

from fairseq_tickets.dropout import Dropout
from fairseq_tickets.encoder_layer import ACTIVATIONS, TicketEncoderLayer, encoder_layers, head_rows
from fairseq_tickets.errors import UserError
from fairseq_tickets.parameters import ModelShape, is_dead_copy
from fairseq_tickets.plugin.multitask.state import (
    attach_tickets,
    check_heads,
    drop_ticket_buffers,
    reconcile_tickets,
    saved_tickets,
    start_head,
)
from fairseq_tickets.plugin.start import STOCK_EPS
from fairseq_tickets.plugin.trainable import note_parts
from fairseq_tickets.relative_position import RelativePositionBias
from fairseq_tickets.super_ticket.parts import sharing_parts
from fairseq_tickets.tickets import SuperTicket

GATED, COMPACT = "gated", "compact"
POOLER_ACTIVATIONS = ("tanh", "gelu", "relu", "linear")
TicketForm = ChoiceEnum([COMPACT, GATED])


@dataclass
class TicketRobertaConfig(FairseqDataclass):
    """Shape, function and dropout. All but dropout is read from the checkpoint to start from where it isn't given."""

    encoder_layers: Optional[int] = field(default=None, metadata={"help": "number of layers"})
    encoder_embed_dim: Optional[int] = field(default=None, metadata={"help": "width of the residual stream"})
    encoder_ffn_embed_dim: Optional[int] = field(default=None, metadata={"help": "inner width of the FFNs"})
    encoder_attention_heads: Optional[int] = field(default=None, metadata={"help": "attention heads in a layer"})
    max_positions: Optional[int] = field(default=None, metadata={"help": "rows of the position table, less 2"})
    layernorm_eps: Optional[float] = field(
        default=None, metadata={"help": "epsilon of all layer norms: 1e-5 for RoBERTa, 1e-12 for BERT and MiniLM"}
    )
    relative_attention_buckets: Optional[int] = field(
        default=None, metadata={"help": "buckets of MPNet's relative position bias; none for other models"}
    )
    dropout: float = field(default=0.1, metadata={"help": "dropout of embeddings, attention and FFN outputs"})
    attention_dropout: float = field(default=0.1, metadata={"help": "dropout of attention weights"})
    activation_dropout: float = field(default=0.0, metadata={"help": "dropout after the FFN's activation"})
    pooler_dropout: float = field(default=0.1, metadata={"help": "dropout of the task head"})
    activation_fn: Optional[str] = field(
        default=None,
        metadata={"help": f"activation of the FFNs: {', '.join(ACTIVATIONS)}; gelu where no checkpoint says"},
    )
    pooler_activation_fn: Optional[str] = field(
        default=None, metadata={"help": "activation of the task head; tanh where no checkpoint says"}
    )


@dataclass
class TicketRobertaBaseConfig(TicketRobertaConfig):
    """RoBERTa-base."""

    encoder_layers: Optional[int] = 12
    encoder_embed_dim: Optional[int] = 768
    encoder_ffn_embed_dim: Optional[int] = 3072
    encoder_attention_heads: Optional[int] = 12
    max_positions: Optional[int] = 512


@dataclass
class TicketRobertaLargeConfig(TicketRobertaConfig):
    """RoBERTa-large."""

    encoder_layers: Optional[int] = 24
    encoder_embed_dim: Optional[int] = 1024
    encoder_ffn_embed_dim: Optional[int] = 4096
    encoder_attention_heads: Optional[int] = 16
    max_positions: Optional[int] = 512


SHAPE_FIELDS = ("encoder_layers", "encoder_embed_dim", "encoder_ffn_embed_dim", "encoder_attention_heads")


@register_model("ticket_roberta", dataclass=TicketRobertaConfig)
class TicketRobertaModel(RobertaModel):
    """RoBERTa over `TicketEncoder`; the language-model head, never used in sentence tasks, is frozen.

    Attributes:
        tasks: names of the tasks that share the encoder, which are those of their heads; empty for a single task.
        task_tickets: by task, what its batches are gated by; saved in its head (see multitask/state.py).
        needs_all_heads: True refuses checkpoints without a head for each of `tasks`, also those without any.
        head_start: single task: its head, which head of a checkpoint it starts from, and the task's name.
    """

    def __init__(self, args: Namespace, encoder: RobertaEncoder) -> None:
        super().__init__(args, encoder)
        self.tasks: list[str] = []
        self.task_tickets: dict[str, SuperTicket] = {}
        self.needs_all_heads = False
        self.head_start: Optional[tuple[str, str, Optional[str]]] = None
        encoder.lm_head.requires_grad_(False)
        encoder.sentence_encoder.embed_tokens.weight.requires_grad_(True)  # tied to the frozen head

    @classmethod
    def build_model(cls, cfg: TicketRobertaConfig, task: Any) -> "TicketRobertaModel":
        """Build from the config; `task` gives the dictionary.

        Raises:
            UserError: a part of the shape is neither given nor known from a checkpoint.
        """
        for name in SHAPE_FIELDS:
            if getattr(cfg, name) is None:
                raise UserError(
                    f"--{name.replace('_', '-')} is not set, and no checkpoint to start from (--finetune-from-model, "
                    "--restore-file) says it; give the shape, or choose --arch ticket_roberta_base or _large"
                )
        args = Namespace(**{name: getattr(cfg, name) for name in TicketRobertaConfig.__dataclass_fields__})
        args.max_positions = cfg.max_positions or 512
        args.relative_attention_buckets = cfg.relative_attention_buckets
        args.layernorm_eps = STOCK_EPS if cfg.layernorm_eps is None else cfg.layernorm_eps
        args.activation_fn = cfg.activation_fn or "gelu"
        args.pooler_activation_fn = cfg.pooler_activation_fn or "tanh"
        if args.activation_fn not in ACTIVATIONS:
            raise UserError(f"--activation-fn {args.activation_fn} is unknown; choose from {', '.join(ACTIVATIONS)}")
        if args.pooler_activation_fn not in POOLER_ACTIVATIONS:
            raise UserError(
                f"--pooler-activation-fn {args.pooler_activation_fn} is unknown; choose from "
                f"{', '.join(POOLER_ACTIVATIONS)}"
            )
        base_architecture(args)
        return cls(args, TicketRobertaEncoder(args, task.source_dictionary))

    def forward(
        self,
        src_tokens: Tensor,
        features_only: bool = False,
        return_all_hiddens: bool = False,
        classification_head_name: Optional[str] = None,
        **kwargs: Any,
    ) -> Any:
        """fairseq's own; since task heads read the first token alone, the last layer works out no other for them."""
        last = self.ticket_encoder.layers[-1]
        last.outputs = 1 if classification_head_name is not None and not return_all_hiddens else None
        try:
            return super().forward(src_tokens, features_only, return_all_hiddens, classification_head_name, **kwargs)
        finally:
            last.outputs = None

    @property
    def ticket_encoder(self) -> "TicketEncoder":
        """The encoder that carries the ticket."""
        encoder: TicketEncoder = self.encoder.sentence_encoder
        return encoder

    def set_task_tickets(self, tickets: Mapping[str, SuperTicket]) -> None:
        """Give tasks their tickets, to be saved with the model; the encoder must be under their union."""
        self.task_tickets = dict(tickets)
        attach_tickets(self.classification_heads, tickets)

    def upgrade_state_dict_named(self, state_dict: dict[str, Tensor], name: str) -> None:
        """Make a loaded state dict fit, in place: fairseq's rules, heads and tickets of several tasks.

        Raises:
            UserError: a head is missing, or trained under other tickets.
        """
        saved = saved_tickets(state_dict, self.ticket_encoder.shape)
        under = self.ticket_encoder.super_ticket
        self.ticket_encoder.narrows = bool(saved)
        if self.tasks:
            check_heads(state_dict, self.tasks, self.needs_all_heads)
            wanted = {task: ticket for task, ticket in saved.items() if task in self.tasks}
            self.set_task_tickets(reconcile_tickets(self.task_tickets, wanted))
        elif self.head_start is not None:
            start_head(state_dict, self.classification_heads, *self.head_start)
        drop_ticket_buffers(state_dict, list(self.task_tickets))
        super().upgrade_state_dict_named(state_dict, name)
        if self.ticket_encoder.super_ticket != under:  # there are new parameters
            note_parts(self, sharing_parts(self, self.tasks, self.task_tickets) if self.tasks else None)


@register_model("ticket_roberta_base", dataclass=TicketRobertaBaseConfig)
class TicketRobertaBaseModel(TicketRobertaModel):
    """`ticket_roberta` in the shape of RoBERTa-base."""


@register_model("ticket_roberta_large", dataclass=TicketRobertaLargeConfig)
class TicketRobertaLargeModel(TicketRobertaModel):
    """`ticket_roberta` in the shape of RoBERTa-large."""


class TicketRobertaEncoder(RobertaEncoder):
    """RoBERTa's encoder with ticket layers."""

    def build_encoder(self, args: Namespace, dictionary: Any, embed_tokens: nn.Embedding) -> "TicketEncoder":
        """Called by fairseq; weights are initialised by RobertaModel."""
        return TicketEncoder(args, dictionary, embed_tokens)


class TicketEncoder(TransformerEncoder):
    """fairseq's Transformer encoder over `TicketEncoderLayer`, under at most one super ticket at a time."""

    def __init__(self, args: Namespace, dictionary: Any, embed_tokens: nn.Embedding) -> None:
        self._eps = args.layernorm_eps
        super().__init__(args, dictionary, embed_tokens)
        self.layernorm_embedding.eps = self._eps
        buckets, heads = args.relative_attention_buckets, args.encoder_attention_heads
        self.relative_attention_bias = RelativePositionBias(buckets, heads) if buckets else None
        self.dropout_module = Dropout(args.dropout)
        self.shape = ModelShape(
            args.encoder_layers, args.encoder_attention_heads, args.encoder_embed_dim, args.encoder_ffn_embed_dim
        )
        self.ticket_heads: Optional[Tensor]
        self.ticket_ffn: Optional[Tensor]
        self.register_buffer("ticket_heads", None)
        self.register_buffer("ticket_ffn", None)
        self.ticket_form: Optional[str] = None
        self.narrows = False  # may a checkpoint be loaded under a part of its own ticket?

    def build_encoder_layer(self, cfg: Any) -> TicketEncoderLayer:
        """Called by fairseq for every layer."""
        return TicketEncoderLayer(
            cfg.encoder.embed_dim,
            cfg.encoder.ffn_embed_dim,
            cfg.encoder.attention_heads,
            cfg.dropout,
            cfg.attention_dropout,
            cfg.activation_dropout,
            cfg.activation_fn,
            self._eps,
        )

    def forward(self, src_tokens: Tensor, *args: Any, **kwargs: Any) -> Any:
        """fairseq's own, with the position bias given to every layer where there is one."""
        if self.relative_attention_bias is None:
            return super().forward(src_tokens, *args, **kwargs)
        attentions = [layer.self_attn for layer in encoder_layers(self)]
        bias = self.relative_attention_bias(src_tokens.shape[1])
        for attention in attentions:
            attention.position_bias = bias
        try:
            return super().forward(src_tokens, *args, **kwargs)
        finally:
            for attention in attentions:
                attention.position_bias = None

    def apply_super_ticket(self, ticket: SuperTicket, form: str, source: str = "the ticket") -> None:
        """Put the encoder under a super ticket, for good.

        Args:
            ticket: kept heads and FFNs.
            form: COMPACT removes the pruned structures, GATED multiplies their outputs by 0; one function.
            source: names the ticket in errors.

        Raises:
            UserError: the ticket is for another shape.
        """
        ticket.validate_for(self.shape, source)
        device = self.embed_tokens.weight.device
        self.ticket_heads = torch.tensor(ticket.heads, dtype=torch.uint8, device=device)
        self.ticket_ffn = torch.tensor(ticket.ffn, dtype=torch.uint8, device=device)
        self.ticket_form = form
        if form == COMPACT:
            for index, layer in enumerate(encoder_layers(self)):
                layer.prune_(ticket.kept_heads(index), bool(ticket.ffn[index]))
        else:
            self.set_gates(ticket)

    def set_gates(self, ticket: Optional[SuperTicket]) -> None:
        """Gate every layer by a ticket of 0 and 1 without saving it, or open all gates with None.

        Where structures have been removed, the gates are those of the structures still there.
        """
        weight = self.embed_tokens.weight
        for index, layer in enumerate(encoder_layers(self)):
            heads = None if ticket is None else [ticket.heads[index][head] for head in layer.kept_heads]
            pruned = heads is not None and not all(heads)
            layer.head_gate = weight.new_tensor(heads)[None, None] if pruned else None
            closed = ticket is not None and layer.has_ffn and not ticket.ffn[index]
            layer.ffn_gate = weight.new_zeros(1, 1) if closed else None

    @property
    def super_ticket(self) -> Optional[SuperTicket]:
        """The ticket the encoder is under, None for the full model."""
        if self.ticket_heads is None or self.ticket_ffn is None:
            return None
        return SuperTicket(self.shape, self.ticket_heads.tolist(), self.ticket_ffn.tolist())

    def upgrade_state_dict_named(self, state_dict: dict[str, Tensor], name: str) -> dict[str, Tensor]:
        """Make a loaded state dict fit, in place: dead copies, the ticket in it, dense weights to slice.

        Raises:
            UserError: another shape or vocabulary, or trained under another ticket.
        """
        prefix = f"{name}." if name else ""
        for key in [key for key in state_dict if is_dead_copy(key)]:
            del state_dict[key]
        state_dict.setdefault(f"{prefix}version", self.version)
        present = self._adopt_ticket(state_dict, prefix)
        self._slice(state_dict, prefix, present)
        _check_shapes(self, state_dict, prefix)
        return state_dict

    def _adopt_ticket(self, state_dict: dict[str, Tensor], prefix: str) -> Optional[SuperTicket]:
        """Returns which structures the state dict has; None = all."""
        heads, ffn = state_dict.get(f"{prefix}ticket_heads"), state_dict.get(f"{prefix}ticket_ffn")
        if heads is None or ffn is None:
            if self.ticket_heads is not None and self.ticket_ffn is not None:
                state_dict[f"{prefix}ticket_heads"] = self.ticket_heads
                state_dict[f"{prefix}ticket_ffn"] = self.ticket_ffn
            return None
        if heads.shape != (self.shape.layers, self.shape.heads) or ffn.shape != (self.shape.layers,):
            raise UserError(
                f"the checkpoint's ticket is for {tuple(heads.shape)} (layers, heads); "
                f"this model has {(self.shape.layers, self.shape.heads)}"
            )
        saved = SuperTicket(self.shape, heads.tolist(), ffn.tolist())
        compact = self._is_compact(state_dict, prefix, saved)
        own = self.super_ticket
        if own is None:
            self.apply_super_ticket(saved, COMPACT if compact else GATED)
        elif (own.heads, own.ffn) != (saved.heads, saved.ffn):
            if not self.narrows:
                raise UserError(
                    "the checkpoint was trained under another super ticket than --ticket gives; "
                    "leave --ticket out to go on with the checkpoint's own, or start from the pre-trained model"
                )
            _check_within(own, saved)
            if compact and self.ticket_form == GATED:
                raise UserError(
                    "--ticket-form gated needs all heads and FFNs, but those in no task's ticket are gone from the "
                    "checkpoint; use --ticket-form compact"
                )
            assert self.ticket_heads is not None and self.ticket_ffn is not None
            state_dict[f"{prefix}ticket_heads"], state_dict[f"{prefix}ticket_ffn"] = self.ticket_heads, self.ticket_ffn
        return saved if compact else None

    def _is_compact(self, state_dict: Mapping[str, Tensor], prefix: str, ticket: SuperTicket) -> bool:
        for layer in range(self.shape.layers):
            if not ticket.ffn[layer] and f"{prefix}layers.{layer}.fc1.weight" not in state_dict:
                return True
            q = state_dict.get(f"{prefix}layers.{layer}.self_attn.q_proj.weight")
            if q is not None and q.shape[0] < self.shape.embed_dim:
                return True
        return False

    def _slice(self, state_dict: dict[str, Tensor], prefix: str, ticket: Optional[SuperTicket]) -> None:
        """Cut the rows, columns and FFNs a compact model doesn't have out of weights that `ticket` has kept."""
        head_dim = self.shape.embed_dim // self.shape.heads
        for index, layer in enumerate(encoder_layers(self)):
            at = f"{prefix}layers.{index}."
            if not layer.has_ffn:
                for key in [key for key in state_dict if key.startswith((f"{at}fc1.", f"{at}fc2."))]:
                    del state_dict[key]
            present = list(range(self.shape.heads)) if ticket is None else ticket.kept_heads(index)
            if len(layer.kept_heads) == len(present):
                continue
            rows = head_rows([present.index(head) for head in layer.kept_heads], head_dim)
            for projection in ("q_proj", "k_proj", "v_proj"):
                for kind in ("weight", "bias"):
                    key = f"{at}self_attn.{projection}.{kind}"
                    if key in state_dict and state_dict[key].shape[0] == len(present) * head_dim:
                        state_dict[key] = state_dict[key][rows]
            key = f"{at}self_attn.out_proj.weight"
            if key in state_dict and state_dict[key].shape[1] == len(present) * head_dim:
                state_dict[key] = state_dict[key][:, rows]


def _check_within(ticket: SuperTicket, saved: SuperTicket) -> None:
    layers = range(saved.shape.layers)
    lost = [f"layer {i}, head {h}" for i in layers for h in ticket.kept_heads(i) if not saved.heads[i][h]]
    lost += [f"layer {i}, FFN" for i in layers if ticket.ffn[i] and not saved.ffn[i]]
    if lost:
        raise UserError(
            f"--ticket keeps what the checkpoint no longer has ({lost[0]}): it is in the ticket of none of the tasks "
            "that the checkpoint was trained on; use one of their tickets, or start from the pre-trained model"
        )


def _check_shapes(encoder: TicketEncoder, state_dict: Mapping[str, Tensor], prefix: str) -> None:
    own = encoder.state_dict()
    table, positions = f"{prefix}embed_tokens.weight", f"{prefix}embed_positions.weight"
    if table in state_dict and state_dict[table].shape[0] != own["embed_tokens.weight"].shape[0]:
        raise UserError(
            f"the dictionary does not match the checkpoint: the data's dict.txt (with special symbols) has "
            f"{own['embed_tokens.weight'].shape[0]} entries, the checkpoint's embedding has "
            f"{state_dict[table].shape[0]} rows; prepare the data with the checkpoint's own dict.txt"
        )
    if positions in state_dict and state_dict[positions].shape[0] != own["embed_positions.weight"].shape[0]:
        raise UserError(
            f"--max-positions {own['embed_positions.weight'].shape[0] - 2} does not match the checkpoint: "
            f"its position table has {state_dict[positions].shape[0]} rows, so it must be "
            f"{state_dict[positions].shape[0] - 2}"
        )
    saved_layers = {key[len(prefix) :].split(".")[1] for key in state_dict if key.startswith(f"{prefix}layers.")}
    if len(saved_layers) != encoder.shape.layers:
        raise UserError(
            f"the checkpoint is of another architecture: it has {len(saved_layers)} encoder layers under "
            f"{prefix}layers, the model has {encoder.shape.layers}"
        )
    for key, tensor in own.items():
        saved = state_dict.get(prefix + key)
        if saved is None and not key.endswith(".columns"):
            raise UserError(f"the checkpoint is of another architecture: it lacks {prefix}{key}")
        if saved is not None and saved.shape != tensor.shape:
            raise UserError(
                f"the checkpoint is of another architecture: {prefix}{key} is {tuple(saved.shape)} there, "
                f"{tuple(tensor.shape)} in the model"
            )
