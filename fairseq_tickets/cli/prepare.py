"""`fairseq-tickets prepare`: task files to fairseq binary data."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fairseq_tickets.cli.numbers import LARGEST_SEED, whole
from fairseq_tickets.cli.progress import progress_bar
from fairseq_tickets.errors import UserError

DESCRIPTION = """Turn task files into fairseq binary data and a task.json.

A GLUE task, SNLI or SciTail, in the files of its publishers (DIR holds the folder RTE):

  fairseq-tickets prepare --glue DIR --task RTE --tokenizer minilm --output data/RTE

`minilm` is a folder made by `fairseq-tickets import`: tokenizer and dict.txt. fairseq's RoBERTa needs its own files:

  fairseq-tickets prepare --glue DIR --task RTE --tokenizer encoder.json --dict dict.txt --output data/RTE

Your own files, tab-separated with a header or JSON lines (.jsonl):

  fairseq-tickets prepare --train train.tsv --valid dev.tsv --columns premise,hypothesis --label gold \\
      --tokenizer minilm --output data/mine
  fairseq-tickets prepare --train train.jsonl --valid dev.jsonl --columns text --label score --regression 0,1 \\
      --train-sentencepiece 8000 --output data/mine

Every line that is not an example is counted and named, with its reason, here and in task.json. The output folder is
written whole or not at all. Tasks: CoLA, SST-2, MRPC, STS-B, QQP, MNLI, QNLI, RTE, WNLI, SNLI, SciTail, and, made from
installed packages, describes, origin and follows."""

LINES_SHOWN = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options in the order of the help text."""
    known = parser.add_argument_group("a known task")
    known.add_argument("--glue", metavar="DIR", type=Path, help="folder that holds the task's folder")
    known.add_argument("--task", metavar="NAME", help="the task, for example RTE")
    known.add_argument(
        "--docstring-data",
        metavar="TRAIN,DEV",
        help="for describes, origin and follows: first write this many examples into DIR, made from installed packages",
    )
    own = parser.add_argument_group("your own files")
    for split in ("train", "valid", "test"):
        own.add_argument(
            f"--{split}", metavar="FILE", type=Path, help=f"{split} examples: TSV, or JSON lines in .jsonl"
        )
    own.add_argument("--columns", metavar="A[,B]", help="the one or two sentence columns")
    own.add_argument("--label", metavar="NAME", help="the column of labels or scores (default: label)")
    own.add_argument("--labels", metavar="X,Y,...", help="the classes in order (default: those of --train, sorted)")
    own.add_argument(
        "--regression",
        metavar="LOW,HIGH",
        nargs="?",
        const="any",
        help="the label is a score; lines with one outside LOW to HIGH are rejected",
    )
    own.add_argument("--no-header", action="store_true", help="TSV without header: columns are numbers, from 1")
    own.add_argument("--metrics", metavar="M,...", help="accuracy, f1, mcc; or pearson, spearman; the main one first")
    own.add_argument("--name", help="the task's name in task.json (default: name of the output folder)")
    tokens = parser.add_argument_group("tokens")
    tokens.add_argument("--tokenizer", metavar="FILE_OR_DIR", type=Path, help="see the examples")
    tokens.add_argument("--dict", metavar="FILE", type=Path, help="fairseq dictionary (default: dict.txt beside it)")
    tokens.add_argument(
        "--train-sentencepiece",
        metavar="N",
        type=whole("--train-sentencepiece", 2),
        help="instead: train a sentencepiece model of N pieces on the whole training file; it is put into the output",
    )
    tokens.add_argument(
        "--max-length",
        metavar="N",
        type=whole("--max-length", 1),
        default=512,
        help="count longer examples (default: 512; nothing is cut)",
    )
    rest = parser.add_argument_group("output")
    rest.add_argument("--output", metavar="DIR", type=Path, required=True, help="the folder to make")
    rest.add_argument("--overwrite", action="store_true", help="replace a folder of prepared data")
    rest.add_argument(
        "--subset",
        metavar="N",
        help="train on a part: 500 examples, 0.01 or 1%% of them; parts of one seed are nested",
    )
    rest.add_argument(
        "--seed", metavar="N", type=whole("--seed", 0, LARGEST_SEED), default=1, help="seed of --subset (default: 1)"
    )
    rest.add_argument("--json", action="store_true", help="print the content of task.json instead of a summary")


def run(args: argparse.Namespace) -> int:
    """Prepare one task."""
    import logging

    from fairseq_tickets.data.prepare import prepare
    from fairseq_tickets.data.readers import looks_like_scores

    logging.getLogger("fairseq").setLevel(logging.WARNING)  # it advertises optional packages when imported
    spec, files = _known_task(args) if args.task or args.glue else _own_task(args)
    with progress_bar("tokenizing", "examples") as progress:
        content = prepare(
            spec,
            files,
            args.output,
            tokenizer=args.tokenizer,
            dictionary=args.dict,
            sentencepiece_size=args.train_sentencepiece,
            subset=args.subset,
            seed=args.seed,
            max_length=args.max_length,
            overwrite=args.overwrite,
            progress=progress,
        )
    if looks_like_scores(content["labels"]):
        shown = ", ".join(content["labels"][:4])
        print(
            f"warning: the {content['num_classes']} classes are numbers ({shown}, ...): if the label is a score, "
            "give --regression LOW,HIGH",
            file=sys.stderr,
        )
    print(json.dumps(content, indent=1) if args.json else summary(content, args.output))
    return 0


def summary(content: Mapping[str, Any], output: Path) -> str:
    """The figures of a task.json as a few lines of text."""
    classes = f"{content['num_classes']} classes: {', '.join(content['labels'])}" if content["labels"] else "a score"
    lines = [f"{content['name']}: {'pairs' if content['pairs'] else 'sentences'}, {classes}"]
    for split, entry in content["splits"].items():
        bad = sum(map(len, entry["rejected"].values()))
        notes = "" if entry["labelled"] else ", unlabelled"
        if entry["partial"]:
            notes += f", PARTIAL (the published file has {entry['official']}): scores don't compare with published ones"
        lines.append(
            f"  {split:6} {entry['file']}: {entry['lines']} lines, {entry['kept']} kept, {bad} rejected{notes}"
        )
        for reason, numbers in entry["rejected"].items():
            shown = ", ".join(map(str, numbers[:LINES_SHOWN]))
            more = f" and {len(numbers) - LINES_SHOWN} more (see task.json)" if len(numbers) > LINES_SHOWN else ""
            lines.append(f"         {reason}: {len(numbers)}, in line {shown}{more}")
        unknown = 100 * entry["unknown_tokens"] / entry["tokens"]
        long = entry["longer_than_max_length"]
        lines.append(
            f"         {entry['tokens']} tokens, {unknown:.2f} % unknown; longest example {entry['longest']} tokens,"
            f" {long} longer than {content['max_length']}"
        )
    if "subset" in content:
        part = content["subset"]
        lines.append(f"  train is a subset: {part['examples']} of {part['of']} examples, seed {part['seed']}")
    return "\n".join([*lines, f"written to {output}"])


def _known_task(args: argparse.Namespace) -> tuple[Any, Mapping[str, Path]]:
    from fairseq_tickets.data.tasks import find_files, find_task

    if not (args.task and args.glue):
        raise UserError("--glue and --task belong together; for your own files give --train and --columns")
    own = (
        "train",
        "valid",
        "test",
        "columns",
        "label",
        "labels",
        "regression",
        "no_header",
        "metrics",
        "name",
    )
    given = [name.replace("_", "-") for name, value in vars(args).items() if name in own and value not in (None, False)]
    if given:
        raise UserError(f"--{given[0]} is for your own files; it does not go with --task {args.task}")
    spec = find_task(args.task)
    if args.docstring_data:
        from fairseq_tickets.data.docstrings import WRITERS

        if spec.name not in WRITERS:
            raise UserError(f"--docstring-data goes with --task {' or '.join(WRITERS)}, not {spec.name}")
        train, dev = _numbers("--docstring-data", args.docstring_data, int)
        WRITERS[spec.name](args.glue / spec.name, train, dev, args.seed)
    return spec, find_files(args.glue, spec)


def _own_task(args: argparse.Namespace) -> tuple[Any, Mapping[str, Path]]:
    from fairseq_tickets.data.generic import ANY_SCORE, generic_task

    given = {"train": args.train, "valid": args.valid, "test": args.test}
    files = {split: path for split, path in given.items() if path is not None}
    if "train" not in files and "valid" not in files:
        raise UserError("give --glue and --task, or your own files with --train, --valid and --columns")
    if not args.columns:
        raise UserError("--columns: name the sentence columns, for example --columns premise,hypothesis")
    score_range = None
    if args.regression is not None:
        score_range = ANY_SCORE if args.regression == "any" else _numbers("--regression", args.regression, float)
        if not score_range[0] < score_range[1]:
            raise UserError(f"--regression {args.regression}: LOW must be below HIGH")
    spec = generic_task(
        args.name or args.output.resolve().name,
        files,
        _words(args.columns),
        args.label or "label",
        _words(args.labels) if args.labels else None,
        score_range,
        _words(args.metrics) if args.metrics else None,
        header=not args.no_header,
    )
    return spec, files


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _numbers(option: str, text: str, kind: Any) -> tuple[Any, Any]:
    try:
        first, second = (kind(word) for word in text.split(","))
    except ValueError:
        raise UserError(f"{option} {text}: give two numbers with a comma between them") from None
    return first, second
