"""fairseq's dictionary files, a word and its count a line: read as fairseq does, with errors that name the line."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from fairseq_tickets.errors import UserError
from fairseq_tickets.files import PathLike, read_text

SPECIALS = ("<s>", "<pad>", "</s>", "<unk>")  # numbers 0 to 3; they don't stand in the file
OVERWRITE = "#fairseq:overwrite"
LIMIT = 1 << 28  # bytes


def read_dictionary(path: PathLike, what: str = "dictionary") -> list[str]:
    """All symbols of a dict.txt by their numbers, the special ones first; as `fairseq.data.Dictionary.load`.

    Raises:
        UserError: the file can't be read, is not UTF-8, has a line without a count, or a word twice (fairseq allows
            that where the line ends with #fairseq:overwrite; the word then has the later number).
    """
    symbols = [*SPECIALS]
    known = set(SPECIALS)
    text = read_text(path, what, LIMIT).replace("\r\n", "\n").replace("\r", "\n")
    lines = text.split("\n")
    if not lines[-1]:
        lines.pop()
    for number, line in enumerate(lines, 1):
        word, separator, count = line.rstrip().rpartition(" ")
        overwrite = count == OVERWRITE
        if overwrite:
            word, separator, count = word.rpartition(" ")
        if not separator or not _is_count(count):
            raise UserError(
                f"{what} file {path}, line {number} is {line[:60]!r}; it must be a word, a space and a count"
            )
        if word in known and not overwrite:
            raise UserError(f"{what} file {path}, line {number}: Duplicate word {word[:60]!r}")
        known.add(word)
        symbols.append(word)
    return symbols


def symbols_digest(symbols: Sequence[str]) -> str:
    """Hex SHA-256 of a dictionary's words in their order, special words included."""
    return hashlib.sha256("\n".join(symbols).encode("utf-8", "surrogatepass")).hexdigest()


def _is_count(text: str) -> bool:
    try:
        int(text)
    except ValueError:
        return False
    return len(text) < 20
