"""Mutants of a good file, and how a reader is tried on them.

A seed makes a mutant: the same seed, the same file, the same bytes. `fuzz` tries a reader on mutants until the
rounds or the time given are over; a reader may take a mutant or refuse it with UserError, and nothing else.
By default every test tries a few dozen seeds; `make fuzz` gives the whole folder FUZZ_SECONDS.
"""

from __future__ import annotations

import copy
import io
import json
import os
import random
import resource
import signal
import struct
import time
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fairseq_tickets.errors import UserError

ROUNDS = 60
CASE_SECONDS = 20
CASE_BYTES = 3 << 30  # address space that one case may add
SECONDS = "FUZZ_SHARE"  # seconds for each test, set by conftest.py from FUZZ_SECONDS

EXTREMES: tuple[Any, ...] = (
    *(0, 1, -1, 2, 255, 2**31, 2**63, -(2**63), 2**64, 10**30, 10**200),
    *(0.0, -0.0, 1.0, 0.5, 1e-320, 1e308, -1e308, float("nan"), float("inf"), float("-inf")),
    *(None, True, False, "", "x", "0", "1", "nan", "../..", "/dev/null", "a\0b", "\ud800", "ü" * 300, "a\nb", "\u2028"),
    *([], {}, [[]], [0], [None], {"": None}, {"a": {"b": []}}, [1] * 1000),
)
WORDS = (b"", b"\0", b"\xff", b"\r", b"\n", b"\r\n", b"\t", b'"', b"[", b"]", b"{", b"}", b":", b",", b"-", b"9" * 30)


def mutate_bytes(content: bytes, dice: random.Random) -> bytes:
    """Flip, cut, double, drop, overwrite or insert at one to three places."""
    data = bytearray(content)
    for _ in range(dice.choice((1, 1, 1, 2, 3))):
        start = dice.randrange(len(data) + 1)
        length = dice.choice((1, 2, 4, 8, 64, 512))
        kind = dice.randrange(8)
        if kind == 0 and start < len(data):
            data[start] ^= 1 << dice.randrange(8)
        elif kind == 1:
            del data[start:]
        elif kind == 2:
            del data[start : start + length]
        elif kind == 3:
            data[start:start] = data[start : start + length] * dice.choice((1, 2, 50))
        elif kind == 4:
            data[start : start + length] = bytes(dice.choice((0, 255)) for _ in range(length))
        elif kind == 5:
            data[start:start] = dice.choice(WORDS)
        elif kind == 6:
            number = dice.choice((0, 1, 127, 2**15, 2**31 - 1, 2**32 - 1, 2**63 - 1, 2**64 - 1))
            width = dice.choice((1, 2, 4, 8))
            data[start : start + width] = (number % 256**width).to_bytes(width, dice.choice(("little", "big")))
        else:
            other = dice.randrange(len(data) + 1)
            data[start : start + length], data[other : other + length] = (
                data[other : other + length],
                data[start : start + length],
            )
    return bytes(data)


def mutate_lines(content: bytes, dice: random.Random) -> bytes:
    """For files of lines: drop, double, exchange, cut or rewrite a line; or as `mutate_bytes`."""
    lines = content.split(b"\n")
    at, other = dice.randrange(len(lines)), dice.randrange(len(lines))
    kind = dice.randrange(8)
    if kind == 0:
        del lines[at]
    elif kind == 1:
        lines.insert(other, lines[at])
    elif kind == 2:
        lines[at], lines[other] = lines[other], lines[at]
    elif kind == 3:
        lines = lines[:at]
    elif kind == 4:
        lines[at] = dice.choice((b"", b" ", b"\t", b"#", b"1", b"a 1", b"-1", b"\xff\xfe", lines[at] * 2000))
    elif kind == 5:
        return b"\n".join(lines).replace(b"\n", dice.choice((b"\r", b"\r\n", b"\n\n", b"\x1c")))
    else:
        return mutate_bytes(content, dice)
    return b"\n".join(lines)


def mutate_json(content: Any, dice: random.Random) -> bytes:
    """The content's text with one to three values replaced, keys dropped or doubled, or nested without end."""
    if dice.random() < 0.2:
        return mutate_bytes(json.dumps(content).encode(), dice)
    changed = json.loads(json.dumps(content))
    for _ in range(dice.choice((1, 1, 2, 3))):
        changed = _mutate_value(changed, dice)
    text = json.dumps(changed)
    kind = dice.randrange(25)
    if kind == 0:
        depth = dice.choice((50, 70, 500, 100_000))
        return text.replace("null", "[" * depth + "]" * depth, 1).encode() if "null" in text else b"[" * depth
    if kind == 1 and '": ' in text:  # a key twice
        keys = [part.rsplit('"', 1)[-1] for part in text.split('": ')[:-1]]
        return text.replace("{", f'{{"{dice.choice(keys)}": 0, ', 1).encode()
    if kind == 2:
        return text.replace("1", dice.choice(("1.0", "1e0", "1e400", "9" * 5000, "-0", "01", "0x1", "NaN")), 1).encode()
    return text.encode(dice.choice(("utf-8",) * 20 + ("utf-16", "utf-8-sig", "latin-1")), "replace")


def mutate_zip(content: bytes, dice: random.Random) -> bytes:
    """A ZIP file with a member's bytes mutated under a fitting checksum, a header field that lies, or as bytes."""
    kind = dice.randrange(4)
    if kind == 0:
        return mutate_bytes(content, dice)
    if kind == 1:  # a field of a local header, the directory, or the end record
        places = [i for mark in (b"PK\3\4", b"PK\1\2", b"PK\5\6") for i in _all(content, mark)]
        at = dice.choice(places) + 4 + dice.randrange(26)
        value = struct.pack("<Q", dice.choice((0, 1, 2, 8, 99, 2**16 - 1, 2**31, 2**32 - 1)))[: dice.choice((1, 2, 4))]
        return content[:at] + value + content[at + len(value) :]
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(made, "w") as new:
        infos = old.infolist()
        chosen = dice.choice(infos)
        for info in infos:
            data = old.read(info)
            if info is chosen:
                if kind == 2:
                    data = (
                        mutate_bytes(data[:128], dice) + data[128:] if dice.random() < 0.7 else mutate_bytes(data, dice)
                    )
                elif dice.random() < 0.5:
                    continue
                else:
                    info.filename = dice.choice((*(i.filename for i in infos), "x", "../x", info.filename.upper()))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # a name twice is what is wanted
                new.writestr(info, data, info.compress_type)
    return made.getvalue()


def fuzz(
    path: Path, mutate: Callable[[random.Random], bytes], read: Callable[[Path], Any], rounds: int = ROUNDS
) -> int:
    """Read the good file in `path`, then write mutants in its place and read each; how many were taken.

    Raises:
        UserError: the good file is refused, so that nothing would be tried.
        AssertionError: a mutant that the reader neither takes nor refuses by UserError within its time and memory;
            the message gives the seed, and the mutant stays in `path`.
    """
    read(path)
    taken = 0
    for seed in seeds(rounds):
        path.write_bytes(mutate(random.Random(seed)))
        try:
            with limits():
                read(path)
            taken += 1
        except UserError as error:
            line = str(error)
            assert "\n" not in line and len(line) < 2000, f"seed {seed}, {path}: not one line: {line[:3000]}"
            line.encode()
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            raise AssertionError(f"seed {seed}, {path}: {type(error).__name__}: {str(error)[:500]}") from error
    return taken


def seeds(rounds: int) -> Iterator[int]:
    """Seeds 0, 1, ... for `rounds` cases; under `make fuzz` new ones until this test's share of the time is over."""
    share = os.environ.get(SECONDS)
    if share is None:
        yield from range(rounds)
        return
    seed = int(os.environ.get("FUZZ_SEED", time.time_ns() % 10**9))
    end = time.monotonic() + float(share)
    while time.monotonic() < end:
        yield seed
        seed += 1


class Hang(BaseException):
    """A case that took longer than CASE_SECONDS of processor time."""


@contextmanager
def limits() -> Iterator[None]:
    """Within the block: an alarm after CASE_SECONDS of processor time (a busy machine is no hang), and at most
    CASE_BYTES more address space.
    """

    def ring(number: int, frame: object) -> None:
        raise Hang(f"still running after {CASE_SECONDS} s")

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + CASE_BYTES, hard))
    before = signal.signal(signal.SIGPROF, ring)
    signal.setitimer(signal.ITIMER_PROF, CASE_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _mutate_value(content: Any, dice: random.Random) -> Any:
    places = list(_places(content))
    if not places or dice.random() < 0.02:
        return copy.deepcopy(dice.choice(EXTREMES))
    holder, key = dice.choice(places)
    value = holder[key]
    kind = dice.randrange(10)
    if kind == 0:
        del holder[key]
    elif kind == 1 and isinstance(holder, list):
        holder.insert(key, value)
    elif kind == 1:
        holder[dice.choice((str(key) + "x", "", key.upper(), "__class__"))] = value
    elif kind == 2:
        holder[key] = [value]
    elif kind == 3:
        holder[key] = {"a": value}
    elif kind == 4 and isinstance(value, (int, float)):
        holder[key] = dice.choice((float(value), str(value), -value, value + 1, value - 1, value * 1000, bool(value)))
    elif kind == 5:
        other, place = dice.choice(places)
        holder[key] = copy.deepcopy(other[place])
    elif kind == 6 and isinstance(value, str):
        holder[key] = dice.choice(
            (value + " ", value.upper(), value[:-1], value * 3000, value + "\0", [*value], "$" + value)
        )
    else:
        holder[key] = copy.deepcopy(dice.choice(EXTREMES))
    return content


def _places(content: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(content, (dict, list)):
        keys = list(content) if isinstance(content, dict) else range(len(content))
        for key in keys:
            yield content, key
            yield from _places(content[key])


def _all(content: bytes, mark: bytes) -> Iterator[int]:
    at = content.find(mark)
    while at >= 0:
        yield at
        at = content.find(mark, at + 1)
