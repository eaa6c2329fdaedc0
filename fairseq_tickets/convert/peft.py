"""A dominant ticket's delta -> a LoRA adapter that peft loads, and such an adapter -> delta.

Training k columns C of a weight W (Gong et al. 2022, section 3.3) changes it by ΔW = C·S, where S, (k, in_features), is
the selection of those columns. That *is* a LoRA of rank k: A = S, B = C, alpha = r, nothing approximated.

- A matrix with fewer columns has its own rank in `rank_pattern`; one without any isn't a target.
- Biases of the ticket are LoRA's own: `lora_bias`, the bias of lora_B. (`bias="all"` would write them into the shared
  base, and peft then refuses a second adapter.) Where a matrix has none in the ticket it is 0; a matrix of which only
  the bias is in the ticket has rank 1 and A = B = 0.
- The classification head goes through `modules_to_save`.

Nothing here needs peft: the adapter is two files, a safetensors and a JSON. The 0 and 1 of A and of absent biases are
stored as 8-bit floats, in which they are exact and which peft widens; so A, dense as LoRA has it, costs a quarter of
what it would. The file's metadata name the ticket and the fingerprint of the base, as a delta's do; peft drops them
when it saves an adapter again, and then the ticket is read off A.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fairseq_tickets import safetensors_files
from fairseq_tickets.checkpoint import fingerprint
from fairseq_tickets.convert.names import HEADS, LAYER_MODULES, MPNET_MODULES, RELATIVE_BIAS
from fairseq_tickets.dominant_ticket.delta import Delta
from fairseq_tickets.errors import UserError
from fairseq_tickets.files import PathLike, write_json
from fairseq_tickets.folders import filled_folder
from fairseq_tickets.parameters import MATRICES, matrix_name

FORMAT, VERSION = "fairseq-tickets/peft", "1"
WEIGHTS, CONFIG, CARD = "adapter_model.safetensors", "adapter_config.json", "README.md"
PREFIX = "base_model.model."
EXACT_BYTE = torch.float8_e4m3fn
MATRIX_MODULES, MPNET_MATRICES = (
    {m: module for module, name in modules.items() for m in MATRICES if name.split(".")[-1] == m}
    for modules in (LAYER_MODULES, MPNET_MODULES)
)


@dataclass(frozen=True)
class Layout:
    """Where a Hugging Face model keeps what a delta changes.

    Attributes:
        layers: name of layer number {0}, with its final dot.
        matrices: matrix -> module of a layer.
        head: part of a classification head ("dense", "out_proj") -> module.
        saved: the modules that hold the head, for `modules_to_save`.
    """

    layers: str = "roberta.encoder.layer.{}."
    matrices: Mapping[str, str] = field(default_factory=lambda: MATRIX_MODULES)
    head: Mapping[str, str] = field(
        default_factory=lambda: {"dense": "classifier.dense", "out_proj": "classifier.out_proj"}
    )
    saved: Sequence[str] = ("classifier",)

    def module(self, layer: int, matrix: str) -> str:
        """Name of the linear layer of a matrix."""
        return self.layers.format(layer) + self.matrices[matrix]


ROBERTA, MPNET = Layout(), Layout("mpnet.encoder.layer.{}.", MPNET_MATRICES)


def exported_layout(tensors: Mapping[str, Tensor]) -> Layout:
    """The names that `export --to hf` gives a model."""
    return MPNET if RELATIVE_BIAS in tensors else ROBERTA


@dataclass
class AdapterReport:
    """What an adapter export wrote.

    Attributes:
        output: the folder.
        size: bytes of adapter_model.safetensors.
        selection: bytes of it that are LoRA's A, which a delta file has no need of.
        rank: the largest rank.
        head: the classification head, or None.
        notes: what else the user should know, one sentence each.
    """

    output: Path
    size: int
    selection: int
    rank: int
    head: str | None
    notes: list[str] = field(default_factory=list)


def to_peft(
    delta: Delta, base: Mapping[str, Tensor], layout: Layout = ROBERTA, head: str | None = None
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and adapter_config.json of the LoRA that a delta is; pure.

    Args:
        delta: the trained columns and heads.
        base: weights that training started from, by fairseq's names; only the six matrices are read.
        layout: names of the Hugging Face model.
        head: name of the classification head to take; None = no head.
    """
    tensors: dict[str, Tensor] = {}
    ranks: dict[str, int] = {}
    shape = delta.ticket.shape
    has_bias = any(shape.in_features(m) in dims for _, m, dims in delta.ticket.items())
    for layer, matrix, dims in delta.ticket.items():
        if not dims:
            continue
        module, width = layout.module(layer, matrix), shape.in_features(matrix)
        weight = base[matrix_name(layer, matrix)].detach().float()
        places = [place for place, index in enumerate(dims) if index != width]
        columns = [dims[place] for place in places]
        rank = ranks[module] = max(len(columns), 1)
        selection, change = torch.zeros(rank, width), torch.zeros(shape.out_features(matrix), rank)
        for row, (place, column) in enumerate(zip(places, columns)):
            selection[row, column] = 1.0
            change[:, row] = delta.columns[layer, matrix][:, place].float() - weight[:, column]
        tensors[f"{PREFIX}{module}.lora_A.weight"] = selection.to(EXACT_BYTE)
        tensors[f"{PREFIX}{module}.lora_B.weight"] = change
        if has_bias:
            moved = torch.zeros(shape.out_features(matrix), dtype=EXACT_BYTE)
            if width in dims:
                before = base[matrix_name(layer, matrix, "bias")].detach().float()
                moved = delta.columns[layer, matrix][:, dims.index(width)].float() - before
            tensors[f"{PREFIX}{module}.lora_B.bias"] = moved
    if not ranks:
        raise UserError("the delta's ticket is empty: it trains no dimension, and an adapter must have one")
    if head is not None:
        tensors.update(_head_tensors(delta, head, layout))
    return tensors, _config(ranks, has_bias, layout.saved if head is not None else ())


def save_peft(
    delta: Delta,
    base: Mapping[str, Tensor],
    output: PathLike,
    layout: Layout = ROBERTA,
    head: str | None = None,
    base_name: str | None = None,
) -> AdapterReport:
    """Write an adapter folder: adapter_config.json, adapter_model.safetensors and a card.

    Args:
        output: the folder.
        base_name: the Hugging Face folder or name of the base, which the adapter then names.
        delta, base, layout: as in `to_peft`.
        head: which classification head, where the delta has several.

    Raises:
        UserError: the delta's ticket is empty, no such head, or no place to write.
    """
    chosen = _choose_head(delta, head)
    tensors, config = to_peft(delta, base, layout, chosen)
    config["base_model_name_or_path"] = base_name
    ticket = json.dumps(delta.ticket.to_json(), allow_nan=False)
    metadata = {"format": FORMAT, "version": VERSION, "ticket": ticket, "base": delta.base, "head": chosen or ""}
    with filled_folder(output, CONFIG, (WEIGHTS, CARD)) as stage:
        safetensors_files.write(stage / WEIGHTS, tensors, metadata)
        write_json(stage / CONFIG, config)
        (stage / CARD).write_text(_card(delta, chosen, base_name), encoding="utf-8")
        size = (stage / WEIGHTS).stat().st_size
    selection = sum(t.numel() * t.element_size() for name, t in tensors.items() if ".lora_A." in name)
    return AdapterReport(Path(output), size, selection, int(config["r"]), chosen)


def base_checked(delta: Delta, base: Mapping[str, Tensor], source: str) -> None:
    """Raise UserError unless `base`, read from `source`, is the model that the delta was trained from."""
    found = fingerprint(base)
    if found != delta.base:
        raise UserError(
            f"--base {source}: the delta was trained from another base: that has fingerprint {delta.base[:16]}, "
            f"this one {found[:16]}"
        )


def _choose_head(delta: Delta, wanted: str | None) -> str | None:
    names = sorted({name[len(HEADS) :].split(".")[0] for name in delta.heads})
    if wanted is not None and wanted not in names:
        raise UserError(f"--head {wanted}: the delta's classification heads are: {', '.join(names) or 'none'}")
    if wanted is None and len(names) > 1:
        raise UserError(f"the delta has several classification heads; give --head, one of: {', '.join(names)}")
    return wanted or (names[0] if names else None)


def _head_tensors(delta: Delta, head: str, layout: Layout) -> dict[str, Tensor]:
    tensors = {}
    for part, module in layout.head.items():
        for kind in ("weight", "bias"):
            name = f"{HEADS}{head}.{part}.{kind}"
            if name not in delta.heads:
                raise UserError(f"classification head {head!r} lacks {part}.{kind}; it is no head of fairseq's RoBERTa")
            tensors[f"{PREFIX}{module}.{kind}"] = delta.heads[name].float()
    inner, width = delta.heads[f"{HEADS}{head}.dense.weight"].shape
    if inner != width or width != delta.ticket.shape.embed_dim:
        raise UserError(f"classification head {head!r} is not {width} wide inside; transformers' models can't hold it")
    return tensors


def _config(ranks: Mapping[str, int], has_bias: bool, saved: Sequence[str]) -> dict[str, Any]:
    largest = max(ranks.values())
    others = {module: rank for module, rank in ranks.items() if rank != largest}
    return {
        "peft_type": "LORA",
        "task_type": "SEQ_CLS" if saved else None,
        "inference_mode": True,
        "r": largest,
        "lora_alpha": largest,
        "rank_pattern": others,
        "alpha_pattern": others,
        "target_modules": list(ranks),
        "modules_to_save": list(saved) or None,
        "lora_dropout": 0.0,
        "bias": "none",
        "lora_bias": has_bias,
        "fan_in_fan_out": False,
        "use_rslora": False,
        "init_lora_weights": True,
    }


def _card(delta: Delta, head: str | None, base_name: str | None) -> str:
    classes = "" if head is None else f", num_labels={len(delta.heads[f'{HEADS}{head}.out_proj.bias'])}"
    model = "AutoModel" if head is None else "AutoModelForSequenceClassification"
    return f"""---
library_name: peft
---
# A dominant ticket as a LoRA adapter

{delta.ticket.describe()}; base: fingerprint {delta.base[:16]}.

    from peft import PeftModel
    from transformers import {model}

    base = {model}.from_pretrained({base_name or "BASE"!r}{classes})
    model = PeftModel.from_pretrained(base, "this folder")

Written by fairseq_tickets; `fairseq-tickets import --adapter` turns it into a delta again.
"""
