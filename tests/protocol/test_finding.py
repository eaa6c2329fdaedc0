"""Tickets found in other ways than the papers', end to end on toy data, in this process."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch

from fairseq_tickets import checkpoint
from fairseq_tickets.analysis.results import result_from_json
from fairseq_tickets.analysis.tables import result_table
from fairseq_tickets.dominant_ticket.salience import salient_ticket
from fairseq_tickets.plugin.salience import checkpoint_salience
from fairseq_tickets.protocol.steps import CHECKPOINT, SALIENCE, SCORES, TICKET, TRAINING, Step
from fairseq_tickets.saliences import DimensionSalience
from fairseq_tickets.scores import ImportanceScores
from fairseq_tickets.tickets import load_dominant_ticket

from .doing import done, seconds_of

QUERY = "encoder.sentence_encoder.layers.0.self_attn.q_proj.weight"


def test_salience_is_what_the_command_finds_on_what_training_sees(write: Any, inputs: Any) -> None:
    path = write(
        tasks={"RTE": {"data": str(inputs / "classes"), "subset": 10}},
        training={"learning_rates": [1e-2], "batch_sizes": [8], "max_epoch": 1},
        super_tickets=None,
        dominant={"top_k": [1, 2], "methods": ["salience"], "salience": {"metric": "fisher", "batch_size": 4}},
    )
    lab, results = done(path)
    (step,) = [step for step in lab.steps.values() if step.kind == "salience"]
    whole = load_dominant_ticket(step.folder / TICKET)
    measured = DimensionSalience.load(step.folder / SALIENCE)
    assert (measured.provenance["examples"], measured.provenance["metric"]) == (10, "fisher")
    data = str(inputs / "classes")
    found, _ = checkpoint_salience(
        inputs / "model.pt", data, "fisher", batch_size=4, seed=1, train_examples=10, max_positions=16
    )
    assert whole.dimensions == salient_ticket(found, 2).dimensions
    for name, table in found.scores.items():
        assert torch.equal(torch.from_numpy(measured.scores[name]), table)
    assert [(run["method"], run["top_k"]) for run in results] == [("salience", 1), ("salience", 2)]
    for run in results:
        ticket = run["ticket"]
        assert ticket["provenance"]["metric"] == "fisher" and ticket["provenance"]["top_k"] == run["top_k"]
        assert ticket["dimensions"] == {
            m: [row[: run["top_k"]] for row in rows] for m, rows in whole.dimensions.items()
        }
        assert run["trainable_parameters"] < run["total_parameters"]
        assert run["ticket_seconds"] == seconds_of(step)
    assert json.loads((step.folder / TICKET).read_text())["provenance"]["method"] == "salience"


def weights(step: Step) -> dict[str, torch.Tensor]:
    found = checkpoint.load(step.folder / CHECKPOINT)["model"]
    return {name: tensor for name, tensor in found.items() if tensor.is_floating_point()}


def pruned(ticket: dict[str, Any]) -> set[tuple[int, int]]:
    heads = {(layer, head) for layer, row in enumerate(ticket["heads"]) for head, kept in enumerate(row) if not kept}
    return heads | {(layer, -1) for layer, kept in enumerate(ticket["ffn"]) if not kept}


@pytest.mark.slow
def test_early_and_iterative_tickets(write: Any) -> None:
    # 24 examples, batches of 8, 2 epochs: 6 updates. 12 heads and 3 FFNs: 0.17 prunes 2 heads, 0.34 4 and an FFN.
    path = write(
        training={"learning_rates": [1e-2], "batch_sizes": [8], "max_epoch": 2, "log_interval": 1},
        super_tickets={"levels": [0.34], "keep": ["winning"]},
        early={"after": [0.5]},
        iterative={"step": 0.17},
    )
    lab, results = done(path)
    parts = [step for step in lab.steps.values() if step.kind == "train_part"]
    told = [json.loads((step.folder / TRAINING).read_text()) for step in parts]
    assert [(about["part"], about["updates"], about["updates_of_a_whole_run"]) for about in told] == [(0.5, 3, 6)] * 3
    half, first, second = parts
    # an early model is the whole run's beginning, update by update; a step's fine-tuning has a schedule of its own
    assert [point["update"] for point in told[0]["curve"]] == [1, 2, 3]
    assert told[0]["curve"] == results[0]["curve"][:3] != told[1]["curve"]
    assert not torch.equal(weights(half)[QUERY], weights(first)[QUERY])
    # the second step goes on from the first, under its ticket: what was pruned is zero and its scores are too
    ticket = json.loads((second.folder / TICKET).read_text())
    assert len(pruned(ticket)) == 2 and not (first.folder / TICKET).exists()
    (scored,) = [step for step in lab.steps.values() if step.kind == "score" and step.needs[0][0] is second]
    scores = ImportanceScores.load(scored.folder / SCORES)
    assert {(layer, head) for layer, head in zip(*np.nonzero(scores.heads == 0))} == pruned(ticket)
    by_method = {run["method"]: run for run in results}
    assert set(by_method) == {"full", "winning", "early", "iterative"}
    assert pruned(ticket) < pruned(by_method["iterative"]["ticket"])
    for run in results[1:]:
        assert len(pruned(run["ticket"])) == 5 and run["epochs"][-1]["updates"] == 6
        assert {name: run["config"][name] for name in by_method["full"]["config"]} == by_method["full"]["config"]
    assert by_method["early"]["config"]["found_after"] == 0.5
    # what a ticket took: the fine-tuning that its scores are of, and the scoring; of both steps where there are two
    scores_of = {step.needs[0][0]: step for step in lab.steps.values() if step.kind == "score"}
    (whole,) = [step for step in scores_of if step.kind == "train"]
    for name, runs in (("winning", [whole]), ("early", [half]), ("iterative", [first, second])):
        assert by_method[name]["ticket_seconds"] == sum(seconds_of(run) + seconds_of(scores_of[run]) for run in runs)
    assert by_method["full"]["ticket_seconds"] is None
    found = [result_from_json(run, "file") for run in results]
    for name in ("early", "iterative"):
        assert len(result_table(name, found).rows) == 2
