"""What a report is made from: results, tickets, scores, counts and saliences, found in files and folders.

A file that is damaged, or named outright and of another kind, is left out and said so: a report of the other
999 runs is worth having. In folders, whole files of other kinds (configs, descriptions of tasks) are passed over.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fairseq_tickets.analysis.output import split_name, task_of
from fairseq_tickets.analysis.results import FORMAT, Collection, Result, contents, result_from_json
from fairseq_tickets.arrays import read_arrays
from fairseq_tickets.counts import DimensionCounts
from fairseq_tickets.documents import parse_json
from fairseq_tickets.errors import UserError
from fairseq_tickets.files import read_json
from fairseq_tickets.parameters import MATRICES
from fairseq_tickets.saliences import FORMAT as SALIENCE_FORMAT
from fairseq_tickets.saliences import DimensionSalience
from fairseq_tickets.scores import FORMAT as SCORES_FORMAT
from fairseq_tickets.scores import ImportanceScores
from fairseq_tickets.tickets import (
    DOMINANT_FORMAT,
    SUPER_FORMAT,
    DominantTicket,
    Ticket,
    load_ticket,
    ticket_from_json,
)


@dataclass
class Material:
    """What was found; names are unique within a kind, `warnings` name what was left out.

    Attributes:
        results: the runs, each once.
        tickets, scores, counts, saliences: by name.
        paths: kind and name -> file, of everything but the runs.
        warnings: one line a file that was left out.
    """

    results: list[Result] = field(default_factory=list)
    tickets: dict[str, Ticket] = field(default_factory=dict)
    scores: dict[str, ImportanceScores] = field(default_factory=dict)
    counts: dict[str, DimensionCounts] = field(default_factory=dict)
    saliences: dict[str, DimensionSalience] = field(default_factory=dict)
    paths: dict[tuple[str, str], str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


def gather(
    inputs: Sequence[str],
    tickets: Sequence[str] = (),
    scores: Sequence[str] = (),
    counts: Sequence[str] = (),
    saliences: Sequence[str] = (),
) -> Material:
    """Read everything.

    Args:
        inputs: files of any kind, or folders that are searched.
        tickets, scores, counts, saliences: FILE or NAME=FILE of that kind.

    Raises:
        UserError: a path that does not exist, or nothing to show.
    """
    named = [*tickets, *scores, *counts, *saliences]
    for argument in (*inputs, *named):
        if not Path(split_name(argument)[1]).exists():
            raise UserError(f"no such file or folder: {argument}")
    found = Material()
    runs = Collection()
    for argument in inputs:
        folder = Path(argument)
        if not folder.is_dir():
            _take(found, runs, argument, named=True)
            continue
        for path in sorted(p for p in folder.rglob("*") if p.suffix in (".json", ".jsonl", ".npz") and p.is_file()):
            _take(found, runs, str(path), named=False)
    for arguments, load, kind in (
        (tickets, load_ticket, "tickets"),
        (scores, ImportanceScores.load, "scores"),
        (counts, DimensionCounts.load, "counts"),
        (saliences, DimensionSalience.load, "saliences"),
    ):
        for argument in arguments:
            name, file = split_name(argument)
            _guarded(found, lambda: _keep(found, kind, load(file), file, name))  # noqa: B023 - called at once
    found.results = runs.results
    if not (found.results or found.tickets or found.scores or found.counts or found.saliences):
        reasons = f" ({found.warnings[0]})" if found.warnings else ""
        raise UserError(f"nothing to show in {', '.join([*inputs, *named])}{reasons}")
    return found


def kind_of(path: str) -> str:
    """What a file says it is: "result", "results", "super", "dominant", "scores", "counts", "salience" or "".

    Raises:
        UserError: the file can't be read, or is cut.
    """
    suffix = Path(path).suffix
    if suffix == ".jsonl":
        return "results"
    if suffix == ".npz":
        return _kind_of_arrays(path)
    content = read_json(path, "report's")
    kinds = {FORMAT: "result", SUPER_FORMAT: "super", DOMINANT_FORMAT: "dominant"}
    return kinds.get(str(content.get("format")), "") if isinstance(content, Mapping) else ""


def _kind_of_arrays(path: str) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = {name.removesuffix(".npy") for name in archive.namelist()}
    except (OSError, zipfile.BadZipFile) as error:
        raise UserError(f"cannot read file {path}: {error}") from error
    if not {"provenance"} <= names:
        return ""
    if not {"heads", "ffn"} <= names and not set(MATRICES) <= names:
        return ""
    text = read_arrays(path, "report's", {"provenance": "text"})["provenance"]
    provenance = parse_json(text, f"file {path}: its provenance")
    marked = provenance.get("format") if isinstance(provenance, Mapping) else None
    return {SCORES_FORMAT: "scores", SALIENCE_FORMAT: "salience", None: "counts"}.get(marked, "")


def _take(found: Material, runs: Collection, path: str, named: bool) -> None:
    """Read one file into what it belongs to."""

    def read() -> None:
        kind = kind_of(path)
        if kind in ("result", "results"):
            for source, content in contents(Path(path)):
                _guarded(found, lambda: runs.add(result_from_json(content, source)))  # noqa: B023 - called at once
        elif kind in ("super", "dominant"):
            _keep(found, "tickets", ticket_from_json(read_json(path, "ticket"), path), path)
        elif kind == "scores":
            _keep(found, "scores", ImportanceScores.load(path), path)
        elif kind == "counts":
            _keep(found, "counts", DimensionCounts.load(path), path)
        elif kind == "salience":
            _keep(found, "saliences", DimensionSalience.load(path), path)
        elif named:
            raise UserError(f"{path} is no result, ticket, scores, counts or salience file of this package")

    _guarded(found, read)


def _guarded(found: Material, read: Callable[[], None]) -> None:
    try:
        read()
    except UserError as error:
        found.warnings.append(str(error))


def _keep(found: Material, kind: str, thing: Any, path: str, name: str | None = None) -> None:
    """File a thing under its given name, or its task and seed, or its file's name; the same file twice is one."""
    things: dict[str, Any] = vars(found)[kind]
    if name is None and any(Path(found.paths[kind, known]) == Path(path) for known in things):
        return
    facts = {**_inner(thing.provenance), **{k: v for k, v in thing.provenance.items() if v is not None}}
    task, seed, stem = task_of(facts), facts.get("seed"), Path(path).stem
    wanted = name or (f"{task} seed {seed}" if task and seed is not None else task or stem)
    if wanted in things and type(things[wanted]) is not type(thing):
        wanted += ", dominant" if isinstance(thing, DominantTicket) else ", super"
    if wanted in things:
        wanted = f"{wanted} ({Path(path).parent.name}/{stem})"
    while wanted in things:
        wanted += "'"
    things[wanted] = thing
    found.paths[kind, wanted] = path


def _inner(provenance: Mapping[str, Any]) -> Mapping[str, Any]:
    """Provenance of the scores that a super ticket was made from."""
    scores = provenance.get("scores")
    return scores if isinstance(scores, Mapping) else {}


def dominant_tickets_of(found: Material) -> dict[str, DominantTicket]:
    """Dominant tickets of the files, and of runs where no file has the same dimensions."""
    tickets = {name: t for name, t in found.tickets.items() if isinstance(t, DominantTicket)}
    seen = [t.dimensions for t in tickets.values()]
    for name, ticket in _of_runs(found.results, ("dominant",)):
        if isinstance(ticket, DominantTicket) and ticket.dimensions not in seen:
            seen.append(ticket.dimensions)
            tickets.setdefault(name, ticket)
    return tickets


def run_label(run: Result) -> str:
    """Name of a run for people: task, method, level or k, the tasks that it shares an encoder with, seed."""
    parts = [run.task, run.method, "" if run.level is None else f"{run.level:g}", f"k{run.top_k}" if run.top_k else ""]
    source = f"of {run.source_task}" if run.source_task else ""
    share = "" if run.train_fraction == 1 else f"on {100 * run.train_fraction:g} %"
    shared = f"({'+'.join(run.shared_tasks)})" if run.shared_tasks else ""
    return " ".join(part for part in [*parts, shared, source, share, f"seed {run.seed}"] if part)


def _of_runs(results: Iterable[Result], methods: Sequence[str]) -> Iterable[tuple[str, Ticket]]:
    several = len({(r.experiment, r.model) for r in results}) > 1
    for run in results:
        if run.method in methods and run.ticket is not None and run.train_fraction == 1:
            place = f" ({run.experiment}, {run.model})" if several else ""
            yield f"{run_label(run)}{place}", ticket_from_json(run.ticket, run.path)
