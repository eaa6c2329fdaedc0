"""Where transformers' encoders keep the six matrices of a layer and the classification head.

The tickets know one encoder: post-norm layers, each of W^Q, W^K, W^V, W^O, W^FC1 and W^FC2. These architectures are
that encoder under other names. One of another kind (pre-norm, gated FFN, decoder) isn't in the table, and is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from fairseq_tickets.convert.peft import MATRIX_MODULES, MPNET_MATRICES, Layout
from fairseq_tickets.errors import UserError
from fairseq_tickets.parameters import MATRICES, ModelShape

_ROBERTA_HEAD = {"dense": "classifier.dense", "out_proj": "classifier.out_proj"}
_DISTILBERT = {f"{letter}_proj": f"attention.{letter}_lin" for letter in "qkv"}
_DISTILBERT.update({"out_proj": "attention.out_lin", "fc1": "ffn.lin1", "fc2": "ffn.lin2"})


@dataclass(frozen=True)
class Architecture:
    """Names of one family.

    Attributes:
        base: attribute of a model with a head that holds the encoder, which `base_model_prefix` also says.
        layers: the encoder's list of layers.
        matrices: matrix -> linear layer, inside a layer.
        head: part of a classification head ("dense", "out_proj") -> module, from the whole model.
        saved: the modules that hold the head.
    """

    base: str
    layers: str = "encoder.layer"
    matrices: Mapping[str, str] = field(default_factory=lambda: MATRIX_MODULES)
    head: Mapping[str, str] = field(default_factory=lambda: _ROBERTA_HEAD)
    saved: Sequence[str] = ("classifier",)


ARCHITECTURES = {  # by model_type
    "bert": Architecture(
        "bert", head={"dense": "bert.pooler.dense", "out_proj": "classifier"}, saved=("pooler", "classifier")
    ),
    "roberta": Architecture("roberta"),
    "xlm-roberta": Architecture("roberta"),
    "camembert": Architecture("roberta"),
    "distilbert": Architecture(
        "distilbert",
        "transformer.layer",
        _DISTILBERT,
        {"dense": "pre_classifier", "out_proj": "classifier"},
        ("pre_classifier", "classifier"),
    ),
    "mpnet": Architecture("mpnet", matrices=MPNET_MATRICES),
}


def architecture_of(model: nn.Module) -> Architecture:
    """The model's family.

    Raises:
        UserError: one that isn't in the table; it is named, with those that are.
    """
    kind = getattr(getattr(model, "config", None), "model_type", type(model).__name__)
    if kind not in ARCHITECTURES:
        raise UserError(
            f"a model of type {kind!r} can't be mapped to the encoder that tickets are about; supported are "
            f"{', '.join(ARCHITECTURES)}"
        )
    if getattr(model.config, "is_decoder", False):
        raise UserError(f"this {kind} is a decoder (is_decoder); tickets are about encoders")
    return ARCHITECTURES[str(kind)]


def layout_of(model: nn.Module, architecture: Architecture) -> Layout:
    """Full names in this model, with a head or without."""
    prefix = f"{architecture.base}." if hasattr(model, architecture.base) else ""
    head = {} if head_modules(model, architecture) is None else architecture.head
    return Layout(
        f"{prefix}{architecture.layers}.{{}}.", architecture.matrices, head, architecture.saved if head else ()
    )


def head_modules(model: nn.Module, architecture: Architecture) -> dict[str, nn.Module] | None:
    """Part -> module of the classification head; None where the model has none."""
    modules = dict(model.named_modules())
    found = {part: modules.get(name) for part, name in architecture.head.items()}
    if not all(isinstance(module, nn.Linear) for module in found.values()):
        return None
    return {part: module for part, module in found.items() if module is not None}


def linears_of(model: nn.Module, layout: Layout) -> list[dict[str, nn.Linear]]:
    """The linear layers as they are now, by layer and matrix.

    Raises:
        UserError: no layers, or something else stands in the place of one.
    """
    layers = len(model.get_submodule(layout.layers.split(".{}")[0]))  # type: ignore[arg-type]
    if not layers:
        raise UserError("this model has no encoder layers")
    rows: list[dict[str, nn.Linear]] = []
    for layer in range(layers):
        row: dict[str, nn.Linear] = {}
        for matrix in MATRICES:
            module: Any = model.get_submodule(layout.module(layer, matrix))
            if not isinstance(module, nn.Linear) or module.bias is None:
                raise UserError(
                    f"layer {layer}, {matrix}: {layout.module(layer, matrix)} is a {type(module).__name__}, and must "
                    "be a linear layer with bias; load the model without adapters or quantisation"
                )
            row[matrix] = module
        rows.append(row)
    return rows


def shape_of_config(model: nn.Module, linears: Sequence[Mapping[str, nn.Linear]]) -> ModelShape:
    """The shape that tickets of this model state; that of the whole model, pruned or not."""
    config: Any = model.config
    heads = int(config.num_attention_heads)
    return ModelShape(len(linears), heads, int(config.hidden_size), int(_inner_width(config)))


def _inner_width(config: Any) -> int:
    return int(config.hidden_dim if config.model_type == "distilbert" else config.intermediate_size)
