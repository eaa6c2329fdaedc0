"""The fields of arch `ticket_roberta`, from a Hugging Face config or from any RoBERTa checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Union

from torch import Tensor

from fairseq_tickets.convert.names import EMBED_POSITIONS, EMBED_TOKENS, LM_HEAD
from fairseq_tickets.documents import is_whole, shown
from fairseq_tickets.errors import UserError
from fairseq_tickets.parameters import LARGEST
from fairseq_tickets.recorded import model_settings, options
from fairseq_tickets.task_record import DICTIONARY

FAIRSEQ_EPS = 1e-5  # stock fairseq's layer norms have no other
# the same functions under the same names on both sides, and what TicketEncoderLayer computes
ACTIVATIONS = ("gelu", "relu", "tanh")
MPNET_BUCKETS = 32  # whatever its config.json says, transformers' MPNet computes with so many
ModelConfig = dict[str, Union[int, float, str, bool, None]]


def config_from_hf(config: Mapping[str, Any], positions: int) -> ModelConfig:
    """Fields of `ticket_roberta` from a config.json and the number of usable positions.

    Raises:
        UserError: something in the config that a RoBERTa encoder can't compute.
    """
    if config.get("position_embedding_type") not in (None, "absolute"):
        raise UserError(
            f"config.json: position_embedding_type {config['position_embedding_type']!r} is not supported; "
            "only absolute positions are"
        )
    if config.get("is_decoder") or config.get("add_cross_attention"):
        raise UserError("config.json: this model is a decoder (is_decoder); only encoders can be imported")
    activation = config.get("hidden_act", "gelu")
    if not isinstance(activation, str) or activation not in ACTIVATIONS:
        raise UserError(
            f"config.json: hidden_act {activation!r} is not supported; it must be one of {', '.join(ACTIVATIONS)}"
        )
    width, heads = _size(config, "hidden_size"), _size(config, "num_attention_heads")
    model: ModelConfig = {
        "_name": "ticket_roberta",
        "encoder_layers": _size(config, "num_hidden_layers"),
        "encoder_embed_dim": width,
        "encoder_ffn_embed_dim": _size(config, "intermediate_size"),
        "encoder_attention_heads": heads,
        "max_positions": positions,
        "layernorm_eps": _part(config, "layer_norm_eps", 1e-12),
        "dropout": _part(config, "hidden_dropout_prob", 0.1),
        "attention_dropout": _part(config, "attention_probs_dropout_prob", 0.1),
        "activation_fn": activation,
        "pooler_dropout": _part(config, "classifier_dropout", 0.0),
    }
    if config.get("model_type") == "mpnet":
        model["relative_attention_buckets"] = config.get("relative_attention_num_buckets", MPNET_BUCKETS)
    if model.get("relative_attention_buckets", MPNET_BUCKETS) != MPNET_BUCKETS:
        raise UserError(f"config.json: relative_attention_num_buckets must be {MPNET_BUCKETS}, as transformers has it")
    if width % heads:
        raise UserError("config.json: hidden_size must be a multiple of num_attention_heads")
    return model


def _size(config: Mapping[str, Any], name: str) -> int:
    """A dimension that config.json must give."""
    value = config.get(name)
    if not is_whole(value, 1, LARGEST):
        raise UserError(f"config.json: {name} is {shown(value)}; it must be a whole number from 1 to {LARGEST:,}")
    return int(config[name])


def _part(config: Mapping[str, Any], name: str, default: float) -> float:
    """A number from 0 to 1 of config.json; `default` where it is absent or null."""
    value = config.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise UserError(f"config.json: {name} is {shown(value)}; it must be a number from 0 to 1")
    return float(value)


def config_from_checkpoint(checkpoint: Mapping[str, Any]) -> ModelConfig:
    """Fields of `ticket_roberta` of any RoBERTa-like fairseq checkpoint: its options and its tensors' shapes.

    Raises:
        UserError: no model in the checkpoint, or no encoder under fairseq's names.
    """
    tensors = checkpoint.get("model")
    if not isinstance(tensors, Mapping) or EMBED_TOKENS not in tensors or EMBED_POSITIONS not in tensors:
        raise UserError(f"this checkpoint holds no RoBERTa model: no parameter is named {EMBED_TOKENS}")
    recorded, known = options(checkpoint, "model"), model_settings(checkpoint)
    embed_dim = known["encoder_embed_dim"]
    buckets = known.get("relative_attention_buckets")
    return {
        "_name": "ticket_roberta",
        **({} if buckets is None else {"relative_attention_buckets": int(buckets)}),
        "encoder_layers": int(known.get("encoder_layers", 0)),
        "encoder_embed_dim": embed_dim,
        "encoder_ffn_embed_dim": int(known.get("encoder_ffn_embed_dim", 4 * embed_dim)),
        "encoder_attention_heads": int(known.get("encoder_attention_heads", embed_dim // 64)),
        "max_positions": known["max_positions"],
        "layernorm_eps": float(known.get("layernorm_eps", FAIRSEQ_EPS)),
        "dropout": float(recorded.get("dropout", 0.1)),
        "attention_dropout": float(recorded.get("attention_dropout", 0.1)),
        "activation_fn": str(known.get("activation_fn", "gelu")),
        "pooler_dropout": float(recorded.get("pooler_dropout", 0.0)),
    }


def classification_heads(tensors: Mapping[str, Tensor]) -> list[str]:
    """Names of the classification heads in a model's tensors, sorted."""
    return sorted({name.split(".")[1] for name in tensors if name.startswith("classification_heads.")})


def fairseq_checkpoint(
    tensors: Mapping[str, Tensor], config: ModelConfig, dictionary: str | None = None
) -> dict[str, Any]:
    """What fairseq 0.12.2 expects in a .pt file, for `--finetune-from-model` and for `from_pretrained`.

    Only plain types, so that any PyTorch loads it with weights_only. `cfg.model` holds the shape under the
    names of arch `ticket_roberta`, but names stock `roberta`, which every fairseq can build; it passes over
    `layernorm_eps`. The optimizer history has one entry with no updates, since fairseq reads the last one
    without asking. `dictionary` is the digest of the words: it tells data with other numbers also where the
    checkpoint was moved away from its dict.txt. A model with MPNet's position bias names `ticket_roberta`: stock
    RoBERTa would leave the bias out.
    """
    model = {**config, "_name": "ticket_roberta" if "relative_attention_buckets" in config else "roberta"}
    model["load_checkpoint_heads"] = False  # from_pretrained overwrites what is there, and adds nothing
    words = {} if dictionary is None else {DICTIONARY: dictionary}
    return {
        "args": None,
        "cfg": {"_name": None, "model": model, "task": {"_name": "masked_lm", "data": "."}, "bpe": None},
        "model": dict(tensors),
        "criterion": None,
        "optimizer_history": [
            {"criterion_name": "", "optimizer_name": "", "lr_scheduler_state": {}, "num_updates": 0},
        ],
        "task_state": {},
        "extra_state": {"train_iterator": {"epoch": 1, "iterations_in_epoch": 0}, **words},
        "last_optimizer_state": None,
    }


def count_parameters(tensors: Mapping[str, Tensor]) -> int:
    """Number of weights in a model's tensors, the tied language-model projection counted once."""
    return sum(tensor.numel() for name, tensor in tensors.items() if name != LM_HEAD + "weight")
