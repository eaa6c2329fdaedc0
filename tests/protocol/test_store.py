"""Folders of steps: what counts as done, what is refused by name, results that travel as lines of a file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fairseq_tickets.analysis.result_lines import result_line
from fairseq_tickets.analysis.results import checksum
from fairseq_tickets.errors import UserError
from fairseq_tickets.protocol.steps import step_key
from fairseq_tickets.protocol.store import Store, check_output, done_facts, inputs_of, write_done, write_result
from tests.analysis import samples

INPUTS = {"model": {"file": "model.pt", "sha256": "aa"}, "RTE: train": {"file": "train.tsv", "sha256": "bb"}}
CHANGED = {**INPUTS, "RTE: train": {"file": "train.tsv", "sha256": "cc"}}


def finish(folder: Path, key: str = "one", **changes: Any) -> Path:
    """A finished run; its result file."""
    content = samples.result(key=key, inputs=INPUTS, **changes)
    write_result(folder / key, content)
    write_done(folder / key, [folder / key / "result.json"], {"seconds": 2.0, "inputs": inputs_of(content)})
    return folder / key / "result.json"


def line(key: str, **changes: Any) -> str:
    content = samples.result(key=key, inputs=INPUTS, wall_seconds=3.0, **changes)
    return result_line({**content, "checksum": checksum(content)})


def test_a_step_is_done_with_its_mark(tmp_path: Path) -> None:
    assert not Store(tmp_path).done("one")
    folder = finish(tmp_path).parent
    assert Store(tmp_path).done("one") and Store(tmp_path).seconds("one") == 2.0
    (folder / "done.json").rename(folder / "other.json")
    (folder / "result.json").unlink()  # a folder is never enough
    assert not Store(tmp_path).done("one")


@pytest.mark.parametrize("damage", [lambda text: text.replace("0.7", "0.9"), lambda text: text[:40], lambda text: ""])
def test_an_edited_or_cut_result_is_refused_by_name(tmp_path: Path, damage: Any) -> None:
    path = finish(tmp_path)
    path.write_text(damage(path.read_text()))
    with pytest.raises(UserError, match="result.json was changed after it was written; delete") as error:
        Store(tmp_path).done("one")
    assert str(path) in str(error.value)


def test_a_damaged_mark_is_refused_by_name(tmp_path: Path) -> None:
    path = finish(tmp_path).with_name("done.json")
    for text in ("", "{}", '{"outputs": []}'):
        path.write_text(text)
        with pytest.raises(UserError, match=r"done\.json"):
            Store(tmp_path).done("one")


def test_a_result_in_another_steps_folder_is_refused(tmp_path: Path) -> None:
    finish(tmp_path)
    (tmp_path / "one").rename(tmp_path / "two")
    with pytest.raises(UserError, match="moved or copied"):
        Store(tmp_path).result("two")


def test_outputs_are_there_and_unchanged_or_refused(tmp_path: Path) -> None:
    folder = tmp_path / "key"
    (folder / "data").mkdir(parents=True)
    for name in ("scores.npz", "data/a", "data/b"):
        (folder / name).write_bytes(name.encode())
    write_done(folder, [folder / name for name in ("scores.npz", "data/a", "data/b")], {})
    store, facts = Store(tmp_path), done_facts(folder)
    assert facts is not None
    assert [store.has("key", name) for name in ("scores.npz", "data", "dat", "counts.npz")] == [
        True,
        True,
        False,
        False,
    ]
    check_output(folder, "data", facts)
    (folder / "data" / "b").write_bytes(b"x")
    with pytest.raises(UserError, match="data/b was changed after it was written"):
        check_output(folder, "data", facts)
    (folder / "data" / "b").unlink()
    assert not store.has("key", "data") and store.has("key", "scores.npz")


def test_results_of_a_file_count_as_done_and_stay(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "other.jsonl").write_text(line("one") + line("two"))
    finish(tmp_path, "three")
    store = Store(tmp_path)
    assert store.keys() == {"one", "two", "three"} and store.seconds("one") == 3.0
    assert store.result("two").key == "two" and not store.has("two", "ticket.json")
    store.adopt()
    assert store.write_lines(["three"]) == 1
    (tmp_path / "results" / "other.jsonl").unlink()
    again = Store(tmp_path)
    assert again.keys() == {"one", "two", "three"} and again.content("two") == json.loads(line("two"))


def test_a_result_without_its_mark_is_nothing(tmp_path: Path) -> None:
    write_result(tmp_path / "one", samples.result(key="one", inputs=INPUTS))
    assert not Store(tmp_path).done("one") and Store(tmp_path).keys() == set()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text.replace("0.7", "0.9"), "line 1 was changed after it was written"),
        (lambda text: text[: len(text) // 2], "line 1 is not valid JSON"),
    ],
)
def test_a_damaged_line_is_refused(tmp_path: Path, damage: Any, message: str) -> None:
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "runs.jsonl").write_text(damage(line("one")))
    with pytest.raises(UserError, match=message):
        Store(tmp_path).done("one")


def test_changed_inputs_are_refused_and_named(tmp_path: Path) -> None:
    path, store = finish(tmp_path), Store(tmp_path)
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "runs.jsonl").write_text(line("two"))
    store.check_inputs(INPUTS)
    before = path.read_bytes()
    with pytest.raises(UserError, match=r"RTE: train \(train.tsv\) changed after 2 runs"):
        store.check_inputs(CHANGED)
    assert path.read_bytes() == before
    store.adopt()
    assert store.set_aside(CHANGED) == ["one", "two"]
    again = Store(tmp_path)
    assert not again.done("one") and not again.done("two")
    again.check_inputs(CHANGED)
    assert (tmp_path / "one.replaced" / "result.json").read_bytes() == before


def test_files_are_collected_side_by_side(tmp_path: Path) -> None:
    store = Store(tmp_path)
    one, two = finish(tmp_path, "one"), finish(tmp_path, "two")
    store.collect("tickets", {"one.json": one, "two.json": two})
    (tmp_path / "tickets" / "table.md").write_text("a user's own file")
    store.collect("tickets", {"second.json": two})
    assert sorted(path.name for path in (tmp_path / "tickets").iterdir()) == ["second.json", "table.md"]
    assert (tmp_path / "tickets" / "second.json").read_bytes() == two.read_bytes()
    store.collect("counts", {})
    assert not (tmp_path / "counts").exists()


def test_two_processes_may_collect_in_the_same_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever one of them finds in the folder, the other may have deleted before it is touched."""
    store, one = Store(tmp_path), finish(tmp_path, "one")
    store.collect("tickets", {"one.json": one, "old.json": one})

    def other_comes_first(path: Path, look: Any = Path.iterdir) -> Iterator[Path]:
        for found in list(look(path)):
            if found.is_file():
                found.unlink()
                yield found

    monkeypatch.setattr(Path, "iterdir", other_comes_first)
    store.collect("tickets", {"one.json": one})
    assert (tmp_path / "tickets" / "one.json").read_bytes() == one.read_bytes()
    assert not (tmp_path / "tickets" / "old.json").exists()


def test_a_result_that_could_not_be_read_again_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="must be between -1 and 1"):
        write_result(tmp_path, samples.result(score=70.0))
    assert list(tmp_path.iterdir()) == []


def test_a_key_by_hand() -> None:
    # sha256 of {"kind":"x","result_version":1}, first 20 hex digits: echo -n ... | sha256sum
    assert step_key("x", {}) == hashlib.sha256(b'{"kind":"x","result_version":1}').hexdigest()[:20]
    assert step_key("x", {"a": 1, "b": 2}) == step_key("x", {"b": 2, "a": 1})
    assert step_key("x", {"a": 1}) != step_key("x", {"a": 1.5})
