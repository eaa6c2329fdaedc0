"""A folder that `import` wrote: import.json comes last and knows the other files' checksums.

Files of two imports, or of an import and something else, don't go together even where their sizes do: the dictionary
numbers the rows of the embedding.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fairseq_tickets.errors import UserError
from fairseq_tickets.files import read_json, sha256

IMPORT_FILE = "import.json"
IMPORT_FORMAT = "fairseq-tickets/import"


def recorded_checksums(folder: Path) -> dict[str, str]:
    """File name -> SHA-256 that import.json says; {} where there is none.

    Raises:
        UserError: import.json can't be read or says something else.
    """
    path = folder / IMPORT_FILE
    if not path.is_file():
        return {}
    content = read_json(path, "import")
    if not isinstance(content, dict) or content.get("format") != IMPORT_FORMAT:
        raise UserError(f"{path} is not a {IMPORT_FORMAT} file; import the model again")
    found = content.get("checksums", {})
    if not found:  # of an earlier version
        parts = {"dict.txt": content.get("dictionary"), "model.pt": content.get("checkpoint")}
        found = {name: part.get("sha256") for name, part in parts.items() if isinstance(part, dict)}
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise UserError(f"{path}: checksums must map file names to SHA-256; import the model again")
    return found


def check_imported(path: Path) -> None:
    """Raise UserError when a file lies in a folder that `import` wrote, and is not the one it wrote."""
    expected = recorded_checksums(path.parent).get(path.name)
    if expected is not None and sha256(path) != expected:
        raise UserError(
            f"{path} is not the file that {path.parent / IMPORT_FILE} records: damaged, or of another model; import it "
            "again, or keep other files elsewhere"
        )


def is_import_of(folder: Path, source: Path) -> bool:
    """Whether `folder` holds what `import` made of the Hugging Face folder `source` (its transformer's part), whole."""
    try:
        written = recorded_checksums(folder)
        content: Mapping[str, Any] = read_json(folder / IMPORT_FILE, "import") if written else {}
        read = content.get("source", {}).get("files", {}) if content else {}
        if not read or not {"model.pt", "dict.txt"} <= set(written):
            return False
        copied = {name: value for name, value in written.items() if name not in ("model.pt", "dict.txt")}
        return all(sha256(folder / name) == value for name, value in written.items()) and all(
            sha256(source / name) == value for name, value in {**copied, **read}.items()
        )
    except (UserError, AttributeError, TypeError):
        return False
