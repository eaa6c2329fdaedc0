"""What steps a protocol's recipes ask for, their keys, and what depends on results. Nothing is trained here."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from fairseq_tickets.analysis.result_lines import result_line
from fairseq_tickets.analysis.results import checksum
from fairseq_tickets.errors import UserError
from fairseq_tickets.protocol.collecting import chosen_runs
from fairseq_tickets.protocol.demand import Demand
from fairseq_tickets.protocol.experiment import Experiment
from fairseq_tickets.protocol.lab import Lab
from fairseq_tickets.protocol.steps import Step, hashed
from tests.analysis import samples


def planned(path: Path, results: dict[str, dict[str, Any]] | None = None) -> Lab:
    """A lab whose recipes have gone as far as these results allow; they are put in place as a file of results."""
    experiment = Experiment(path, path.parent / "runs")
    file = experiment.folder / "results" / "runs.jsonl"
    if results:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(result_line(content) for content in results.values()), encoding="utf-8")
    elif file.exists():
        file.unlink()
    return experiment.known()


def kinds(lab: Lab) -> Counter[str]:
    return Counter(step.get("method") or step.kind for step in lab.steps.values())


def waiting(lab: Lab) -> int:
    """How many branches wait for results."""
    return sum(not branch.known for branch in lab.branches)


def of_kind(lab: Lab, kind: str) -> list[Step]:
    return [step for step in lab.steps.values() if step.kind == kind]


def parents(step: Step) -> list[str]:
    return [parent.key for parent, _ in step.needs]


def result_of(step: Step, select: float) -> dict[str, Any]:
    content = samples.result(
        key=step.key,
        task=step["task"],
        method=step["method"],
        level=step["level"],
        seed=step["seed"],
        train_fraction=step["fraction"],
        config=dict(step["config"]),
        select=select,
    )
    return {**content, "checksum": checksum(content)}


def ready(lab: Lab) -> list[Step]:
    demand = Demand(lab.store)
    for step in lab.wanted():
        demand.want(step)
    return list(iter(demand.take, None))


def test_every_seed_level_and_kind_has_a_run(write: Any) -> None:
    # 3 seeds: a full run, its scores, and 2 levels x 2 kinds each
    path = write(seeds=[1, 2, 3], super_tickets={"levels": [0.34, 0.5], "keep": ["winning", "random"]})
    lab = planned(path)
    assert kinds(lab) == {"full": 3, "score": 3, "winning": 6, "random": 6}
    assert waiting(lab) == 0


def test_tickets_wait_for_scores_and_scores_for_the_full_model(write: Any) -> None:
    lab = planned(write())
    full, score, winning = lab.steps.values()
    assert [parents(step) for step in (full, score, winning)] == [[], [full.key], [score.key]]
    assert score.needs[0][1] == "checkpoint.pt" and winning.needs[0][1] == "scores.npz"
    assert ready(lab) == [full]


def test_rewinding_repeats_the_full_runs_schedule_and_seed(write: Any) -> None:
    full, _, winning = planned(write()).steps.values()
    assert winning["config"] == full["config"]
    assert winning["seed"] == full["seed"]
    assert winning.given()["model"] == full.given()["model"]


def test_keys_are_stable_and_hold_no_path(write: Any, inputs: Path, tmp_path: Path) -> None:
    lab = planned(write())
    assert list(planned(write()).steps) == list(lab.steps)
    elsewhere = Experiment(write(), tmp_path / "other" / "place").known()
    assert list(elsewhere.steps) == list(lab.steps)
    assert str(inputs) not in json.dumps([hashed(step.arguments) for step in lab.steps.values()])


@pytest.mark.parametrize(
    "change",
    [
        {"seeds": [2]},
        {"training": {"learning_rates": [1e-3], "batch_sizes": [8], "max_epoch": 2}},
        {"training": {"learning_rates": [1e-2], "batch_sizes": [8], "max_epoch": 3}},
        {"training": {"learning_rates": [1e-2], "batch_sizes": [8], "max_epoch": 2, "threads": 2}},
        {"training": {"learning_rates": [1e-2], "batch_sizes": [8], "max_epoch": 2, "precision": "bf16"}},
    ],
)
def test_what_determines_a_result_changes_every_key(write: Any, change: dict[str, Any]) -> None:
    assert not set(planned(write()).steps) & set(planned(write(**change)).steps)


def test_the_precision_that_there_always_was_is_no_part_of_a_key(write: Any) -> None:
    lab = planned(write())
    training = {"learning_rates": [1e-2], "batch_sizes": [8], "max_epoch": 2, "precision": "float32"}
    assert list(planned(write(training=training)).steps) == list(lab.steps)
    assert all("precision" not in step["config"] for step in lab.steps.values())


def test_adding_levels_keeps_the_keys_there_were(write: Any) -> None:
    before = set(planned(write()).steps)
    after = set(planned(write(super_tickets={"levels": [0.34, 0.67], "keep": ["winning", "losing"]})).steps)
    assert before < after


def test_other_importance_keeps_the_full_run_only(write: Any) -> None:
    before = planned(write())
    section = {"levels": [0.34], "keep": ["winning"], "importance": {"granularity": "token"}}
    after = planned(write(super_tickets=section))
    assert [before.steps[key].get("method") for key in set(before.steps) & set(after.steps)] == ["full"]


def test_with_a_grid_tickets_wait_for_the_best_full_model(write: Any) -> None:
    path = write(seeds=[1, 2], training={"learning_rates": [1e-3, 1e-2], "batch_sizes": [4, 8], "max_epoch": 1})
    lab = planned(path)
    assert kinds(lab) == {"full": 8} and waiting(lab) == 1
    results = {}
    for step in lab.steps.values():
        config = step["config"]
        results[step.key] = result_of(step, 0.9 if (config["lr"], config["batch_size"]) == (1e-2, 4) else 0.5)
    grown = planned(path, results)
    assert kinds(grown) == {"full": 8, "score": 2, "winning": 2} and waiting(grown) == 0
    configs = [step["config"] for step in of_kind(grown, "score")]
    assert {(config["lr"], config["batch_size"]) for config in configs} == {(1e-2, 4)}
    assert kinds(planned(path, dict(list(results.items())[:-1]))) == {"full": 8}


def test_a_search_on_the_first_seed_leaves_the_best_for_the_others(write: Any) -> None:
    path = write(
        seeds=[1, 2, 3],
        search_seeds=1,
        training={"learning_rates": [1e-3, 1e-2], "batch_sizes": [4], "max_epoch": 1},
        dominant={"top_k": [1], "methods": ["bitfit"], "learning_rates": {"bitfit": [1e-1, 2e-1]}},
    )
    lab = planned(path)
    assert {(step["method"], step["seed"]) for step in of_kind(lab, "train")} == {("full", 1), ("bitfit", 1)}
    assert kinds(lab)["full"] == kinds(lab)["bitfit"] == 2 and waiting(lab) == 2
    better = {1e-2, 1e-1}
    results = {
        step.key: result_of(step, 0.9 if step["config"]["lr"] in better else 0.5) for step in of_kind(lab, "train")
    }
    rates = sorted(
        (step["method"], step["seed"], step["config"]["lr"]) for step in of_kind(planned(path, results), "train")
    )
    assert [rate for rate in rates if rate[0] != "winning"] == [
        ("bitfit", 1, 0.1), ("bitfit", 1, 0.2), ("bitfit", 2, 0.1), ("bitfit", 3, 0.1),
        ("full", 1, 0.001), ("full", 1, 0.01), ("full", 2, 0.01), ("full", 3, 0.01),
    ]  # fmt: skip
    assert [rate for rate in rates if rate[0] == "winning"] == [("winning", seed, 0.01) for seed in (1, 2, 3)]


def test_super_tickets_are_chosen_once_all_levels_are_done(write: Any) -> None:
    path = write(seeds=[1, 2], super_tickets={"levels": [0.34, 0.5], "keep": ["winning", "random"]})
    runs = [step for step in planned(path).steps.values() if step.get("level")]
    select = {("winning", 0.34, 1): 0.6, ("winning", 0.5, 1): 0.7, ("winning", 0.34, 2): 0.7}  # else 0.65
    found = {run.key: result_of(run, select.get((run["method"], run["level"], run["seed"]), 0.65)) for run in runs}

    def chosen() -> list[tuple[Any, ...]]:
        lab = planned(path, found)
        results = {key: lab.store.result(key) for key in found}
        steps = [lab.steps[key] for key in chosen_runs(of_kind(lab, "train"), results)]
        return sorted((step["method"], step["seed"], step["level"]) for step in steps)

    def drop(method: str, level: float, seed: int) -> None:
        (key,) = [run.key for run in runs if (run["method"], run["level"], run["seed"]) == (method, level, seed)]
        del found[key]

    assert chosen() == [("winning", 1, 0.5), ("winning", 2, 0.34)]
    drop("random", 0.5, 1)  # no rival: it is not missed; a missing winning run is
    assert len(chosen()) == 2
    drop("winning", 0.34, 1)
    assert chosen() == [("winning", 2, 0.34)]


def test_adaptation_waits_for_the_super_ticket(write: Any, inputs: Path) -> None:
    path = write(
        tasks={"RTE": {"data": str(inputs / "classes")}, "mine": {"data": str(inputs / "scores")}},
        super_tickets={"tasks": ["RTE"], "levels": [0.34, 0.67], "keep": ["winning"]},
        adaptation={"source": "RTE", "targets": ["mine"], "fractions": [0.25, 1.0]},
    )
    lab = planned(path)
    # the full model is known at once, the super ticket is not
    adapted = [step for step in lab.steps.values() if step.get("source_task")]
    assert [(step["method"], step["fraction"]) for step in adapted] == [("full", 0.25), ("full", 1.0)]
    assert waiting(lab) == 1
    scores = {0.34: 0.6, 0.67: 0.8}
    winning = [step for step in lab.steps.values() if step.get("method") == "winning"]
    grown = planned(path, {step.key: result_of(step, scores[step["level"]]) for step in winning})
    tickets = [step for step in grown.steps.values() if step.get("source_task") and step["method"] == "winning"]
    assert [step["level"] for step in tickets] == [0.67, 0.67] and waiting(grown) == 0
    parent = next(step.key for step in winning if step["level"] == 0.67)
    for step in tickets:
        assert [(key.key, file) for key, file in step.needs] == [(parent, "checkpoint.pt"), (parent, "ticket.json")]


def test_dominant_tickets_share_the_full_runs_of_equal_settings(write: Any) -> None:
    path = write(
        dominant={"top_k": [1, 2], "methods": ["full", "dominant", "random_dimensions", "bitfit"]}, seeds=[1, 2]
    )
    assert kinds(planned(path)) == {
        "full": 2, "score": 2, "winning": 2, "l1": 2, "extract": 2, "dominant": 4, "random_dimensions": 4, "bitfit": 2,
    }  # fmt: skip


def test_salience_is_searched_like_the_others_and_its_ticket_is_of_one_pass(write: Any) -> None:
    dominant = {"top_k": [1, 2], "methods": ["dominant", "salience"], "learning_rates": {"salience": [1e-2, 2e-2]}}
    lab = planned(write(seeds=[1, 2], super_tickets=None, dominant=dominant))
    assert kinds(lab) == {"l1": 2, "extract": 2, "dominant": 4, "salience": 2 + 2 * 2 * 2}  # 2 passes among them
    passes = of_kind(lab, "salience")
    assert [(step["seed"], step["top_k"], parents(step)) for step in passes] == [(1, 2, []), (2, 2, [])]
    under = [step for step in of_kind(lab, "train") if step["method"] == "salience"]
    assert {(step["seed"], step["top_k"], *parents(step)) for step in under} == {
        (step["seed"], k, step.key) for step in passes for k in (1, 2)
    }
    assert {step["config"]["lr"] for step in under} == {1e-2, 2e-2}


def test_a_run_knows_the_steps_that_found_its_ticket(write: Any) -> None:
    dominant = {"top_k": [1], "methods": ["dominant", "salience", "random_dimensions", "bitfit", "full"]}
    lab = planned(write(super_tickets={"levels": [0.34], "keep": ["winning", "random"]}, dominant=dominant))
    found = {step["method"]: step.arguments["ticket_steps"].value for step in of_kind(lab, "train")}
    kinds_of = {method: sorted(lab.steps[Path(f).name].kind for f in folders) for method, folders in found.items()}
    assert kinds_of == {
        "full": [], "bitfit": [], "random": [], "random_dimensions": [],  # of these nothing had to be found
        "winning": ["score", "train"], "dominant": ["extract", "l1"], "salience": ["salience"],
    }  # fmt: skip


def test_a_tasks_own_settings_hold_wherever_it_is_trained_alone(write: Any, inputs: Path) -> None:
    data = str(inputs / "classes")
    tasks = {name: {"data": data, "max_epoch": epochs} for name, epochs in (("first", 2), ("second", 5))}
    dominant = {"top_k": [1], "methods": ["dominant", "salience", "full"], "l1": {"max_epoch": 7}}
    sharing = {"methods": "mt_dnn", "training": {"max_epoch": 3}, "then": {}}
    lab = planned(write(tasks=tasks, super_tickets=None, dominant=dominant, sharing=sharing))
    epochs = {
        (step["task"], step.get("method") or step.kind): step["config"]["max_epoch"]
        for step in lab.steps.values() if step.kind in ("train", "l1")
    }  # fmt: skip
    for task, own in (("first", 2), ("second", 5)):
        assert {epochs[task, method] for method in ("dominant", "salience", "full", "mt_dnn+st")} == {own}
        assert epochs[task, "l1"] == 7
    assert {step["config"]["max_epoch"] for step in lab.steps.values() if step.kind == "share"} == {3}


def test_salience_needs_no_l1_run_and_changes_no_other_key(write: Any) -> None:
    def keys(methods: list[str], **settings: Any) -> set[str]:
        section = {"top_k": [1], "methods": methods, **settings}
        return set(planned(write(super_tickets=None, dominant=section)).steps)

    alone = keys(["salience"])
    assert len(alone) == 2
    assert keys(["dominant", "full"]) | alone == keys(["dominant", "full", "salience"])
    assert not alone & keys(["salience"], salience={"metric": "fisher"})
    assert not alone & keys(["salience"], salience={"examples": 64})


def test_one_seeds_salience_for_all(write: Any) -> None:
    section = {"top_k": [1], "methods": ["salience"], "ticket_seed": "first"}
    lab = planned(write(seeds=[3, 1], super_tickets=None, dominant=section))
    assert [step["seed"] for step in of_kind(lab, "salience")] == [3]
    assert [step["seed"] for step in of_kind(lab, "train")] == [3, 1]


def test_early_tickets_are_scored_on_the_way_and_rewound(write: Any) -> None:
    levels = {"levels": [0.34, 0.67], "keep": ["winning"]}
    lab = planned(write(super_tickets=levels, early={"after": [0.1, 0.5], "levels": [0.67]}))
    assert kinds(lab) == {"full": 1, "score": 3, "winning": 2, "part": 2, "early": 2}
    full, parts = next(iter(lab.steps.values())), of_kind(lab, "train_part")
    assert [(step["part"], step["decay"], step["config"] == full["config"]) for step in parts] == [
        (0.1, "whole", True), (0.5, "whole", True),
    ]  # fmt: skip
    for part in parts:
        (score,) = [step for step in of_kind(lab, "score") if parents(step) == [part.key]]
        (early,) = [step for step in lab.steps.values() if parents(step) == [score.key]]
        assert (early["method"], early["level"]) == ("early", 0.67)
        assert early["config"] == {**full["config"], "found_after": part["part"]}
        assert early["ticket"]["keep"] == "winning" and early["start"] is None
    assert set(planned(write(super_tickets=levels)).steps) < set(lab.steps)


def test_iterative_tickets_go_on_between_steps_and_rewind_at_the_end(write: Any) -> None:
    levels = {"levels": [0.34, 0.51], "keep": ["winning"]}
    lab = planned(write(super_tickets=levels, iterative={"step": 0.17}))
    # two steps of half a run each, and three of a third: nothing in common
    assert kinds(lab) == {"full": 1, "score": 1 + 2 + 3, "winning": 2, "part": 2 + 3, "iterative": 2}
    for level, parts in ((0.34, [1 / 2] * 2), (0.51, [1 / 3] * 3)):
        step = next(s for s in of_kind(lab, "train") if (s["method"], s["level"]) == ("iterative", level))
        assert step["config"]["prune_step"] == 0.17 and step["config"]["stage_budget"] == parts[0]
        assert step["start"] is None and step["ticket"]["level"] == level
        chain = []
        while step.needs:  # back over scores to the run before
            step = step.needs[0][0].needs[0][0]
            chain.append((step["part"], step["decay"], step["ticket"] and step["ticket"]["level"]))
        pruned_before = [None, 0.17, 0.34][: len(parts)]
        assert chain[::-1] == [(part, "part", level) for part, level in zip(parts, pruned_before)]
    # with a given budget the shorter way is the beginning of the longer one
    shared = planned(write(super_tickets=levels, iterative={"step": 0.17, "fraction_of_budget": 0.25}))
    assert kinds(shared)["part"] == 3 and kinds(shared)["iterative"] == 2


def test_they_wait_for_the_setting_of_the_winning_tickets(write: Any) -> None:
    path = write(
        training={"learning_rates": [1e-3, 1e-2], "batch_sizes": [8], "max_epoch": 1},
        early={"after": [0.5]},
        iterative={"step": 0.17},
    )
    lab = planned(path)
    assert kinds(lab) == {"full": 2} and waiting(lab) == 3
    grown = planned(path, {s.key: result_of(s, s["config"]["lr"]) for s in lab.steps.values()})
    assert waiting(grown) == 0 and kinds(grown)["early"] == kinds(grown)["iterative"] == 1
    assert {step["config"]["lr"] for step in of_kind(grown, "train_part")} == {1e-2}


def todo(lab: Lab) -> list[str]:
    demand = Demand(lab.store)
    for step in lab.wanted():
        demand.want(step)
    return [key for key in lab.steps if key in demand.todo]


def test_a_step_that_only_others_need_is_done_only_when_one_of_them_is_missing(write: Any) -> None:
    path = write()
    full, score, winning = planned(path).steps.values()
    assert todo(planned(path)) == [full.key, score.key, winning.key]
    # results without their folders: scores and the full model's checkpoint are made again for a missing ticket only
    both = {step.key: result_of(step, 0.5) for step in (full, winning)}
    assert todo(planned(path, both)) == []
    assert todo(planned(path, {full.key: both[full.key]})) == [full.key, score.key, winning.key]


def test_a_step_that_nobody_needs_is_wanted(write: Any) -> None:
    path = write(super_tickets=None, dominant={"methods": ["bitfit"], "top_k": [1]})
    lab = planned(path)
    assert kinds(lab) == {"l1": 1, "extract": 1, "bitfit": 1} and len(todo(lab)) == 3


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


def test_a_step_that_prunes_nothing_of_the_model(write: Any) -> None:
    with pytest.raises(UserError, match="iterative: step: 0.05 prunes nothing: the model has 12 heads and 3 FFNs"):
        Experiment(write(super_tickets={"levels": [0.1]}, iterative={"step": 0.05}), Path("nowhere"))


def test_missing_model_and_data(write: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no .*model.pt; make it with `fairseq-tickets import`"):
        Experiment(write(model={"path": str(tmp_path)}), tmp_path / "runs")
    with pytest.raises(UserError, match="is no prepared data folder"):
        Experiment(write(tasks={"RTE": {"data": str(tmp_path)}}), tmp_path / "runs")
