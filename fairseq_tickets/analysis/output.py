"""What the analysis commands share: inputs named on the command line, the signature of files, where text
goes.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fairseq_tickets import __version__
from fairseq_tickets.analysis.results import Collection, Result, load_results, select
from fairseq_tickets.counts import DimensionCounts
from fairseq_tickets.errors import UserError
from fairseq_tickets.files import atomic_write, sha256
from fairseq_tickets.scores import ImportanceScores
from fairseq_tickets.tickets import (
    DominantTicket,
    SuperTicket,
    Ticket,
    load_dominant_ticket,
    load_super_ticket,
    load_ticket,
)


def emit(text: str, output: str | None) -> None:
    """Print `text`, or write it to the file `output` whole; either way it ends in a newline."""
    text = text if text.endswith("\n") else text + "\n"
    if output is None:
        sys.stdout.write(text)
        return
    with atomic_write(output) as temporary:
        temporary.write_text(text, encoding="utf-8")


def filtered_results(
    paths: Sequence[str],
    model: str | None = None,
    experiment: str | None = None,
    task: Sequence[str] = (),
    seed: Sequence[int] = (),
) -> list[Result]:
    """Results of one model, experiment, some tasks or seeds, or all; UserError when none is left."""
    results = load_results(paths)
    for name, wanted in (("model", model), ("experiment", experiment), ("task", task), ("seed", seed)):
        if wanted:
            known = sorted({str(vars(result)[name]) for result in results})
            chosen = [wanted] if isinstance(wanted, str) else list(wanted)
            results = select(results, **{name: chosen})
            if not results:
                said = ", ".join(map(str, chosen))
                raise UserError(f"--{name} {said}: no such results; there are {', '.join(known)}")
    return results


def named_tickets(arguments: Sequence[str]) -> dict[str, Ticket]:
    """Tickets of either kind by name; see `_named`."""
    return _named(arguments, load_ticket, lambda ticket: ticket.provenance)


def named_dominant_tickets(arguments: Sequence[str]) -> dict[str, DominantTicket]:
    """Dominant tickets by name; see `_named`."""
    return _named(arguments, load_dominant_ticket, lambda ticket: ticket.provenance)


def named_super_tickets(arguments: Sequence[str]) -> dict[str, SuperTicket]:
    """Super tickets by name; see `_named`."""
    return _named(arguments, load_super_ticket, lambda ticket: ticket.provenance)


def named_scores(arguments: Sequence[str]) -> dict[str, ImportanceScores]:
    """Importance scores by name; see `_named`."""
    return _named(arguments, ImportanceScores.load, lambda scores: scores.provenance)


def named_counts(arguments: Sequence[str]) -> dict[str, DimensionCounts]:
    """Counts of out-weighted parameters by name; see `_named`."""
    return _named(arguments, DimensionCounts.load, lambda counts: counts.provenance)


def named_results(arguments: Sequence[str]) -> dict[str, list[Result]]:
    """Results of each FILE or NAME=FILE under that name, or, without one, under their experiment's."""
    found: dict[str, Collection] = {}
    for argument in arguments:
        name, path = split_name(argument)
        for result in load_results([path]):
            found.setdefault(name or result.experiment, Collection()).add(result)
    return {name: collection.results for name, collection in found.items()}


def experiment_counts(arguments: Sequence[str]) -> dict[str, dict[tuple[str, int], DimensionCounts]]:
    """Counts of FILE or NAME=FILE, a folder for all in it: name ("counts" without one) -> (task, seed) -> counts.

    Raises:
        UserError: a folder without any, a file that doesn't say its task and seed, or two of one task and seed.
    """
    found: dict[str, dict[tuple[str, int], DimensionCounts]] = {}
    for argument in arguments:
        name, place = split_name(argument)
        paths = sorted(Path(place).glob("*.npz")) if Path(place).is_dir() else [Path(place)]
        if not paths:
            raise UserError(f"--counts {place}: no .npz files in this folder")
        own = found.setdefault(name or "counts", {})
        for path in paths:
            counts = DimensionCounts.load(path)
            task, seed = task_of(counts.provenance), counts.provenance.get("seed")
            if not task or not isinstance(seed, int):
                raise UserError(f"--counts {path}: does not say the task and the seed that it is of")
            if (task, seed) in own:
                raise UserError(f"--counts {path}: the second of {task}, seed {seed}; give them names: NAME=FILE")
            own[task, seed] = counts
    return found


def split_name(argument: str) -> tuple[str | None, str]:
    """NAME and FILE of "NAME=FILE"; None and FILE without a name, or when a file is called so."""
    name, equals, path = argument.partition("=")
    return (name, path) if equals and name and not Path(argument).exists() else (None, argument)


def ticket_signature(arguments: Sequence[str]) -> str:
    """One line: how many files, the package version, and the first 10 digits of each file's SHA-256."""
    return signature_of_files([split_name(argument)[1] for argument in arguments])


def signature_of_files(paths: Sequence[str]) -> str:
    """The same of paths."""
    digests = [sha256(path)[:10] for path in paths]
    return f"files={len(digests)}|fairseq_tickets={__version__}|sha256={','.join(digests)}"


def task_of(provenance: Mapping[str, Any]) -> str:
    """The task that a file's provenance names; older ones name its cache folder: SST-2-57100f4fd570."""
    return re.sub(r"-[0-9a-f]{12}$", "", str(provenance.get("task", "")))


def _named(arguments: Sequence[str], load: Any, provenance: Any) -> dict[str, Any]:
    """Load each FILE or NAME=FILE.

    Without a name, the task in the provenance serves where it differs from file to file, else the file's
    stem, else its path.

    Raises:
        UserError: a name given twice, or what `load` raises.
    """
    pairs = [split_name(argument) for argument in arguments]
    things = [load(path) for _, path in pairs]
    tasks = [task_of(provenance(thing)) for thing in things]
    stems = [Path(path).stem for _, path in pairs]
    paths = [path for _, path in pairs]
    distinct = [names for names in (tasks, stems, paths) if len(set(names)) == len(names) and all(names)]
    spare = distinct[0] if distinct else paths
    names = [given or other for (given, _), other in zip(pairs, spare)]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"{name} names two inputs; give each its own name: NAME=FILE")
    return dict(zip(names, things))
