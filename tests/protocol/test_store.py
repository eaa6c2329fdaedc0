"""Run folders: what counts as finished, what is refused by name, the lock."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fairseq_tickets.errors import UserError
from fairseq_tickets.protocol.runs import SCORE, TRAIN, Run, make_run, run_key
from fairseq_tickets.protocol.store import Store, write_done, write_result
from tests.analysis import samples

INPUTS = {"model": {"file": "model.pt", "sha256": "aa"}, "RTE: train": {"file": "train.tsv", "sha256": "bb"}}


def train_run(seed: int = 1, **options: Any) -> Run:
    what = {"task": "RTE", "method": "full", "seed": seed, "level": None, "fraction": 1.0}
    return make_run(TRAIN, what, told={"data": "nowhere"}, **options)


def finish(store: Store, run: Run, **changes: Any) -> Path:
    folder = store.start(run)
    content = samples.result(key=run.key, seed=run.what["seed"], inputs=INPUTS, **changes)
    write_result(folder / "result.json", content)
    return folder / "result.json"


def test_a_run_is_finished_with_its_result(tmp_path: Path) -> None:
    store, run = Store(tmp_path), train_run()
    assert not store.finished(run)
    store.start(run)
    assert not store.finished(run)
    finish(store, run)
    assert store.finished(run)
    assert Store(tmp_path).finished(run)


def test_what_a_cut_run_left_is_removed(tmp_path: Path) -> None:
    store, run = Store(tmp_path), train_run()
    (store.start(run) / "half.pt").write_text("half")
    store.start(run)
    assert sorted(path.name for path in (tmp_path / run.key).iterdir()) == ["spec.json"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text.replace('"accuracy": 0.7', '"accuracy": 0.9'), "was changed after it was written"),
        (lambda text: text[: len(text) // 2], "damaged or cut"),
        (lambda text: json.dumps({k: v for k, v in json.loads(text).items() if k != "checksum"}), "has no checksum"),
        (lambda text: "", "damaged or cut"),
    ],
)
def test_an_edited_or_cut_result_is_refused_by_name(tmp_path: Path, damage: Any, message: str) -> None:
    store, run = Store(tmp_path), train_run()
    path = finish(store, run)
    path.write_text(damage(path.read_text()))
    with pytest.raises(UserError, match=message) as error:
        Store(tmp_path).finished(run)
    assert str(path) in str(error.value)


def test_a_result_in_another_runs_folder_is_refused(tmp_path: Path) -> None:
    store = Store(tmp_path)
    path = finish(store, train_run(1))
    other = store.start(train_run(2))
    (other / "result.json").write_bytes(path.read_bytes())
    with pytest.raises(UserError, match="moved or copied"):
        Store(tmp_path).results()


def test_changed_scores_are_refused(tmp_path: Path) -> None:
    store = Store(tmp_path)
    run = make_run(SCORE, {"task": "RTE"})
    folder = store.start(run)
    (folder / "scores.npz").write_bytes(b"scores")
    write_done(folder, "scores.npz", {})
    assert store.finished(run)
    (folder / "scores.npz").write_bytes(b"other")
    with pytest.raises(UserError, match="scores.npz was changed after it was written"):
        Store(tmp_path).finished(run)


def test_changed_inputs_are_refused_and_named(tmp_path: Path) -> None:
    store, run = Store(tmp_path), train_run()
    path = finish(store, run)
    store.check_inputs(INPUTS, rerun=False)
    changed = {**INPUTS, "RTE: train": {"file": "train.tsv", "sha256": "cc"}}
    before = path.read_bytes()
    with pytest.raises(UserError, match=r"RTE: train \(train.tsv\) changed after 1 runs"):
        store.check_inputs(changed, rerun=False)
    assert path.read_bytes() == before
    assert store.check_inputs(changed, rerun=True) == [run.key]
    assert not Store(tmp_path).finished(run)
    assert path.with_name("result.json.replaced").read_bytes() == before


def test_two_processes_do_not_work_in_one_folder(tmp_path: Path) -> None:
    with (
        Store(tmp_path).lock(),
        pytest.raises(UserError, match="another `fairseq-tickets run` works in"),
        Store(tmp_path).lock(patience=0.0),
    ):
        pass
    with Store(tmp_path).lock(patience=0.0):
        pass


def test_files_are_collected_side_by_side(tmp_path: Path) -> None:
    store, first, second = Store(tmp_path), train_run(1), train_run(2)
    finish(store, first)
    finish(store, second)
    one, two = (tmp_path / run.key / "result.json" for run in (first, second))
    store.collect("results", {"one.json": one, "two.json": two})
    (tmp_path / "results" / "table.md").write_text("a user's own file")
    store.collect("results", {"second.json": two})
    assert sorted(path.name for path in (tmp_path / "results").iterdir()) == ["second.json", "table.md"]
    assert (tmp_path / "results" / "second.json").read_bytes() == two.read_bytes()
    store.collect("tickets", {})
    assert not (tmp_path / "tickets").exists()
    assert set(Store(tmp_path).results()) == {first.key, second.key}


def test_only_needed_checkpoints_stay(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for seed in (1, 2):
        (store.start(train_run(seed)) / "checkpoint.pt").write_bytes(b"weights")
    store.drop_checkpoints([train_run(2).key])
    assert not store.has_checkpoint(train_run(1).key)
    assert store.has_checkpoint(train_run(2).key)


def test_a_result_that_could_not_be_read_again_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="must be between -1 and 1"):
        write_result(tmp_path / "result.json", samples.result(score=70.0))
    assert list(tmp_path.iterdir()) == []


def test_a_key_by_hand() -> None:
    # sha256 of {"kind":"x","result_version":1}, first 20 hex digits: echo -n ... | sha256sum
    import hashlib

    assert run_key({"kind": "x"}) == hashlib.sha256(b'{"kind":"x","result_version":1}').hexdigest()[:20]
    assert run_key({"a": 1, "b": 2}) == run_key({"b": 2, "a": 1})
    assert run_key({"a": 1}) != run_key({"a": 1.5})
