"""Tickets found in other ways than the papers', end to end on toy data, in this process."""

from __future__ import annotations

import json
from typing import Any

import torch

from fairseq_tickets.dominant_ticket.salience import salient_ticket
from fairseq_tickets.plugin.salience import checkpoint_salience
from fairseq_tickets.protocol.steps import SALIENCE, TICKET
from fairseq_tickets.saliences import DimensionSalience
from fairseq_tickets.tickets import load_dominant_ticket

from .doing import done


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
    assert json.loads((step.folder / TICKET).read_text())["provenance"]["method"] == "salience"
