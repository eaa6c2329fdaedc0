"""A message to the user stays one line, whatever a file or its name holds."""

from __future__ import annotations

from fairseq_tickets.errors import LONGEST, UserError


def test_one_line_of_bounded_length() -> None:
    assert str(UserError("t.json: heads is 2; it must be 1")) == "t.json: heads is 2; it must be 1"
    assert str(UserError("a\nb\r\nc\u2028d\x85e")) == "a b c d e"
    long = str(UserError("start " + "x" * 10**6 + " end"))
    assert len(long) == LONGEST and long.startswith("start x") and long.endswith("x end") and "x ... x" in long
