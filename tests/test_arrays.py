"""Array files: what a file may claim, and the counts of out-weighted parameters."""

from __future__ import annotations

import io
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fairseq_tickets.arrays import MEMBER_LIMIT, read_arrays, write_arrays
from fairseq_tickets.counts import DimensionCounts
from fairseq_tickets.errors import UserError
from fairseq_tickets.parameters import MATRICES

from .analysis.samples import SMALL, counts_of, skeleton_ticket

VALUES = np.array([[0.5, 1 / 3, 2.0], [1e-300, 0.0, 7.0]])


def member(array: Any) -> bytes:
    """The bytes of a .npy file."""
    handle = io.BytesIO()
    np.save(handle, array)
    return handle.getvalue()


def archive(path: Path, members: list[tuple[str, bytes]], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    with zipfile.ZipFile(path, "w", method) as file:
        for name, content in members:
            file.writestr(name, content)
    return path.read_bytes()


def read(path: Path, kind: str = "numbers") -> Any:
    return read_arrays(path, "scores", {"a": kind})["a"]


@pytest.mark.parametrize("dtype", ["<f8", ">f8", "<f4", "=f8"])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("compress", [True, False])
def test_numbers_come_back_in_any_layout(dtype: str, order: Any, compress: bool, tmp_path: Path) -> None:
    values = np.array(VALUES, dtype, order=order)
    write_arrays(tmp_path / "a.npz", {"a": values}, compress)
    found = read(tmp_path / "a.npz")
    assert found.dtype == np.float64 and np.array_equal(found, values)


@pytest.mark.parametrize("kind, array", [("whole", np.arange(3, dtype=">u2")), ("numbers", np.float64(2))])
def test_whole_numbers_and_scalars(kind: str, array: Any, tmp_path: Path) -> None:
    write_arrays(tmp_path / "a.npz", {"a": array})
    assert np.array_equal(read(tmp_path / "a.npz", kind), array)


def test_text(tmp_path: Path) -> None:
    for text in ("", "a", "über \U0001f600"):
        write_arrays(tmp_path / "a.npz", {"a": np.array(text)})
        assert read(tmp_path / "a.npz", "text") == text


@pytest.mark.parametrize(
    "array, kind, says",
    [
        (np.array([["2020-01-01"]], "M8[D]"), "numbers", "holds dates; it must hold floating-point numbers"),
        (np.array([[3]], "m8[s]"), "numbers", "holds durations"),
        (VALUES > 1, "numbers", "holds truth values"),
        (VALUES > 1, "whole", "holds truth values; it must hold whole numbers"),
        (VALUES.astype(str), "numbers", "holds texts"),
        (VALUES.astype("S5"), "numbers", "holds bytes"),
        (VALUES * 1j, "numbers", "holds complex numbers"),
        (VALUES.astype(int), "numbers", "holds whole numbers of 8 bytes; it must hold floating-point numbers"),
        (VALUES.astype(np.float16), "numbers", "floating-point numbers of 2 bytes; it must"),
        (VALUES.astype(np.longdouble), "numbers", "floating-point numbers of 16 bytes; it must"),
        (VALUES, "whole", "holds floating-point numbers of 8 bytes; it must hold whole numbers"),
        (VALUES, "text", "it must hold a text"),
        (np.array(["a", "b"]), "text", r"has the shape \(2,\); it must be one text"),
        (np.array([{}], dtype=object), "numbers", "holds pickled Python objects"),
        (np.zeros(2, [("x", "f8")]), "numbers", "not that of a plain array"),
        (np.zeros(2, "V8"), "numbers", "holds records"),
        (np.array([np.nan]), "numbers", "a number that is not finite"),
        (np.array([-np.inf]), "numbers", "a number that is not finite"),
        (np.array([2**63], np.uint64), "whole", "holds 9223372036854775808"),
    ],
    ids=str,
)
def test_another_kind_is_refused(array: Any, kind: str, says: str, tmp_path: Path) -> None:
    archive(tmp_path / "a.npz", [("a.npy", member(array))])
    with pytest.raises(UserError, match=rf"scores file .*a\.npz: a .*{says}"):
        read(tmp_path / "a.npz", kind)


def header(text: str, data: bytes = b"") -> bytes:
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode() + data


SHAPED = "{'descr': '<f8', 'fortran_order': False, 'shape': %s, }\n"


@pytest.mark.parametrize(
    "content",
    [
        header(SHAPED % "(1000000000000,)", bytes(8)),
        header(SHAPED % "(1000000000, 100000000000)", bytes(8)),
        header(SHAPED % f"({'9' * 400},)", bytes(8)),
        header(SHAPED % "(-1, -1)", bytes(8)),
        header(SHAPED % "(2,)", bytes(8)),
        header(SHAPED % "(1,)", bytes(16)),
        header(SHAPED % "(True,)", bytes(8)),
        header(SHAPED % "(1,)", bytes(8)).replace(b"<f8", b"<q8"),
        header(SHAPED % ("(" * 5000), bytes(8)),
        header("{'descr': '<f8', 'fortran_order': print(1), 'shape': (1,), }", bytes(8)),
        header("{}", bytes(8)),
        header(SHAPED % "(1,)", bytes(8)).replace(b"\x01\x00", b"\x09\x00"),
        member(VALUES)[:9],
        b"\x93NUMPY",
        b"",
        b"hello, no array here",
    ],
    ids=range(16),
)
def test_a_header_is_not_believed(content: bytes, tmp_path: Path) -> None:
    archive(tmp_path / "a.npz", [("a.npy", content)])
    with pytest.raises(UserError, match=r"a\.npz: a (claims|has a header|is no NumPy|holds the unknown)"):
        read(tmp_path / "a.npz")


def patched(content: bytes, signature: bytes, offset: int, value: bytes) -> bytes:
    """ZIP bytes with a field of every local (PK34) or directory (PK12) record replaced."""
    parts = content.split(signature)
    return signature.join([parts[0], *(p[: offset - 4] + value + p[offset - 4 + len(value) :] for p in parts[1:])])


def test_a_zip_that_lies_is_refused(tmp_path: Path) -> None:
    good = archive(tmp_path / "good.npz", [("a.npy", member(VALUES))], zipfile.ZIP_STORED)
    local, directory = b"PK\x03\x04", b"PK\x01\x02"
    start = good.index(b"\x93NUMPY")
    flipped = bytearray(good)
    flipped[start + 130] ^= 1
    cases = {
        "is encrypted": patched(good, directory, 8, b"\x01\x00"),
        "compressed by method 99": patched(good, directory, 10, b"\x63\x00"),
        "damaged or cut.*CRC": bytes(flipped),
        f"at most {MEMBER_LIMIT:,} are read": patched(good, directory, 24, b"\xff\xff\xff\x7f"),
        "damaged or cut|of the": patched(good, directory, 24, struct.pack("<I", 400)),
        "damaged or cut|local": good.replace(local, b"PK\x03\x05"),
        "damaged or cut|end": good[:-10],
        "damaged or cut|zip": good[:20],
        "damaged or cut| zip": b"",
        "No such file": None,
    }
    for says, content in cases.items():
        path = tmp_path / "bad.npz"
        path.unlink(missing_ok=True)
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(UserError, match=says) as caught:
            read(path)
        assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_members_of_one_name_are_refused(tmp_path: Path) -> None:
    archive(tmp_path / "a.npz", [("a.npy", member(VALUES)), ("a.npy", member(VALUES + 1))])
    with pytest.raises(UserError, match="two arrays of the name a"):
        read(tmp_path / "a.npz")


def test_a_missing_array_is_named(tmp_path: Path) -> None:
    archive(tmp_path / "a.npz", [("b.npy", member(VALUES))])
    with pytest.raises(UserError, match="is not a scores file: it lacks a"):
        read(tmp_path / "a.npz")


def test_counts_file_comes_back(tmp_path: Path) -> None:
    counts = counts_of(skeleton_ticket(SMALL, 1), 1)
    DimensionCounts(counts, {"task": "RTE"}).save(tmp_path / "c.npz")
    found = DimensionCounts.load(tmp_path / "c.npz")
    assert found.provenance == {"task": "RTE"}
    for matrix in MATRICES:
        assert found.counts[matrix].shape == (3, SMALL.in_features(matrix) + 1)
        assert found.out_features(matrix) == SMALL.out_features(matrix)
        np.testing.assert_array_equal(found.counts[matrix], counts[matrix])


@pytest.mark.parametrize(
    "matrix, values, reason",
    [
        ("fc1", np.ones((2, 21), int), r"fc1 \(2, 21\) must be \(layers, in_features \+ 1\), here \(3, 21\)"),
        ("k_proj", np.ones((3, 20), int), r"k_proj \(3, 20\) must be"),
        ("q_proj", np.ones((3, 1), int), "q_proj .* must be whole numbers"),
        ("fc2", np.ones((3, 51)), "fc2: holds|fc2 holds floating"),
        ("k_proj", -np.ones((3, 21), int), "k_proj must hold counts of at least 0"),
        ("fc2", np.full((3, 51), 21), "fc2 must hold counts of at least 0 and at most 20"),
        ("fc1", np.full((3, 21), 51), "fc1 must hold counts of at least 0 and at most 50"),
    ],
)
def test_wrong_counts(matrix: str, values: Any, reason: str, tmp_path: Path) -> None:
    arrays: dict[str, Any] = {**counts_of(skeleton_ticket(SMALL, 1), 1), matrix: values}
    write_arrays(tmp_path / "c.npz", {"provenance": np.array("{}"), **arrays})
    with pytest.raises(UserError, match=rf"counts file .*c\.npz: {reason}"):
        DimensionCounts.load(tmp_path / "c.npz")
