"""Dominant deltas as LoRA adapters, judged by the real peft and by stock fairseq; and adapters as deltas."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from fairseq_tickets import checkpoint
from fairseq_tickets.cli import main
from fairseq_tickets.convert import import_folder
from fairseq_tickets.convert.shape import config_from_checkpoint
from fairseq_tickets.dominant_ticket.delta import Delta, apply, load_delta, make_delta, save_delta
from fairseq_tickets.parameters import MATRICES, ModelShape, matrix_name
from fairseq_tickets.tickets import DominantTicket
from tests.convert.minilm import minilm_folder
from tests.convert.toy import hf_model, padded_batch, stock_fairseq, write_folder

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*1-D or zero-sized lora:UserWarning",  # peft takes the bias of lora_B for a sharded weight
    "ignore:.*is_gradient_checkpointing:FutureWarning",  # peft asks transformers for what it has renamed
)
HEAD = "sentence_classification_head"


class Model(NamedTuple):
    """A base in both forms, and what fits it."""

    folder: Path
    shape: ModelShape
    tensors: dict[str, Tensor]
    eps: float
    batch: Tensor

    @property
    def base(self) -> str:
        """The fairseq checkpoint."""
        return str(self.folder / "imported" / "model.pt")

    @property
    def hf(self) -> str:
        """Its Hugging Face export."""
        return str(self.folder / "hf")

    def delta(self, ticket: DominantTicket, classes: int, seed: int) -> Delta:
        """A delta that moves each number of the ticket, by a third of the weights' size, and has a random head."""
        torch.manual_seed(seed)
        tuned = {name: tensor.clone() for name, tensor in self.tensors.items()}
        for layer, matrix, dims in ticket.items():
            for index in dims:
                width = self.shape.in_features(matrix)
                name = matrix_name(layer, matrix, "bias" if index == width else "weight")
                target = tuned[name] if index == width else tuned[name][:, index]
                target += torch.randn_like(target) * self.tensors[matrix_name(layer, matrix)].std() / 3
        size = self.shape.embed_dim
        for part, rows in (("dense", size), ("out_proj", classes)):
            tuned[f"classification_heads.{HEAD}.{part}.weight"] = torch.randn(rows, size) * size**-0.5
            tuned[f"classification_heads.{HEAD}.{part}.bias"] = torch.randn(rows)
        return make_delta(tuned, ticket, checkpoint.fingerprint(self.tensors))

    def expected(self, delta: Delta, folder: Path) -> Tensor:
        """Logits of the delta by stock fairseq."""
        save_delta(folder / "expected.safetensors", delta)
        words = ["--delta", str(folder / "expected.safetensors"), "--base", self.base, "--output", str(folder / "fs")]
        assert main(["export", *words]) == 0
        logits: Tensor = stock_fairseq(folder / "fs", self.eps).predict(HEAD, self.batch, return_logits=True)
        return logits.detach()

    def transformers(self, classes: int) -> Any:
        """The exported base, with a new head."""
        from transformers import AutoModelForSequenceClassification

        return AutoModelForSequenceClassification.from_pretrained(self.hf, num_labels=classes).eval()

    def logits(self, model: Any) -> Tensor:
        """Of the padded batch."""
        made: Tensor = model(input_ids=self.batch, attention_mask=self.batch.ne(1).long()).logits
        return made.detach()


@pytest.fixture(scope="module", params=["MiniLM", "Roberta", "XLMRoberta"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    """Three bases; the first is real."""
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "MiniLM":
        source = minilm_folder()
    else:
        source = write_folder(hf_model(request.param, "ForMaskedLM", layer_norm_eps=1e-3), folder / "source")
    import_folder(source, folder / "imported")
    loaded = checkpoint.load(folder / "imported" / "model.pt")
    config = config_from_checkpoint(loaded)
    names = ("encoder_layers", "encoder_attention_heads", "encoder_embed_dim", "encoder_ffn_embed_dim")
    count = (folder / "imported" / "dict.txt").read_text().count("\n") + 5
    batch, mask = padded_batch(["w"] * count, pad=1, first=0, last=2, avoid={0, 1, 2, 3})
    words = ["--checkpoint", str(folder / "imported" / "model.pt"), "--output", str(folder / "hf")]
    assert main(["export", "--to", "hf", *words]) == 0 and not mask.all()
    shape = ModelShape(*(int(config[n] or 0) for n in names))
    return Model(folder, shape, loaded["model"], float(config["layernorm_eps"] or 0), batch)


def ticket(shape: ModelShape, seed: int = 0, biases: bool = True) -> DominantTicket:
    """Two or one column, the bias alone, and nothing at all, in turn; the bias first, last and absent."""
    generator = torch.Generator().manual_seed(seed)
    rows: dict[str, list[list[int]]] = {matrix: [] for matrix in MATRICES}
    for place, (layer, matrix) in enumerate((layer, m) for layer in range(shape.layers) for m in MATRICES):
        bias = shape.in_features(matrix)
        one, two = torch.randperm(bias, generator=generator)[:2].tolist()
        with_bias = [[one, two], [bias, one], [], [bias], [two], [one, two, bias]][(place + seed) % 6]
        rows[matrix].append([i for i in with_bias if biases or i != bias])
        assert layer < shape.layers
    return DominantTicket(shape, rows, None, {"task": "toy"})


def write_adapter(model: Model, delta: Delta, folder: Path) -> Path:
    """`export --to peft`."""
    save_delta(folder.with_suffix(".safetensors"), delta)
    words = ["--delta", str(folder.with_suffix(".safetensors")), "--base", model.base, "--output", str(folder)]
    assert main(["export", "--to", "peft", *words]) == 0
    return folder


def close(found: Tensor, expected: Tensor) -> None:
    """Within 1e-5."""
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("classes", "biases"), [(1, True), (3, True), (3, False)], ids=["regression", "classification", "columns alone"]
)
def test_peft_computes_the_deltas_logits(model: Model, classes: int, biases: bool, tmp_path: Path) -> None:
    from peft import PeftModel

    delta = model.delta(ticket(model.shape, biases=biases), classes, seed=1)
    expected = model.expected(delta, tmp_path)
    adapter = write_adapter(model, delta, tmp_path / "adapter")
    for options in ({}, {"low_cpu_mem_usage": True}):
        base = model.transformers(classes)
        before = model.logits(base)
        loaded = PeftModel.from_pretrained(base, adapter, **options).eval()
        close(model.logits(loaded), expected)
        assert (before - expected).abs().max() > 0.01
    with loaded.disable_adapter():
        close(model.logits(loaded), before)
    loaded.save_pretrained(tmp_path / "again")
    close(model.logits(PeftModel.from_pretrained(model.transformers(classes), tmp_path / "again").eval()), expected)
    merged = loaded.merge_and_unload()
    close(model.logits(merged), expected)
    merged.save_pretrained(tmp_path / "merged")
    from transformers import AutoModelForSequenceClassification

    close(model.logits(AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged").eval()), expected)


def test_only_the_tickets_columns_and_biases_differ(model: Model, tmp_path: Path) -> None:
    from peft import PeftModel

    delta = model.delta(ticket(model.shape), 2, seed=1)
    adapter = write_adapter(model, delta, tmp_path / "adapter")
    base = {name: tensor.clone() for name, tensor in model.transformers(2).state_dict().items()}
    merged = PeftModel.from_pretrained(model.transformers(2), adapter).merge_and_unload().state_dict()
    modules = {"q_proj": "attention.self.query", "k_proj": "attention.self.key", "v_proj": "attention.self.value"}
    modules.update({"out_proj": "attention.output.dense", "fc1": "intermediate.dense", "fc2": "output.dense"})
    expected: dict[str, set[int]] = {}
    for layer, matrix, dims in delta.ticket.items():
        name, width = f"roberta.encoder.layer.{layer}.{modules[matrix]}", delta.ticket.shape.in_features(matrix)
        expected[f"{name}.weight"] = {index for index in dims if index != width}
        expected[f"{name}.bias"] = {0} if width in dims else set()
    for name, tensor in base.items():
        if name.startswith("roberta."):
            differs = (merged[name] != tensor).reshape(tensor.shape[0], -1).any(0).nonzero().flatten().tolist()
            assert set(differs) == expected.get(name, set()), name


def test_two_adapters_are_switched_on_one_base(model: Model, tmp_path: Path) -> None:
    from peft import PeftModel

    deltas = [model.delta(ticket(model.shape, seed), 3, seed) for seed in (1, 2)]
    expected = []
    for number, delta in enumerate(deltas):
        (tmp_path / str(number)).mkdir()
        expected.append(model.expected(delta, tmp_path / str(number)))
    folders = [write_adapter(model, delta, tmp_path / f"adapter{number}") for number, delta in enumerate(deltas)]
    loaded = PeftModel.from_pretrained(model.transformers(3), folders[0], adapter_name="first").eval()
    loaded.load_adapter(folders[1], adapter_name="second")
    for name, logits in (("first", 0), ("second", 1), ("first", 0)):
        loaded.set_adapter(name)
        close(model.logits(loaded.eval()), expected[logits])
    assert (expected[0] - expected[1]).abs().max() > 0.01


def test_an_adapter_becomes_the_delta_again(model: Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from peft import PeftModel

    delta = model.delta(ticket(model.shape), 3, seed=1)
    adapter = write_adapter(model, delta, tmp_path / "adapter")
    PeftModel.from_pretrained(model.transformers(3), adapter).save_pretrained(tmp_path / "saved")
    capsys.readouterr()
    for folder, note in ((adapter, False), (tmp_path / "saved", True)):
        words = ["--adapter", str(folder), "--base", model.base, "--output", str(tmp_path / "back.safetensors")]
        assert main(["import", *words]) == 0
        assert ("doesn't say which base" in capsys.readouterr().err) is note
        back = load_delta(tmp_path / "back.safetensors")
        dims, expected = back.ticket.dimensions, delta.ticket.dimensions
        assert {m: [set(row) for row in rows] for m, rows in dims.items()} == {
            m: [set(row) for row in rows] for m, rows in expected.items()
        }
        assert note or back.ticket == delta.ticket
        theirs, ours = apply(model.tensors, back), apply(model.tensors, delta)
        assert theirs.keys() == ours.keys()
        assert max(float((theirs[name] - ours[name]).abs().max()) for name in ours) < 1e-6


def test_the_file_is_a_tenth_larger_than_the_delta(tmp_path: Path) -> None:
    """A ticket of k = 1 on MiniLM, the size that counts: A costs a byte a number, everything else is the delta's."""
    shape = ModelShape(6, 12, 384, 1536)
    whole = {"encoder.sentence_encoder.embed_tokens.weight": torch.randn(9, 384)}
    for layer in range(6):
        for m in MATRICES:
            whole[matrix_name(layer, m)] = torch.randn(shape.out_features(m), shape.in_features(m))
            whole[matrix_name(layer, m, "bias")] = torch.randn(shape.out_features(m))
    for part in ("dense", "out_proj"):
        rows = 384 if part == "dense" else 2
        whole[f"classification_heads.{HEAD}.{part}.weight"] = torch.randn(rows, 384)
        whole[f"classification_heads.{HEAD}.{part}.bias"] = torch.randn(rows)
    one = DominantTicket(shape, {m: [[layer] for layer in range(6)] for m in MATRICES})
    delta = make_delta(whole, one, checkpoint.fingerprint(whole))
    save_delta(tmp_path / "d.safetensors", delta)
    checkpoint.save({"model": {n: t for n, t in whole.items() if "heads" not in n}}, tmp_path / "base.pt")
    words = ["--delta", str(tmp_path / "d.safetensors"), "--base", str(tmp_path / "base.pt")]
    assert main(["export", "--to", "peft", *words, "--output", str(tmp_path / "a")]) == 0
    ratio = (tmp_path / "a" / "adapter_model.safetensors").stat().st_size / (tmp_path / "d.safetensors").stat().st_size
    assert 1.0 < ratio < 1.1


def edited(adapter: Path, target: Path, change: str, **config: Any) -> Path:
    """A copy of an adapter without metadata, whose configuration or tensors are changed."""
    shutil.copytree(adapter, target)
    content = json.loads((target / "adapter_config.json").read_text())
    (target / "adapter_config.json").write_text(json.dumps({**content, **config}))
    tensors = load_file(target / "adapter_model.safetensors")
    query = "base_model.model.roberta.encoder.layer.0.attention.self.query.lora_"
    if change == "dense":
        tensors[query + "A.weight"] = torch.ones(tensors[query + "A.weight"].shape)
    elif change == "rank":
        tensors[query + "A.weight"] = torch.zeros(5, tensors[query + "A.weight"].shape[1])
    elif change == "modules":
        tensors["base_model.model.roberta.embeddings.word_embeddings.lora_A.weight"] = torch.ones(1, 4)
    elif change == "norm":
        name = "base_model.model.roberta.encoder.layer.0.output.LayerNorm.bias"
        tensors[name] = torch.ones(len(tensors[query + "B.bias"]))
    elif change == "half":
        del tensors[query + "B.weight"]
    elif change == "width":
        tensors[query + "A.weight"] = tensors[query + "A.weight"][:, :-1].clone()
    elif change == "nan":
        tensors[query + "B.weight"][0, 0] = float("nan")
    save_file(tensors, target / "adapter_model.safetensors")
    return target


REFUSED = [
    ("dense", {}, "layer 0, q_proj: this is an ordinary LoRA: row 0 of its lora_A reads 10 input dimensions"),
    ("rank", {}, "query has rank 5, but adapter_config.json says 2"),
    ("modules", {}, "it adapts embeddings.word_embeddings; a dominant ticket has only the matrices q_proj"),
    ("norm", {}, "layer.0.output.LayerNorm.bias differs from the base"),
    ("half", {}, "layer 0, q_proj: the adapter has only one of lora_A and lora_B"),
    ("width", {}, "layer 0, q_proj: the adapter is for another base: lora_A is"),
    ("nan", {}, "is damaged: .* NaN or infinite"),
    ("", {"peft_type": "IA3"}, "peft_type is 'IA3'; only a LORA"),
    ("", {"use_dora": True}, "use_dora is True"),
    ("", {"init_lora_weights": "pissa"}, "'pissa' changes the base"),
    ("", {"lora_alpha": "x"}, "lora_alpha of .* is 'x'; it must be a number"),
    ("", {"rank_pattern": {".*query": 2}}, "is a regular expression"),
]


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> tuple[Model, Path]:
    """A small RoBERTa's."""
    folder = tmp_path_factory.mktemp("refused")
    import_folder(write_folder(hf_model("Roberta", "Model"), folder / "source"), folder / "imported")
    loaded = checkpoint.load(folder / "imported" / "model.pt")
    toy = Model(folder, ModelShape(3, 2, 10, 14), loaded["model"], 1e-12, torch.zeros(1))
    return toy, write_adapter(toy, toy.delta(ticket(toy.shape), 2, seed=1), folder / "adapter")


@pytest.mark.parametrize(("change", "config", "message"), REFUSED)
def test_other_adapters_are_refused(
    change: str, config: dict[str, Any], message: str, adapter: tuple[Model, Path], tmp_path: Path, capsys: Any
) -> None:
    toy, good = adapter
    bad = edited(good, tmp_path / "bad", change, **config)
    words = ["--adapter", str(bad), "--base", toy.base, "--output", str(tmp_path / "d.safetensors")]
    assert main(["import", *words]) == 2
    error = capsys.readouterr().err
    assert re.search(message, error) and error.count("\n") <= 2, error
    assert not (tmp_path / "d.safetensors").exists()


def test_another_base_is_refused(adapter: tuple[Model, Path], tmp_path: Path, capsys: Any) -> None:
    toy, good = adapter
    other = checkpoint.load(toy.base)
    other["model"][matrix_name(0, "fc1")][0, 0] += 1
    checkpoint.save(other, tmp_path / "other.pt")
    words = ["--adapter", str(good), "--base", str(tmp_path / "other.pt"), "--output", str(tmp_path / "d.safetensors")]
    assert main(["import", *words]) == 2
    assert "belongs to another base" in capsys.readouterr().err
    words = ["--delta", str(good.with_suffix(".safetensors")), "--base", str(tmp_path / "other.pt")]
    assert main(["export", "--to", "peft", *words, "--output", str(tmp_path / "x")]) == 2
    assert "trained from another base" in capsys.readouterr().err


def test_scaling_is_pefts(adapter: tuple[Model, Path], tmp_path: Path) -> None:
    """alpha = 2 r doubles the change: the delta read is base + 2 (columns - base)."""
    toy, good = adapter
    config = json.loads((good / "adapter_config.json").read_text())
    doubled = {"lora_alpha": 2 * config["r"], "alpha_pattern": {n: 2 * r for n, r in config["rank_pattern"].items()}}
    words = ["--adapter", str(edited(good, tmp_path / "two", "", **doubled)), "--base", toy.base]
    assert main(["import", *words, "--output", str(tmp_path / "d.safetensors")]) == 0
    files = (tmp_path / "d.safetensors", good.with_suffix(".safetensors"))
    back, once = (apply(toy.tensors, load_delta(path)) for path in files)
    for name, base in toy.tensors.items():
        torch.testing.assert_close(back[name], base + 2 * (once[name] - base), atol=1e-5, rtol=0)
