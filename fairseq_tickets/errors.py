"""The one exception that speaks to the user."""

from __future__ import annotations

LONGEST = 1200  # characters of a message; a name or value from a file may have any number


class UserError(Exception):
    """Something the user can mend.

    The message is one line and names the option or file, its value and the rule it breaks. Commands print it
    without a traceback and end with an exit code that is not 0. Whatever stands in a file or a file's name, the
    message stays one line of LONGEST characters at most: line breaks become spaces, the middle is left out.
    """

    def __str__(self) -> str:
        text = " ".join(super().__str__().splitlines())
        half = LONGEST // 2
        return text if len(text) <= LONGEST else f"{text[:half]} ... {text[-half + 5 :]}"


def short(error: object, longest: int = 200) -> str:
    """An error of a library as part of one line, however much of a damaged file it quotes."""
    line = " ".join(str(error).split())
    return line if len(line) <= longest else f"{line[:longest]} ..."
