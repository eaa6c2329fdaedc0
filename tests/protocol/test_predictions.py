"""Test predictions in the GLUE server's format, from a whole protocol on toy data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from fairseq_tickets.protocol.functions.predictions import write_predictions
from tests.plugin import toy
from tests.plugin.training import train
from tests.protocol.test_run import finish, results, start


@pytest.mark.slow
def test_predictions_of_the_best_seed_are_gathered_for_the_server(write: Any, tmp_path: Path) -> None:
    classes = toy.write_data(tmp_path / "classes", test=13)
    scores = toy.write_data(tmp_path / "scores", regression=True, test=9)
    facts = json.loads((scores / "task.json").read_text())
    (scores / "task.json").write_text(json.dumps({**facts, "name": "STS-B", "regression_range": [0.5, 1.5]}))
    protocol = write(
        tasks={"RTE": {"data": str(classes)}, "STS-B": {"data": str(scores)}},
        seeds=[1, 2],
        super_tickets={"levels": [0.34], "keep": ["winning"], "predictions": True},
    )
    finish(start(protocol, tmp_path / "runs", "--workers", "2"))
    found = results(tmp_path / "runs").values()
    for name, method in (("full", "full"), ("super", "winning")):
        folder = tmp_path / "runs" / "toy" / "predictions" / name
        assert sorted(path.name for path in folder.iterdir()) == ["STS-B.tsv", "toy.tsv"]
        for file, count in (("toy.tsv", 13), ("STS-B.tsv", 9)):
            lines = (folder / file).read_text().splitlines()
            assert lines[0] == "index\tprediction"
            assert [line.split("\t")[0] for line in lines[1:]] == [str(index) for index in range(count)]
            values = [line.split("\t")[1] for line in lines[1:]]
            if file == "toy.tsv":
                assert set(values) <= {"c0", "c1", "c2"}
            else:
                assert all(0.5 <= float(value) <= 1.5 and len(value) == 5 for value in values)
        # of the seed whose mean over tasks is best on all of dev
        own_runs = [run for run in found if run["method"] == method]
        means = {seed: sum(_score(run) for run in own_runs if run["seed"] == seed) for seed in (1, 2)}
        best = max(means, key=lambda seed: (means[seed], -seed))
        own = next(run for run in own_runs if (run["seed"], run["task"]) == (best, "RTE"))
        made = (tmp_path / "runs" / "toy" / own["key"] / "toy-test.tsv").read_text()
        assert (folder / "toy.tsv").read_text() == made


def test_predictions_are_the_models_own(tmp_path: Path) -> None:
    """Each line is the class with the largest logit for that one example, fed alone and without padding."""
    data = toy.write_data(tmp_path / "data", test=7)
    start_from = toy.write_checkpoint(tmp_path / "model.pt", toy.ticket_roberta())
    finetuned = train(data, tmp_path / "save", start_from).path("best")
    facts = json.loads((data / "task.json").read_text())
    assert write_predictions(finetuned, data, facts, tmp_path) == ["toy-test.tsv"]
    from fairseq_tickets.plugin.loading import load_finetuned

    model, task = load_finetuned(finetuned, data)
    task.load_dataset("test")
    for line, index in zip((tmp_path / "toy-test.tsv").read_text().splitlines()[1:], range(7)):
        tokens = task.dataset("test")[index]["net_input.src_tokens"]
        with torch.no_grad():
            logits, _ = model(
                tokens[None], features_only=True, classification_head_name=task.cfg.classification_head_name
            )
        assert line == f"{index}\tc{int(logits.argmax())}"


def _score(run: dict[str, Any]) -> float:
    values = run["scores"]["all"]
    return float(values["accuracy"]) if run["task"] == "RTE" else float(values["pearson"] + values["spearman"]) / 2
