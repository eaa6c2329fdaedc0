"""What runs a protocol asks for, their keys, and what depends on results. Nothing is trained here."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from fairseq_tickets.analysis.results import Result, result_from_json
from fairseq_tickets.errors import UserError
from fairseq_tickets.protocol.experiment import Experiment
from fairseq_tickets.protocol.plan import Plan
from fairseq_tickets.protocol.runs import Run
from fairseq_tickets.protocol.scheduler import missing, ready
from tests.analysis import samples


def planned(path: Path, results: dict[str, Result] | None = None) -> Plan:
    return Experiment(path, path.parent / "runs")._planner.plan(results or {})


def kinds(plan: Plan) -> Counter[str]:
    return Counter(run.what.get("method") or run.kind for run in plan.runs.values())


def result_of(run: Run, select: float) -> Result:
    content = samples.result(
        key=run.key,
        task=run.what["task"],
        method=run.what["method"],
        level=run.what["level"],
        seed=run.what["seed"],
        train_fraction=run.what["fraction"],
        config=dict(run.what["config"]),
        select=select,
    )
    return result_from_json(content, "made up")


def test_every_seed_level_and_kind_has_a_run(write: Any) -> None:
    # 3 seeds: a full run, its scores, and 2 levels x 2 kinds each
    path = write(seeds=[1, 2, 3], super_tickets={"levels": [0.34, 0.5], "keep": ["winning", "random"]})
    plan = planned(path)
    assert kinds(plan) == {"full": 3, "score": 3, "winning": 6, "random": 6}
    assert plan.undecided == 0


def test_tickets_wait_for_scores_and_scores_for_the_full_model(write: Any) -> None:
    plan = planned(write())
    full, score, winning = plan.runs.values()
    assert (full.needs, score.needs, winning.needs) == ((), (full.key,), (score.key,))
    assert [run.key for run in ready(plan.runs, set())] == [full.key]
    assert score.takes_checkpoint == (full.key,)


def test_rewinding_repeats_the_full_runs_schedule_and_seed(write: Any) -> None:
    full, _, winning = planned(write()).runs.values()
    assert winning.what["config"] == full.what["config"]
    assert winning.what["seed"] == full.what["seed"]
    assert winning.told["checkpoint"] == full.told["checkpoint"]


def test_keys_are_stable_and_hold_no_path(write: Any, inputs: Path, tmp_path: Path) -> None:
    plan = planned(write())
    again = planned(write())
    assert list(plan.runs) == list(again.runs)
    elsewhere = Experiment(write(), tmp_path / "other" / "place")._planner.plan({})
    assert list(elsewhere.runs) == list(plan.runs)
    assert str(inputs) not in json.dumps([run.what for run in plan.runs.values()], default=str)


@pytest.mark.parametrize(
    "change",
    [
        {"seeds": [2]},
        {"training": {"learning_rates": [1e-3], "batch_sizes": [8], "max_epoch": 2}},
        {"training": {"learning_rates": [1e-2], "batch_sizes": [8], "max_epoch": 3}},
        {"training": {"learning_rates": [1e-2], "batch_sizes": [8], "max_epoch": 2, "threads": 2}},
    ],
)
def test_what_determines_a_result_changes_every_key(write: Any, change: dict[str, Any]) -> None:
    assert not set(planned(write()).runs) & set(planned(write(**change)).runs)


def test_adding_levels_keeps_the_keys_there_were(write: Any) -> None:
    before = set(planned(write()).runs)
    after = set(planned(write(super_tickets={"levels": [0.34, 0.67], "keep": ["winning", "losing"]})).runs)
    assert before < after


def test_other_importance_keeps_the_full_run_only(write: Any) -> None:
    before = planned(write())
    section = {"levels": [0.34], "keep": ["winning"], "importance": {"granularity": "token"}}
    after = planned(write(super_tickets=section))
    assert [before.runs[key].what["method"] for key in set(before.runs) & set(after.runs)] == ["full"]


def test_with_a_grid_tickets_wait_for_the_best_full_model(write: Any) -> None:
    path = write(seeds=[1, 2], training={"learning_rates": [1e-3, 1e-2], "batch_sizes": [4, 8], "max_epoch": 1})
    plan = planned(path)
    assert kinds(plan) == {"full": 8}
    assert plan.undecided == 2 * 2  # for each seed: scores and one ticket
    best = {(1e-2, 4): 0.9}
    results = {}
    for run in plan.runs.values():
        config = run.what["config"]
        results[run.key] = result_of(run, best.get((config["lr"], config["batch_size"]), 0.5))
    grown = planned(path, results)
    assert kinds(grown) == {"full": 8, "score": 2, "winning": 2}
    scored = [run.what["config"] for run in grown.runs.values() if run.kind == "score"]
    assert {(config["lr"], config["batch_size"]) for config in scored} == {(1e-2, 4)}
    partly = dict(list(results.items())[:-1])
    assert kinds(planned(path, partly)) == {"full": 8}


def test_a_search_on_the_first_seed_leaves_the_best_for_the_others(write: Any) -> None:
    path = write(
        seeds=[1, 2, 3],
        search_seeds=1,
        training={"learning_rates": [1e-3, 1e-2], "batch_sizes": [4], "max_epoch": 1},
        dominant={"top_k": [1], "methods": ["bitfit"], "learning_rates": {"bitfit": [1e-1, 2e-1]}},
    )
    plan = planned(path)
    assert {(run.what["method"], run.what["seed"]) for run in plan.runs.values() if run.kind == "train"} == {
        ("full", 1), ("bitfit", 1),
    }  # fmt: skip
    # 2 full models, 3 scorings and tickets, 2 of BitFit
    assert kinds(plan)["full"] == kinds(plan)["bitfit"] == 2 and plan.undecided == 2 + 3 * 2 + 2
    better = {1e-2, 1e-1}
    results = {
        run.key: result_of(run, 0.9 if run.what["config"]["lr"] in better else 0.5)
        for run in plan.runs.values()
        if run.kind == "train"
    }
    grown = planned(path, results)
    trained = [run.what for run in grown.runs.values() if run.kind == "train"]
    rates = sorted((what["method"], what["seed"], what["config"]["lr"]) for what in trained)
    assert rates == [
        ("bitfit", 1, 0.1), ("bitfit", 1, 0.2), ("bitfit", 2, 0.1), ("bitfit", 3, 0.1),
        ("full", 1, 0.001), ("full", 1, 0.01), ("full", 2, 0.01), ("full", 3, 0.01),
    ]  # fmt: skip


def test_super_tickets_are_chosen_once_all_levels_are_done(write: Any) -> None:
    path = write(seeds=[1, 2], super_tickets={"levels": [0.34, 0.5], "keep": ["winning", "random"]})
    experiment = Experiment(path, path.parent / "runs")
    plan = experiment._planner.plan({})
    runs = [run for run in plan.runs.values() if run.what.get("level")]
    select = {("winning", 0.34, 1): 0.6, ("winning", 0.5, 1): 0.7, ("winning", 0.34, 2): 0.7}  # else 0.65
    found = {
        run.key: result_of(run, select.get((run.what["method"], run.what["level"], run.what["seed"]), 0.65))
        for run in runs
    }
    chosen = [plan.runs[key].what for key in experiment._planner.chosen(plan, found)]
    assert sorted((what["method"], what["seed"], what["level"]) for what in chosen) == [
        ("winning", 1, 0.5), ("winning", 2, 0.34),
    ]  # fmt: skip
    # the random ticket of another seed is left out: it is no rival; a missing winning run is
    (other,) = [
        run.key for run in runs if (run.what["method"], run.what["level"], run.what["seed"]) == ("random", 0.5, 1)
    ]
    del found[other]
    assert len(experiment._planner.chosen(plan, found)) == 2
    (own,) = [
        run.key for run in runs if (run.what["method"], run.what["level"], run.what["seed"]) == ("winning", 0.34, 1)
    ]
    del found[own]
    assert [plan.runs[key].what["seed"] for key in experiment._planner.chosen(plan, found)] == [2]


def test_adaptation_waits_for_the_super_ticket(write: Any, inputs: Path) -> None:
    path = write(
        tasks={"RTE": {"data": str(inputs / "classes")}, "mine": {"data": str(inputs / "scores")}},
        super_tickets={"tasks": ["RTE"], "levels": [0.34, 0.67], "keep": ["winning"]},
        adaptation={"source": "RTE", "targets": ["mine"], "fractions": [0.25, 1.0]},
    )
    plan = planned(path)
    # the full model is known at once, the super ticket is not
    adapted = [run for run in plan.runs.values() if run.what.get("source_task")]
    assert [(run.what["method"], run.what["fraction"]) for run in adapted] == [("full", 0.25), ("full", 1.0)]
    assert plan.undecided == 2
    scores = {0.34: 0.6, 0.67: 0.8}
    winning = [run for run in plan.runs.values() if run.what.get("method") == "winning"]
    grown = planned(path, {run.key: result_of(run, scores[run.what["level"]]) for run in winning})
    tickets = [run for run in grown.runs.values() if run.what.get("source_task") and run.what["method"] == "winning"]
    assert [run.what["level"] for run in tickets] == [0.67, 0.67]
    assert grown.undecided == 0
    parent = next(run.key for run in winning if run.what["level"] == 0.67)
    assert {run.takes_checkpoint for run in tickets} == {(parent,)}


def test_dominant_tickets_share_the_full_runs_of_equal_settings(write: Any) -> None:
    path = write(
        dominant={"top_k": [1, 2], "methods": ["full", "dominant", "random_dimensions", "bitfit"]}, seeds=[1, 2]
    )
    found = kinds(planned(path))
    assert found == {
        "full": 2, "score": 2, "winning": 2, "l1": 2, "extract": 2, "dominant": 4, "random_dimensions": 4, "bitfit": 2,
    }  # fmt: skip


def test_a_deleted_checkpoint_is_made_again_only_when_it_is_needed(write: Any) -> None:
    path = write()
    experiment = Experiment(path, path.parent / "runs")
    full, score, winning = experiment.plan().runs.values()

    class Finished:
        def __init__(self, *keys: str) -> None:
            self.keys = keys

        def finished(self, run: Run) -> bool:
            return run.key in self.keys

        def has_checkpoint(self, key: str) -> bool:
            return False

    plan = experiment.plan()
    assert list(missing(plan, Finished(full.key, score.key))) == [winning.key]  # type: ignore[arg-type]
    again = missing(plan, Finished(full.key))  # type: ignore[arg-type]
    assert list(again) == [full.key, score.key, winning.key]


@pytest.mark.parametrize(
    ("section", "message"),
    [
        # 3 layers of 4 heads: 5 % of 12 heads and of 3 FFNs is less than one
        ({"levels": [0.05]}, "levels: 0.05 prunes nothing: the model has 12 heads and 3 FFNs"),
        ({"levels": [0.5, 1.0]}, "levels: 1 prunes everything"),
        ({"levels": [0.9], "min_heads_per_layer": 2}, "min_heads_per_layer 2 leaves too few heads"),
    ],
)
def test_levels_that_make_no_sense_for_the_model(write: Any, section: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Experiment(write(super_tickets=section), Path("nowhere"))
    assert not Path("nowhere").exists()


def test_missing_model_and_data(write: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no .*model.pt; make it with `fairseq-tickets import`"):
        Experiment(write(model={"path": str(tmp_path)}), tmp_path / "runs")
    with pytest.raises(UserError, match="is no prepared data folder"):
        Experiment(write(tasks={"RTE": {"data": str(tmp_path)}}), tmp_path / "runs")
