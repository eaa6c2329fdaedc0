"""Mutants of the files that people bring: Hugging Face folders, tokenizers, dictionaries, tables, protocols."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fairseq_tickets.convert.importing import import_folder
from fairseq_tickets.data.prepare import prepare
from fairseq_tickets.data.tasks import find_files, find_task
from fairseq_tickets.documents import parse_yaml
from fairseq_tickets.protocol.config import load_protocol

from ..convert import toy
from ..data.samples import write_gpt2, write_pairs, write_wordpiece
from .mutate import fuzz, mutate_bytes, mutate_json, mutate_lines

Mutate = Callable[[Any], bytes]
FEW = 15
EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """bert/ and roberta/ with every file that an import reads."""
    folder = tmp_path_factory.mktemp("models")
    for kind, name in (("Bert", "bert"), ("Roberta", "roberta")):
        toy.write_folder(toy.hf_model(kind, "Model"), folder / name)
        shards = {"weight_map": {"embeddings.word_embeddings.weight": "model.safetensors"}}
        (folder / name / "model.safetensors.index.json").write_text(json.dumps(shards))
    bert = {word: number for number, word in enumerate(toy.BERT_WORDS)}
    added = [{"id": number, "content": word, "special": True} for word, number in bert.items() if word[0] == "["]
    tokenizer = {"version": "1.0", "added_tokens": added, "model": {"type": "WordPiece", "vocab": bert}}
    (folder / "bert" / "tokenizer.json").write_text(json.dumps(tokenizer))
    (folder / "bert" / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": True, "cls_token": "[CLS]"}))
    (folder / "roberta" / "added_tokens.json").write_text(json.dumps({"<more>": 12}))
    special = {"bos_token": "<s>", "mask_token": {"content": "<mask>", "lstrip": True}}
    (folder / "roberta" / "special_tokens_map.json").write_text(json.dumps(special))
    return folder


@pytest.mark.parametrize(
    "name",
    [
        "bert/config.json",
        "bert/tokenizer.json",
        "bert/tokenizer_config.json",
        "bert/vocab.txt",
        "roberta/config.json",
        "roberta/vocab.json",
        "roberta/added_tokens.json",
        "roberta/special_tokens_map.json",
        "roberta/model.safetensors",
        "roberta/model.safetensors.index.json",
    ],
)
def test_hugging_face_folders(name: str, models: Path, tmp_path: Path) -> None:
    kind, file = name.split("/")
    shutil.copytree(models / kind, tmp_path / kind)
    path = tmp_path / kind / file
    if file == "vocab.txt":
        (tmp_path / kind / "tokenizer.json").unlink()
    if file.endswith(".index.json"):
        (tmp_path / kind / "model.safetensors").rename(tmp_path / kind / "model-1.safetensors")
        path.write_text(path.read_text().replace("model.saf", "model-1.saf"))

    def read(_: Path) -> None:
        import_folder(tmp_path / kind, tmp_path / "out")

    fuzz(path, mutator(path), read, FEW)


TOKENIZERS = {
    "vocab.txt": write_wordpiece,
    "dict.txt": write_wordpiece,
    "encoder.json": write_gpt2,
    "vocab.bpe": write_gpt2,
    "train.tsv": write_wordpiece,
}


@pytest.mark.parametrize("name", TOKENIZERS)
def test_tokenizers_dictionaries_and_tables(name: str, tmp_path: Path) -> None:
    tokenizer = TOKENIZERS[name](tmp_path / "tok")
    if name in ("encoder.json", "vocab.bpe"):
        numbers = json.loads((tokenizer / "encoder.json").read_text())
        (tokenizer / "dict.txt").write_text("".join(f"{number} 1\n" for number in numbers.values()))
    data = write_pairs(tmp_path / "RTE")
    for table in (data / "train.tsv", data / "dev.tsv"):
        named = table.read_text().replace("yes\n", "entailment\n").replace("no\n", "not_entailment\n")
        table.write_text(named)
    path = (data if name == "train.tsv" else tokenizer) / name
    spec = find_task("RTE")

    def read(_: Path) -> None:
        prepare(spec, find_files(data, spec), tmp_path / "out", tokenizer, overwrite=True)

    fuzz(path, mutator(path), read, FEW)


@pytest.mark.parametrize("name", ["super_tickets/protocol/quick", "dominant_ticket/protocol/minilm"])
def test_protocols(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLUE_DIR", "glue")
    text = (EXAMPLES / f"{name}.yaml").read_bytes()
    content = parse_yaml(text.decode(), name)

    def mutate(dice: Any) -> bytes:
        if dice.random() < 0.5:
            return mutate_json(content, dice)  # YAML takes JSON
        return dice.choice((mutate_bytes, mutate_lines))(text, dice)

    (tmp_path / "p.yaml").write_bytes(text)
    fuzz(tmp_path / "p.yaml", mutate, load_protocol, FEW)


def mutator(path: Path) -> Mutate:
    """Mutants of a file by its kind."""
    good = path.read_bytes()
    if path.suffix == ".json":
        content = json.loads(good)
        return lambda dice: mutate_json(content, dice)
    change = mutate_bytes if path.suffix == ".safetensors" else mutate_lines
    return lambda dice: change(good, dice)
