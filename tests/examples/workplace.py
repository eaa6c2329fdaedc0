"""A folder in which the commands of the cards find what they name: a tiny random encoder and tiny GLUE files."""

from __future__ import annotations

import random
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from fairseq_tickets.convert import import_folder
from fairseq_tickets.data.prepare import prepare
from fairseq_tickets.data.tasks import find_files, find_task
from fairseq_tickets.parameters import ModelShape
from fairseq_tickets.tickets import SuperTicket

from ..convert import toy
from .cards import ROOT, changed

# Five layers of two heads: 20, 40 and 60 % of 10 heads and of 5 FFNs are whole numbers. 512 positions as BERT has.
SHAPE = ModelShape(layers=5, heads=2, embed_dim=toy.EMBED, ffn_dim=toy.FFN)
TRAIN, VALID = 160, 40  # ten updates of 16 an epoch: enough for weights to leave sigma behind
SINGLE = {"SST-2"}
COLUMNS = {  # header, then the two labels
    "RTE": ("index\tsentence1\tsentence2\tlabel", "entailment", "not_entailment"),
    "MRPC": ("Quality\t#1 ID\t#2 ID\t#1 String\t#2 String", "1", "0"),
    "STS-B": ("index\tsentence1\tsentence2\tscore", "4.5", "0.5"),
    "SST-2": ("sentence\tlabel", "1", "0"),
}


def make(folder: Path) -> Path:
    """Everything that a card may ask for; `take` gives it what it needs."""
    model = toy.hf_model("Bert", "Model", num_hidden_layers=SHAPE.layers, max_position_embeddings=512)
    toy.write_folder(model, folder / "path/to/hf_folder")
    import_folder(folder / "path/to/hf_folder", folder / "models/minilm")
    for number, task in enumerate(COLUMNS):
        write_glue(folder / "glue" / task, task, seed=number)
        spec = find_task(task)
        prepare(spec, find_files(folder / "glue", spec), folder / "data" / task, folder / "models/minilm")
        (folder / "tickets").mkdir(exist_ok=True)
        heads = [[int((layer + head + number) % 4 > 0) for head in range(2)] for layer in range(SHAPE.layers)]
        SuperTicket(SHAPE, heads, [1, 1, 1, int(number > 1), 0]).save(folder / "tickets" / f"{task}.json")
    return folder


def take(made: Path, folder: Path, names: Sequence[str], files: Mapping[str, Mapping[str, str]]) -> Path:
    """A work folder with copies of `names` and of the repository's examples, in which `files` are changed."""
    for name in names:
        shutil.copytree(made / name, folder / name)
    shutil.copytree(ROOT / "examples", folder / "examples")
    for name, changes in files.items():
        path = folder / name
        path.write_text(changed(path.read_text(encoding="utf-8"), changes), encoding="utf-8")
    return folder


def write_glue(folder: Path, task: str, seed: int) -> None:
    """train.tsv and dev.tsv in GLUE's columns; the label says whether the first word of the last sentence is a cat."""
    rng = random.Random(seed)
    header, *labels = COLUMNS[task]
    folder.mkdir(parents=True)
    for name, count in (("train", TRAIN), ("dev", VALID)):
        lines = [header]
        for index in range(count):
            sentences = [
                " ".join([rng.choice(["cats", "mat"]), *rng.choices(["the", "sat", "on", "a"], k=rng.randint(2, 6))])
                for _ in range(1 if task in SINGLE else 2)
            ]
            label = labels[sentences[-1].startswith("mat")]
            cells = {
                "RTE": [str(index), *sentences, label],
                "MRPC": [label, "1", "2", *sentences],
                "STS-B": [str(index), *sentences, label],
                "SST-2": [*sentences, label],
            }[task]
            lines.append("\t".join(cells))
        (folder / f"{name}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
