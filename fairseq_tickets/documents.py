"""JSON and YAML that mean one thing only: what every text file of settings or records is read and written through.

Both formats let a file say a thing twice, nest without end and hold numbers that no computation can use; the
standard readers take the last of two equal keys, end in a RecursionError or give infinity. Here such content is
refused by one line that names the place. A place is written like /heads/0/3: keys and indices from the top.

YAML is read as data of JSON's kinds: no tags, no dates, and numbers as people mean them (1e-5 is a number, 010 and
1:30 are texts). Anchors and aliases are allowed as long as the whole stays small once they are written out.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from fairseq_tickets.errors import UserError

MAX_DEPTH = 64
MAX_NODES = 200_000  # of a YAML file, aliases written out
_MANY = 1 << 62
_MAX_BITS = 400  # of a whole number: about 120 digits
_SURROGATE = re.compile("[\ud800-\udfff]")


class _KeyTwice(Exception):
    """The key is the message."""


class _NoNumber(Exception):
    """The word is the message."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        raise _KeyTwice(Counter(name for name, _ in pairs).most_common(1)[0][0])
    return content


def _no_number(word: str) -> Any:
    raise _NoNumber(word)


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_number)  # made once: lines are many


def parse_json(text: str, source: str) -> Any:
    """Content of a JSON text; `source` names it in errors ("ticket file t.json").

    Raises:
        UserError: not JSON, a key twice in one object, nested deeper than MAX_DEPTH, NaN, infinity, a number
            beyond a float's range or of hundreds of digits, or half a surrogate pair.
    """

    try:
        content = _DECODER.decode(text)
    except _KeyTwice as error:
        twice = str(error)
        raise UserError(f"{source}: the key {shown(twice)} stands twice in one object{_lines(text, twice)}") from None
    except _NoNumber as error:
        raise UserError(f"{source} holds {error}, which is not a JSON number") from None
    except RecursionError:
        raise UserError(_too_deep(source)) from None
    except ValueError as error:
        if "integer string conversion" in str(error):
            raise UserError(f"{source} holds a whole number of thousands of digits") from None
        raise UserError(f"{source} is not valid JSON (damaged or cut?): {error}") from error
    check_plain(content, source)
    return content


def parse_yaml(text: str, source: str) -> Any:
    """Content of a YAML text: None, true and false, numbers, texts, lists and mappings; `source` as for JSON.

    Raises:
        UserError: not YAML, a tag (such as !!python/name), a key twice in one mapping, nested deeper than
            MAX_DEPTH, aliases that write out to more than MAX_NODES values, or numbers that JSON refuses.
    """
    import yaml

    try:
        loader = _loader()(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _check_nodes(loader, node, source)
        content = loader.construct_document(node)
    except RecursionError:
        raise UserError(_too_deep(source)) from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: characters and numbers that PyYAML stumbles over
        raise UserError(f"{source} is not valid YAML: {' '.join(str(error).split())}") from error
    check_plain(content, source, nul=False)
    return content


def check_plain(content: Any, source: str, nul: bool = True) -> None:
    """Refuse content that JSON can't hold or that nobody means: see `parse_json`; other kinds are left to `json`.

    Args:
        content: what a file holds or will hold.
        source: names it in errors.
        nul: whether texts may hold the NUL character; a path or a name can't.

    Raises:
        UserError: naming `source` and the place of the value.
    """
    stack: list[tuple[Any, tuple[Any, ...]]] = [(content, ())]
    while stack:
        value, place = stack.pop()
        if isinstance(value, Mapping):
            children = list(value.items())
            for key in value:
                if isinstance(key, str) and not key.isascii() and _SURROGATE.search(key):
                    raise UserError(f"{source}: a key below {_pointer(place)} holds half a surrogate pair: {key!a}")
        elif isinstance(value, (list, tuple)):
            children = list(enumerate(value))
        else:
            _check_scalar(value, source, place)
            continue
        if len(place) >= MAX_DEPTH:
            raise UserError(_too_deep(source))
        for name, child in children:
            if _is_plain(child) and (nul or type(child) is not str or "\0" not in child):
                continue
            if isinstance(child, (Mapping, list, tuple)):
                stack.append((child, (*place, name)))
            elif isinstance(child, (float, int, str)):
                _check_scalar(child, source, (*place, name))
                if not nul and isinstance(child, str) and "\0" in child:
                    raise UserError(f"{source}: {_pointer((*place, name))} holds a NUL character: {shown(child)}")


def is_whole(value: Any, low: int, high: int) -> bool:
    """True for a whole number from `low` to `high`: an int, neither a truth value nor 1.0."""
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def shown(value: Any, length: int = 60) -> str:
    """A value for an error line: on one line, and not longer than `length`."""
    try:
        text = ascii(value) if isinstance(value, str) and not value.isprintable() else repr(value)
    except ValueError:  # a whole number with more digits than Python writes
        text = "a huge number"
    return text if len(text) <= length else text[: length - 3] + "..."


def _is_plain(value: Any) -> bool:
    """True for what most values are, told fast: a finite float, a small whole number, an ASCII text, true, false."""
    kind = type(value)
    if kind is float:
        return bool(value - value == 0.0)  # neither infinite nor NaN
    if kind is int:
        return -_MANY < value < _MANY
    return value.isascii() if kind is str else value is None or kind is bool


def _check_scalar(value: Any, source: str, place: tuple[Any, ...]) -> None:
    if isinstance(value, float):
        if not math.isfinite(value):
            raise UserError(f"{source}: {_pointer(place)} is {value}; a number must be finite")
    elif isinstance(value, int):
        if value.bit_length() > _MAX_BITS:
            raise UserError(f"{source}: {_pointer(place)} is a whole number of more than 120 digits")
    elif isinstance(value, str) and not value.isascii() and _SURROGATE.search(value):
        raise UserError(f"{source}: {_pointer(place)} holds half a surrogate pair: {shown(value)}")


def _check_nodes(loader: Any, root: Any, source: str) -> None:
    """Walk a YAML document before anything is made of it, with aliases written out."""
    import yaml

    stack, seen = [(root, 0)], 0
    while stack:
        node, depth = stack.pop()
        seen += 1
        line = f"line {node.start_mark.line + 1}"
        if seen > MAX_NODES:
            raise UserError(f"{source}: its aliases write out to more than {MAX_NODES:,} values")
        if depth > MAX_DEPTH:
            raise UserError(_too_deep(source))
        plain = isinstance(node, yaml.ScalarNode) and node.style is None
        if node.tag != loader.resolve(type(node), node.value, (plain, not plain)):
            raise UserError(f"{source}, {line}: the tag {shown(node.tag)} is not allowed; write the value without it")
        if isinstance(node, yaml.MappingNode):
            keys: set[str] = set()
            for key, _ in node.value:
                if not isinstance(key, yaml.ScalarNode):
                    raise UserError(f"{source}, line {key.start_mark.line + 1}: a key must be a word, no list")
                if key.value in keys:
                    place = f"line {key.start_mark.line + 1}"
                    raise UserError(f"{source}, {place}: the key {shown(key.value)} stands twice in one mapping")
                keys.add(key.value)
            stack += [(child, depth + 1) for pair in node.value for child in pair]
        elif isinstance(node, yaml.SequenceNode):
            stack += [(child, depth + 1) for child in node.value]


def _loader() -> Any:
    """PyYAML's safe loader with JSON's kinds of values: see the head of this file."""
    import yaml

    class Loader(yaml.SafeLoader):  # type: ignore[misc]  # PyYAML has no annotations
        yaml_implicit_resolvers = {
            letter: [(tag, rule) for tag, rule in rules if tag.rpartition(":")[2] not in ("int", "float", "timestamp")]
            for letter, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
        }

    digits = list("-+.0123456789")
    Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"[-+]?(0|[1-9][0-9_]*)$"), digits)
    number = re.compile(r"[-+]?((0|[1-9][0-9_]*)?(\.[0-9_]*)([eE][-+]?[0-9]+)?|(0|[1-9][0-9_]*)[eE][-+]?[0-9]+)$")
    special = re.compile(r"[-+]?\.(inf|Inf|INF)$|\.(nan|NaN|NAN)$")
    for rule in (number, special):
        Loader.add_implicit_resolver("tag:yaml.org,2002:float", rule, digits)
    return Loader


def _lines(text: str, key: str) -> str:
    """Where the only two occurrences of a key are; nothing where there are others, which may be in order."""
    found = [match.start() for match in re.finditer(re.escape(json.dumps(key)) + r"\s*:", text)]
    lines = [text.count("\n", 0, start) + 1 for start in found]
    return f" (lines {lines[0]} and {lines[1]})" if len(lines) == 2 and lines[0] != lines[1] else ""


def _pointer(place: tuple[Any, ...]) -> str:
    return shown("/" + "/".join(map(str, place)), 100).strip("'\"")


def _too_deep(source: str) -> str:
    return f"{source} is nested deeper than {MAX_DEPTH} levels"
