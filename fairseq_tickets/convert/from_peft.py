"""A LoRA adapter whose A selects input dimensions -> the delta of a dominant ticket; see `peft.py`.

Any LoRA does that reads one input dimension a row: made by `export --to peft`, saved again by peft, or trained further
with A kept frozen. Then ΔW = scaling · B·A changes only those columns. Every other LoRA changes whole matrices, has no
ticket, and is refused with the reason.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fairseq_tickets import safetensors_files
from fairseq_tickets.checkpoint import fingerprint
from fairseq_tickets.convert.huggingface import HEAD_NAME
from fairseq_tickets.convert.names import HEADS, SENTENCE_ENCODER, layer_to_fairseq, plain_hf_name
from fairseq_tickets.convert.peft import CONFIG, EXACT_BYTE, FORMAT, PREFIX, VERSION, WEIGHTS
from fairseq_tickets.documents import parse_json
from fairseq_tickets.dominant_ticket.delta import Delta
from fairseq_tickets.errors import UserError
from fairseq_tickets.files import PathLike, read_json
from fairseq_tickets.parameters import MATRICES, ModelShape, matrix_name, parse
from fairseq_tickets.tickets import DominantTicket, ticket_from_json
from fairseq_tickets.weights import FULL, HALF, check_finite

# settings under which W + scaling · B·A + bias is not the whole of what the adapter computes
_OTHER_METHODS = (
    "use_dora",
    "use_qalora",
    "use_bdlora",
    "fan_in_fan_out",
    "layer_replication",
    "trainable_token_indices",
    "target_parameters",
    "alora_invocation_tokens",
    "arrow_config",
    "kasa_config",
    "monteclora_config",
)
_LORA = re.compile(r"(.+)\.lora_([AB])\.(weight|bias)$")
# fairseq's part of a head <- modules of RoBERTa's and of BERT's
_HEADS = {"classifier.dense": "dense", "classifier.out_proj": "out_proj", "pooler.dense": "dense"}
_BERT_CLASSIFIER = "classifier"


def load_peft(folder: PathLike, base: Mapping[str, Tensor], shape: ModelShape) -> tuple[Delta, list[str]]:
    """The delta that an adapter is, and notes for the user, one sentence each.

    Args:
        folder: with adapter_config.json and adapter_model.safetensors.
        base: encoder tensors of the model it belongs to, by fairseq's names.
        shape: of that model.

    Raises:
        UserError: no adapter, not a LoRA whose A selects input dimensions, or one of another base, rank or modules.
    """
    root = Path(folder)
    if not root.is_dir():
        raise UserError(f"--adapter {root} is not a folder; give the one with {CONFIG} and {WEIGHTS}")
    config = read_json(root / CONFIG, "adapter configuration")
    _check_config(config, root / CONFIG)
    tensors, metadata = _read(root / WEIGHTS)
    notes = []
    found = fingerprint(base)
    if metadata.get("format") == FORMAT and metadata.get("version") == VERSION:
        if metadata.get("base") != found:
            raise UserError(
                f"--adapter {root} belongs to another base: that has fingerprint {str(metadata.get('base'))[:16]}, "
                f"--base has {found[:16]}"
            )
    else:
        metadata = {}
        notes.append("the adapter doesn't say which base it was trained from (peft saved it); --base is taken for it")
    changes, biases, heads = _sorted(tensors, base, str(root), metadata.get("head") or HEAD_NAME)
    columns: dict[tuple[int, str], dict[int, Tensor]] = {}
    for (layer, matrix), (name, parts) in changes.items():
        scaling = _scaling(config, name, parts["A"], root)
        columns[layer, matrix] = _columns(parts, scaling, base, shape, layer, matrix)
    for (layer, matrix), bias in biases.items():
        columns.setdefault((layer, matrix), {})[shape.in_features(matrix)] = bias
    ticket = _ticket(columns, shape, metadata, str(root))
    values = {}
    for layer, matrix, dims in ticket.items():
        if dims:
            moved = columns.get((layer, matrix), {})
            still = base[matrix_name(layer, matrix, "bias")].float()  # in the ticket, but as it was
            values[layer, matrix] = torch.stack([moved.get(index, still) for index in dims], 1)
    return Delta(ticket, found, values, heads), notes


def _check_config(config: Any, path: Path) -> None:
    if not isinstance(config, dict) or "peft_type" not in config:
        raise UserError(f"{path} is not an adapter configuration of peft")
    if config["peft_type"] != "LORA":
        raise UserError(f"{path}: peft_type is {config['peft_type']!r}; only a LORA can be a dominant ticket")
    for name in _OTHER_METHODS:
        if config.get(name):
            raise UserError(f"{path}: {name} is {config[name]!r}; a dominant ticket's adapter is a plain LoRA")
    if config.get("init_lora_weights") not in (True, False, None, "gaussian"):
        raise UserError(
            f"{path}: init_lora_weights {config['init_lora_weights']!r} changes the base; a delta needs it unchanged"
        )


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    if not path.is_file():
        raise UserError(f"cannot read {path}: no such file; adapters are read from safetensors alone")
    tensors, metadata = safetensors_files.read(path)
    for name, tensor in tensors.items():
        if tensor.dtype not in (*FULL, *HALF, EXACT_BYTE):
            raise UserError(f"{path}: {name} is {str(tensor.dtype).replace('torch.', '')}, no kind of weight")
    widened = {name: tensor.float() for name, tensor in tensors.items()}
    check_finite(widened, str(path))
    return widened, metadata


Changes = dict[tuple[int, str], tuple[str, dict[str, Tensor]]]


def _sorted(
    tensors: Mapping[str, Tensor], base: Mapping[str, Tensor], source: str, head: str
) -> tuple[Changes, dict[tuple[int, str], Tensor], dict[str, Tensor]]:
    """LoRA's parts by matrix, whole biases by matrix, and the head under fairseq's names."""
    changes: Changes = {}
    biases: dict[tuple[int, str], Tensor] = {}
    heads: dict[str, Tensor] = {}
    bert = any(plain_hf_name(_bare(name)).startswith("pooler.") for name in tensors)
    for full, tensor in tensors.items():
        name = plain_hf_name(_bare(full))
        found = _LORA.match(name)
        module, _, kind = name.rpartition(".")
        if found is not None:
            role = parse(layer_to_fairseq(f"{found[1]}.weight") or "")
            if role is None:
                raise UserError(
                    f"{source}: it adapts {found[1]}; a dominant ticket has only the matrices {', '.join(MATRICES)} "
                    "of BERT's and RoBERTa's layers"
                )
            part = found[2] if found[3] == "weight" else "bias"
            changes.setdefault((role.layer, role.matrix), (found[1], {}))[1][part] = tensor
        elif module in _HEADS and kind in ("weight", "bias"):
            heads[f"{HEADS}{head}.{_HEADS[module]}.{kind}"] = tensor
        elif bert and module == _BERT_CLASSIFIER:
            heads[f"{HEADS}{head}.out_proj.{kind}"] = tensor
        else:  # LoRA's bias="all" saves every bias of the model
            known = layer_to_fairseq(name) or (
                f"{SENTENCE_ENCODER}layernorm_embedding.bias" if name == "embeddings.LayerNorm.bias" else ""
            )
            if known not in base or base[known].shape != tensor.shape:
                raise UserError(f"{source}: {name} is neither a LoRA of the six matrices nor a classification head")
            role = parse(known)
            moved = not torch.equal(base[known].float(), tensor)
            if moved and (role is None or role.kind != "bias"):
                raise UserError(f"{source}: {name} differs from the base, and no dominant ticket can hold it")
            if moved and role is not None:
                biases[role.layer, role.matrix] = tensor
    return changes, biases, heads


def _bare(name: str) -> str:
    return name[len(PREFIX) :] if name.startswith(PREFIX) else name


def _scaling(config: Mapping[str, Any], module: str, selection: Tensor, root: Path) -> float:
    """What peft multiplies B·A with: alpha / r, of the module."""
    rank = _of_module(config, "rank_pattern", "r", module, root)
    alpha = _of_module(config, "alpha_pattern", "lora_alpha", module, root)
    if rank != selection.shape[0]:
        raise UserError(
            f"{root}: lora_A of {module} has rank {selection.shape[0]}, but {CONFIG} says {rank:g}; "
            "its files don't belong together"
        )
    return alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank


def _of_module(config: Mapping[str, Any], pattern: str, default: str, module: str, root: Path) -> float:
    value = config.get(default)
    for key, special in (config.get(pattern) or {}).items():
        plain = plain_hf_name(str(key))
        if re.search(r"[\^$*+?\[\]()|\\{}]", plain):
            raise UserError(f"{root / CONFIG}: {pattern} {key!r} is a regular expression; it must name modules")
        if module == plain or module.endswith("." + plain):
            value = special
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value <= 0:
        raise UserError(f"{root / CONFIG}: {default} of {module} is {value!r}; it must be a number above 0")
    return float(value)


def _columns(
    parts: Mapping[str, Tensor],
    scaling: float,
    base: Mapping[str, Tensor],
    shape: ModelShape,
    layer: int,
    matrix: str,
) -> dict[int, Tensor]:
    """Input dimension -> its trained values (out_features,), in A's order; the bias last."""
    if layer >= shape.layers:
        raise UserError(f"the adapter has layer {layer}; the base has {shape.layers} layers")
    where, width, height = f"layer {layer}, {matrix}", shape.in_features(matrix), shape.out_features(matrix)
    selection, change = parts.get("A"), parts.get("B")
    if selection is None or change is None:
        raise UserError(f"{where}: the adapter has only one of lora_A and lora_B")
    rank = selection.shape[0]
    if tuple(selection.shape) != (rank, width) or tuple(change.shape) != (height, rank):
        raise UserError(
            f"{where}: the adapter is for another base: lora_A is {tuple(selection.shape)} and lora_B "
            f"{tuple(change.shape)}, which must be {(rank, width)} and {(height, rank)}"
        )
    read = (selection != 0).sum(1)
    if int(read.max()) > 1:
        raise UserError(
            f"{where}: this is an ordinary LoRA: row {int(read.argmax())} of its lora_A reads {int(read.max())} input "
            "dimensions; in a dominant ticket's adapter each row selects one"
        )
    columns: dict[int, Tensor] = {}
    for row in torch.nonzero(read).flatten().tolist():
        index = int(selection[row].abs().argmax())
        before = columns.get(index, base[matrix_name(layer, matrix)][:, index].float())
        columns[index] = before + scaling * selection[row, index] * change[:, row]
    bias = parts.get("bias")
    if bias is not None and bias.any():
        columns[width] = base[matrix_name(layer, matrix, "bias")].float() + scaling * bias
    return columns


def _ticket(
    columns: Mapping[tuple[int, str], Mapping[int, Tensor]], shape: ModelShape, metadata: Mapping[str, str], source: str
) -> DominantTicket:
    """The ticket that the metadata name, where it is that of the columns; else one made from them."""
    dimensions = {m: [list(columns.get((layer, m), ())) for layer in range(shape.layers)] for m in MATRICES}
    made = DominantTicket(shape, dimensions, None, {"method": "peft adapter", "source": Path(source).name})
    if "ticket" not in metadata:
        return made
    named = ticket_from_json(parse_json(metadata["ticket"], f"the ticket of {source}"), source)
    if not isinstance(named, DominantTicket) or named.shape != shape:
        raise UserError(f"{source}: the adapter's ticket is for another model")
    return named if _same(named, made) else made


def _same(named: DominantTicket, made: DominantTicket) -> bool:
    """The same dimensions in any order; a bias that is in the ticket may have stayed as it was."""
    for (_, matrix, dims), (_, _, found) in zip(named.items(), made.items()):
        bias = {named.shape.in_features(matrix)}
        if set(dims) - bias != set(found) - bias or set(found) & bias - set(dims):
            return False
    return True
