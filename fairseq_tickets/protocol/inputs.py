"""What a protocol starts from: the model's files and shape, the data's files, and their checksums.

An input has a role ("model", "dict", "RTE: train.tsv") and a SHA-256. Keys of runs are made from these, and a finished
run is refused when an input of its has changed since. Nothing here loads fairseq.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fairseq_tickets.errors import UserError
from fairseq_tickets.files import sha256
from fairseq_tickets.parameters import ModelShape

if TYPE_CHECKING:
    from fairseq_tickets.protocol.config import Protocol
    from fairseq_tickets.protocol.settings import Task

Inputs = dict[str, dict[str, str]]  # role -> {"file": ..., "sha256": ...}
TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "encoder.json", "vocab.bpe", "vocab.json", "merges.txt")


@dataclass(frozen=True)
class Model:
    """The pre-trained model.

    Attributes:
        checkpoint: fairseq checkpoint.
        shape: layers, heads and widths.
        positions: most tokens of an example.
        inputs: its files.
    """

    checkpoint: Path
    shape: ModelShape
    positions: int
    inputs: Inputs


@dataclass(frozen=True)
class Data:
    """A task's data.

    Attributes:
        folder: prepared folder; None = it is to be prepared from `source`.
        source: how to prepare it: GLUE folder, tokenizer, dictionary.
        inputs: the prepared files, or the files it is prepared from.
    """

    folder: Path | None
    source: dict[str, str] | None
    inputs: Inputs


class Checksums:
    """SHA-256 of files, remembered in a file by size and time of change, so that a second call is quick."""

    def __init__(self, cache: Path | None) -> None:
        self._cache = cache
        self._known: dict[str, list[Any]] = {}
        if cache is not None and cache.is_file():
            try:
                self._known = dict(json.loads(cache.read_text(encoding="utf-8")))
            except ValueError:
                self._known = {}

    def __call__(self, path: Path) -> str:
        """Hex digest of a file; UserError when it can't be read."""
        try:
            status = path.stat()
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror or error}") from error
        name, state = str(path.resolve()), [status.st_size, status.st_mtime_ns, status.st_ino]
        if name not in self._known or self._known[name][:3] != state:
            self._known[name] = [*state, sha256(path)]
        return str(self._known[name][3])

    def save(self) -> None:
        """Write the file; where that fails the next call is only slower."""
        if self._cache is not None:
            temporary = self._cache.with_name(f"{self._cache.name}.{os.getpid()}.tmp")
            try:
                self._cache.parent.mkdir(parents=True, exist_ok=True)
                temporary.write_text(json.dumps(self._known), encoding="utf-8")
                os.replace(temporary, self._cache)
            except OSError:
                temporary.unlink(missing_ok=True)


def find_model(protocol: Protocol, checksums: Checksums) -> Model:
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
    inputs = {"model": {"file": path.name, "sha256": checksums(path)}}
    return Model(path, shape, int(table[0].shape[0]) - 2, inputs)


def find_data(protocol: Protocol, task: Task, checksums: Checksums) -> Data:
    """The data of a task: a prepared folder, or the files to prepare one from.

    Raises:
        UserError: a folder or file is missing.
    """
    if task.data is not None:
        return Data(task.data, None, _prepared_inputs(task, checksums))
    from fairseq_tickets.data.tasks import find_files, find_task

    assert protocol.glue is not None
    spec = find_task(task.name)
    inputs: Inputs = {}
    for split, file in sorted(find_files(protocol.glue, spec).items()):
        inputs[f"{task.name}: {split}"] = {"file": file.name, "sha256": checksums(file)}
    dictionary = (protocol.tokenizer if protocol.tokenizer.is_dir() else protocol.tokenizer.parent) / "dict.txt"
    if not dictionary.is_file():
        raise UserError(f"{protocol.path}: tokenizer: there is no {dictionary}; it is the dictionary of the model")
    inputs["dict"] = {"file": dictionary.name, "sha256": checksums(dictionary)}
    for file in _tokenizer_files(protocol.tokenizer):
        inputs[f"tokenizer: {file.name}"] = {"file": file.name, "sha256": checksums(file)}
    source = {"glue": protocol.glue, "tokenizer": protocol.tokenizer, "dictionary": dictionary}
    return Data(None, {name: str(path) for name, path in source.items()}, inputs)


def _prepared_inputs(task: Task, checksums: Checksums) -> Inputs:
    assert task.data is not None
    if not (task.data / "input0" / "dict.txt").is_file():
        raise UserError(
            f"{task.data} is no prepared data folder (no input0/dict.txt); make it with `fairseq-tickets prepare`"
        )
    files = sorted(path for path in task.data.rglob("*") if path.is_file() and not path.name.startswith("."))
    inputs: Inputs = {}
    for path in files:
        name = path.relative_to(task.data).as_posix()
        inputs[f"{task.name}: {name}"] = {"file": name, "sha256": checksums(path)}
    return inputs


def _tokenizer_files(tokenizer: Path) -> list[Path]:
    if not tokenizer.is_dir():
        return [tokenizer]
    found = [tokenizer / name for name in TOKENIZER_FILES if (tokenizer / name).is_file()]
    found += sorted(tokenizer.glob("*.model"))
    if not found:
        raise UserError(f"tokenizer {tokenizer}: the folder holds none of {', '.join(TOKENIZER_FILES)}")
    return found
