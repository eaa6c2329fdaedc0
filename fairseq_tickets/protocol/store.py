"""The folder of an experiment: OUTPUT/EXPERIMENT/KEY/ with what a step wrote, its log, and its mark, see `marks`.

A result may also stand without a folder, as a line of a file in OUTPUT/EXPERIMENT/results/: that is how results travel.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from fairseq_tickets.analysis.result_lines import SUFFIX, read_lines, result_line
from fairseq_tickets.analysis.results import Result, result_from_json
from fairseq_tickets.errors import UserError
from fairseq_tickets.files import atomic_write, read_json, write_json
from fairseq_tickets.protocol.marks import DONE, Content, check_output, done_facts, inputs_of, inside, write_done
from fairseq_tickets.protocol.steps import CHECKPOINT, PREDICTIONS, RESULT, TICKET, Step

RESULTS, LINES, REPLACED = "results", "runs.jsonl", ".replaced"
ADOPTED = (RESULT, TICKET)  # what is taken over of a run without `done.json`
Inputs = Mapping[str, Mapping[str, str]]


class Store:
    """The folder of one experiment.

    Args:
        folder: OUTPUT/EXPERIMENT; need not exist.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._done: dict[str, Content] = {}
        self._results: dict[str, Result] = {}
        self._loose: dict[str, Content] | None = None

    def done(self, key: str) -> bool:
        """Whether a step's outcome is there; whether one of its outputs is, is another question: see `has`.

        Raises:
            UserError: there is one, but it is not what was written.
        """
        if key not in self._done:
            facts = done_facts(self.folder / key)
            if facts is None and key not in self.loose():
                return False
            if facts is not None and RESULT in facts["outputs"]:
                check_output(self.folder / key, RESULT, facts)
            self._done[key] = facts or {}
        return True

    def forget(self, key: str) -> None:
        """Look at a step again when asked next: it has been done, maybe once more."""
        self._done.pop(key, None)
        self._results.pop(key, None)

    def facts(self, key: str) -> Content:
        """What `done.json` of a finished step says; {} where there is only a line of a results file."""
        return self._done[key] if self.done(key) else {}

    def last_seen(self, key: str) -> Content | None:
        """What `done.json` said when it was looked at last; None where it wasn't there then."""
        return self._done.get(key) or None

    def has(self, key: str, file: str) -> bool:
        """Whether a step is done and an output is there: a file, or a folder with all its files."""
        names = inside(self.facts(key).get("outputs", {}), file) if self.done(key) else []
        return bool(names) and all((self.folder / key / name).is_file() for name in names)

    def seconds(self, key: str) -> float | None:
        """How long a finished step took, where that is known."""
        found = self.facts(key).get("seconds") if self.facts(key) else self.loose()[key].get("wall_seconds")
        return float(found) if isinstance(found, (int, float)) else None

    def makes_result(self, key: str) -> bool:
        """Whether a finished step made a result."""
        return RESULT in self.facts(key).get("outputs", {}) if self.facts(key) else key in self.loose()

    def predicted(self, step: Step) -> bool:
        """Whether a finished run has predictions for the test split, or its data have none."""
        files = self.facts(step.key).get("outputs", {})
        has_test = (Path(step.arguments["data"].value) / "input0" / "test.idx").is_file()
        return any(name.endswith(PREDICTIONS) for name in files) or not has_test

    def content(self, key: str) -> Content:
        """The content of a finished run's result file."""
        if self.facts(key):
            return dict(read_json(self.folder / key / RESULT, "result"))
        return self.loose()[key]

    def result(self, key: str) -> Result:
        """A finished run's result.

        Raises:
            UserError: naming a result that is another run's.
        """
        if key not in self._results:
            source = self.folder / key / RESULT if self.facts(key) else self.folder / RESULTS
            result = result_from_json(self.content(key), str(source))
            if result.key != key:
                raise UserError(f"result file {source} is of run {result.key}; it was moved or copied here")
            self._results[key] = result
        return self._results[key]

    def loose(self) -> Mapping[str, Content]:
        """Finished runs that have no `done.json`, by key: lines of files in `results`, and result files of versions
        before this one.

        Raises:
            UserError: one was edited or cut, or is another run's.
        """
        if self._loose is None:
            self._loose = {}
            for path in sorted((self.folder / RESULTS).glob(f"*{SUFFIX}")):
                for source, content in read_lines(path):
                    key = result_from_json(content, source).key
                    if not (self.folder / f"{key}{REPLACED}").is_dir():
                        self._loose[key] = content
            for path in sorted(self.folder.glob(f"*/{RESULT}")):
                if not (path.parent / DONE).exists() and not path.parent.name.endswith(REPLACED):
                    content = read_json(path, "result")
                    if not isinstance(content, Mapping) or "checksum" not in content:
                        raise UserError(
                            f"result file {path} has no checksum: it was edited, or cut; delete it to run it again"
                        )
                    key = result_from_json(content, str(path)).key
                    if key != path.parent.name:
                        raise UserError(f"result file {path} is of run {key}; it was moved or copied here")
                    self._loose[key] = content
        return self._loose

    def keys(self) -> set[str]:
        """Keys of everything that is finished here, asked for by a protocol or not."""
        try:
            names = [entry.name for entry in os.scandir(self.folder) if entry.is_dir()]
        except OSError:
            names = []
        return {name for name in names if (self.folder / name / DONE).is_file()} | set(self.loose())

    def adopt(self) -> None:
        """Give every loose run a folder with `done.json`, so that it stays when `results` is written anew."""
        for key, content in self.loose().items():
            folder = self.folder / key
            if not (folder / DONE).exists():
                if not (folder / RESULT).is_file():
                    write_json(folder / RESULT, content)
                outputs = [path for path in folder.iterdir() if path.is_file() and path.name in ADOPTED]
                write_done(folder, outputs, {"inputs": inputs_of(content), "seconds": content.get("wall_seconds")})
                self.forget(key)

    def drop(self, key: str, file: str = CHECKPOINT) -> None:
        """Delete an output that nobody needs any more."""
        with contextlib.suppress(OSError):
            (self.folder / key / file).unlink(missing_ok=True)

    def changed(self, inputs: Inputs) -> dict[str, str]:
        """Keys of finished steps with an input that isn't what it was, role by role, and what has changed."""
        stale: dict[str, str] = {}
        for key in sorted(self.keys()):
            facts = done_facts(self.folder / key)
            used = facts.get("inputs", {}) if facts is not None else inputs_of(self.loose()[key])
            for role, digest in used.items():
                if role in inputs and digest != inputs[role]["sha256"]:
                    stale.setdefault(key, f"{role} ({inputs[role]['file']})")
        return stale

    def check_inputs(self, inputs: Inputs) -> None:
        """Compare the inputs of finished runs with those of today.

        Args:
            inputs: role -> {"file", "sha256"} of today.

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
        self._loose = None
        return stale

    def collect(self, name: str, wanted: Mapping[str, Path]) -> None:
        """Make the folder `name` hold exactly copies of these files, by their new names."""
        target = self.folder / name
        if not wanted and not target.is_dir():
            return
        try:
            target.mkdir(parents=True, exist_ok=True)
            for path in target.iterdir():
                if path.suffix in (".json", ".npz", ".tsv") and path.name not in wanted:
                    path.unlink()
            for file, source in wanted.items():
                if not (target / file).is_file() or (target / file).read_bytes() != source.read_bytes():
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
