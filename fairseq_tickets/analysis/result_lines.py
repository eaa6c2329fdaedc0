"""Result files of many runs: `runs.jsonl`, one result a line, as JSON with sorted keys and no spaces."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fairseq_tickets.documents import parse_json
from fairseq_tickets.errors import UserError
from fairseq_tickets.files import JSON_LIMIT, read_bytes

SUFFIX = ".jsonl"


def result_line(content: Mapping[str, Any]) -> str:
    """A result's line, with its newline."""
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False) + "\n"


def read_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Results of such a file, each with the name of its place for errors.

    Raises:
        UserError: no such file, not UTF-8, or a line that is no JSON object with a checksum.
    """
    for number, line in enumerate(read_bytes(path, "result", 64 * JSON_LIMIT).splitlines(), 1):
        source = f"{path}, line {number}"
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise UserError(f"result file {source} is not UTF-8 text") from error
        if not text.strip():
            continue
        content = parse_json(text, f"result file {source}")
        if not isinstance(content, dict) or "checksum" not in content:
            raise UserError(f"result file {source} has no checksum: it was edited, or cut")
        yield source, content
