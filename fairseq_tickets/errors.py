"""The one exception that speaks to the user."""

from __future__ import annotations


class UserError(Exception):
    """Something the user can mend.

    The message is one line and names the option or file, its value and the rule it breaks. Commands print it
    without a traceback and end with an exit code that is not 0.
    """


def short(error: object, longest: int = 200) -> str:
    """An error of a library as part of one line, however much of a damaged file it quotes."""
    line = " ".join(str(error).split())
    return line if len(line) <= longest else f"{line[:longest]} ..."
