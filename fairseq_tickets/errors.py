"""The one exception that speaks to the user."""

from __future__ import annotations

import re

LONGEST = 1200  # characters of a message; a name or value from a file may have any number
LONGEST_WORD = 200  # of a name or value in it, as long as that has no spaces


class UserError(Exception):
    """Something the user can mend.

    The message is one line and names the option or file, its value and the rule it breaks. Commands print it
    without a traceback and end with an exit code that is not 0. Whatever stands in a file or a file's name, the
    message stays what `one_line` makes of it.
    """

    def __str__(self) -> str:
        return one_line(super().__str__())


def one_line(text: str) -> str:
    """A message with spaces for line breaks, and without the middle of what is too long: a word, or all of it."""
    line = re.sub(
        rf"\S{{{LONGEST_WORD + 1},}}", lambda word: _cut(word[0], LONGEST_WORD, "..."), " ".join(text.splitlines())
    )
    return _cut(line, LONGEST, " ... ")


def _cut(text: str, longest: int, mark: str) -> str:
    left = longest - len(mark)
    return text if len(text) <= longest else text[: (left + 1) // 2] + mark + text[-(left // 2) :]


def short(error: object, longest: int = 200) -> str:
    """An error of a library as part of one line, however much of a damaged file it quotes."""
    line = " ".join(str(error).split())
    return line if len(line) <= longest else f"{line[:longest]} ..."
