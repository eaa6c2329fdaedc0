"""MT-DNN and Ticket-Share in a protocol: what waits for what, and the results of a whole one on toy data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fairseq_tickets.analysis.results import load_results
from fairseq_tickets.analysis.tables_super import adaptation, multi_task
from fairseq_tickets.errors import UserError
from fairseq_tickets.protocol.config import load_protocol
from tests.protocol.test_recipes import kinds, of_kind, parents, planned, result_of, waiting
from tests.protocol.test_run import finish, results, start


@pytest.fixture
def protocol(write: Any, inputs: Path) -> Any:
    def make(**changes: Any) -> Path:
        content = {
            "tasks": {"RTE": {"data": str(inputs / "classes")}, "mine": {"data": str(inputs / "scores")}},
            "training": {"learning_rates": [1e-2], "batch_sizes": [8], "max_epoch": 1},
            "super_tickets": {"levels": [0.34, 0.67], "keep": ["winning"]},
            "sharing": {"then": {"learning_rates": [1e-2]}},
        }
        return Path(write(**{**content, **changes}))

    return make


def test_shared_tickets_wait_for_every_tasks_super_ticket(protocol: Any) -> None:
    path = protocol(
        seeds=[1, 2],
        search_seeds=1,
        super_tickets={"levels": {"RTE": [0.34, 0.67], "mine": [0.34]}, "keep": ["winning"]},
        sharing={"then": {"learning_rates": [1e-2, 1e-3]}},
    )
    lab = planned(path)
    shared = of_kind(lab, "share")
    assert [(step["method"], step["seed"]) for step in shared] == [("mt_dnn", 1), ("mt_dnn", 2)]
    parts = of_kind(lab, "part")
    assert [(step["task"], step.needs) for step in parts] == [
        (task, ((step, "training.json"),)) for step in shared for task in ("RTE", "mine")
    ]
    # fine-tuning after it: two rates on the first seed, the better one on the second when it is known
    after = [step for step in lab.steps.values() if step.get("method") == "mt_dnn+st"]
    assert {(step["seed"], *parents(step)) for step in after} == {(1, shared[0].key)}
    # 2 tasks after MT-DNN; Ticket-Share of 2 seeds, and 2 tasks after it
    assert waiting(lab) == 2 + 2 + 2
    best = {("RTE", 0.67): 0.9, ("mine", 0.34): 0.8}
    winning = [step for step in lab.steps.values() if step.get("method") == "winning"]
    found = {step.key: result_of(step, best.get((step["task"], step["level"]), 0.5)) for step in winning}
    grown = planned(path, found)
    runs = [step for step in of_kind(grown, "share") if step["method"] == "ticket_share"]
    assert [step["seed"] for step in runs] == [1, 2]
    for run in runs:
        tickets = [grown.steps[task["ticket"]] for task in run["tasks"]]
        assert [(step["task"], step["level"], step["seed"]) for step in tickets] == [
            ("RTE", 0.67, run["seed"]), ("mine", 0.34, run["seed"]),
        ]  # fmt: skip
    del found[winning[0].key]
    assert not [step for step in planned(path, found).steps.values() if step.get("method") == "ticket_share+st"]


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"sharing": {"tasks": ["RTE", "SST-2"]}}, "'SST-2' is unknown"),
        ({"sharing": {"sampling": "equal"}}, "it must be one of proportional, temperature, annealed"),
        ({"sharing": {"training": {"batch_sizes": [8, 16]}}}, "takes one of learning_rates and one of batch_sizes"),
        ({"sharing": {"training": {"learning_rates": [1e-3]}}}, "must be found at the same rate"),
        ({"super_tickets": None}, "RTE has no tickets to share"),
        ({"super_tickets": {"keep": ["random"]}}, "RTE has no tickets to share"),
        ({"sharing": {"then": {"lr": 1}}}, "unknown key 'lr'"),
    ],
)
def test_sections_that_make_no_sense(protocol: Any, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_protocol(protocol(**changes))


def test_mt_dnn_alone_needs_no_tickets(protocol: Any) -> None:
    lab = planned(protocol(super_tickets=None, sharing={"methods": ["mt_dnn"]}))
    assert list(kinds(lab)) == ["mt_dnn"] and [step.kind for step in lab.steps.values()] == ["share", "part", "part"]


@pytest.mark.slow
def test_shared_runs_their_parts_and_what_follows(protocol: Any, inputs: Path, tmp_path: Path) -> None:
    tasks = {"RTE": {"data": str(inputs / "classes")}, "mine": {"data": str(inputs / "scores")}}
    path = protocol(
        tasks={**tasks, "SNLI": {"data": str(inputs / "classes")}},
        super_tickets={"tasks": ["RTE", "mine"], "levels": [0.34, 0.67], "keep": ["winning"]},
        adaptation={"source": "RTE", "targets": ["SNLI"], "fractions": [0.5]},
    )
    finish(start(path, tmp_path / "runs", "--workers", "2"))
    listed = json.loads(finish(start(path, tmp_path / "runs", "--dry-run", "--json")))
    assert (listed["left"], listed["undecided"]) == (0, 0)
    found = {(run["method"], run["task"]): run for run in results(tmp_path / "runs").values() if run["level"] is None}
    chosen = {(run["method"], run["task"]): run for run in found.values()}
    for task in ("RTE", "mine"):
        runs = [run for run in results(tmp_path / "runs").values() if (run["method"], run["task"]) == ("winning", task)]
        ticket = max(runs, key=lambda run: (_select(run), -run["level"]))["ticket"]
        share, after = chosen["ticket_share", task], chosen["ticket_share+st", task]
        for run in (share, after):
            assert run["shared_tasks"] == ["RTE", "mine"]
            assert (run["ticket"]["heads"], run["ticket"]["ffn"]) == (ticket["heads"], ticket["ffn"])
            assert run["weight_remaining"]["encoder"] < 1
        assert share["weight_remaining"] == after["weight_remaining"]
        assert chosen["mt_dnn", task]["ticket"] is None and chosen["mt_dnn", task]["weight_remaining"]["encoder"] == 1
        assert chosen["mt_dnn+st", task]["ticket"] is None
    shared = [json.loads(p.read_text()) for p in (tmp_path / "runs" / "toy").glob("*/training.json")]
    for run in shared:
        method = "ticket_share" if run["tickets"] else "mt_dnn"
        last = run["epochs"][-1]["valid"]
        assert chosen[method, "RTE"]["scores"]["all"]["accuracy"] == last["RTE_accuracy"]
        assert chosen[method, "mine"]["scores"]["all"]["pearson"] == last["mine_pearson"]
    loaded = load_results([tmp_path / "runs" / "toy" / "results"])
    assert {run.method for run in loaded if run.task == "SNLI"} == {"full", "winning", "mt_dnn", "ticket_share"}
    assert [row[0].text for row in multi_task(loaded).rows] == [
        "MT-DNN toy", "MT-DNN toy + ST fine-tuning", "Ticket-Share toy", "Ticket-Share toy + ST fine-tuning",
    ]  # fmt: skip
    assert [row[0].text for row in adaptation(loaded).rows] == [
        "SNLI: # training examples",
        "SNLI: RTE-ST-DNN toy", "SNLI: RTE-SuperT toy", "SNLI: MT-DNN toy", "SNLI: Ticket-Share toy",
    ]  # fmt: skip


def _select(run: dict[str, Any]) -> float:
    scores = run["scores"]["select"]
    if run["task"] == "RTE":
        return float(scores["accuracy"])
    return float(scores["pearson"] + scores["spearman"])
