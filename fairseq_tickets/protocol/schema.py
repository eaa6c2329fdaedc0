"""Values from a YAML file, checked one by one: unknown keys, wrong kinds and wrong ranges become one-line errors.

YAML 1.1 reads 1e-4 (no dot) as a text; where a number is expected such a text is taken as the number it spells.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from fairseq_tickets.documents import shown
from fairseq_tickets.errors import UserError

T = TypeVar("T")
MAX_NAME = 100


class Section:
    """A mapping of the file, read key by key; `close` refuses what is left.

    Args:
        content: the mapping as PyYAML gives it; None for an empty one.
        place: where it is, for errors: "protocol.yaml: training".
        parent: values used where `content` has none.
    """

    def __init__(self, content: Any, place: str, parent: Section | None = None) -> None:
        if content is None:
            content = {}
        if not isinstance(content, Mapping):
            raise UserError(f"{place} is {shown(content)}; it must be a mapping of names to values")
        for name in content:
            if not isinstance(name, str):
                raise UserError(f"{place}: the key {shown(name)} is no text; write it in quotation marks")
            if not name.isprintable() or len(name) > MAX_NAME:
                raise UserError(f"{place}: the key {shown(name)} is too long, or has characters that can't be printed")
        self._content = dict(content)
        self._asked: list[str] = []
        self._parent = parent
        self.place = place

    def __contains__(self, name: str) -> bool:
        if name not in self._asked:
            self._asked.append(name)
        return name in self._content or (self._parent is not None and name in self._parent)

    def raw(self, name: str, default: Any = None) -> Any:
        """The value as the file has it."""
        if name not in self._asked:
            self._asked.append(name)
        if name in self._content:
            return self._content[name]
        return default if self._parent is None else self._parent.raw(name, default)

    def at(self, name: str) -> str:
        """Place of a key, for errors."""
        return f"{self.place}: {name}"

    def names(self) -> list[str]:
        """Keys in the order of the file."""
        return [str(name) for name in self._content]

    def section(self, name: str) -> Section:
        """A mapping below this one."""
        return Section(self.raw(name), self.at(name))

    def close(self) -> None:
        """Refuse keys that nobody asked for.

        Raises:
            UserError: naming the first such key and the keys that are allowed.
        """
        for name in self._content:
            if name not in self._asked:
                allowed = ", ".join(self._asked) or "none"
                raise UserError(f"{self.place}: unknown key {shown(name)}; the keys here are {allowed}")

    def number(
        self, name: str, default: float | None, low: float, high: float = math.inf, above: bool = False
    ) -> float:
        """A number from `low` (or above it) to `high`."""
        return as_number(self.raw(name, default), self.at(name), low, high, above)

    def whole(self, name: str, default: int | None, low: int) -> int:
        """A whole number of at least `low`."""
        return as_whole(self.raw(name, default), self.at(name), low)

    def whole_or_none(self, name: str, low: int) -> int | None:
        """A whole number of at least `low`, or None where the key is absent or null."""
        value = self.raw(name)
        return None if value is None else as_whole(value, self.at(name), low)

    def flag(self, name: str, default: bool) -> bool:
        """true or false."""
        value = self.raw(name, default)
        if not isinstance(value, bool):
            raise UserError(f"{self.at(name)} is {shown(value)}; it must be true or false")
        return value

    def text(self, name: str, default: str | None = None) -> str:
        """A text that is not empty."""
        value = self.raw(name, default)
        if not isinstance(value, str) or not value:
            raise UserError(f"{self.at(name)} is {shown(value)}; it must be a text")
        return value

    def label(self, name: str, default: str | None = None) -> str:
        """A text that names things in tables and files: printable, of at most MAX_NAME characters."""
        value = self.text(name, default)
        if not value.isprintable() or len(value.encode()) > MAX_NAME:
            raise UserError(f"{self.at(name)} is {shown(value)}; a name has at most {MAX_NAME} printable characters")
        return value

    def choice(self, name: str, default: str, allowed: Sequence[str]) -> str:
        """One of a few words."""
        value = self.raw(name, default)
        if value not in allowed:
            raise UserError(f"{self.at(name)} is {shown(value)}; it must be one of {', '.join(allowed)}")
        return str(value)

    def path(self, name: str) -> Path:
        """A path; ~ and $VARIABLES are replaced.

        Raises:
            UserError: no text, or a variable that is not set.
        """
        return as_path(self.text(name), self.at(name))

    def several(self, name: str, default: Sequence[Any] | None, check: Callable[[Any, str], T]) -> tuple[T, ...]:
        """A list of at least one value, none of them twice; a single value stands for a list of one."""
        value = self.raw(name, default)
        values = value if isinstance(value, (list, tuple)) else [value]
        if not values:
            raise UserError(f"{self.at(name)} is empty; it must name at least one")
        checked = tuple(check(item, self.at(name)) for item in values)
        for item in checked:
            if checked.count(item) > 1:
                raise UserError(f"{self.at(name)}: {item} is listed twice")
        return checked


def as_number(value: Any, place: str, low: float, high: float = math.inf, above: bool = False) -> float:
    """A finite number from `low` (above it, if `above`) to `high`."""
    if isinstance(value, str) and re.fullmatch(r"[+-]?\d+\.?\d*[eE][+-]?\d+", value):
        value = float(value)
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not good or value < low or value > high or (above and value == low):
        rule = f"above {low:g}" if above else f"at least {low:g}"
        limit = "" if high == math.inf else f" and at most {high:g}"
        raise UserError(f"{place} is {shown(value)}; it must be a number {rule}{limit}")
    return float(value)


def as_whole(value: Any, place: str, low: int) -> int:
    """A whole number of at least `low`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise UserError(f"{place} is {shown(value)}; it must be a whole number of at least {low}")
    return value


def as_word(allowed: Iterable[str]) -> Callable[[Any, str], str]:
    """A check that a value is one of a few words."""
    words = list(allowed)

    def check(value: Any, place: str) -> str:
        if value not in words:
            raise UserError(f"{place}: {shown(value)} is unknown; it must be one of {', '.join(words)}")
        return str(value)

    return check


def as_path(text: str, place: str) -> Path:
    """A path with ~ and $VARIABLES replaced."""
    expanded = os.path.expanduser(os.path.expandvars(text))
    missing = re.search(r"\$(\w+|\{\w+\})", expanded)
    if missing:
        name = missing[1].strip("{}")
        raise UserError(f"{place} is {shown(text)}: the environment variable {name} is not set")
    return Path(expanded)
