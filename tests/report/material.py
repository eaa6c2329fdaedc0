"""Inputs of the report's tests: two small experiments and files of every other kind, with ordinary or hostile names."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fairseq_tickets.counts import DimensionCounts
from fairseq_tickets.parameters import MATRICES
from fairseq_tickets.saliences import GAINS, DimensionSalience
from fairseq_tickets.scores import ImportanceScores
from fairseq_tickets.tickets import DominantTicket
from tests.analysis.samples import SMALL, counts_of, result, single_task_runs, skeleton_ticket, super_ticket, write

HOSTILE = '</script><script>window.hacked=1</script><img src=x onerror="window.hacked=2">\'{{7*7}}&\u2028`${1}`'


def inputs(folder: Path, name: str = "RTE", experiment: str = "small") -> Path:
    """A folder with results of two tasks, the first called `name`, and with files of every other kind."""
    runs = []
    for run in single_task_runs(("RTE", "MRPC"), seeds=2):
        run["task"] = name if run["task"] == "RTE" else run["task"]
        run["experiment"], run["key"] = experiment, f"{run['key']} {name}"
        if run["level"]:
            pruned = round(run["level"] * SMALL.layers * SMALL.heads)
            heads = np.ones(SMALL.layers * SMALL.heads, dtype=int)
            heads[:pruned] = 0
            run["ticket"] = super_ticket(SMALL, heads.reshape(3, 4).tolist(), [1, 1, 1]).to_json()
        runs.append(run)
    for method, k, trained in (("dominant", 1, 90), ("dominant", 3, 270), ("bitfit", None, 120), ("salience", 1, 90)):
        curve = [{"update": u, "train_loss": 1 / (u + 1), "train_accuracy": u / 100} for u in range(0, 100, 10)]
        runs.append(
            result(
                task=name,
                experiment=experiment,
                method=method,
                top_k=k,
                score=0.6,
                trainable_parameters=trained,
                total_parameters=9000,
                ticket_seconds={"dominant": 167.0, "salience": 31.0}.get(method),
                curve=curve,
            )
        )
    write(folder / "results", runs)
    heads = [[1, 1, 1, 0], [1, 1, 0, 0], [1, 0, 0, 0]]
    super_ticket(SMALL, heads, [1, 1, 0], task=name, seed=1).save(folder / "a.json")
    super_ticket(SMALL, [[1, 0, 1, 1], [1, 1, 1, 1], [0, 1, 1, 1]], [0, 1, 1], task="MRPC", seed=1).save(
        folder / "b.json"
    )
    generator = np.random.default_rng(5)
    for number, task in enumerate((name, "MRPC")):
        facts = {"task": task, "seed": 1, "model": SMALL._asdict()}
        ImportanceScores(generator.random((3, 4)), generator.random(3), 10, facts).save(folder / f"s{number}.npz")
        ticket = skeleton_ticket(SMALL, number)
        ticket.provenance.update(task=task, seed=number, note=name)
        ticket.save(folder / f"d{number}.json")
        DimensionCounts(counts_of(ticket, number), {"task": task, "seed": number}).save(folder / f"c{number}.npz")
    salience_of(ticket, task=name, seed=1, metric="gradient").save(folder / "salience.npz")
    return folder


def salience_of(ticket: DominantTicket, **provenance: object) -> DimensionSalience:
    """Saliences as small as real ones: the first of a ticket's dimensions 3e-5, the next 2e-5, others below 1e-6."""
    generator = np.random.default_rng(2)
    shape, scores = ticket.shape, {}
    for matrix in MATRICES:
        scores[matrix] = 1e-6 * generator.random((shape.layers, shape.in_features(matrix) + 1))
        for layer, dims in enumerate(ticket.dimensions[matrix]):
            scores[matrix][layer, dims] = np.array([3e-5, 2e-5, 1e-5])[: len(dims)]
    gains = {gain: np.ones((shape.layers, shape.embed_dim)) for gain in GAINS}
    return DimensionSalience(scores, gains, dict(provenance))
