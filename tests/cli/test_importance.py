"""`fairseq-tickets importance` on a small checkpoint, against a loop of its own over single examples."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fairseq_tickets.cli import main
from fairseq_tickets.encoder_layer import encoder_layers
from fairseq_tickets.files import sha256
from fairseq_tickets.plugin import scoring
from fairseq_tickets.scores import ImportanceScores
from tests.plugin import toy

HEAD = "sentence_classification_head"


def finetuned(path: Path, data: Path, model: torch.nn.Module, regression: bool = False) -> Path:
    """A checkpoint as fairseq-train leaves it: weights with a head, options of task, model and criterion."""
    toy.write_checkpoint(path, model)
    state = torch.load(path, weights_only=True)
    state["model"] = model.state_dict()
    state["cfg"]["model"]["finetune_from_model"] = None
    state["cfg"]["task"] = {
        "_name": "ticket_sentence_prediction",
        "data": str(data),
        "num_classes": 1 if regression else 3,
        "regression_target": regression,
        "classification_head_name": HEAD,
        "init_token": 0,
        "separator_token": None,
        "no_shuffle": False,
        "shorten_method": "truncate",
        "shorten_data_split_list": "",
        "add_prev_output_tokens": False,
        "max_positions": 16,
        "seed": 1,
        "ticket": None,
        "ticket_form": "compact",
        "select_fraction": 0.1,
        "select_seed": 1,
        "metric": None,
    }
    state["cfg"]["criterion"] = {"_name": "ticket_sentence_prediction", "classification_head_name": HEAD}
    state["cfg"]["checkpoint"] = {"best_checkpoint_metric": "loss"}
    torch.save(state, path)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Data of 24 examples in three classes and of real targets, and a checkpoint for each."""
    made = tmp_path_factory.mktemp("importance")
    model = toy.ticket_roberta()
    toy.randomise(model)
    toy.write_data(made / "data")
    finetuned(made / "model.pt", made / "data", model)
    model.register_classification_head(HEAD, num_classes=1)
    toy.randomise(model)
    toy.write_data(made / "real", regression=True)
    finetuned(made / "real.pt", made / "real", model, regression=True)
    return made


def importance(folder: Path, *options: str, model: str = "model.pt", data: str = "data") -> int:
    files = ["--checkpoint", str(folder / model), "--data", str(folder / data)]
    return main(["importance", *files, "--output", str(folder / "s.npz"), "--cpu", *options])


@pytest.mark.parametrize("kind", ["data", "real"])
def test_scores_are_those_of_a_loop_over_single_examples(folder, kind, capsys):
    from fairseq_tickets.plugin.loading import load_finetuned

    checkpoint = folder / ("model.pt" if kind == "data" else "real.pt")
    assert importance(folder, "--batch-size", "7", model=checkpoint.name, data=kind) == 0
    scores = ImportanceScores.load(folder / "s.npz")
    assert scores.examples == 24 and scores.shape == (toy.LAYERS, toy.HEADS, toy.EMBED, toy.FFN)

    model, task = load_finetuned(checkpoint, folder / kind)
    model.double()
    task.load_dataset("train")
    dataset = task.dataset("train")
    heads, ffn = np.zeros((toy.LAYERS, toy.HEADS)), np.zeros(toy.LAYERS)
    for index in range(24):  # one mask for all, one example at a time: plain autograd
        layers = encoder_layers(model)
        for layer in layers:
            layer.head_gate = torch.ones(1, 1, toy.HEADS, dtype=torch.float64, requires_grad=True)
            layer.ffn_gate = torch.ones(1, 1, dtype=torch.float64, requires_grad=True)
        sample = dataset.collater([dataset[index]])
        logits, _ = model(**sample["net_input"], features_only=True, classification_head_name=HEAD)
        if kind == "data":
            loss = F.cross_entropy(logits, sample["target"].view(-1))
        else:
            loss = (logits.view(()) - sample["target"].view(()).double()) ** 2
        loss.backward()
        heads += np.stack([layer.head_gate.grad.abs().view(-1).numpy() for layer in layers]) / 24
        ffn += np.array([layer.ffn_gate.grad.abs().item() for layer in layers]) / 24
    np.testing.assert_allclose(scores.heads, heads, rtol=1e-3, atol=1e-6 * heads.max())  # float32 against float64
    np.testing.assert_allclose(scores.ffn, ffn, rtol=1e-3)
    assert "24 examples of train, granularity example" in capsys.readouterr().out


def test_provenance_and_json(folder, capsys):
    capsys.readouterr()
    assert importance(folder, "--json") == 0
    printed = json.loads(capsys.readouterr().out.splitlines()[-1])
    scores = ImportanceScores.load(folder / "s.npz")
    assert printed["heads"] == scores.heads.tolist() and printed["examples"] == 24
    assert printed["provenance"] == scores.provenance
    expected = {"task": "toy", "split": "train", "granularity": "example", "vocab_size": toy.VOCABULARY}
    expected.update(positions=18, precision="float32", checkpoint_sha256=sha256(folder / "model.pt"))
    assert {name: scores.provenance[name] for name in expected} == expected
    assert not any(str(folder) in str(value) for value in scores.provenance.values())  # no machine's paths


def test_batching_does_not_matter_and_a_limit_is_always_the_same_sample(folder):
    results = []
    for options in (["--batch-size", "24"], ["--max-tokens", "20"], ["--limit", "24"], ["--limit", "100"]):
        assert importance(folder, *options) == 0
        results.append(ImportanceScores.load(folder / "s.npz"))
    for other in results[1:]:
        np.testing.assert_allclose(other.heads, results[0].heads, rtol=1e-4)
    limited = []
    for size in ("1", "5"):
        assert importance(folder, "--limit", "5", "--batch-size", size) == 0
        limited.append(ImportanceScores.load(folder / "s.npz"))
    assert limited[0].examples == 5
    np.testing.assert_allclose(limited[0].heads, limited[1].heads, rtol=1e-4)
    assert not np.allclose(limited[0].heads, results[0].heads, rtol=0.01)


def test_granularity_split_and_precision_are_honoured(folder):
    results = {}
    for name, options in {
        "plain": [],
        "token": ["--granularity", "token"],
        "valid": ["--split", "valid"],
        "bf16": ["--precision", "bf16"],
    }.items():
        assert importance(folder, *options) == 0
        results[name] = ImportanceScores.load(folder / "s.npz")
    plain = results["plain"]
    assert (results["token"].heads >= plain.heads * (1 - 1e-5)).all()  # |sum over tokens| <= sum of |.|
    assert results["token"].heads.sum() > 1.05 * plain.heads.sum()
    assert (results["valid"].examples, results["valid"].provenance["split"]) == (11, "valid")
    assert results["bf16"].provenance["precision"] == "bf16"
    np.testing.assert_allclose(results["bf16"].ffn, plain.ffn, rtol=0.2)
    assert not np.array_equal(results["bf16"].ffn, plain.ffn)


@pytest.mark.parametrize(
    "options, text",
    [
        (["--checkpoint", "missing.pt"], "missing.pt"),
        (["--data", "missing"], "not a binarised data folder"),
        (["--split", "test"], "no split 'test'"),
        (["--batch-size", "0"], "--batch-size is 0; it must be at least 1"),
        (["--limit", "-3"], "--limit is -3; it must be at least 1"),
        (["--output", "."], "is a folder"),
    ],
)
def test_bad_input_is_one_clear_line(folder, options, text, capsys):
    (folder / "s.npz").unlink(missing_ok=True)
    assert importance(folder, *options) == 2
    error = [line for line in capsys.readouterr().err.splitlines() if "fairseq-tickets: error:" in line]
    assert len(error) == 1 and text in error[0]
    assert not (folder / "s.npz").exists() and not list(folder.glob(".s.npz*"))


def test_a_pruned_checkpoint_is_refused(folder, capsys):
    from fairseq_tickets.parameters import ModelShape
    from fairseq_tickets.tickets import SuperTicket

    shape = ModelShape(toy.LAYERS, toy.HEADS, toy.EMBED, toy.FFN)
    ticket = SuperTicket(shape, [[1, 1, 1, 0]] + [[1] * 4] * 2, [1, 1, 0])
    for form, text in (("compact", "layer 0 is already pruned"), ("gated", "layer 0 is under a ticket")):
        model = toy.ticket_roberta()
        model.ticket_encoder.apply_super_ticket(ticket, form)
        finetuned(folder / "pruned.pt", folder / "data", model)
        assert importance(folder, model="pruned.pt") == 2
        assert text in capsys.readouterr().err


@pytest.mark.slow
def test_two_workers_write_what_one_writes(folder):
    assert importance(folder, "--batch-size", "5") == 0
    one = ImportanceScores.load(folder / "s.npz")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-c", "from fairseq_tickets.cli import main; raise SystemExit(main())"]
    command += [
        "importance",
        "--checkpoint",
        str(folder / "model.pt"),
        "--data",
        str(folder / "data"),
        "--cpu",
    ]
    command += ["--batch-size", "5", "--json", "--output", str(folder / "two.npz")]
    workers = []
    for rank in (0, 1):
        environment = dict(os.environ, RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2")
        environment.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
        workers.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True))
    outputs = [worker.communicate(timeout=300)[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0]
    assert json.loads(outputs[0])["examples"] == 24 and outputs[1] == ""
    two = ImportanceScores.load(folder / "two.npz")
    np.testing.assert_allclose(two.heads, one.heads, rtol=1e-6)
    assert two.examples == 24


def test_until_stable_takes_the_examples_it_needs(folder, capsys, monkeypatch):
    # 24 examples are no more than the first look wants, so all are taken.
    monkeypatch.setattr(scoring, "BLOCK", 6)
    assert importance(folder, "--until-stable", "0.3,0.5") == 0
    assert "after 24 examples, agreement of pruned heads and FFNs at 0.3: " in capsys.readouterr().out
    some = ImportanceScores.load(folder / "s.npz")
    assert importance(folder) == 0
    everything = ImportanceScores.load(folder / "s.npz")
    np.testing.assert_allclose(some.heads, everything.heads, rtol=1e-6)
    (look,) = some.provenance["until_stable"]["looks"]
    assert look["examples"] == 24 and set(look["levels"]) == {"0.3", "0.5"}


def test_blocks_hold_every_example_once(monkeypatch):
    monkeypatch.setattr(scoring, "BLOCK", 5)
    blocks = scoring._random_blocks(range(100, 123))
    assert [len(block) for block in blocks] == [5, 5, 5, 8]
    assert sorted(index for block in blocks for index in block) == list(range(100, 123))
    assert blocks[0] != sorted(blocks[0]) or blocks[1] != sorted(blocks[1])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--until-stable", "1.2"), "is 1.2; it must be from 0 to less than 1"),
        (("--until-stable", "0.2", "--agreement", "0"), "the wanted agreement is 0"),
        (("--until-stable", "much"), "much"),
    ],
)
def test_bad_stability_options(folder, options, said, capsys):
    assert importance(folder, *options) == 2
    assert said in capsys.readouterr().err
