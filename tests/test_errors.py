"""A message to the user stays one line, whatever a file or its name holds."""

from __future__ import annotations

from fairseq_tickets.errors import LONGEST, LONGEST_WORD, UserError


def test_one_line_of_bounded_length() -> None:
    assert str(UserError("t.json: heads is 2; it must be 1")) == "t.json: heads is 2; it must be 1"
    assert str(UserError("a\nb\r\nc\u2028d\x85e")) == "a b c d e"
    long = str(UserError("start " + "many words " * 10**5 + "end"))
    assert len(long) == LONGEST and long.startswith("start many") and long.endswith("words end") and " ... " in long


def test_a_long_name_keeps_its_ends() -> None:
    name = "folder/" + "n" * (LONGEST_WORD - 13) + ".json"
    assert str(UserError(f"{name}: no such file")) == f"{name}: no such file"
    told = str(UserError(f"tickets folder/{'n' * 300}.json and 'B={'m' * 10**6}' differ"))
    first, second = told.split()[1], told.split()[3]
    assert len(first) == len(second) == LONGEST_WORD and told.endswith(" differ")
    assert first.startswith("folder/n") and "n...n" in first and first.endswith("n.json")
    assert second.startswith("'B=m") and second.endswith("m'")
