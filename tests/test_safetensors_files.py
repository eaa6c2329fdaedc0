"""safetensors files: what the library reads is what was written, equal bytes, a full disk, and what is refused."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from fairseq_tickets import safetensors_files
from fairseq_tickets.errors import UserError
from tests.full_disk import small_files

TENSORS = {
    "b.weight": torch.arange(6.0).reshape(2, 3),
    "a.bias": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
    "odd": torch.tensor([3], dtype=torch.uint8),
    "double": torch.tensor(2.5, dtype=torch.float64),
    "none": torch.zeros(0, 4),
}
METADATA = {"z": "last", "a": "é", "m": '{"json": 1}'}


def write_raw(path: Path, header: str, data: bytes = b"\0" * 8) -> Path:
    path.write_bytes(struct.pack("<Q", len(header.encode())) + header.encode() + data)
    return path


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return found.keys() == expected.keys() and all(
        torch.equal(tensor, expected[name]) and tensor.dtype == expected[name].dtype for name, tensor in found.items()
    )


def test_the_library_reads_what_is_written(tmp_path: Path) -> None:
    safetensors_files.write(tmp_path / "m.safetensors", TENSORS, METADATA)
    with safe_open(tmp_path / "m.safetensors", framework="pt") as file:
        assert file.metadata() == METADATA
        assert same({name: file.get_tensor(name) for name in file.keys()}, TENSORS)  # noqa: SIM118
    tensors, metadata = safetensors_files.read(tmp_path / "m.safetensors")
    assert same(tensors, TENSORS) and metadata == METADATA


def test_equal_content_is_equal_bytes(tmp_path: Path) -> None:
    safetensors_files.write(tmp_path / "one", TENSORS, METADATA)
    safetensors_files.write(tmp_path / "two", dict(reversed(TENSORS.items())), dict(reversed(METADATA.items())))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


ENTRY = '"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}'
REFUSED = [
    ("", "don't hold its header"),
    ("{" + ENTRY + "," + ENTRY + "}", "the key .w. stands twice"),
    ("{" + ENTRY.replace('"shape":[2]', '"shape":[2],"shape":[2]') + "}", "the key .shape. stands twice"),
    ("{" + ENTRY.replace("[2]", "[3]") + "}", "not a whole safetensors file"),
    ("{" + ENTRY.replace("[0,8]", "[0,800]").replace("[2]", "[200]") + "}", "not a whole safetensors file"),
    ("{" + ENTRY.replace("[0,8]", "[8,0]") + "}", "not a whole safetensors file"),
    ("{" + ENTRY.replace("F32", "F99") + "}", "not a whole safetensors file"),
    ('{"__metadata__":{"a":1},' + ENTRY + "}", "metadata are not texts"),
    ("[1]", "its header is not an object"),
    ("{" + ENTRY, "not valid JSON"),
    ("[" * 5000 + "]" * 5000, "nested"),
]


@pytest.mark.parametrize(("header", "said"), REFUSED)
def test_refused(tmp_path: Path, header: str, said: str) -> None:
    path = tmp_path / "m.safetensors"
    if header:
        write_raw(path, header)
    else:
        path.write_bytes(struct.pack("<Q", 1 << 62) + b"{}")
    with pytest.raises(UserError, match=said):
        safetensors_files.read(path)


def test_the_smallest_good_file(tmp_path: Path) -> None:
    """So that the table above refuses for its own reasons."""
    assert same(safetensors_files.read(write_raw(tmp_path / "m", "{" + ENTRY + "}"))[0], {"w": torch.zeros(2)})
    assert json.loads("{" + ENTRY + "}")


@pytest.mark.parametrize("place", ["missing", "", "a\0b"], ids=["missing", "folder", "NUL"])
def test_files_that_cannot_be_read(tmp_path: Path, place: str) -> None:
    with pytest.raises(UserError, match="does not exist" if place == "missing" else "cannot read"):
        safetensors_files.read(str(tmp_path / place))


def test_no_permission_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    safetensors_files.write(tmp_path / "m", TENSORS, {})

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(UserError, match="cannot read .*m: Permission denied"):
        safetensors_files.read(tmp_path / "m")


def test_a_write_that_fails_is_one_line_and_leaves_the_old_file(tmp_path: Path) -> None:
    safetensors_files.write(tmp_path / "m", TENSORS, {})
    before = (tmp_path / "m").read_bytes()
    with small_files(4096), pytest.raises(UserError, match=f"cannot write {tmp_path / 'm'}: File too large"):
        safetensors_files.write(tmp_path / "m", {"w": torch.zeros(4096)}, {})
    assert [path.name for path in tmp_path.iterdir()] == ["m"] and (tmp_path / "m").read_bytes() == before
