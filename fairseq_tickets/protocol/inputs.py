"""What a protocol starts from: the model's files and shape, the data's files, and their checksums.

An input has a role ("model", "dict", "RTE: train.tsv") and a SHA-256. Keys of runs are made from these, and a finished
run is refused when an input of its has changed since. Nothing here loads fairseq.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fairseq_tickets.errors import UserError
from fairseq_tickets.files import file_digest
from fairseq_tickets.parameters import ModelShape

if TYPE_CHECKING:
    from fairseq_tickets.protocol.config import Protocol
    from fairseq_tickets.protocol.settings import Task

Inputs = dict[str, dict[str, str]]  # role -> {"file": ..., "sha256": ...}
TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "encoder.json", "vocab.bpe", "vocab.json", "merges.txt")


@dataclass(frozen=True)
class Model:
    """The pre-trained model; `positions` is the most tokens of an example."""

    checkpoint: Path
    shape: ModelShape
    positions: int
    inputs: Inputs


@dataclass(frozen=True)
class Data:
    """A task's data.

    Attributes:
        folder: prepared folder; None = it is to be prepared from `source`: GLUE folder, tokenizer, dictionary.
        inputs: the prepared files, or the files it is prepared from.
    """

    folder: Path | None
    source: dict[str, str] | None
    inputs: Inputs


def find_model(protocol: Protocol) -> Model:
    """The pre-trained model of a protocol.

    Raises:
        UserError: no such folder or files, or no checkpoint of a RoBERTa-class encoder.
    """
    from fairseq_tickets import checkpoint
    from fairseq_tickets.parameters import model_shape
    from fairseq_tickets.recorded import attention_heads

    folder = protocol.model.path
    path = folder / "model.pt" if folder.is_dir() else folder
    if not path.is_file():
        raise UserError(f"{protocol.path}: model: path: there is no {path}; make it with `fairseq-tickets import`")
    state = checkpoint.load(path, mmap=True)
    heads = attention_heads(state)
    if heads is None:
        raise UserError(f"{path} does not tell its number of attention heads; is it a fairseq RoBERTa checkpoint?")
    shape = model_shape(state["model"], heads)
    table = [t for name, t in state["model"].items() if name.endswith("embed_positions.weight")]
    if not table:
        raise UserError(f"{path} has no position embeddings; is it a fairseq RoBERTa checkpoint?")
    return Model(path, shape, int(table[0].shape[0]) - 2, _described({"model": path}))


def find_data(protocol: Protocol, task: Task) -> Data:
    """The data of a task: a prepared folder, or the files to prepare one from.

    Raises:
        UserError: a folder or file is missing.
    """
    folder, tokenizer = task.data, protocol.tokenizer
    if folder is not None:
        if not (folder / "input0" / "dict.txt").is_file():
            raise UserError(
                f"{folder} is no prepared data folder (no input0/dict.txt); make it with `fairseq-tickets prepare`"
            )
        prepared: Inputs = {}
        for path in sorted(folder.rglob("*")):
            if path.is_file() and not path.name.startswith("."):
                name = path.relative_to(folder).as_posix()
                prepared[f"{task.name}: {name}"] = {"file": name, "sha256": file_digest(path)}
        return Data(folder, None, prepared)
    from fairseq_tickets.data.tasks import find_files, find_task

    assert protocol.glue is not None
    splits = find_files(protocol.glue, find_task(task.name))
    dictionary = (tokenizer if tokenizer.is_dir() else tokenizer.parent) / "dict.txt"
    if not dictionary.is_file():
        raise UserError(f"{protocol.path}: tokenizer: there is no {dictionary}; it is the dictionary of the model")
    roles = {f"{task.name}: {split}": file for split, file in sorted(splits.items())}
    roles.update({"dict": dictionary, **{f"tokenizer: {file.name}": file for file in _tokenizer_files(tokenizer)}})
    source = {"glue": str(protocol.glue), "tokenizer": str(tokenizer), "dictionary": str(dictionary)}
    return Data(None, source, _described(roles))


def _described(files: dict[str, Path]) -> Inputs:
    """Files by role, with their checksums."""
    return {role: {"file": path.name, "sha256": file_digest(path)} for role, path in files.items()}


def _tokenizer_files(tokenizer: Path) -> list[Path]:
    if not tokenizer.is_dir():
        return [tokenizer]
    found = [tokenizer / name for name in TOKENIZER_FILES if (tokenizer / name).is_file()]
    found += sorted(tokenizer.glob("*.model"))
    if not found:
        raise UserError(f"tokenizer {tokenizer}: the folder holds none of {', '.join(TOKENIZER_FILES)}")
    return found
