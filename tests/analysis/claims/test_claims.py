"""Claims held against made-up results whose effects are worked out by hand."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from fairseq_tickets.analysis.claims.claim import ABOVE, BELOW, FAILS, HOLDS, NO_LOSS, OPEN, SMALLER, verdict
from fairseq_tickets.analysis.claims.page import judge, settings_of
from fairseq_tickets.analysis.claims.structure import beyond_chance
from fairseq_tickets.analysis.effects import Effect
from fairseq_tickets.analysis.results import Result, result_from_json
from fairseq_tickets.cli import main
from fairseq_tickets.counts import DimensionCounts
from fairseq_tickets.parameters import MATRICES
from tests.analysis.samples import SMALL, dominant, result, super_ticket, write

TASKS = ("SST-2", "RTE")


def run(task: str, method: str, seed: int, score: float, **fields: Any) -> Any:
    return result(task=task, method=method, seed=seed, score=score, **fields)


def found(contents: list[Any], counts: Any = None) -> dict[str, list[dict[str, Any]]]:
    """Claim -> what each setting says, from the content of result files."""
    results: dict[str, list[Result]] = {}
    for number, content in enumerate(contents):
        results.setdefault(content["experiment"], []).append(result_from_json(content, f"run {number}"))
    judged = judge(settings_of(results, counts or {})[0])
    return {
        claim.key: [
            {"setting": f.setting, "effect": f.effect, "by_task": dict(f.by_task), "verdict": said}
            for f, said in findings
        ]
        for _, claims in judged
        for claim, findings in claims
    }


def levels(gains: dict[float, float], task: str = "SST-2", full: float = 0.80, **fields: Any) -> Iterator[Any]:
    """Full models of three seeds, a point apart, and winning tickets above them by each level's gain."""
    for seed in (1, 2, 3):
        base = full + 0.01 * (seed - 1)
        yield run(task, "full", seed, base, **fields)
        for level, gain in gains.items():
            yield run(task, "winning", seed, base + gain, level=level, **fields)


@pytest.mark.parametrize(
    ("rule", "low", "high", "said"),
    [
        (ABOVE, 0.1, 2.0, HOLDS),
        (ABOVE, -0.1, 2.0, OPEN),
        (ABOVE, -2.0, -0.1, FAILS),
        (BELOW, -2.0, -0.1, HOLDS),
        (BELOW, 0.1, 2.0, FAILS),
        (NO_LOSS, -0.9, 0.2, HOLDS),
        (NO_LOSS, -1.1, 0.2, OPEN),
        (NO_LOSS, -3.0, -1.1, FAILS),
        (SMALLER, 0.2, 0.9, HOLDS),
        (SMALLER, 1.2, 1.9, FAILS),
        (ABOVE, math.nan, math.nan, OPEN),
    ],
)
def test_verdicts(rule: str, low: float, high: float, said: str) -> None:
    assert verdict(rule, Effect((low + high) / 2, low, high, 3, 1, 2.0)) == said


def test_two_seeds_give_no_verdict() -> None:
    assert verdict(ABOVE, Effect(1.0, 0.9, 1.1, 2, 1, 1.0)) == OPEN


def test_gain_of_super_tickets_by_hand() -> None:
    """Two tasks; in each the best level is taken by `select`, and its gain counted: 2, 1, 3 and -1, 0, 1 points."""
    contents = []
    for task, gains in (("SST-2", (2, 1, 3)), ("RTE", (-1, 0, 1))):
        for seed, gain in enumerate(gains, 1):
            contents += [
                run(task, "full", seed, 0.7),
                run(task, "winning", seed, 0.7 + gain / 100, level=0.1, select=0.9),
                run(task, "winning", seed, 0.95, level=0.2, select=0.8),  # better, but selection doesn't know
            ]
    (here,) = found(contents)["S 5.3 (1)"]
    reach = stats.t.ppf(0.975, 4) * math.sqrt((1 / 3 + 1 / 3) / 4)  # both variances are 1, so 4 degrees of freedom
    assert here["effect"][:3] == pytest.approx((1.0, 1.0 - reach, 1.0 + reach))
    assert here["by_task"] == {"RTE": pytest.approx(0.0), "SST-2": pytest.approx(2.0)}
    assert here["effect"].n == 6 and here["verdict"] == OPEN


def test_light_and_heavy_levels() -> None:
    """Up to 30 %: (1 + 2 + 3) / 3 = 2 points above the full model; at 50 % and more (-4 - 8) / 2 = -6, so 8 less."""
    said = found([*levels({0.1: 0.01, 0.2: 0.02, 0.3: 0.03, 0.4: 0.05, 0.5: -0.04, 0.8: -0.08})])
    assert said["S 5.4 (1), full"][0]["effect"].value == pytest.approx(2.0)
    assert said["S 5.4 (2), winning"][0]["effect"].value == pytest.approx(-8.0)
    assert said["S 5.4 (2), winning"][0]["verdict"] == HOLDS
    assert said["S 5.4 (1), random"] == said["S 6.2 (1)"] == said["D 5.1"] == []


def test_a_seed_that_lacks_a_level_is_left_out() -> None:
    contents = [*levels({0.1: 0.01, 0.2: 0.02})]
    del contents[-1]  # seed 3 at 20 %
    (here,) = found(contents)["S 5.4 (1), full"]
    assert here["effect"].n == 2 and here["effect"].value == pytest.approx(1.5)


@pytest.mark.parametrize(
    ("random", "losing", "lead", "loss", "closing"),
    [
        ({0.4: -0.02, 0.6: -0.04}, {}, (4 + 4) / 2, None, None),  # random ones miss 20 %, where winning ones are best
        ({0.2: -0.01, 0.6: -0.04, 0.7: -0.06}, {0.1: -0.3, 0.2: -0.05}, (4 + 4) / 2, -4.0, 1.0 - 4.0),
        ({0.1: -0.01}, {0.2: -0.05}, None, None, None),
    ],
)
def test_kinds_of_tickets_are_compared_at_the_levels_that_both_have(
    random: dict[float, float],
    losing: dict[float, float],
    lead: float | None,
    loss: float | None,
    closing: float | None,
) -> None:
    """Winning tickets by level: 3, 2, 0 and -5 points above the full model."""
    contents = [*levels({0.2: 0.03, 0.4: 0.02, 0.6: 0.0, 0.7: -0.05})]
    for seed in (1, 2, 3):
        for kind, gains in (("random", random), ("losing", losing)):
            base = 0.80 + 0.01 * (seed - 1)
            contents += [run("SST-2", kind, seed, base + gain, level=level) for level, gain in gains.items()]
    said = found(contents)
    for place, value in (("(1), random", lead), ("(2), losing", loss), ("(2), together", closing)):
        assert [row["effect"].value for row in said[f"S 5.4 {place}"]] == (
            [] if value is None else [pytest.approx(value)]
        )


def test_gain_by_size_is_a_slope() -> None:
    """Gains of 3 points at 1,000 and 1 at 4,000 examples: two doublings, -1 each; 40 % is a level of one task alone."""
    contents = [
        *levels({0.1: 0.03, 0.4: 0.09}, "RTE", train_examples=1000),
        *levels({0.1: 0.01}, "SST-2", train_examples=4000),
    ]
    assert found(contents)["S 5.3 (2), gain"][0]["effect"].value == pytest.approx(-1.0)


def test_a_larger_model_is_found_by_its_size() -> None:
    big: dict[str, Any] = {"model": "large", "experiment": "b", "total_parameters": 3000}
    kept = {"encoder": 0.9, "without_embeddings": 0.6}
    contents = [
        *levels({0.1: 0.01}, experiment="a"),
        *(content | {"weight_remaining": kept} for content in levels({0.1: 0.04}, **big)),
    ]
    said = found(contents)
    (gain,) = said["S 5.3 (3), gain"]
    assert gain["setting"] == "a to b" and gain["effect"].value == pytest.approx(3.0)
    assert said["S 5.3 (3), weights"][0]["effect"].value == pytest.approx(40.0)


def test_models_are_compared_at_the_levels_that_both_have() -> None:
    """The larger model's best level, 40 %, is none of the smaller one's: at 20 % its gain is 2, 1 above 1."""
    big: dict[str, Any] = {"model": "large", "experiment": "b", "total_parameters": 3000}
    small, large = {0.1: 0.005, 0.2: 0.01}, {0.2: 0.02, 0.4: 0.06}
    said = found([*levels(small, experiment="a"), *levels(large, **big)])
    (gain,), (rise,) = said["S 5.3 (3), gain"], said["S 5.4 (3), models"]
    assert gain["effect"].value == pytest.approx(1.0)
    assert rise["effect"].value == pytest.approx(1.0)
    without = found([*levels({0.1: 0.01}, experiment="a"), *levels({0.4: 0.02}, **big)])
    assert without["S 5.3 (3), gain"] == without["S 5.3 (3), weights"] == []


def test_shared_tasks_of_a_seed_are_one_value() -> None:
    """Gains 1 and 3 of seed 1, 2 and 4 of seed 2, 0 and 8 of seed 3: means 2, 3, 4."""
    contents = []
    for seed, gains in enumerate(((1, 3), (2, 4), (0, 8)), 1):
        for task, gain in zip(TASKS, gains):
            contents += [run(task, "mt_dnn", seed, 0.7), run(task, "ticket_share", seed, 0.7 + gain / 100)]
    contents += [run("RTE", "mt_dnn", 4, 0.7), run("RTE", "ticket_share", 4, 0.9)]  # a seed without the other task
    (here,) = found(contents)["S 6.2 (1)"]
    known = stats.ttest_1samp([2.0, 3.0, 4.0], 0).confidence_interval(0.95)
    assert here["effect"][:3] == pytest.approx((3.0, known.low, known.high))


def test_models_that_share_other_tasks_are_settings_of_their_own() -> None:
    """Gain 2 of each seed where two tasks share an encoder, -3 where three do."""
    contents = [run("RTE", "full", seed, 0.7) for seed in (1, 2, 3)]
    for shared, gain in ((["RTE", "SST-2"], 2), (["MRPC", "RTE", "SST-2"], -3)):
        for seed in (1, 2, 3):
            contents.append(run("RTE", "mt_dnn", seed, 0.7, shared_tasks=shared))
            contents.append(run("RTE", "ticket_share", seed, 0.7 + gain / 100, shared_tasks=shared))
    said = {one["setting"].split(" (")[1]: one["effect"].value for one in found(contents)["S 6.2 (1)"]}
    assert said == {"MRPC+RTE+SST-2)": pytest.approx(-3.0), "RTE+SST-2)": pytest.approx(2.0)}


def test_adaptation_by_share_of_the_data() -> None:
    """Gains 2 with 1 % and 1 with all; seed by seed the difference is 1."""
    contents = []
    for seed in (1, 2, 3):
        for share, gain in ((0.01, 2), (1.0, 1)):
            place = {"train_fraction": share, "source_task": "MNLI"}
            contents.append(run("SNLI", "full", seed, 0.6, **place))
            contents.append(run("SNLI", "winning", seed, 0.6 + (gain + seed) / 100, level=0.1, **place))
    said = found(contents)
    assert said["S 7.2, gain"][0]["effect"].value == pytest.approx(3.5)
    assert said["S 7.2, few shots"][0]["effect"].value == pytest.approx(1.0)


def test_deviation_over_seeds() -> None:
    """Full models deviate by 1 point, tickets by 2: twice as much."""
    contents = []
    for seed in (1, 2, 3):
        contents.append(run("RTE", "full", seed, 0.7 + 0.01 * seed))
        contents.append(run("RTE", "winning", seed, 0.7 + 0.02 * seed, level=0.1))
    assert found(contents)["S 8, single task"][0]["effect"].value == pytest.approx(2.0)


def test_heads_that_all_tasks_keep() -> None:
    """12 heads; one ticket lacks two, the other three, one of them the same: 8 of 12, by chance 10/12 · 9/12."""
    contents = []
    for task, pruned in (("RTE", {0, 1}), ("SST-2", {1, 2, 3})):
        flags = [int(head not in pruned) for head in range(12)]
        ticket = super_ticket(SMALL, [flags[:4], flags[4:8], flags[8:]], [1, 1, 1]).to_json()
        contents += [run(task, "winning", seed, 0.7, level=0.2, ticket=ticket) for seed in (1, 2, 3)]
    (here,) = found(contents)["S 8, tasks"]
    assert here["effect"].value == pytest.approx(8 / 12 - 10 / 12 * 9 / 12) and here["effect"].tasks == 2


def test_what_is_not_learnt_is_left_out() -> None:
    def with_epochs(content: Any, mcc: float) -> Any:
        valid = {"mcc": mcc, "accuracy": content["scores"]["all"]["accuracy"]}
        return content | {"epochs": [{"epoch": 1, "updates": 1, "train_loss": 1.0, "valid": valid}], "best_epoch": 1}

    contents = [with_epochs(content, 0.05) for content in levels({0.1: 0.01}, "RTE", full=0.5)]
    contents += [with_epochs(content, 0.5) for content in levels({0.1: 0.02}, "SST-2")]
    (here,) = found(contents)["S 5.3 (1)"]
    assert here["by_task"] == {"SST-2": pytest.approx(2.0)}
    results = {"x": [result_from_json(content, "it") for content in contents]}
    assert settings_of(results, {})[1] == ["x: not learnt and left out: RTE."]


def test_dominant_against_others() -> None:
    contents = []
    for seed in (1, 2, 3):
        wobble = 0.001 * seed
        contents += [
            run("SST-2", "full", seed, 0.90),
            run("SST-2", "dominant", seed, 0.895 + wobble, top_k=1, curve=curve(0.6, 0.4, 0.2)),
            run("SST-2", "random_dimensions", seed, 0.70, top_k=1, curve=curve(0.8, 0.6, 0.2)),
            run("SST-2", "random_elements", seed, 0.80 + wobble),
            run("SST-2", "bitfit", seed, 0.88 + wobble),
        ]
    said = found(contents)
    assert (said["D (a), k = 1"][0]["effect"].value, said["D (a), k = 1"][0]["verdict"]) == (pytest.approx(-0.3), HOLDS)
    assert said["D 4.2, k = 1"][0]["effect"].value == pytest.approx(19.7)
    assert (said["D 5.1"][0]["effect"].value, said["D 5.1"][0]["verdict"]) == (pytest.approx(-9.8), FAILS)
    assert said["D 5.3, BitFit"][0]["verdict"] == HOLDS
    # the first half of three entries is two: (0.6 + 0.4) / (0.8 + 0.6) = 5 / 7
    assert said["D 4.2, training loss, k = 1"][0]["effect"].value == pytest.approx(100 * (5 / 7 - 1))
    assert said["D (a), k = 3"] == []


def curve(*losses: float) -> list[dict[str, Any]]:
    return [{"update": 10 * n, "train_loss": loss} for n, loss in enumerate(losses, 1)]


def ticket_run(task: str, seed: int, q_proj: list[list[int]], out_proj: list[list[int]] | None = None) -> Any:
    chosen = {"q_proj": dict(enumerate(q_proj)), "out_proj": dict(enumerate(out_proj or []))}
    return run(task, "dominant", seed, 0.7, top_k=3, ticket=dominant(SMALL, chosen).to_json())


def test_overlap_of_tickets() -> None:
    """A task's seeds share 3 of 3 dimensions, the tasks 2 of 4; both less what chance gives."""
    contents = [ticket_run("SST-2", seed, [[1, 2, 3]]) for seed in (1, 2, 3)]
    contents += [ticket_run("RTE", seed, [[2, 3, 4]]) for seed in (1, 2, 3)]
    said = found(contents)
    # random triples of 21: Σ P(k) k / (6 - k), P hypergeometric
    chance = sum(stats.hypergeom(21, 3, 3).pmf(k) * k / (6 - k) for k in range(4))
    assert said["D (b), seeds"][0]["effect"].value == pytest.approx(1 - chance)
    assert said["D (b), tasks"][0]["effect"].value == pytest.approx(0.5 - chance)


def test_similarity_of_tickets_of_a_seed_only() -> None:
    contents = [ticket_run("SST-2", 1, [[1]]), ticket_run("RTE", 2, [[1]])]
    assert found(contents)["D (b), tasks"] == []
    same = dominant(SMALL, {"q_proj": {0: [1]}})
    assert beyond_chance(same, same) == pytest.approx(1 - 1 / 21)


def test_skeleton_and_bias() -> None:
    """Three layers: dimension 7 of 20 is in every W^Q; the bias, 20, in two of three W^O; each list has one entry."""
    contents = [ticket_run("SST-2", seed, [[7], [7], [7]], [[20], [20], [4]]) for seed in (1, 2, 3)]
    said = found(contents)
    assert said["D 5.3, overlap"][0]["effect"].value == pytest.approx(2 / 3 - 1 / 21)
    # three draws of one of 21, biases not counted: all alike, a pair, none, else the commonest is in one
    alike, pair, none = 20 / 21**3, 3 * 20 * 20 / 21**3, 1 / 21**3
    chance = 3 * alike + 2 * pair + (1 - alike - pair - none)
    assert said["D (c), observation 2"][0]["effect"].value == pytest.approx(1 - chance / 3, abs=0.03)


def counts(at: int) -> DimensionCounts:
    """10 parameters moved in dimension `at` of every matrix, one in each of three more."""
    arrays = {}
    for matrix in MATRICES:
        arrays[matrix] = np.zeros((SMALL.layers, SMALL.in_features(matrix) + 1), dtype=np.int64)
        arrays[matrix][:, at], arrays[matrix][:, [5, 6, 8]] = 10, 1
    return DimensionCounts(arrays, {})


def test_where_parameters_moved() -> None:
    """Of 13 that moved 12 are in the first three dimensions; of 13 strewn over 21 or 51 columns some 5 are."""
    files = {"x": {(task, seed): counts(2) for task in TASKS for seed in (1, 2)}}
    said = found([run("SST-2", "full", 1, 0.8)], files)
    (few,), (alike,) = said["D observation 2, few"], said["D observation 1"]
    assert 12 / 13 - 6 / 13 < few["effect"].value < 12 / 13 - 3 / 13
    assert alike["effect"].value == pytest.approx(1.0)
    files["x"]["SST-2", 1] = counts(3)  # the first dimension is another one
    vectors = [np.concatenate([one.counts[m].ravel() for m in MATRICES]) for one in (counts(2), counts(3))]
    (alike,) = found([run("SST-2", "full", 1, 0.8)], files)["D observation 1"]
    assert alike["effect"].value == pytest.approx((1 + np.corrcoef(*vectors)[0, 1]) / 2)


def test_page_and_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write(tmp_path / "results", [*levels({0.1: 0.01, 0.2: 0.02})])
    assert main(["claims", f"mine={folder}"]) == 0
    page = capsys.readouterr().out
    assert page.startswith("# The papers' claims, one by one") and f"mine={folder}" in page
    assert "mine" in page and "+1.5 [+1.5, +1.5]" in page and "**holds**" in page
    assert main(["claims", f"mine={folder}", "--json"]) == 0
    said = {entry["claim"]: entry for entry in json.loads(capsys.readouterr().out)}
    assert said["S 5.4 (1), full"]["found"][0]["effect"] == pytest.approx(1.5)
    assert said["S 7.2, gain"]["found"] == []


def test_counts_of_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write(tmp_path / "results", [*levels({0.1: 0.01})])
    for task in TASKS:
        DimensionCounts(counts(2).counts, {"task": task, "seed": 1}).save(tmp_path / f"{task}.npz")
    assert main(["claims", str(folder), "--counts", f"super_tickets={tmp_path}", "--json"]) == 0
    said = {entry["claim"]: entry for entry in json.loads(capsys.readouterr().out)}
    (alike,) = said["D observation 1"]["found"]
    assert alike["results"] == "super_tickets" and alike["effect"] == pytest.approx(1.0) and alike["interval"] is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["absent"], "absent"),
        (["results", "--counts", "absent.npz"], "absent.npz"),
        (["results", "--counts", "results"], "--counts results: no .npz files in this folder"),
        (["results", "--counts", "bare.npz"], "--counts bare.npz: does not say the task and the seed"),
        (["results", "--counts", "a.npz", "b.npz"], "--counts b.npz: the second of RTE, seed 1; give them names"),
    ],
)
def test_what_is_not_there(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "results", [*levels({0.1: 0.01})])
    counts(2).save("bare.npz")
    for name in "ab":
        DimensionCounts(counts(2).counts, {"task": "RTE", "seed": 1}).save(f"{name}.npz")
    assert main(["claims", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("fairseq-tickets: error: ") and message in error and len(error.splitlines()) == 1


def test_salience_is_compared_at_the_sizes_of_the_other() -> None:
    """One pass names 4, 5, 6; the L1 run found 5, 9 only: of 4, 5 and 5, 9 one of three is common."""
    contents = []
    for seed in (1, 2, 3):
        contents.append(ticket_run("SST-2", seed, [[5, 9]]))
        contents.append(ticket_run("SST-2", seed, [[4, 5, 6]]) | {"method": "salience", "key": f"salience-{seed}"})
    chance = sum(stats.hypergeom(21, 2, 2).pmf(k) * k / (4 - k) for k in range(3))
    assert found(contents)["salience, overlap"][0]["effect"].value == pytest.approx(1 / 3 - chance)
