"""Run folders: OUTPUT/EXPERIMENT/KEY/ with the result, a log, and what other runs need.

A run is finished when its last file, the result or `done.json`, is there; it is written whole or not at all, after
all others. Results carry a checksum: one that was edited or cut is refused by name. One process works in a folder at a
time; the lock is a file's flock, which ends with the process and its workers, however they end.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from fairseq_tickets.analysis.results import Result, checksum, result_from_json
from fairseq_tickets.errors import UserError
from fairseq_tickets.files import atomic_write, read_json, sha256, write_json
from fairseq_tickets.protocol.runs import EXTRACT, L1, MAKE_RESULTS, PREPARE, SCORE, SHARE, Run

RESULT, DONE, CHECKPOINT, LOG, PREDICTIONS = "result.json", "done.json", "checkpoint.pt", "log.txt", "test.tsv"
COUNTS, TICKET = "counts.npz", "ticket.json"
OUTPUTS = {SCORE: "scores.npz", EXTRACT: TICKET, L1: "training.json", SHARE: "training.json"}


class Store:
    """The folder of one experiment."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._results: dict[str, Result] = {}
        self._checked: set[str] = set()

    @contextlib.contextmanager
    def lock(self, patience: float = 5.0) -> Iterator[int]:
        """Hold the folder; yields the file descriptor, which workers inherit so that the lock lives while they do.

        Raises:
            UserError: another process has it, also after `patience` seconds.
        """
        path = self.folder / ".lock"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise UserError(f"cannot write {path}: {error.strerror or error}") from error
        try:
            limit = time.monotonic() + patience
            while True:
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > limit:
                        raise UserError(
                            f"another `fairseq-tickets run` works in {self.folder}; wait for it, or give another "
                            "--output"
                        ) from None
                    time.sleep(0.1)
            yield handle
        finally:
            os.close(handle)

    def results(self) -> dict[str, Result]:
        """All finished training runs, by key.

        Raises:
            UserError: naming a result file that was edited, cut, or is another run's.
        """
        for path in sorted(self.folder.glob(f"*/{RESULT}")):
            if path.parent.name in self._results or path.parent.name == "results":
                continue
            content = read_json(path, "result")
            if not isinstance(content, Mapping) or "checksum" not in content:
                raise UserError(f"result file {path} has no checksum: it was edited, or cut; delete it to run it again")
            result = result_from_json(content, str(path))
            if result.key != path.parent.name:
                raise UserError(f"result file {path} is of run {result.key}; it was moved or copied here")
            self._results[result.key] = result
        return dict(self._results)

    def finished(self, run: Run) -> bool:
        """Whether a run's outcome is there; its checkpoint is another question, see `has_checkpoint`.

        Raises:
            UserError: it is there but not what was written.
        """
        if run.kind == PREPARE:
            return (Path(run.told["folder"]) / "task.json").is_file()
        if run.kind in MAKE_RESULTS:
            if run.key not in self._results and (self.folder / run.key / RESULT).is_file():
                self.results()
            return run.key in self._results and (not run.predicts or self._predicted(run))
        done_path = self.folder / run.key / DONE
        if not done_path.is_file():
            return False
        if run.key not in self._checked:
            output = self.folder / run.key / OUTPUTS[run.kind]
            wanted = read_json(done_path, "done").get("sha256")
            if not output.is_file() or sha256(output) != wanted:
                raise UserError(f"{output} was changed after it was written; delete {output.parent} to run it again")
            self._checked.add(run.key)
        return True

    def _predicted(self, run: Run) -> bool:
        folder = self.folder / run.key
        has_test = (Path(run.told["data"]) / "input0" / "test.idx").is_file()
        return bool(list(folder.glob(f"*{PREDICTIONS}"))) or not has_test

    def has_checkpoint(self, key: str) -> bool:
        """Whether the best checkpoint of a run is there."""
        return (self.folder / key / CHECKPOINT).is_file()

    def start(self, run: Run) -> Path:
        """An empty folder for a run, with its specification; what a cut run left there is removed."""
        folder = self.folder / run.key
        try:
            if folder.exists():
                shutil.rmtree(folder)
        except OSError as error:
            raise UserError(f"cannot remove {folder}: {error.strerror or error}") from error
        self._results.pop(run.key, None)
        self._checked.discard(run.key)
        write_json(folder / "spec.json", run.spec())
        return folder

    def drop_checkpoints(self, needed: Iterable[str]) -> None:
        """Delete checkpoints except those of the runs named."""
        kept = set(needed)
        for path in self.folder.glob(f"*/{CHECKPOINT}"):
            if path.parent.name not in kept:
                path.unlink(missing_ok=True)

    def check_inputs(self, inputs: Mapping[str, Mapping[str, str]], rerun: bool) -> list[str]:
        """Compare the inputs of finished runs with those of today, role by role.

        Args:
            inputs: role -> {"file", "sha256"} of today.
            rerun: set the results of runs whose inputs have changed aside in place of refusing.

        Returns:
            keys of the results set aside; their files are renamed to result.json.replaced.

        Raises:
            UserError: naming what changed.
        """
        stale: dict[str, str] = {}
        for path in sorted(self.folder.glob(f"*/{RESULT}")):
            if path.parent.name == "results":
                continue
            for role, entry in read_json(path, "result").get("inputs", {}).items():
                if role in inputs and entry["sha256"] != inputs[role]["sha256"]:
                    stale.setdefault(path.parent.name, f"{role} ({inputs[role]['file']})")
        if stale and not rerun:
            what = ", ".join(sorted(set(stale.values()))[:3])
            raise UserError(
                f"{what} changed after {len(stale)} runs in {self.folder} were finished with it: its checksum differs; "
                "put the old file back, give another --output, or use --rerun-changed to replace these results"
            )
        for key in stale:
            os.replace(self.folder / key / RESULT, self.folder / key / f"{RESULT}.replaced")
            self._results.pop(key, None)
        return sorted(stale)

    def collect(self, name: str, wanted: Mapping[str, Path]) -> None:
        """Make the folder `name` hold exactly copies of these files, by their new names."""
        target = self.folder / name
        if not wanted and not target.is_dir():
            return
        try:
            target.mkdir(exist_ok=True)
            for path in target.iterdir():
                if path.suffix in (".json", ".npz") and path.name not in wanted:
                    path.unlink()
            for file, source in wanted.items():
                if not (target / file).is_file() or (target / file).read_bytes() != source.read_bytes():
                    with atomic_write(target / file) as temporary:
                        shutil.copyfile(source, temporary)
        except OSError as error:
            raise UserError(f"cannot write {target}: {error.strerror or error}") from error


def write_result(path: Path, content: Mapping[str, Any]) -> None:
    """Write a result with its checksum, after checking that it can be read again."""
    full = {**content, "checksum": checksum(content)}
    result_from_json(full, str(path))
    write_json(path, full)


def write_done(folder: Path, output: str, facts: Mapping[str, Any]) -> None:
    """Mark a run that makes no result file as finished."""
    write_json(folder / DONE, {"output": output, "sha256": sha256(folder / output), **facts})
