"""`fairseq-tickets export`: a checkpoint of ours -> plain fairseq checkpoint, Hugging Face folder, delta or adapter."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fairseq_tickets.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fairseq_tickets.task_record import TaskRecord

DESCRIPTION = """\
Write a fine-tuned model so that programs without this package can use it, with the same outputs.

In:   --checkpoint       a checkpoint of fairseq-train: plain, or under a super ticket (compact or gated)
      --delta and --base the small file of a dominant ticket, and the checkpoint it was trained from
Out:  --to fairseq (default)  dense checkpoint of arch `roberta` for stock fairseq 0.12.2,
                              RobertaModel.from_pretrained(DIR, "model.pt", bpe=None);
                              a folder with dict.txt, or just the file if --output ends in .pt
      --to hf                 config.json, model.safetensors and tokenizer for transformers,
                              AutoModelForSequenceClassification.from_pretrained(DIR)
      --to delta              a few megabytes: the columns of --ticket, the heads, the fingerprint of --base
      --to peft               a LoRA adapter that is exactly the delta, for peft and what reads its adapters:
                              PeftModel.from_pretrained(BASE, DIR), BASE being the Hugging Face form of --base

Pruned heads and FFNs come out as zeros: the same function at full size. dict.txt and the tokenizer are taken
from --tokenizer, or from the folder of the model that the checkpoint started from. The exported tokenizer joins two
sentences as the checkpoint's task did, and the data's label names are written, where the data still exist.

Examples:
  fairseq-tickets export --checkpoint runs/rte/checkpoint_best.pt --to hf --output rte-hf
  fairseq-tickets export --checkpoint runs/rte/checkpoint_best.pt --to delta \\
      --base models/minilm/model.pt --ticket rte.json --output rte.safetensors
  fairseq-tickets export --delta rte.safetensors --base models/minilm/model.pt --output rte.pt
  fairseq-tickets export --delta rte.safetensors --base models/minilm/model.pt --to peft --output rte-adapter
"""
FAIRSEQ, HUGGING_FACE, DELTA, PEFT = "fairseq", "hf", "delta", "peft"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    add = parser.add_argument
    add("--checkpoint", metavar="FILE", help="fine-tuned fairseq checkpoint")
    add("--delta", metavar="FILE", help="delta file of a dominant ticket, in place of --checkpoint")
    add(
        "--base",
        metavar="FILE",
        help="with --delta and --to delta: the checkpoint that training started from",
    )
    add(
        "--ticket",
        metavar="FILE",
        help="super ticket to put a full model under; with --to delta, the dominant ticket",
    )
    add("--to", choices=(FAIRSEQ, HUGGING_FACE, DELTA, PEFT), default=FAIRSEQ, help="default: %(default)s")
    add(
        "--output",
        required=True,
        metavar="PATH",
        help="folder to write, or a file ending in .pt or .safetensors",
    )
    add("--tokenizer", metavar="PATH", help="tokenizer, as for `prepare`; a folder that `import` wrote will do")
    add("--dict", metavar="FILE", help="fairseq's dictionary, if it is not in the tokenizer's folder")
    add("--head", metavar="NAME", help="with --to hf and peft: which classification head, if there are several")
    add("--labels", metavar="A,B", help="with --to hf: names of the classes, in order (default: the data's)")
    add(
        "--separator-token",
        metavar="N",
        help="with --to hf: what stands between two sentences, as in training; 'none' or a number such as 2 (default: "
        "what the checkpoint or delta records)",
    )
    add("--json", action="store_true", help="print sizes and notes as JSON on standard output")


def run(args: argparse.Namespace) -> int:
    """Load, make dense, write, and say what differs."""
    from fairseq_tickets.convert.export import export_fairseq, export_huggingface

    _check(args)
    if args.to == DELTA:
        return _write_delta(args)
    if args.to == PEFT:
        return _write_adapter(args)
    checkpoint, origin, task = _load(args)
    tokenizer, dictionary = _words_of(args, checkpoint, origin)
    if args.to == HUGGING_FACE:
        labels = args.labels.split(",") if args.labels else None
        task = _joined(args, task, checkpoint)
        report = export_huggingface(checkpoint, args.output, tokenizer, args.head, labels, dictionary, task)
    else:
        report = export_fairseq(checkpoint, args.output, tokenizer, dictionary)
    for note in report.notes:
        print(f"note: {note}", file=sys.stderr)
    if args.json:
        figures = {
            "output": str(report.output),
            "to": args.to,
            "parameters": report.parameters,
            "head": report.head,
            "eps_difference": report.eps_difference,
            "model": report.config,
            "notes": report.notes,
        }
        print(json.dumps(figures, indent=1))
    else:
        head = f", classification head {report.head}" if report.head else ""
        print(f"written to {report.output}: {report.parameters:,} parameters, dense{head}")
    return 0


def _check(args: argparse.Namespace) -> None:
    """Options that don't go together."""
    if (args.checkpoint is None) == (args.delta is None):
        raise UserError("give either --checkpoint, or --delta with --base")
    if args.delta is not None and (args.base is None or args.to == DELTA):
        raise UserError("--delta needs --base, the checkpoint it was trained from, and --to fairseq, hf or peft")
    if args.to == PEFT and args.delta is None:
        raise UserError("--to peft needs --delta and --base; --to delta makes the delta of a checkpoint")
    if args.to == DELTA and (args.base is None or args.ticket is None):
        raise UserError("--to delta needs --base, where training started, and --ticket, the dominant ticket")
    if args.to == DELTA and not str(args.output).endswith(".safetensors"):
        raise UserError(f"--to delta writes a file: --output {args.output} must end in .safetensors")
    if args.to in (HUGGING_FACE, PEFT) and str(args.output).endswith((".pt", ".safetensors")):
        raise UserError(f"--to {args.to} writes a folder, but --output {args.output} is the name of a file")
    if args.checkpoint is not None and args.base is not None and args.to != DELTA:
        raise UserError("--base goes with --delta, or with --to delta")
    if args.delta is not None and args.ticket is not None:
        raise UserError("--ticket can't be put on a --delta: the delta has its own ticket")


def _load(args: argparse.Namespace) -> tuple[Mapping[str, Any], Path, TaskRecord | None]:
    """The checkpoint to export, the file whose folder may hold the tokenizer, and the task that a delta records."""
    from fairseq_tickets.checkpoint import encoder_tensors, load

    if args.delta is not None:
        from fairseq_tickets.dominant_ticket.delta import apply, load_delta

        delta = load_delta(args.delta)
        return {**load(args.base), "model": apply(encoder_tensors(args.base), delta)}, Path(args.base), delta.task
    checkpoint = _whole_checkpoint(args.checkpoint)
    if args.ticket is not None:
        from fairseq_tickets.convert.under_ticket import with_ticket
        from fairseq_tickets.tickets import load_super_ticket

        checkpoint = with_ticket(checkpoint, load_super_ticket(args.ticket), f"--ticket {args.ticket}")
    return checkpoint, Path(args.checkpoint), None


def _whole_checkpoint(path: str) -> Mapping[str, Any]:
    """A checkpoint with its whole model; one that holds a delta is refused."""
    from fairseq_tickets.checkpoint import load
    from fairseq_tickets.dominant_ticket.delta import IN_CHECKPOINT

    checkpoint = load(path)
    if IN_CHECKPOINT in checkpoint:
        raise UserError(
            f"--checkpoint {path} was written with --delta-checkpoints and holds only what was trained; "
            f"use --delta {Path(path).with_suffix('.safetensors')} --base {checkpoint[IN_CHECKPOINT]['base']}"
        )
    return checkpoint


def _write_delta(args: argparse.Namespace) -> int:
    from fairseq_tickets.checkpoint import encoder_tensors
    from fairseq_tickets.convert.under_ticket import make_delta_checked
    from fairseq_tickets.dominant_ticket.delta import save_delta
    from fairseq_tickets.tickets import load_dominant_ticket

    ticket = load_dominant_ticket(args.ticket)
    delta = make_delta_checked(_whole_checkpoint(args.checkpoint), encoder_tensors(args.base), ticket)
    save_delta(args.output, delta)
    size = Path(args.output).stat().st_size
    if args.json:
        figures = {"output": str(args.output), "to": DELTA, "bytes": size, "base": delta.base}
        print(json.dumps({**figures, "trainable_parameters": ticket.trainable_parameters()}, indent=1))
    else:
        print(f"written to {args.output}: {size:,} bytes, {ticket.describe()}")
    return 0


def _write_adapter(args: argparse.Namespace) -> int:
    from fairseq_tickets.checkpoint import encoder_tensors
    from fairseq_tickets.convert.peft import base_checked, exported_layout, save_peft
    from fairseq_tickets.dominant_ticket.delta import load_delta

    delta, base = load_delta(args.delta), encoder_tensors(args.base)
    base_checked(delta, base, args.base)
    report = save_peft(delta, base, args.output, exported_layout(base), args.head)
    delta_size = Path(args.delta).stat().st_size
    if args.json:
        figures = {"output": str(report.output), "to": PEFT, "bytes": report.size, "bytes_of_a": report.selection}
        figures.update({"bytes_of_delta": delta_size, "rank": report.rank, "head": report.head})
        print(json.dumps({**figures, "base": delta.base}, indent=1))
        return 0
    print(
        f"written to {report.output}: LoRA of rank {report.rank}, {report.size:,} bytes, {report.selection:,} of them "
        f"its A (the delta file has {delta_size:,}); {delta.ticket.describe()}"
    )
    return 0


def _words_of(args: argparse.Namespace, checkpoint: Mapping[str, Any], origin: Path) -> tuple[Path | None, Path | None]:
    """Tokenizer and dict.txt: as asked, else the checkpoint's own, its origin's, or those of its data."""
    from fairseq_tickets.data.tokenization import has_tokenizer

    folders = [origin.parent]
    cfg = checkpoint.get("cfg")
    for section, name in (("checkpoint", "finetune_from_model"), ("task", "data")):
        options = cfg[section] if cfg is not None and section in cfg else None
        value = options[name] if options is not None and name in options else None
        if value:
            folders.append(Path(str(value)) / "input0" if name == "data" else Path(str(value)).parent)
    if args.tokenizer:
        given = Path(args.tokenizer)
        if not given.exists():
            raise UserError(f"--tokenizer {given}: no such file or folder")
        folders.insert(0, given if given.is_dir() else given.parent)
    dictionary = args.dict or next((f / "dict.txt" for f in folders if (f / "dict.txt").is_file()), None)
    tokenizer = args.tokenizer or next((folder for folder in folders if has_tokenizer(folder)), None)
    return (None if tokenizer is None else Path(tokenizer), None if dictionary is None else Path(dictionary))


def _joined(args: argparse.Namespace, task: TaskRecord | None, checkpoint: Mapping[str, Any]) -> TaskRecord | None:
    """The task with the separator that was asked for; without one, what a delta says, or None: the checkpoint's own."""
    import dataclasses

    from fairseq_tickets.task_record import TaskRecord, recorded_task

    if args.separator_token is None:
        return task
    if args.separator_token != "none" and not args.separator_token.isdecimal():
        raise UserError(f"--separator-token {args.separator_token} must be a number or none")
    separator = None if args.separator_token == "none" else int(args.separator_token)
    known = task or recorded_task(checkpoint, args.head) or TaskRecord()
    return dataclasses.replace(known, separator_token=separator)
