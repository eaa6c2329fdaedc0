"""Single files: whole or absent, and nothing stays of writers that were killed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from fairseq_tickets.files import atomic_write

WRITER = """
import os, sys
from fairseq_tickets.files import atomic_write
with atomic_write(sys.argv[1]) as temporary:
    temporary.write_text("half")
    print("writing", flush=True)
    sys.stdin.read()
    os._exit(9)
"""


def test_the_file_of_a_living_writer_stays_and_that_of_a_killed_one_goes(tmp_path: Path) -> None:
    target = tmp_path / "t.json"
    for stranger in (".t.json.tmp", ".t.json.more.aaaaaaaa.tmp", ".u.json.aaaaaaaa.tmp"):
        (tmp_path / stranger).touch()
    before = set(os.listdir(tmp_path))
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(target)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout is not None and writer.stdout.readline() == "writing\n"
    with atomic_write(target) as temporary:
        temporary.write_text("whole")
    (left,) = set(os.listdir(tmp_path)) - before - {"t.json"}
    assert (tmp_path / left).read_text() == "half"
    writer.communicate("")
    assert writer.returncode == 9 and (tmp_path / left).exists()
    with atomic_write(target) as temporary:
        temporary.write_text("newer")
    assert set(os.listdir(tmp_path)) - before == {"t.json"} and target.read_text() == "newer"
