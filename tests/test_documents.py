"""JSON and YAML that mean one thing only: what is taken, what is refused and which place the line names."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from fairseq_tickets.documents import MAX_DEPTH, parse_json, parse_yaml
from fairseq_tickets.errors import UserError
from fairseq_tickets.files import read_json, read_text, read_yaml, write_json

JSON_REFUSED = [
    ('{"a": 1,\n"b": {"c": 1,\n"c": 2}}', r"key 'c' stands twice in one object \(lines 2 and 3\)"),
    ('{"a": NaN}', "holds NaN"),
    ('{"a": [-Infinity]}', "holds -Infinity"),
    ('{"a": [0, 1e400]}', "/a/1 is inf; a number must be finite"),
    ('{"a": ' + "9" * 200 + "}", "/a is a whole number of more than 120 digits"),
    ("9" * 10_000, "whole number of (thousands|more than 120) "),
    ("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1), f"deeper than {MAX_DEPTH}"),
    ("[" * 200_000, f"deeper than {MAX_DEPTH}"),
    ('{"a":' * 200_000, f"deeper than {MAX_DEPTH}"),
    ('{"a": "\\ud800"}', "/a holds half a surrogate pair"),
    ('{"\\udfff": 1}', "a key below / holds half a surrogate pair"),
    ('{"a": 1', "not valid JSON"),
    ("", "not valid JSON"),
    ("{} {}", "not valid JSON"),
]


@pytest.mark.parametrize("text, says", JSON_REFUSED, ids=[says for _, says in JSON_REFUSED])
def test_json_refused(text: str, says: str) -> None:
    with pytest.raises(UserError, match=f"^it.*{says}") as caught:
        parse_json(text, "it")
    assert len(str(caught.value)) < 300 and "\n" not in str(caught.value)


def test_json_taken() -> None:
    deep: Any = 1
    for _ in range(MAX_DEPTH):
        deep = [deep]
    for content in (deep, {"a": {"a": 1}, "b": "\U0001f600 \u0000", "c": 10**100, "d": [1.5, None, True]}):
        assert parse_json(json.dumps(content), "it") == content


BOMB = "a: &a [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]\n" + "".join(
    f"{new}: &{new} [{', '.join(['*' + old] * 10)}]\n" for old, new in zip("abcdefg", "bcdefgh")
)
YAML_REFUSED = [
    ("a: 1\nb:\n  c: 1\n  c: 2", "line 4: the key 'c' stands twice"),
    ("a: !!python/object/apply:os.system [id]", "line 1: the tag 'tag:yaml.org,2002:python/object/apply:os.syst"),
    ("!!python/name:os.system", "the tag 'tag:yaml.org,2002:python/name:os.system' is not allowed"),
    ("a: !!str 5", "tag .* is not allowed"),
    ("a: !!float x", "tag .* is not allowed"),
    ("a: !own 5", "tag '!own' is not allowed"),
    (BOMB, "aliases write out to more than"),
    (BOMB.replace("[*", "[<<, *"), "aliases write out to more than"),
    ("a: &a [*a]", "nested deeper"),
    ("a: &a\n  <<: *a", "nested deeper|not valid YAML"),
    ("[" * 5000, "nested deeper|not valid YAML"),
    ("- " * 5000 + "1", "nested deeper"),
    ("a: .nan", "/a is nan"),
    ("a: [1, -.inf]", "/a/1 is -inf"),
    ("a: 1e999", "/a is inf"),
    ("a: " + "1" * 10_000, "not valid YAML|more than 120 digits"),
    ("? [1, 2]\n: 3", "line 1: a key must be a word"),
    ("a: *missing", "not valid YAML"),
    ("a: \x00", "not valid YAML"),
    ("a: [1", "not valid YAML"),
    ("---\na: 1\n---\nb: 2", "not valid YAML"),
    ("\t- a", "not valid YAML"),
]


@pytest.mark.parametrize("text, says", YAML_REFUSED, ids=range(len(YAML_REFUSED)))
def test_yaml_refused(text: str, says: str) -> None:
    with pytest.raises(UserError, match=f"^it.*({says})") as caught:
        parse_yaml(text, "it")
    assert len(str(caught.value)) < 400 and "\n" not in str(caught.value)


def test_merge_keys_that_multiply_are_refused() -> None:
    text = "a: &a {x: 1}\n" + "".join(
        f"{new}: &{new} {{<<: [{', '.join(['*' + old] * 10)}]}}\n" for old, new in zip("abcdefg", "bcdefgh")
    )
    with pytest.raises(UserError, match="aliases write out"):
        parse_yaml(text, "it")


def test_yaml_taken() -> None:
    text = """
a: [1, -2, 1e-5, 5E3, 0.5, .5, 1., 1.5e+3, 1_000]
b: [010, 1:30, 2023-01-02, 2023-99-99, "5", '1e3', 1e, e5, 0x1F, "010"]
c: [true, null, ~, ]
base: &base {x: 1, y: 2}
merged:
  <<: *base
  y: 3
list: &all [k, l]
again: *all
"""
    content = parse_yaml(text, "it")
    assert content["a"] == [1, -2, 1e-5, 5e3, 0.5, 0.5, 1.0, 1500.0, 1000]
    assert [type(value) for value in content["a"]] == [int, int, *[float] * 6, int]
    assert content["b"] == ["010", "1:30", "2023-01-02", "2023-99-99", "5", "1e3", "1e", "e5", "0x1F", "010"]
    assert content["c"] == [True, None, None]
    assert content["merged"] == {"x": 1, "y": 3}
    assert content["again"] == ["k", "l"]
    assert parse_yaml("", "it") is None and parse_yaml("# nothing\n", "it") is None


@pytest.mark.parametrize("read", [read_json, read_yaml])
def test_files_say_why_they_cannot_be_read(read: Any, tmp_path: Path) -> None:
    (tmp_path / "bytes").write_bytes(b'"\xff"')
    (tmp_path / "mark").write_bytes(b'\xef\xbb\xbf{"a": 1}')
    (tmp_path / "wide").write_bytes('{"a": 1}'.encode("utf-16"))
    for name, says in (
        ("missing", "No such file"),
        (".", "Is a directory"),
        ("bytes", "byte 1 is 0xff"),
        ("wide", "not UTF-8"),
        ("a\0b", "no file can have this name"),
        ("a\ud800b", "no file can have this name"),
        ("n" * 300, "File name too long"),
        ("mark/a", "Not a directory"),
    ):
        with pytest.raises(UserError, match=says) as caught:
            read(f"{tmp_path}/{name}", "ticket")
        str(caught.value).encode()
    assert read(tmp_path / "mark", "ticket") == {"a": 1}
    with pytest.raises(UserError, match="longer than 5 bytes"):
        read(tmp_path / "mark", "ticket", 5)


def test_a_file_without_an_end_is_not_read_to_the_end() -> None:
    with pytest.raises(UserError, match="longer than 1,000 bytes"):
        read_text("/dev/zero", "ticket", 1000)


@pytest.mark.parametrize("value", [math.nan, math.inf, {"x": [-math.inf]}, "\ud800", 10**200])
def test_content_that_cannot_be_read_back_is_not_written(value: object, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot write .*out\.json: /a"):
        write_json(tmp_path / "out.json", {"a": value})
    assert not list(tmp_path.iterdir())
