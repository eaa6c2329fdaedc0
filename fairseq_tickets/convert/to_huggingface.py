"""Dense weights under fairseq's names -> tensors and config.json of Hugging Face's RoBERTa, or MPNet.

Both classification heads are dropout, dense, tanh, dropout, out_proj on the first token: one to one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from fairseq_tickets.convert.names import (
    EMBED_POSITIONS,
    EMBED_TOKENS,
    HEADS,
    LM_HEAD,
    RELATIVE_BIAS,
    SENTENCE_ENCODER,
    layer_to_hf,
)
from fairseq_tickets.convert.shape import ACTIVATIONS, ModelConfig
from fairseq_tickets.errors import UserError

_CLASSES = {"roberta": "Roberta", "xlm-roberta": "XLMRoberta", "mpnet": "MPNet"}


def to_huggingface(
    tensors: Mapping[str, Tensor],
    config: ModelConfig,
    head: str | None,
    labels: Sequence[str] | None = None,
    regression: bool | None = None,
    architecture: str = "roberta",
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Hugging Face RoBERTa tensors and config.json of dense fairseq weights; pure.

    Args:
        tensors: under fairseq's names.
        config: the fields of arch `ticket_roberta`.
        head: the classification head; None = the language-model head.
        labels: names of the classes in order; LABEL_0, ... where None.
        regression: whether the head's outputs are real values; None = where it has one output.
        architecture: model_type, "roberta" or "xlm-roberta", one function; MPNet is known by its tensors.

    Raises:
        UserError: a head whose inner width isn't the model's, or labels that aren't as many as its classes.
    """
    if config["activation_fn"] not in ACTIVATIONS:
        raise UserError(
            f"activation_fn {config['activation_fn']!r} has no counterpart; known are {', '.join(ACTIVATIONS)}"
        )
    embed = int(config["encoder_embed_dim"] or 0)
    mpnet = RELATIVE_BIAS in tensors
    base = "mpnet." if mpnet else "roberta."
    named = (
        {} if mpnet else {f"{base}embeddings.token_type_embeddings.weight": tensors[EMBED_TOKENS].new_zeros(1, embed)}
    )
    plain = {
        EMBED_TOKENS: "embeddings.word_embeddings.weight",
        EMBED_POSITIONS: "embeddings.position_embeddings.weight",
        f"{SENTENCE_ENCODER}layernorm_embedding.weight": "embeddings.LayerNorm.weight",
        f"{SENTENCE_ENCODER}layernorm_embedding.bias": "embeddings.LayerNorm.bias",
        RELATIVE_BIAS: "encoder.relative_attention_bias.weight",
    }
    for name, tensor in tensors.items():
        theirs = plain.get(name) or layer_to_hf(name, mpnet)
        if theirs is not None:
            named[base + theirs] = tensor
    architecture = "mpnet" if mpnet else architecture
    settings = {**_settings(tensors, config), "model_type": architecture}
    name = _CLASSES[architecture]
    if head is None:
        for name, tensor in tensors.items():
            if name.startswith(LM_HEAD) and name != LM_HEAD + "weight":
                named["lm_head." + name[len(LM_HEAD) :]] = tensor
        settings["architectures"] = [f"{name}ForMaskedLM"]
    else:
        prefix = f"{HEADS}{head}."
        named.update({"classifier." + n[len(prefix) :]: t for n, t in tensors.items() if n.startswith(prefix)})
        settings["architectures"] = [f"{name}ForSequenceClassification"]
        settings.update(_head_settings(named, embed, head, labels, regression))
    return {name: tensor.contiguous() for name, tensor in named.items()}, settings


def _settings(tensors: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Any]:
    bias = tensors.get(RELATIVE_BIAS)
    family: dict[str, Any] = {"position_embedding_type": "absolute", "type_vocab_size": 1}
    if bias is not None:
        family = {"relative_attention_num_buckets": bias.shape[0]}
    return {
        **family,
        "vocab_size": tensors[EMBED_TOKENS].shape[0],
        "hidden_size": config["encoder_embed_dim"],
        "num_hidden_layers": config["encoder_layers"],
        "num_attention_heads": config["encoder_attention_heads"],
        "intermediate_size": config["encoder_ffn_embed_dim"],
        "hidden_act": config["activation_fn"],
        "hidden_dropout_prob": config["dropout"],
        "attention_probs_dropout_prob": config["attention_dropout"],
        "classifier_dropout": config["pooler_dropout"],
        "max_position_embeddings": tensors[EMBED_POSITIONS].shape[0],
        "layer_norm_eps": config["layernorm_eps"],
        "bos_token_id": 0,
        "pad_token_id": 1,
        "eos_token_id": 2,
        "torch_dtype": "float32",
    }


def _head_settings(
    named: Mapping[str, Tensor], embed: int, head: str, labels: Sequence[str] | None, regression: bool | None
) -> dict[str, Any]:
    weight = named.get("classifier.out_proj.weight")
    if weight is None or named["classifier.dense.weight"].shape != (embed, embed):
        raise UserError(f"classification head {head!r} is not {embed} wide inside; transformers' RoBERTa can't hold it")
    classes = weight.shape[0]
    regression = classes == 1 if regression is None else regression
    names = [f"LABEL_{number}" for number in range(classes)] if labels is None else list(labels)
    if len(names) != classes:
        raise UserError(f"{len(names)} label names for the {classes} classes of head {head!r}")
    return {
        "id2label": {str(number): name for number, name in enumerate(names)},
        "label2id": {name: number for number, name in enumerate(names)},
        "problem_type": "regression" if regression else "single_label_classification",
    }
