"""What a fairseq checkpoint records about itself: the one reading of its `cfg` (or, in old ones, `args`).

`model_settings` gives what decides the numbers that the model computes. Sizes come from the tensors where those show
them, everything else from the recorded options; what neither tells is left out, never guessed.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from typing import Any

from fairseq_tickets.errors import UserError
from fairseq_tickets.parameters import LAYERS_PREFIX
from fairseq_tickets.saved_config import check_model_options

PADDING_ROWS = 2  # fairseq's learned positions start at padding_idx + 1 = 2
SHAPE = ("encoder_layers", "encoder_embed_dim", "encoder_ffn_embed_dim", "encoder_attention_heads", "max_positions")
FUNCTION = ("layernorm_eps", "activation_fn", "pooler_activation_fn", "relative_attention_buckets")
# Options of fairseq's encoders that RoBERTa fixes, and what it fixes them to; another value is another model.
FIXED: Mapping[str, Any] = {
    "encoder_normalize_before": False,
    "layernorm_embedding": True,
    "no_scale_embedding": True,
    "encoder_learned_pos": True,
    "no_token_positional_embeddings": False,
    "mha_heads_to_keep": -1,
    "ffn_blocks_to_remove": -1,
}
HEADS_OF_ARCH: Mapping[str, int] = {"roberta": 12, "roberta_base": 12, "roberta_large": 16, "xlmr": 12}


def options(checkpoint: Mapping[str, Any], section: str) -> dict[str, Any]:
    """Options of one section of `cfg`, or of `args`, which has all sections in one; those that are None are left out.

    Args:
        checkpoint: content as `checkpoint.load` gives it.
        section: "model", "task", "criterion", ...

    Raises:
        UserError: no options by name, or one of the model's of another kind.
    """
    cfg = checkpoint.get("cfg")
    found = cfg.get(section) if isinstance(cfg, Mapping) else None
    if found is None:
        found = checkpoint.get("args")
    if isinstance(found, Namespace):
        found = vars(found)
    if found is None:
        return {}
    if not isinstance(found, Mapping):
        raise UserError(f"the checkpoint is damaged: cfg.{section} is a {type(found).__name__}, not options by name")
    if section == "model":
        check_model_options(found, "the checkpoint is damaged")
    return {str(name): value for name, value in found.items() if value is not None}


def attention_heads(checkpoint: Mapping[str, Any]) -> int | None:
    """Attention heads a layer, recorded by number or by the name of a stock architecture; None if neither is."""
    known = options(checkpoint, "model")
    heads = known.get("encoder_attention_heads")
    if heads is None:
        heads = HEADS_OF_ARCH.get(str(known.get("_name") or known.get("arch")))
    return None if heads is None else int(heads)


def peak_lr(checkpoint: Mapping[str, Any]) -> float | None:
    """The learning rate that the run was given, the first of several; None where it isn't recorded."""
    lr = options(checkpoint, "optimization").get("lr")
    lr = lr[0] if isinstance(lr, (list, tuple)) and lr else lr
    return float(lr) if isinstance(lr, (int, float)) else None


def model_settings(checkpoint: Mapping[str, Any], source: object = "this checkpoint") -> dict[str, Any]:
    """The settings in SHAPE and FUNCTION that a RoBERTa-like checkpoint tells.

    Args:
        checkpoint: content as `checkpoint.load` gives it.
        source: names it in errors.

    Raises:
        UserError: it records something that a RoBERTa can't compute.
    """
    known = options(checkpoint, "model")
    for name, value in FIXED.items():
        if name in known and known[name] != value:
            raise UserError(f"{source} has {name} {known[name]}: only {value}, which is RoBERTa's, can be computed")
    found = {name: known[name] for name in (*SHAPE, *FUNCTION) if name in known}
    heads = attention_heads(checkpoint)
    if heads is not None:
        found["encoder_attention_heads"] = heads
    return {**found, **_sizes(checkpoint.get("model"))}


def _sizes(tensors: Any) -> dict[str, int]:
    """Sizes that the tensors show. A pruned layer's FFN may be gone, another's is whole."""
    if not isinstance(tensors, Mapping):
        return {}
    encoder = LAYERS_PREFIX[: -len("layers.")]
    words, positions = (tensors.get(f"{encoder}{name}.weight") for name in ("embed_tokens", "embed_positions"))
    bias = tensors.get(f"{encoder}relative_attention_bias.weight")
    layers = {name[len(LAYERS_PREFIX) :].split(".")[0] for name in tensors if name.startswith(LAYERS_PREFIX)}
    ffn = (t for name, t in tensors.items() if name.startswith(LAYERS_PREFIX) and name.endswith("fc1.weight"))
    sizes: dict[str, int] = {}
    if words is not None:
        sizes["encoder_embed_dim"] = int(words.shape[1])
    if positions is not None:
        sizes["max_positions"] = int(positions.shape[0]) - PADDING_ROWS
    if bias is not None:
        sizes["relative_attention_buckets"] = int(bias.shape[0])
    if layers:
        sizes["encoder_layers"] = len(layers)
    inner = next(ffn, None)
    if inner is not None:
        sizes["encoder_ffn_embed_dim"] = int(inner.shape[0])
    return sizes
