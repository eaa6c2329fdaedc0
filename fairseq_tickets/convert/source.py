"""Read a Hugging Face folder: where the transformer sits, its config.json and its tensors."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from fairseq_tickets import safetensors_files
from fairseq_tickets.checkpoint import load
from fairseq_tickets.documents import shown
from fairseq_tickets.errors import UserError
from fairseq_tickets.files import PathLike, read_json, sha256
from fairseq_tickets.weights import check_finite, checked_weights

WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "sentencepiece.bpe.model",
)


@dataclass
class Source:
    """A Hugging Face folder that has been read.

    Attributes:
        folder: where config.json is; for a sentence-transformers folder its transformer's part.
        config: content of config.json.
        tensors: every tensor under its own name.
        checksums: file name -> sha256 of config.json and of the weight files.
    """

    folder: Path
    config: dict[str, Any]
    tensors: dict[str, Tensor]
    checksums: dict[str, str]


def read_source(folder: PathLike) -> Source:
    """Read config.json and the weights of a Hugging Face or sentence-transformers folder.

    Raises:
        UserError: not a folder, no config.json or weights in it, weights are quantised, or a file is damaged.
    """
    root = transformer_folder(folder)
    config = read_json(root / "config.json", "model config")
    if not isinstance(config, dict):
        raise UserError(f"{root / 'config.json'} must hold a JSON object")
    if config.get("quantization_config"):
        raise UserError(
            f"{root / 'config.json'}: quantization_config is {shown(config['quantization_config'])}; quantised weights "
            "are not those of the model: import it as it was before"
        )
    name = next((name for name in WEIGHT_FILES if (root / name).is_file()), None)
    if name is None:
        raise UserError(f"no weights in {root}: expected model.safetensors or pytorch_model.bin")
    files = [name] if not name.endswith(".index.json") else _shards(root / name)
    tensors: dict[str, Tensor] = {}
    for file in files:
        tensors.update(read_tensors(root / file))
    checksums = {file: sha256(root / file) for file in ["config.json", *files]}
    return Source(root, config, tensors, checksums)


def transformer_folder(folder: PathLike) -> Path:
    """The folder with the transformer's config.json: `folder` or, for sentence-transformers, a part of it."""
    root = Path(folder)
    if not root.is_dir():
        raise UserError(f"--model {root} is not a folder; give the folder that holds config.json and the weights")
    for candidate in (*_sentence_transformers_parts(root), root, root / "0_Transformer"):
        if (candidate / "config.json").is_file():
            return candidate
    raise UserError(f"no config.json in {root}: this is not a Hugging Face model folder")


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Tensors of one .safetensors or .bin file, by name; .bin goes through the safe checkpoint reader."""
    if path.suffix == ".safetensors":
        tensors, _ = safetensors_files.read(path)
    else:
        tensors = {name: value for name, value in load(path).items() if isinstance(value, Tensor)}
    if not tensors:
        raise UserError(f"{path} holds no tensors by name; Hugging Face weights are expected")
    weights = checked_weights(tensors, str(path), half=True)
    check_finite(weights, str(path))
    return weights


def copy_tokenizer(source: Path, target: Path, names: Sequence[str] = TOKENIZER_FILES) -> list[str]:
    """Copy the tokenizer files that `source` has; returns their names."""
    present = [name for name in names if (source / name).is_file()]
    for name in present:
        shutil.copyfile(source / name, target / name)
    return present


def _shards(index: Path) -> list[str]:
    content = read_json(index, "weight index")
    files = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(files, dict) or not files:
        raise UserError(f"{index} has no weight_map")
    names = sorted(set(map(str, files.values())))
    for name in names:
        if Path(name).name != name or not name.isprintable() or len(name) > 255:
            raise UserError(f"{index} names {shown(name)}; its files must be in the same folder")
    return names


def _sentence_transformers_parts(root: Path) -> list[Path]:
    if not (root / "modules.json").is_file():
        return []
    modules = read_json(root / "modules.json", "sentence-transformers modules")
    entries = modules if isinstance(modules, list) else []
    paths = [str(module.get("path", "")) for module in entries if isinstance(module, dict)]
    return [root / path for path in paths if ".." not in Path(path).parts and not Path(path).is_absolute()]
