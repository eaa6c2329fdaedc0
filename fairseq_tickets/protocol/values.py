"""Values of a protocol file as types of pydantic, and its complaints as one line: the key, its value, the rule.

The rule is read off the model's JSON schema, so that ranges and choices are said once, where a key is declared.
"""

import contextlib
import difflib
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Optional, TypeVar

from annotated_types import Ge, Gt, Le
from pydantic import (
    AfterValidator,
    AllowInfNan,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Strict,
    ValidationError,
    model_validator,
)

from fairseq_tickets.documents import shown
from fairseq_tickets.errors import UserError

T = TypeVar("T")
MAX_NAME = 100
KINDS = {
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "object": "a mapping of names to values",
}


class Section(BaseModel):
    """A mapping of the file; an empty one may be left out. What is written below a key is its help."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    @model_validator(mode="before")
    @classmethod
    def _empty(cls, content: Any) -> Any:
        return {} if content is None else content


def _list(value: Any) -> Any:
    return value if isinstance(value, (list, tuple)) else [value]


def _distinct(values: tuple[T, ...]) -> tuple[T, ...]:
    if not values:
        raise ValueError("is empty; it must name at least one")
    for value in values:
        if values.count(value) > 1:
            raise ValueError(f"{value} is listed twice")
    return values


def _path(value: Any) -> Any:
    if not isinstance(value, str) or not value:
        raise ValueError(f"is {shown(value)}; it must be a text")
    path = os.path.expanduser(os.path.expandvars(value))
    missing = re.search(r"\$(\w+|\{\w+\})", path)
    if missing:
        raise ValueError(f"is {shown(value)}: the environment variable {missing[1].strip('{}')} is not set")
    return os.path.abspath(path)  # a node of a cluster may do a step in another current folder


def _name(value: str) -> str:
    if not value or not value.isprintable() or len(value.encode()) > MAX_NAME:
        raise ValueError(f"is {shown(value)}; a name has 1 to {MAX_NAME} printable characters")
    return value


Flag = Annotated[bool, Strict()]
Number = Annotated[float, Strict(), AllowInfNan(False)]
Above0 = Annotated[Number, Gt(0)]
AtLeast0 = Annotated[Number, Ge(0)]
Part = Annotated[Number, Gt(0), Le(1)]
Below1 = Annotated[Number, Ge(0), Le(0.99)]
Between = Annotated[Number, Gt(0), Le(0.99)]
Count = Annotated[int, Strict(), Ge(1)]
Natural = Annotated[int, Strict(), Ge(0)]
Name = Annotated[str, AfterValidator(_name)]
FilePath = Annotated[Path, BeforeValidator(_path)]
"""~ and $VARIABLES are replaced, and the path made absolute."""
Several = Annotated[tuple[T, ...], BeforeValidator(_list), AfterValidator(_distinct)]
"""A list of at least one value, none of them twice; a single value stands for a list of one."""
IfNamed = Annotated[Optional[T], BeforeValidator(lambda value: {} if value is None else value)]
"""A section that is there only if the file has its key; without content it is one of defaults."""
ByTask = Annotated[
    dict[str, Several[T]], BeforeValidator(lambda value: value if isinstance(value, Mapping) else {"default": value})
]
"""A list for all tasks, or a mapping of lists: by task, and `default` for the others."""


def check_keys(content: Any, place: str) -> None:
    """Refuse keys that are no texts, or that can't be shown; pydantic would take them for other mistakes."""
    if isinstance(content, Mapping):
        for name, value in content.items():
            if not isinstance(name, str):
                raise UserError(f"{place}: the key {shown(name)} is no text; write it in quotation marks")
            if not name.isprintable() or len(name) > MAX_NAME:
                raise UserError(f"{place}: the key {shown(name)} is too long, or has characters that can't be printed")
            check_keys(value, f"{place}: {name}")


def refusal(error: ValidationError, model: type[BaseModel], content: Any, place: str) -> UserError:
    """One line on a file that a model refuses: an unknown key if there is one, else the first thing in the file."""
    first = min(error.errors(), key=lambda error: error["type"] != "extra_forbidden")
    schema, names = model.model_json_schema(), first["loc"]
    *above, last = names or ("",)
    for name in names:  # what pydantic puts between, such as the kinds of a union, is not in the file
        if isinstance(content, Mapping) and name in content and (name != last or first["type"] != "extra_forbidden"):
            place, content = f"{place}: {name}", content[name]
    value, rule = shown(first["input"]), rule_of(schema_at(schema, names))
    if first["type"] == "extra_forbidden":
        keys = list(schema_at(schema, tuple(above))["properties"])
        near = difflib.get_close_matches(str(last), keys, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        return UserError(f"{place}: unknown key {shown(last)}; the keys here are {', '.join(keys)}{hint}")
    if first["type"] == "missing":
        return UserError(f"{place}: there is no {last}; it must be {rule}")
    if first["type"] == "value_error":
        return UserError(sentence(place, first["ctx"]["error"]))
    if first["type"] == "literal_error" and isinstance(last, int):
        return UserError(f"{place}: {value} is unknown; it must be {rule}")
    return UserError(f"{place} is {value}; it must be {rule}")


def sentence(place: str, said: object) -> str:
    """What is said about a place: "levels is empty", "levels: 0.1 is listed twice"."""
    return f"{place}{' ' if str(said).startswith(('is ', 'needs ')) else ': '}{said}"


@contextlib.contextmanager
def about(place: str, kind: type[Exception] = ValueError) -> Iterator[None]:
    """Let what is refused inside say which place it is about."""
    try:
        yield
    except ValueError as error:
        raise kind(sentence(place, error)) from error


def among(key: str, asked: Iterable[str], known: Iterable[str]) -> tuple[str, ...]:
    """Names that must be known; all known ones where none is asked for."""
    asked, known = tuple(asked), tuple(known)
    for name in asked:
        if name not in known:
            raise ValueError(f"{key}: {shown(name)} is unknown; it must be one of {', '.join(known)}")
    return asked or known


def by_name(key: str, given: Mapping[str, T], defaults: Mapping[str, T]) -> dict[str, T]:
    """For every name what is given for it, or as `default`, or else what is known."""
    for name in given:
        if name not in (*defaults, "default"):
            raise ValueError(f"{key}: unknown key {shown(name)}; the keys here are default, {', '.join(defaults)}")
    return {name: given.get(name, given.get("default", own)) for name, own in defaults.items()}


def schema_at(schema: Mapping[str, Any], names: tuple[Any, ...]) -> Mapping[str, Any]:
    """What a JSON schema says of the value at a place."""

    def plain(node: Mapping[str, Any]) -> Mapping[str, Any]:
        if "$ref" in node:
            return schema["$defs"][node["$ref"].split("/")[-1]]
        kinds = [kind for kind in node.get("anyOf", ()) if kind.get("type") != "null"]
        return plain(kinds[0]) if len(kinds) == 1 else node

    node = plain(schema)
    for name in names:
        below = node.get("items") if isinstance(name, int) else node.get("properties", {}).get(name)
        node = plain(below or node.get("additionalProperties") or node)
    return node


def rule_of(node: Mapping[str, Any]) -> str:
    """The rule for a value, in words: "a number above 0 and at most 1"."""
    if "anyOf" in node:
        return " or ".join(rule_of(kind) for kind in node["anyOf"] if kind.get("type") != "null")
    if node.get("type") == "array":
        return f"a list, each {rule_of(node['items'])}"
    if "enum" in node:
        return f"one of {', '.join(node['enum'])}"
    bounds = [f"above {node['exclusiveMinimum']:g}"] if "exclusiveMinimum" in node else []
    bounds += [f"at least {node['minimum']:g}"] if "minimum" in node else []
    bounds += [f"at most {node['maximum']:g}"] if "maximum" in node else []
    of = " of " if node.get("type") == "integer" and bounds else " "
    return f"{KINDS.get(node.get('type', ''), 'a text')}{of}{' and '.join(bounds)}".rstrip()
