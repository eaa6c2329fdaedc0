"""The names of the released RoBERTa files (`decoder.`, `emb_layer_norm`, `in_proj_weight`), through every command."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from fairseq_tickets import checkpoint
from fairseq_tickets.cli import main
from fairseq_tickets.errors import UserError
from fairseq_tickets.parameters import MATRICES, ModelShape, current_names
from fairseq_tickets.scores import ImportanceScores
from fairseq_tickets.tickets import DominantTicket

from . import toy
from .training import NO_DROPOUT, Run, train, validate

SHAPE = ModelShape(toy.LAYERS, toy.HEADS, toy.EMBED, toy.FFN)
L1 = ["--criterion", "ticket_sentence_prediction_l1", "--l1-weight", "0.01"]
DELTAS = ["--ticket-route", "columns", "--optimizer", "ticket", "--delta-checkpoints"]
HEAD = "sentence_classification_head"


@pytest.fixture(scope="module")
def both(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One model, twice: a pre-trained checkpoint with a head, under today's names and under those of the release."""
    made = tmp_path_factory.mktemp("names")
    toy.write_checkpoint(made / "new.pt", toy.ticket_roberta())
    (made / "dict.txt").write_bytes((folder / "data" / "input0" / "dict.txt").read_bytes())
    state = torch.load(made / "new.pt", weights_only=True)
    model = toy.ticket_roberta()
    state["model"].update((n, t) for n, t in model.state_dict().items() if n.startswith("classification_heads"))
    torch.save(state, made / "new.pt")
    torch.save({**state, "model": toy.old_names(state["model"])}, made / "old.pt", _use_new_zipfile_serialization=False)
    dims = {m: [[2, SHAPE.in_features(m)] if layer else [] for layer in range(SHAPE.layers)] for m in MATRICES}
    DominantTicket(SHAPE, dims).save(made / "ticket.json")
    return {"new": made / "new.pt", "old": made / "old.pt", "ticket": made / "ticket.json"}


def renamed(path: Path, target: Path) -> Path:
    """A checkpoint's content with its model under the old names."""
    state = checkpoint.load(path)
    checkpoint.save({**state, "model": toy.old_names(state["model"])}, target)
    return target


def tensors_of(path: Path) -> dict[str, Tensor]:
    return checkpoint.encoder_tensors(path)


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_the_names_themselves(both: dict[str, Path]) -> None:
    """The toy's old names are those of the release, and one reading gives the names of today."""
    raw = torch.load(both["old"], weights_only=True)["model"]
    assert {name for name in raw if "layers.1." in name and "attn" in name} == {
        f"decoder.sentence_encoder.layers.1.{rest}"
        for rest in (
            *("self_attn.in_proj_weight", "self_attn.in_proj_bias", "self_attn.out_proj.weight"),
            *("self_attn.out_proj.bias", "self_attn_layer_norm.weight", "self_attn_layer_norm.bias"),
        )
    }
    assert {"decoder.sentence_encoder.emb_layer_norm.weight", "decoder.lm_head.dense.weight"} <= raw.keys()
    assert_same(tensors_of(both["old"]), tensors_of(both["new"]))
    assert checkpoint.fingerprint(tensors_of(both["old"])) == checkpoint.fingerprint(tensors_of(both["new"]))


def test_fairseq_renames_alike(both: dict[str, Path]) -> None:
    """Stock RoBERTa, which renames by its own upgrade_state_dict, ends with the same weights."""
    stock, same = toy.stock_roberta(), toy.stock_roberta(seed=1)
    stock.load_state_dict(torch.load(both["old"], weights_only=True)["model"])
    same.load_state_dict(checkpoint.load(both["old"])["model"])
    assert_same(stock.state_dict(), same.state_dict())


AT = "encoder.sentence_encoder.layers.0."


@pytest.mark.parametrize(
    ("tensors", "names"),
    [
        ({f"{AT}layer_norms.0.weight": (3,), f"{AT}layer_norms.1.bias": (3,)},
         [f"{AT}self_attn_layer_norm.weight", f"{AT}final_layer_norm.bias"]),
        ({f"{AT}in_proj_weight": (9, 3)}, [f"{AT}in_proj_weight"]),  # 0.12.2's dead copy, not attention's old matrix
        ({"decoder.layers.0.self_attn.in_proj_weight": (9, 3)}, ["decoder.layers.0.self_attn.in_proj_weight"]),
    ],
    ids=["numbered norms", "dead copy", "another architecture"],
)  # fmt: skip
def test_other_names(tensors: dict[str, tuple[int, ...]], names: list[str]) -> None:
    assert list(current_names({name: torch.zeros(size) for name, size in tensors.items()})) == names


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ({f"{AT}self_attn.in_proj_weight": (10, 3)}, "multiple of 3"),
        ({f"{AT}self_attn.in_proj_weight": (9, 3), f"{AT}self_attn.k_proj.weight": (3, 3)}, "is there twice"),
        ({f"decoder{AT[7:]}fc1.bias": (9,), f"{AT}fc1.bias": (9,)}, "is there twice"),
    ],
    ids=["ten rows", "joint and single", "decoder and encoder"],
)
def test_names_that_contradict(tensors: dict[str, tuple[int, ...]], said: str, tmp_path: Path) -> None:
    torch.save({"model": {name: torch.zeros(size) for name, size in tensors.items()}}, tmp_path / "m.pt")
    with pytest.raises(UserError, match=f"m.pt is damaged: .*{said}"):
        checkpoint.load(tmp_path / "m.pt")


@pytest.mark.parametrize("more", [[], L1], ids=["fine-tuning", "L1"])
def test_training(folder: Path, tmp_path: Path, both: dict[str, Path], more: list[str]) -> None:
    def run(name: str) -> Run:
        return train(folder / "data", tmp_path / name, both[name], *NO_DROPOUT, *more, "--max-epoch", "1")

    old, new = run("old"), run("new")
    assert old.losses == new.losses
    assert_same(tensors_of(old.path()), tensors_of(new.path()))


def test_extract(folder: Path, tmp_path: Path, both: dict[str, Path]) -> None:
    tuned = train(folder / "data", tmp_path / "run", both["new"], *NO_DROPOUT, *L1, "--max-epoch", "1").path()
    tickets = []
    for before, after in ((both["new"], tuned), (both["old"], renamed(tuned, tmp_path / "renamed.pt"))):
        out = tmp_path / "t.json"
        words = ["--pretrained", str(before), "--finetuned", str(after), "--sigma", "1e-4", "--output", str(out)]
        assert main(["extract", *words]) == 0
        tickets.append(json.loads(out.read_text()))
    assert tickets[0]["dimensions"] == tickets[1]["dimensions"] and tickets[0]["counts"] == tickets[1]["counts"]


def test_delta_checkpoints(folder: Path, tmp_path: Path, both: dict[str, Path]) -> None:
    """Saved, validated, resumed and exported, all the same as with today's names."""
    merged = []
    for name in ("old", "new"):
        words = [*NO_DROPOUT, *DELTAS, "--ticket", str(both["ticket"])]
        train(folder / "data", tmp_path / name, both[name], *words, "--max-epoch", "1")
        run = train(folder / "data", tmp_path / name, both[name], *words, "--max-epoch", "2")
        score = validate(run.path(), folder / "data")
        delta = run.path().with_suffix(".safetensors")
        out = tmp_path / f"{name}.pt"
        assert main(["export", "--delta", str(delta), "--base", str(both[name]), "--output", str(out)]) == 0
        merged.append((score["loss"], load_file(delta), tensors_of(out)))
    assert merged[0][0] == merged[1][0]
    assert_same(merged[0][1], merged[1][1])
    assert_same(merged[0][2], merged[1][2])


def to_pt(source: Path, base: Path, ticket: Path, out: Path) -> dict[str, Tensor]:
    assert main(["export", "--checkpoint", str(source), "--output", str(out / "m.pt")]) == 0
    return tensors_of(out / "m.pt")


def to_hf(source: Path, base: Path, ticket: Path, out: Path) -> dict[str, Tensor]:
    assert main(["export", "--checkpoint", str(source), "--to", "hf", "--output", str(out / "hf")]) == 0
    return load_file(out / "hf" / "model.safetensors")


def to_delta(source: Path, base: Path, ticket: Path, out: Path) -> dict[str, Tensor]:
    words = ["--checkpoint", str(source), "--base", str(base), "--ticket", str(ticket), "--to", "delta"]
    assert main(["export", *words, "--output", str(out / "d.safetensors")]) == 0
    return load_file(out / "d.safetensors")


@pytest.mark.parametrize("export", [to_pt, to_hf, to_delta])
def test_export(tmp_path: Path, both: dict[str, Path], export: Callable[..., dict[str, Tensor]]) -> None:
    found = []
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        source = tmp_path / name / "model.pt"
        source.write_bytes(both[name].read_bytes())
        found.append(export(source, both[name], both["ticket"], tmp_path / name))
    assert_same(*found)


def test_importance(folder: Path, tmp_path: Path, both: dict[str, Path]) -> None:
    tuned = train(folder / "data", tmp_path / "run", both["new"], *NO_DROPOUT, "--max-epoch", "1").path()
    scores = []
    for path in (tuned, renamed(tuned, tmp_path / "renamed.pt")):
        words = ["--checkpoint", str(path), "--data", str(folder / "data"), "--output", str(tmp_path / "s.npz")]
        assert main(["importance", *words, "--cpu"]) == 0
        scores.append(ImportanceScores.load(tmp_path / "s.npz"))
    assert (scores[0].heads == scores[1].heads).all() and (scores[0].ffn == scores[1].ffn).all()
