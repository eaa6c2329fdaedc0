"""English sentences out of a docstring: prose paragraphs only, no code, lists, tables or parameter descriptions."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator

SHORTEST, LONGEST = 6, 40  # words
_COMMON = frozenset(
    re.findall(
        r"\w+",
        "the a an of is are to in be that this it for and with by on as if or not when which can from at will has was"
        " have been but you used their its all",
    )
)
_ROLE = re.compile(r":[a-zA-Z:+-]+:`~?\.?([^`<]*?)(?:\s*<[^`]*>)?`")
_LITERAL = re.compile(r"``([^`]*)``|`([^`<]*?)(?:\s*<[^`]*>)?`_{0,2}|\*{1,2}([^*\s][^*]*)\*{1,2}")
_CITATION = re.compile(r"\s*\[[\w-]+\]_")
_ENDED = re.compile(r"(?<=[.!?])\s+(?=[A-Z])")
_ABBREVIATION = re.compile(r"\b(?:e\.g|i\.e|etc|vs|cf|Fig|Eq|Eqs|Ref|Refs|No|Dr|Prof|Vol|pp|al|approx|resp|[A-Z])\.$")
_NOT_PROSE = re.compile(r"^(?:>>>|\.\.\.|\.\. |:\w|[-*+•|#=]|\d+[.)]\s|\w+\s*:\s|\w+\s*\(.*\):|@|\[\d)")
_UNDERLINE = re.compile(r"^([-=~^*`\"'#+])\1{2,}\s*$")
_BAD_MARKS = re.compile(r"[\\{}=<>|_^$@#~/]|::|``?|\*|\w\(|\d\.\d+\.\d|https?:|\bTODO\b|\bXXX\b")
_WORD = re.compile(r"[A-Za-z][a-z'-]*[a-z]|[aAI]")


def passages(docstring: str) -> Iterator[list[str]]:
    """The sentences of each run of prose paragraphs, in order.

    A sentence that isn't plain English (see `is_english`) is an empty string, so neighbours in a list are neighbours in
    the text. Lists, code, tables, headings and parameter descriptions end a passage.
    """
    passage: list[str] = []
    for block in re.split(r"\n[ \t]*\n", inspect.cleandoc(docstring)):
        lines = [line for line in block.split("\n") if line.strip()]
        if len(lines) > 1 and _UNDERLINE.match(lines[1]):  # a heading stands right above its section's text
            yield passage
            passage, lines = [], lines[2:]
        if not lines:
            continue
        indented = lines[0].startswith((" ", "\t"))
        marked = any(_NOT_PROSE.match(line.strip()) or _UNDERLINE.match(line.strip()) for line in lines)
        hanging = any(line.startswith((" ", "\t")) for line in lines[1:])  # a name, then its indented description
        if marked or hanging or indented:
            yield passage
            passage = []
            continue
        passage += sentences(" ".join(line.strip() for line in lines))
    yield passage


def sentences(text: str) -> Iterator[str]:
    """Split a paragraph into sentences; one that isn't plain English comes as an empty string."""
    plain = _ROLE.sub(lambda found: found[1].rsplit(".", 1)[-1], text)
    plain = _LITERAL.sub(lambda found: found[1] or found[2] or found[3] or "", plain)
    plain = _CITATION.sub("", plain)
    pending = ""
    for part in _ENDED.split(plain):
        pending = f"{pending} {part}".strip()
        if _ABBREVIATION.search(pending):
            continue
        yield pending if is_english(pending) else ""
        pending = ""
    if pending:
        yield ""


def is_english(sentence: str) -> bool:
    """True for a whole, plain English sentence of 6 to 40 words without code or markup."""
    if not sentence.endswith((".", "?", "!")) or not sentence[0].isupper() or not sentence.isascii():
        return False
    words = sentence.split()
    if not SHORTEST <= len(words) <= LONGEST or _BAD_MARKS.search(sentence):
        return False
    if sentence.count("(") != sentence.count(")") or sentence.count('"') % 2:
        return False
    bare = [word.strip(".,;:!?()\"'[]") for word in words]
    plain = sum(bool(_WORD.fullmatch(word)) for word in bare)
    return plain >= 0.8 * len(words) and sum(word.lower() in _COMMON for word in bare) >= 2
