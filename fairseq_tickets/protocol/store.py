"""The folder of an experiment: OUTPUT/EXPERIMENT/KEY/ with what a step wrote, its log, and `done.json`.

`done.json` marks a step as done: written last, with the checksums of all outputs, so that one that was edited or cut is
refused by name, whoever reads it. A result may also stand without a folder, as a line of a file in
OUTPUT/EXPERIMENT/results/: that is how results travel.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fairseq_tickets.analysis.result_lines import SUFFIX, read_lines, result_line
from fairseq_tickets.analysis.results import Result, checksum, result_from_json
from fairseq_tickets.errors import UserError
from fairseq_tickets.files import atomic_write, read_json, sha256, write_json
from fairseq_tickets.protocol.steps import CHECKPOINT, PREDICTIONS, RESULT, Step

DONE, RESULTS, LINES, REPLACED = "done.json", "results", "runs.jsonl", ".replaced"
Content = Mapping[str, Any]
Inputs = Mapping[str, Mapping[str, str]]  # role -> {"file": ..., "sha256": ...}


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
    for name in _inside(facts, file):
        path = folder / name
        if not path.is_file() or sha256(path) != facts["outputs"][name]:
            raise UserError(f"{path} was changed after it was written; delete {folder} to run it again")


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


class Store:
    """The folder of one experiment, which need not exist; what was read of it is remembered, see `forget`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._facts: dict[str, Content] = {}
        self._results: dict[str, Result] = {}
        self._lines: dict[str, Content] | None = None

    def done(self, key: str) -> bool:
        """Whether a step's outcome is there; whether one of its outputs is, is another question: see `has`.

        Raises:
            UserError: there is one, but it is not what was written.
        """
        if key in self._facts:
            return True
        facts = done_facts(self.folder / key)
        if facts is not None:
            check_output(self.folder / key, RESULT, facts)
        elif key in self.lines():
            content = self.lines()[key]
            facts = {"outputs": {}, "seconds": content.get("wall_seconds"), "inputs": inputs_of(content)}
        else:
            return False
        self._facts[key] = facts
        return True

    def facts(self, key: str) -> Content:
        """What is noted of a finished step: "outputs" (file -> checksum), and "seconds" and "inputs" if known."""
        return self._facts[key] if self.done(key) else {}

    def forget(self, key: str) -> None:
        """Look at a step again when asked next: it has been done, maybe once more."""
        self._facts.pop(key, None)
        self._results.pop(key, None)

    def seen(self, key: str) -> Content | None:
        """What was noted when it was looked at last; None where the step wasn't done then."""
        return self._facts.get(key)

    def has(self, key: str, file: str) -> bool:
        """Whether a step is done and an output is there: a file, or a folder with all its files."""
        names = _inside(self.facts(key), file) if self.done(key) else []
        return bool(names) and all((self.folder / key / name).is_file() for name in names)

    def seconds(self, key: str) -> float | None:
        """How long a finished step took, where that is known."""
        found = self.facts(key).get("seconds")
        return float(found) if isinstance(found, (int, float)) else None

    def predicted(self, step: Step) -> bool:
        """Whether a finished run has predictions for the test split, or its data have none."""
        has_test = (Path(step.arguments["data"].value) / "input0" / "test.idx").is_file()
        return not has_test or any(name.endswith(PREDICTIONS) for name in self.facts(step.key)["outputs"])

    def content(self, key: str) -> Content:
        """The content of a finished run's result file."""
        return dict(read_json(self.folder / key / RESULT, "result")) if self._in_folder(key) else self.lines()[key]

    def result(self, key: str) -> Result:
        """A finished run's result.

        Raises:
            UserError: naming a result that is another run's.
        """
        if key not in self._results:
            source = self.folder / key / RESULT if self._in_folder(key) else self.folder / RESULTS
            result = result_from_json(self.content(key), str(source))
            if result.key != key:
                raise UserError(f"result file {source} is of run {result.key}; it was moved or copied here")
            self._results[key] = result
        return self._results[key]

    def lines(self) -> Mapping[str, Content]:
        """Results in files of the folder `results`, by key, but for those that were set aside.

        Raises:
            UserError: one was edited or cut.
        """
        if self._lines is None:
            self._lines = {}
            for path in sorted((self.folder / RESULTS).glob(f"*{SUFFIX}")):
                for source, content in read_lines(path):
                    key = result_from_json(content, source).key
                    if not (self.folder / f"{key}{REPLACED}").is_dir():
                        self._lines[key] = content
        return self._lines

    def keys(self) -> set[str]:
        """Keys of everything that is finished here, asked for by a protocol or not."""
        return {path.parent.name for path in self.folder.glob(f"*/{DONE}")} | set(self.lines())

    def runs(self) -> set[str]:
        """Those of `keys` that made a result."""
        return {key for key in self.keys() if RESULT in self.facts(key)["outputs"] or key in self.lines()}

    def adopt(self) -> None:
        """Give results that are only lines a folder each, so that they stay when `results` is written anew."""
        for key, content in self.lines().items():
            folder = self.folder / key
            if not (folder / DONE).exists():
                write_json(folder / RESULT, content)
                facts = {"inputs": inputs_of(content), "seconds": content.get("wall_seconds")}
                write_done(folder, [folder / RESULT], facts)
                self.forget(key)

    def drop(self, key: str) -> None:
        """Delete a checkpoint that nobody needs any more."""
        with contextlib.suppress(OSError):
            (self.folder / key / CHECKPOINT).unlink(missing_ok=True)

    def changed(self, inputs: Inputs) -> dict[str, str]:
        """Keys of finished steps with an input that isn't what it was, role by role, and what has changed."""
        stale: dict[str, str] = {}
        for key in sorted(self.keys()):
            for role, digest in self.facts(key).get("inputs", {}).items():
                if role in inputs and digest != inputs[role]["sha256"]:
                    stale.setdefault(key, f"{role} ({inputs[role]['file']})")
        return stale

    def check_inputs(self, inputs: Inputs) -> None:
        """Compare the inputs of finished runs with those of today.

        Raises:
            UserError: naming what changed.
        """
        stale = self.changed(inputs)
        if stale:
            what = ", ".join(sorted(set(stale.values()))[:3])
            raise UserError(
                f"{what} changed after {len(stale)} runs in {self.folder} were finished with it: its checksum differs; "
                "put the old file back, give another --output, or use --rerun-changed to replace these results"
            )

    def set_aside(self, inputs: Inputs) -> list[str]:
        """Rename the folders of finished runs whose inputs have changed to KEY.replaced; returns the keys."""
        stale = sorted(self.changed(inputs))
        for key in stale:
            aside = self.folder / f"{key}{REPLACED}"
            shutil.rmtree(aside, ignore_errors=True)
            (self.folder / key / DONE).unlink()
            os.replace(self.folder / key, aside)
            self.forget(key)
        self._lines = None
        return stale

    def collect(self, name: str, wanted: Mapping[str, Path]) -> None:
        """Make the folder `name` hold exactly copies of these files, by their new names.

        Others may do the same in the same moment, for a protocol of their own.
        """
        target = self.folder / name
        if not wanted and not target.is_dir():
            return
        try:
            target.mkdir(parents=True, exist_ok=True)
            for path in target.iterdir():
                if path.suffix in (".json", ".npz", ".tsv") and path.name not in wanted:
                    path.unlink(missing_ok=True)
            for file, source in wanted.items():
                if not _same_content(source, target / file):
                    with atomic_write(target / file) as temporary:
                        shutil.copyfile(source, temporary)
        except OSError as error:
            raise UserError(f"cannot write {target}: {error.strerror or error}") from error

    def write_lines(self, keys: Iterable[str]) -> int:
        """Write `results/runs.jsonl`: these finished runs, a line each; returns how many."""
        lines = [result_line(self.content(key)) for key in keys]
        path = self.folder / RESULTS / LINES
        text = "".join(lines)
        if (lines or path.exists()) and (not path.is_file() or path.read_text(encoding="utf-8") != text):
            with atomic_write(path) as temporary:
                temporary.write_text(text, encoding="utf-8")
        return len(lines)

    def _in_folder(self, key: str) -> bool:
        return bool(self.facts(key).get("outputs"))


def _same_content(source: Path, copy: Path) -> bool:
    try:
        return copy.read_bytes() == source.read_bytes()
    except FileNotFoundError:
        return False


def _inside(facts: Content, file: str) -> list[str]:
    """Which outputs are this file, or in this folder."""
    return [name for name in facts["outputs"] if name == file or name.startswith(f"{file}/")]
