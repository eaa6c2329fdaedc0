"""What `import` wrote is known by its checksums."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fairseq_tickets.data.imported import check_imported, is_import_of
from fairseq_tickets.errors import UserError
from fairseq_tickets.files import sha256


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """A folder as `import` writes it, and its source."""
    source, made = tmp_path / "hf", tmp_path / "made"
    for folder, names in ((source, ("config.json", "vocab.txt")), (made, ("model.pt", "dict.txt", "vocab.txt"))):
        folder.mkdir()
        for name in names:
            (folder / name).write_text(name)
    record = {
        "format": "fairseq-tickets/import",
        "source": {"files": {"config.json": sha256(source / "config.json")}},
        "checksums": {name: sha256(made / name) for name in ("model.pt", "dict.txt", "vocab.txt")},
    }
    (made / "import.json").write_text(json.dumps(record))
    return made, source


def test_whole(folders: tuple[Path, Path]) -> None:
    made, source = folders
    assert is_import_of(made, source)
    for name in ("model.pt", "dict.txt", "vocab.txt", "unknown"):
        check_imported(made / name)


@pytest.mark.parametrize(
    "name", ["made/model.pt", "made/dict.txt", "made/vocab.txt", "made/import.json", "hf/config.json", "hf/vocab.txt"]
)
@pytest.mark.parametrize("content", [None, "", "{}", "other"])
def test_any_file_changed_or_gone(folders: tuple[Path, Path], name: str, content: str | None, tmp_path: Path) -> None:
    made, source = folders
    if content is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_text(content)
    assert not is_import_of(made, source)
    if name.startswith("made/") and name != "made/import.json" and content is not None:
        with pytest.raises(UserError, match=r"is not the file that .*import.json records"):
            check_imported(tmp_path / name)


def test_records_of_earlier_versions(folders: tuple[Path, Path]) -> None:
    made, source = folders
    record = json.loads((made / "import.json").read_text())
    digests = record.pop("checksums")
    record["dictionary"], record["checkpoint"] = {"sha256": digests["dict.txt"]}, {"sha256": digests["model.pt"]}
    (made / "import.json").write_text(json.dumps(record))
    assert is_import_of(made, source)
    (made / "dict.txt").write_text("other")
    with pytest.raises(UserError, match="dict.txt is not the file"):
        check_imported(made / "dict.txt")
