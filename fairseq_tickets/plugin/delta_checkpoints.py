"""`--delta-checkpoints`: under a dominant ticket, fairseq-train saves what is trained and not the model around it.

Beside every checkpoint_X.pt there is then a checkpoint_X.safetensors, the delta file of dominant_ticket/delta.py: 5 MB
for RoBERTa-large at k = 1 (Gong et al. 2022). The .pt itself, which resuming needs, holds the same numbers in place of
the model, with the optimizer's state. Wherever fairseq loads it, the rest comes from the base checkpoint, known by its
fingerprint; another base, or none at the place where it was, is refused.

The task's state, which fairseq keeps in every checkpoint, says what is asked for; so nothing is remembered here.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from fairseq import checkpoint_utils
from torch import Tensor, nn

from fairseq_tickets.checkpoint import copy, encoder_tensors, fingerprint, is_head
from fairseq_tickets.dominant_ticket.columns import column_linears
from fairseq_tickets.dominant_ticket.delta import HEADS_PREFIX, Delta, apply, make_delta, save_delta
from fairseq_tickets.dominant_ticket.delta import IN_CHECKPOINT as STATE
from fairseq_tickets.errors import UserError
from fairseq_tickets.parameters import parse
from fairseq_tickets.task_record import recorded_task
from fairseq_tickets.tickets import DominantTicket, load_dominant_ticket, ticket_from_json
from fairseq_tickets.weights import checked_weights

SUFFIX = ".safetensors"
MARKERS = (".version", "._float_tensor")  # fairseq's: no weights, and not in every checkpoint


def delta_state(model: nn.Module, ticket: str | None, base: str | None) -> dict[str, Any]:
    """What the task keeps in its state to have its checkpoints saved as deltas.

    Args:
        model: already under the ticket.
        ticket: file of a dominant ticket.
        base: checkpoint that training starts from.

    Raises:
        UserError: there is no dominant ticket, no base, or the model isn't split by columns.
    """
    if not ticket or not column_linears(model):
        raise UserError(
            "--delta-checkpoints needs a dominant --ticket, --arch ticket_roberta and --ticket-route columns; "
            "other checkpoints become deltas with `fairseq-tickets export --to delta`"
        )
    if not base:
        raise UserError("--delta-checkpoints needs --finetune-from-model: the checkpoint that deltas belong to")
    _base_tensors(base)
    return {STATE: {"ticket": load_dominant_ticket(ticket).to_json(), "base": str(Path(base).resolve())}}


def install_into_fairseq() -> None:
    """Let fairseq save and load deltas, for as long as the process lives. Comes after plugin/checkpoints.py; once."""
    if getattr(checkpoint_utils.PathManager, "copies_deltas", False):
        return
    whole = type(checkpoint_utils.torch)
    checkpoint_utils.torch = type("_TorchWithDeltas", (whole,), {"load": staticmethod(_load(whole.load))})()
    checkpoint_utils.torch_persistent_save = _save(checkpoint_utils.torch_persistent_save)
    checkpoint_utils.PathManager = _copies(checkpoint_utils.PathManager)
    checkpoint_utils.save_checkpoint = _without_widows(checkpoint_utils.save_checkpoint)


def shrunk(state: Mapping[str, Any]) -> tuple[dict[str, Any], Delta]:
    """A checkpoint's content with its delta in place of the model, and the delta.

    Raises:
        UserError: the base is gone, or differs from the model in more than the ticket and the heads.
    """
    asked = state["task_state"][STATE]
    ticket, base = _ticket(asked), asked["base"]
    tensors = state["model"]
    _check_frozen(tensors, _base_tensors(base), ticket, base)
    delta = make_delta(tensors, ticket, _fingerprint(base, *_version(base)))
    delta.task = recorded_task(state)
    columns = {f"{layer}.{matrix}": values for (layer, matrix), values in delta.columns.items()}
    return {**state, "model": {**columns, **delta.heads}, STATE: {**asked, "fingerprint": delta.base}}, delta


def restored(state: Mapping[str, Any]) -> dict[str, Any]:
    """The whole content again.

    Raises:
        UserError: the base is gone or another one.
    """
    asked = state[STATE]
    columns: dict[tuple[int, str], Tensor] = {}
    heads: dict[str, Tensor] = {}
    for name, tensor in state["model"].items():
        if name.startswith(HEADS_PREFIX):
            heads[name] = tensor
        else:
            layer, _, matrix = name.partition(".")
            columns[int(layer), matrix] = tensor
    delta = Delta(_ticket(asked), asked["fingerprint"], columns, heads)
    whole = {**state, "model": apply(_base_tensors(asked["base"]), delta)}
    del whole[STATE]
    return whole


def _load(original: Any) -> Any:
    def load(file: Any, map_location: Any = "cpu", **options: Any) -> Any:
        state = original(file, map_location, **options)
        return restored(state) if isinstance(state, dict) and STATE in state else state

    return load


def _save(original: Any) -> Any:
    def torch_persistent_save(obj: Any, filename: Any, async_write: bool = False) -> None:
        if not isinstance(obj, dict) or STATE not in (obj.get("task_state") or {}):
            original(obj, filename, async_write=async_write)
            return
        small, delta = shrunk(obj)
        save_delta(Path(filename).with_suffix(SUFFIX), delta)
        original(small, filename, async_write=async_write)

    return torch_persistent_save


def _copies(manager: Any) -> Any:
    class PathManager(manager):  # type: ignore[misc]
        copies_deltas = True

        @staticmethod
        def copy(src_path: str, dst_path: str, overwrite: bool = False) -> bool:
            source, target = (Path(path).with_suffix(SUFFIX) for path in (src_path, dst_path))
            if str(src_path).endswith(".pt") and source.is_file() and (overwrite or not target.exists()):
                copy(source, target)
            return bool(manager.copy(src_path, dst_path, overwrite))

    return PathManager


def _without_widows(original: Any) -> Any:
    """fairseq removes old checkpoints by itself (--keep-interval-updates and its like): their deltas go with them."""

    @functools.wraps(original)
    def save_checkpoint(cfg: Any, *args: Any, **options: Any) -> Any:
        pairs = [p for p in Path(cfg.save_dir).glob("checkpoint*.pt") if p.with_suffix(SUFFIX).is_file()]
        result = original(cfg, *args, **options)
        for path in pairs:
            if not path.exists():
                path.with_suffix(SUFFIX).unlink(missing_ok=True)
        return result

    return save_checkpoint


def _ticket(asked: Mapping[str, Any]) -> DominantTicket:
    ticket = ticket_from_json(asked["ticket"], "the checkpoint's ticket")
    assert isinstance(ticket, DominantTicket)
    return ticket


def _base_tensors(base: str) -> dict[str, Tensor]:
    if not Path(base).is_file():
        raise UserError(f"this checkpoint holds a delta; the base that it belongs to, {base}, is not there")
    return checked_weights(encoder_tensors(base), f"the base of deltas, {base},")


def _version(base: str) -> tuple[int, int]:
    stat = Path(base).stat()
    return stat.st_mtime_ns, stat.st_size


@lru_cache(maxsize=1)
def _fingerprint(base: str, modified: int, size: int) -> str:
    return fingerprint(encoder_tensors(base))


def _check_frozen(tensors: Mapping[str, Tensor], base: Mapping[str, Tensor], ticket: DominantTicket, path: str) -> None:
    for name, tensor in tensors.items():
        if is_head(name) or name.endswith(MARKERS):
            continue
        if name not in base:
            raise UserError(f"--delta-checkpoints: the base {path} lacks {name}, so a delta of it can't hold the model")
        expected, role = base[name], parse(name)
        dims = ticket.dimensions[role.matrix][role.layer] if role is not None else []
        if role is not None and role.kind == "weight" and tensor.dtype == expected.dtype:
            columns = [index for index in dims if index != ticket.shape.in_features(role.matrix)]
            tensor = tensor.index_copy(1, torch.tensor(columns, dtype=torch.long), expected[:, columns])
        elif role is not None and role.kind == "bias" and ticket.shape.in_features(role.matrix) in dims:
            continue
        if tensor.dtype != expected.dtype or not torch.equal(tensor, expected):
            raise UserError(
                f"--delta-checkpoints: {name} differs from {path} outside the ticket, in value or precision; "
                "deltas need training that starts from --finetune-from-model, in float32"
            )
