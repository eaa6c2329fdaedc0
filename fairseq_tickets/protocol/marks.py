"""What marks a step as done: `done.json` in its folder, written last, with the checksums of all outputs.

An output that was edited or cut is refused by name, whoever reads it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fairseq_tickets.analysis.results import checksum, result_from_json
from fairseq_tickets.errors import UserError
from fairseq_tickets.files import read_json, sha256, write_json
from fairseq_tickets.protocol.steps import RESULT

DONE = "done.json"
Content = Mapping[str, Any]


def done_facts(folder: Path) -> Content | None:
    """What a step's `done.json` says; None where the step is not done."""
    path = folder / DONE
    if not path.is_file():
        return None
    facts = read_json(path, "done")
    if not isinstance(facts, Mapping) or not isinstance(facts.get("outputs"), Mapping):
        raise UserError(f"{path} does not name the outputs of its step; delete {folder} to run it again")
    return facts


def check_output(folder: Path, file: str, facts: Content) -> None:
    """Refuse an output, a file or a folder, that is not what was written.

    Raises:
        UserError: naming it.
    """
    for name in inside(facts["outputs"], file):
        path = folder / name
        if not path.is_file() or sha256(path) != facts["outputs"][name]:
            raise UserError(f"{path} was changed after it was written; delete {folder} to run it again")


def inside(names: Iterable[str], file: str) -> list[str]:
    """Which of these names are a file, or in a folder."""
    return [name for name in names if name == file or name.startswith(f"{file}/")]


def write_done(folder: Path, outputs: Iterable[Path], facts: Content) -> None:
    """Mark a step as done.

    Args:
        outputs: its files, in `folder` already.
        facts: what else to note: "seconds", "where", "inputs" (role -> checksum).
    """
    digests = {path.relative_to(folder).as_posix(): sha256(path) for path in sorted(outputs)}
    write_json(folder / DONE, {"outputs": digests, **facts})


def write_result(folder: Path, content: Content) -> None:
    """Write a result with its checksum, after checking that it can be read again."""
    full = {**content, "checksum": checksum(content)}
    result_from_json(full, str(folder / RESULT))
    write_json(folder / RESULT, full)


def inputs_of(content: Content) -> dict[str, str]:
    """Checksums of a result's inputs, by role."""
    return {role: entry["sha256"] for role, entry in content.get("inputs", {}).items()}
