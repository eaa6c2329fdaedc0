"""Result files: what is accepted, what is refused and how, super tickets, searched options."""

from __future__ import annotations

import json

import pytest

from fairseq_tickets.analysis import results
from fairseq_tickets.analysis.result_lines import result_line
from fairseq_tickets.errors import UserError

from .samples import result, write


def load(content):
    return results.result_from_json(content, "r.json")


def test_a_folder_and_a_file_named_twice_count_once(tmp_path):
    folder = write(tmp_path / "runs", [result(seed=1), result(seed=2)])
    (folder / "ticket.json").write_text('{"format": "fairseq-tickets/super"}')
    found = results.load_results([folder, folder / "0001.json"])
    assert [r.seed for r in found] == [1, 2]
    assert found[0].config["lr"] == 5e-5 and found[0].score() == 0.7


def test_two_files_for_one_run(tmp_path):
    write(tmp_path, [result(score=0.7), result(score=0.8)])
    with pytest.raises(UserError, match="claim the same run but differ"):
        results.load_results([tmp_path])
    write(tmp_path, [result(key="a"), result(key="b", score=0.8)])
    with pytest.raises(UserError, match="claim the same run but differ"):
        results.load_results([tmp_path])


def test_a_run_that_shared_an_encoder_with_other_tasks_is_another_run(tmp_path):
    two, three = ["RTE", "MRPC"], ["RTE", "MRPC", "SST-2"]
    same = {"method": "mt_dnn", "config": {"lr": 1e-4}}
    write(tmp_path, [result(key="a", shared_tasks=two, **same), result(key="b", score=0.8, shared_tasks=three, **same)])
    assert [len(r.shared_tasks) for r in results.load_results([tmp_path])] == [2, 3]
    write(tmp_path, [result(key="a", shared_tasks=two, **same), result(key="b", score=0.8, shared_tasks=two, **same)])
    with pytest.raises(UserError, match="claim the same run but differ"):
        results.load_results([tmp_path])
    with pytest.raises(UserError, match="shared_tasks is 'RTE'; it must be a list of texts"):
        load(result(shared_tasks="RTE"))


def test_cut_file_and_empty_folder(tmp_path):
    with pytest.raises(UserError, match="no result files in"):
        results.load_results([tmp_path])
    text = json.dumps(result())
    (tmp_path / "cut.json").write_text(text[: len(text) // 2])
    with pytest.raises(UserError, match=r"cut\.json is not valid JSON"):
        results.load_results([tmp_path])


def lines(*contents):
    return "".join(result_line({**content, "checksum": results.checksum(content)}) for content in contents)


def test_many_runs_in_one_file_are_read_as_many_files_are(tmp_path):
    contents = [result(seed=1), result(seed=2, score=0.6)]
    folder, file = write(tmp_path / "one-each", contents), tmp_path / "all" / "runs.jsonl"
    file.parent.mkdir()
    file.write_text(lines(*contents))
    expected = [dict(vars(found), path="") for found in results.load_results([folder])]
    for paths in ([file], [file.parent], [file, folder]):  # the same run found twice counts once
        assert [dict(vars(found), path="") for found in results.load_results(paths)] == expected
    file.write_text(lines(result(seed=1, score=0.8)))
    with pytest.raises(UserError, match="runs.jsonl, line 1 claim the same run but differ"):
        results.load_results([folder, file])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text.replace("0.7", "0.9"), "line 1 was changed after it was written"),
        (lambda text: text[:-20], "line 2 is not valid JSON"),
        (lambda text: text + "[1]\n", "line 3 has no checksum"),
        (lambda text: text + json.dumps(result(seed=3)) + "\n", "line 3 has no checksum"),
    ],
)
def test_a_damaged_line_is_named(tmp_path, damage, message):
    (tmp_path / "runs.jsonl").write_text(damage(lines(result(seed=1), result(seed=2))))
    with pytest.raises(UserError, match=rf"runs\.jsonl, {message}"):
        results.load_results([tmp_path])


EDITED = [
    ({"format": "something"}, "not a result file"),
    ({"version": 9}, "result version 9 is unknown"),
    ({"method": "loosing"}, "method is 'loosing'; it must be one of full, winning"),
    ({"seed": "1"}, "seed is '1'; it must be a whole number"),
    ({"seed": True}, "seed is True"),
    ({"level": 20}, "level is 20; it must be null or between 0 and 1"),
    ({"train_fraction": 0}, "train_fraction is 0"),
    ({"top_k": 0}, "top_k is 0"),
    ({"partial_data": "no"}, "partial_data is 'no'"),
    ({"scores": {}}, "no scores for all"),
    ({"scores": {"all": {"accuracy": 71.2}}}, "all accuracy is 71.2; a score must be between -1 and 1"),
    ({"scores": {"all": {"accuracy": float("nan")}}}, "all accuracy is nan"),
    ({"scores": {"test": {"accuracy": 0.5}}}, "not 'test'"),
    ({"epochs": [{"epoch": 1, "valid": {}}], "best_epoch": 3}, "best_epoch 3 is not among its epochs"),
    (
        {"epochs": [{"epoch": 1, "valid": {"accuracy": 0.65}}], "best_epoch": 1},
        "all accuracy is 0.7, its best",
    ),
    (
        {"epochs": [{"epoch": 1, "valid": {"accuracy_select": 0.6}}], "best_epoch": 1},
        "select accuracy is 0.7, its",
    ),
    ({"checksum": "0" * 64}, "changed after it was written"),
]


@pytest.mark.parametrize(("change", "reason"), EDITED)
def test_refused(change, reason):
    with pytest.raises(UserError, match=reason):
        load(result(**change))


def test_a_missing_field_is_named():
    content = result()
    del content["train_fraction"]
    with pytest.raises(UserError, match="lacks 'train_fraction'"):
        load(content)


def test_checksum_fits_whatever_the_order_of_fields():
    content = result()
    content["checksum"] = results.checksum(content)
    assert load(dict(reversed(content.items()))).seed == 1
    content["scores"]["all"]["accuracy"] = 0.71
    with pytest.raises(UserError, match="changed after"):
        load(content)


def test_task_score_is_the_mean_of_two_metrics():
    two = load(result(task="MRPC", scores={"all": {"accuracy": 0.8, "f1": 0.9}}))
    assert two.score() == pytest.approx(0.85)
    with pytest.raises(UserError, match="no scores for split 'select'"):
        two.score("select")
    with pytest.raises(UserError, match="no f1 among the scores of MRPC"):
        load(result(task="MRPC")).score()
    mnli = {"accuracy": 0.8, "accuracy_mm": 0.7}
    assert load(result(task="MNLI", scores={"all": mnli})).score() == pytest.approx(0.75)
    assert load(result(task="MNLI", score=0.8)).score() == pytest.approx(0.8)
    own = load(result(task="origin", scores={"all": {"accuracy": 0.6, "mcc": 0.1}}))
    assert own.score() == pytest.approx(0.6)  # a task that GLUE does not know: accuracy where it was measured


def test_select_by_value_and_by_any_of():
    runs = [load(result(task=t, method=m)) for t in ("RTE", "MRPC") for m in ("full", "winning", "random")]
    assert len(results.select(runs, task="RTE")) == 3
    assert len(results.select(runs, task="RTE", method={"full", "random"})) == 2


def winning(level, select, seed=1, **more):
    return load(result(method="winning", level=level, select=select, seed=seed, **more))


def test_super_tickets_best_on_select_smallest_level_on_ties():
    """Seed 1: levels 0.2 and 0.4 tie at 0.8. Seed 2: 0.3 wins, though 0.1 is better on all of dev."""
    runs = [winning(0.4, 0.8), winning(0.2, 0.8), winning(0.1, 0.7)]
    runs += [winning(0.1, 0.5, seed=2, score=0.9), winning(0.3, 0.6, seed=2, score=0.1)]
    runs += [load(result(method="random", level=0.1, select=1.0))]
    assert {r.seed: r.level for r in results.super_tickets(runs)} == {1: 0.2, 2: 0.3}


def test_tuned_takes_the_best_mean_over_seeds():
    """lr 1e-4: 0.6 and 0.8, mean 0.7; lr 5e-5: 0.65 twice; lr 2e-4 has one lucky seed, no rival."""
    table = {1e-4: [0.6, 0.8], 5e-5: [0.65, 0.65], 2e-4: [0.99]}
    runs = [load(result(seed=s, score=v, config={"lr": lr})) for lr, row in table.items() for s, v in enumerate(row)]
    assert {r.config["lr"] for r in results.tuned(runs)} == {1e-4}
    assert len(results.tuned(runs)) == 2


def test_tuned_judges_winning_tickets_by_their_best_level():
    """lr 1: best levels 0.9; lr 2: best level 0.8 though every other level is better than lr 1's."""
    good = [winning(level, v, config={"lr": 1}) for level, v in ((0.1, 0.9), (0.2, 0.1))]
    flat = [winning(level, v, config={"lr": 2}) for level, v in ((0.1, 0.8), (0.2, 0.8))]
    assert {r.config["lr"] for r in results.tuned(good + flat)} == {1}


def test_signature_tells_runs_apart():
    one, two = load(result(seed=1)), load(result(seed=2, partial_data=True, key="other"))
    text = results.signature([one, two])
    assert text.startswith("runs=2|seeds=1,2|data=partial (RTE)|fairseq_tickets=0.1.0|torch=2.13.0|config=")
    assert results.signature([one]).split("|config=")[1] != text.split("|config=")[1]
    assert "data=whole" in results.signature([one])


def test_signature_names_subsets():
    """A task trained on a fixed subset is not on whole data, whatever its files say."""
    text = results.signature([load(result(task="SST-2", config={"lr": 1, "subset": 6000})), load(result())])
    assert "|data=partial (SST-2 subset 6000)|" in text
