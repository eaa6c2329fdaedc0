"""Toy inputs for plugin tests: a small dictionary, binarised data and checkpoints, all dimensions different."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

LAYERS, HEADS, EMBED, FFN = 3, 4, 12, 20
WORDS = 30
VOCABULARY = WORDS + 5  # <s> <pad> </s> <unk> words <mask>


def dictionary() -> Any:
    """fairseq's dictionary of 30 words and <mask>."""
    from fairseq.data import Dictionary

    made = Dictionary()
    for index in range(WORDS):
        made.add_symbol(f"w{index}")
    made.add_symbol("<mask>")
    return made


def model_options(**changes: Any) -> dict[str, Any]:
    """Options of a small model without dropout."""
    options = {
        "encoder_layers": LAYERS,
        "encoder_embed_dim": EMBED,
        "encoder_ffn_embed_dim": FFN,
        "encoder_attention_heads": HEADS,
        "max_positions": 16,
        "dropout": 0.0,
        "attention_dropout": 0.0,
        "activation_dropout": 0.0,
        "pooler_dropout": 0.0,
    }
    options.update(changes)
    return options


def stock_roberta(seed: int = 0, **changes: Any) -> Any:
    """fairseq's own RoBERTa with random weights large enough to matter."""
    from fairseq.models.roberta import RobertaModel

    torch.manual_seed(seed)
    task = SimpleNamespace(source_dictionary=dictionary(), max_positions=lambda: 16)
    model = RobertaModel.build_model(Namespace(**model_options(**changes)), task)
    model.register_classification_head("sentence_classification_head", num_classes=3)
    randomise(model)
    return model


def ticket_roberta(**changes: Any) -> Any:
    """The plugin's model in the same shape."""
    from fairseq_tickets.plugin.model import TicketRobertaConfig, TicketRobertaModel

    torch.manual_seed(1)
    config = TicketRobertaConfig()
    for name, value in model_options(**changes).items():
        setattr(config, name, value)
    model = TicketRobertaModel.build_model(config, SimpleNamespace(source_dictionary=dictionary()))
    model.register_classification_head("sentence_classification_head", num_classes=3)
    return model


def randomise(model: torch.nn.Module) -> None:
    """Weights of scale 0.3, biases included, so that every part of the model shows in its output."""
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)


def tokens(batch: int = 4, longest: int = 9, seed: int = 3) -> torch.Tensor:
    """(batch, longest) token ids, examples of unequal lengths padded on the right."""
    generator = torch.Generator().manual_seed(seed)
    made = torch.full((batch, longest), 1, dtype=torch.long)
    for row in range(batch):
        length = longest - 2 * row if row else longest
        made[row, :length] = torch.randint(4, VOCABULARY - 1, (length,), generator=generator)
        made[row, 0], made[row, length - 1] = 0, 2
    return made


def write_checkpoint(path: Path, model: Any, **changes: Any) -> Path:
    """A pre-trained checkpoint as `import` writes it."""
    options = {"_name": "ticket_roberta", "layernorm_eps": 1e-5, **model_options(**changes)}
    state = {
        "args": None,
        "cfg": {"model": options},
        "model": {k: v for k, v in model.state_dict().items() if "classification_heads" not in k},
        "optimizer_history": [{"criterion_name": "", "optimizer_name": "", "lr_scheduler_state": {}, "num_updates": 0}],
        "extra_state": {},
        "last_optimizer_state": None,
    }
    torch.save(state, path)
    return path


def old_names(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same weights as the released RoBERTa files name them."""
    old = {}
    for name, tensor in tensors.items():
        if "_proj." in name and "out_proj" not in name:
            at, projection, kind = name.replace("encoder.", "decoder.", 1).rsplit(".", 2)
            if projection == "q_proj":
                old[f"{at}.in_proj_{kind}"] = torch.cat([tensors[name.replace("q_proj", f"{p}_proj")] for p in "qkv"])
        else:
            new = name if name.startswith("classification") else name.replace("encoder.", "decoder.", 1)
            old[new.replace("layernorm_embedding", "emb_layer_norm")] = tensor
    return old


def write_data(
    folder: Path,
    train: int = 24,
    valid: int = 11,
    classes: int = 3,
    regression: bool = False,
    seed: int = 5,
    test: int = 0,
) -> Path:
    """Binarised data whose label depends on the first word, so that it can be learnt; `test` has no labels."""
    from fairseq.data.indexed_dataset import MMapIndexedDatasetBuilder

    words = dictionary()
    generator = np.random.default_rng(seed)
    (folder / "input0").mkdir(parents=True)
    (folder / "label").mkdir()
    dictionary_lines = "".join(f"w{index} 1\n" for index in range(WORDS))
    (folder / "input0" / "dict.txt").write_text(dictionary_lines)
    if not regression:
        (folder / "label" / "dict.txt").write_text("".join(f"c{index} 1\n" for index in range(classes)))
    for split, count in (("train", train), ("valid", valid), ("test", test)):
        if split == "test" and not count:
            continue
        inputs = MMapIndexedDatasetBuilder(str(folder / "input0" / f"{split}.bin"), dtype=np.uint16)
        labels = MMapIndexedDatasetBuilder(str(folder / "label" / f"{split}.bin"), dtype=np.uint16)
        scores = []
        for _ in range(count):
            length = int(generator.integers(3, 10))
            ids = generator.integers(4, 4 + WORDS, size=length)
            inputs.add_item(torch.tensor([*ids, words.eos()]))
            labels.add_item(torch.tensor([4 + int(ids[0]) % classes, words.eos()]))
            scores.append(f"{int(ids[0]) % classes + 0.25 * (length % 3):.2f}")
        inputs.finalize(str(folder / "input0" / f"{split}.idx"))
        labels.finalize(str(folder / "label" / f"{split}.idx"))
        if regression and split != "test":
            (folder / "label" / f"{split}.label").write_text("\n".join(scores) + "\n")
        if regression or split == "test":
            for path in (folder / "label").glob(f"{split}.[bi]*"):
                path.unlink()
    known = {
        "format": "fairseq-tickets/task",
        "version": 1,
        "name": "toy",
        "kind": "regression" if regression else "classification",
        "num_classes": 1 if regression else classes,
        "labels": [] if regression else [f"c{index}" for index in range(classes)],
        "metric": "pearson" if regression else "accuracy",
        "metrics": ["pearson", "spearman"] if regression else ["accuracy"],
        "pairs": False,
        "splits": {},
        "partial": False,
    }
    (folder / "task.json").write_text(json.dumps(known))
    return folder
