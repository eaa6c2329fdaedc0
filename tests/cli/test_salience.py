"""`fairseq-tickets salience` on toy checkpoints and data: its tickets, its provenance, two workers, bad input."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from fairseq_tickets.cli import main
from fairseq_tickets.parameters import MATRICES
from fairseq_tickets.plugin.salience import HEAD_NAME, checkpoint_salience, load_pretrained
from fairseq_tickets.saliences import DimensionSalience
from fairseq_tickets.tickets import DominantTicket, load_dominant_ticket
from tests.plugin import toy

COMMAND = [sys.executable, "-c", "from fairseq_tickets.cli import main; raise SystemExit(main())"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("salience")
    toy.write_data(made / "data")
    toy.write_data(made / "real", regression=True)
    model = toy.ticket_roberta()
    toy.randomise(model)
    toy.write_checkpoint(made / "model.pt", model)
    return made


def salience(folder: Path, *options: str, data: str = "data") -> int:
    files = ["--pretrained", str(folder / "model.pt"), "--data", str(folder / data)]
    return main(["salience", *files, "--output", str(folder / "t.json"), "--cpu", *options])


@pytest.mark.parametrize("data", ["data", "real"])
def test_gradients_are_those_of_a_loop_over_single_examples(folder: Path, data: str) -> None:
    found, _ = checkpoint_salience(folder / "model.pt", folder / data, "gradient", 10, batch_size=1, seed=4)
    model, task = load_pretrained(folder / "model.pt", folder / data, 4)
    dataset = task.load_dataset("train")
    weights = {name: p for name, p in model.named_parameters() if "layers.1.fc1" in name}
    expected = torch.zeros(toy.EMBED + 1)
    chosen = [i for i in range(len(dataset)) if i in set(sample(folder, data))]
    assert len(chosen) == 10
    for index in chosen:
        item = dataset.collater([dataset[index]])
        logits, _ = model(**item["net_input"], features_only=True, classification_head_name=HEAD_NAME)
        target = item["target"].view(-1)
        loss = F.mse_loss(logits.view(-1), target) if task.regression else F.cross_entropy(logits, target)
        weight, bias = torch.autograd.grad(loss, list(weights.values()))
        expected += torch.cat([weight.abs().sum(0), bias.abs().sum()[None]]) / 10
    torch.testing.assert_close(found.scores["fc1"][1].float(), expected, rtol=1e-4, atol=1e-6)


def sample(folder: Path, data: str) -> list[int]:
    from fairseq_tickets.plugin.scoring import sample_of

    _, task = load_pretrained(folder / "model.pt", folder / data, 1)
    return list(sample_of(len(task.load_dataset("train")), 10))


def test_activation_does_not_hang_on_padding(folder: Path) -> None:
    # Sentences one at a time have no padding at all.
    together, _ = checkpoint_salience(folder / "model.pt", folder / "data", "activation", 20)
    model, task = load_pretrained(folder / "model.pt", folder / "data", 1)
    dataset = task.load_dataset("train")
    from fairseq_tickets.plugin.scoring import sample_of

    seen: list[torch.Tensor] = []
    layer = model.encoder.sentence_encoder.layers[toy.LAYERS - 1]
    layer.fc2.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].reshape(-1, toy.FFN)))
    with torch.no_grad():
        for index in sample_of(len(dataset), 20):
            model(**dataset.collater([dataset[index]])["net_input"], features_only=True)
    expected = torch.cat(seen).square().mean(0).sqrt()
    torch.testing.assert_close(together.scores["fc2"][-1, :-1].float(), expected, rtol=1e-5, atol=1e-6)


def test_the_ticket_and_where_it_comes_from(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert salience(folder, "--top-k", "2", "--examples", "16", "--json") == 0
    ticket = load_dominant_ticket(folder / "t.json")
    assert json.loads(capsys.readouterr().out)["ticket"] == ticket.to_json()
    assert all(len(row) == 2 for _, _, row in ticket.items())
    facts = {"method": "salience", "metric": "gradient", "top_k": 2, "examples": 16, "batch_size": 8, "head": "random"}
    assert facts.items() <= ticket.provenance.items()
    assert len(ticket.provenance["pretrained_sha256"]) == 64


def test_same_command_same_ticket_and_sizes_of_another(folder: Path) -> None:
    shape = load_pretrained(folder / "model.pt", folder / "data", 1)[0].ticket_encoder.shape
    sizes = {name: [[layer] * (layer == 1) for layer in range(shape.layers)] for name in MATRICES}
    DominantTicket(shape, sizes).save(folder / "sizes.json")
    tickets = []
    for _ in range(2):
        assert salience(folder, "--like", str(folder / "sizes.json"), "--metric", "consistent") == 0
        tickets.append((folder / "t.json").read_bytes())
    assert tickets[0] == tickets[1]
    assert [len(row) for row in load_dominant_ticket(folder / "t.json").dimensions["fc1"]] == [0, 1, 0]
    assert salience(folder, "--budget", "7") == 0
    assert sum(len(row) for _, _, row in load_dominant_ticket(folder / "t.json").items()) == 7


def test_a_fitted_head_changes_the_salience_and_fits(folder: Path) -> None:
    found = [checkpoint_salience(folder / "model.pt", folder / "data", head=head)[0] for head in ("random", "probe")]
    assert not torch.allclose(found[0].scores["fc1"], found[1].scores["fc1"], rtol=1e-3)


def test_bf16_names_nearly_the_same_dimensions(folder: Path) -> None:
    exact, rounded = (
        checkpoint_salience(folder / "model.pt", folder / "data", precision=precision)[0].scores["v_proj"]
        for precision in ("float32", "bf16")
    )
    torch.testing.assert_close(rounded, exact, rtol=0.05, atol=0.02 * float(exact.max()))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--top-k", "0"), "--top-k is 0; it must be at least 1"),
        (("--top-k", "14"), "top_k is 14; it must be 1 to 13"),
        (("--budget", "0"), "budget is 0; it must be at least 1"),
        (("--examples", "0"), "--examples is 0; it must be at least 1"),
        (("--examples", "4"), "--batch-size 8 is more than the examples there are to take: 4"),
        (("--batch-size", "0"), "--batch-size is 0; it must be at least 1"),
        (("--like", "nowhere.json"), "nowhere.json"),
        (("--salience", "/"), "--salience / is a folder; give the name of a file"),
        (("--split", "nowhere"), "nowhere"),
    ],
)
def test_bad_options(folder: Path, options: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "t.json").unlink(missing_ok=True)
    assert salience(folder, *options) == 2
    assert said in capsys.readouterr().err
    assert not (folder / "t.json").exists()


@pytest.mark.slow
def test_two_workers_agree_with_one(folder: Path) -> None:
    def scores(metric: str) -> list[str]:
        files = ["--pretrained", str(folder / "model.pt"), "--data", str(folder / "data"), "--cpu", "--metric", metric]
        return ["salience", *files, "--examples", "24", "--batch-size", "4", "--top-k", "3"]

    for metric in ("gradient", "consistent", "activation"):
        assert main([*scores(metric), "--output", str(folder / "one.json")]) == 0
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        workers = [
            subprocess.Popen(
                [*COMMAND, *scores(metric), "--output", str(folder / "two.json")],
                env={
                    **os.environ,
                    "WORLD_SIZE": "2",
                    "RANK": str(rank),
                    "LOCAL_RANK": str(rank),
                    "MASTER_ADDR": "127.0.0.1",
                    "MASTER_PORT": str(port),
                },
            )
            for rank in range(2)
        ]
        assert [worker.wait(timeout=200) for worker in workers] == [0, 0]
        one, two = (load_dominant_ticket(folder / name) for name in ("one.json", "two.json"))
        assert one.dimensions == two.dimensions and one.provenance["examples"] == two.provenance["examples"]


def test_what_was_measured_is_saved_with_the_gains_of_layer_norms(folder: Path) -> None:
    assert salience(folder, "--metric", "activation", "--salience", str(folder / "a.npz")) == 0
    found = DimensionSalience.load(folder / "a.npz")
    exact, _ = checkpoint_salience(folder / "model.pt", folder / "data", "activation")
    assert found.provenance["metric"] == "activation" and found.provenance["examples"] == exact.examples
    for name in MATRICES:
        assert found.scores[name].tolist() == exact.scores[name].tolist()
    tensors = torch.load(folder / "model.pt", weights_only=True)["model"]
    gain = found.gain("v_proj")
    assert gain is not None and found.gain("fc2") is None
    norms = ["layernorm_embedding", "layers.0.final_layer_norm", "layers.1.final_layer_norm"]
    for layer, norm in enumerate(norms):
        expected = tensors[f"encoder.sentence_encoder.{norm}.weight"].abs().double()
        assert gain[layer].tolist() == expected.tolist()
