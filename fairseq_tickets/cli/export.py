"""`fairseq-tickets export`: a checkpoint of ours -> plain fairseq checkpoint, Hugging Face folder, delta or adapter."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fairseq_tickets.errors import UserError
from fairseq_tickets.files import read_json

if TYPE_CHECKING:
    from collections.abc import Mapping

HELP = "write a plain dense checkpoint, a Hugging Face folder, a small delta file or a peft adapter"
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
from the folder that `import` wrote: --tokenizer, or the folder of the model that the checkpoint started from.

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
    add("--tokenizer", metavar="DIR", help="folder that `import` wrote, with dict.txt and tokenizer")
    add("--head", metavar="NAME", help="with --to hf and peft: which classification head, if there are several")
    add("--labels", metavar="A,B", help="with --to hf: names of the classes, in order")
    add("--json", action="store_true", help="print sizes and notes as JSON on standard output")


def run(args: argparse.Namespace) -> int:
    """Load, make dense, write, and say what differs."""
    from fairseq_tickets.convert.export import export_fairseq, export_huggingface

    _check(args)
    if args.to == DELTA:
        return _write_delta(args)
    if args.to == PEFT:
        return _write_adapter(args)
    checkpoint, origin = _load(args)
    tokenizer = Path(args.tokenizer) if args.tokenizer else _tokenizer_of(checkpoint, origin)
    if args.to == HUGGING_FACE:
        labels = args.labels.split(",") if args.labels else _labels_of(checkpoint)
        report = export_huggingface(checkpoint, args.output, tokenizer, args.head, labels)
    else:
        report = export_fairseq(checkpoint, args.output, tokenizer)
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


def _load(args: argparse.Namespace) -> tuple[Mapping[str, Any], Path]:
    """The checkpoint to export, and the file whose folder may hold the tokenizer."""
    from fairseq_tickets.checkpoint import encoder_tensors, load

    if args.delta is not None:
        from fairseq_tickets.dominant_ticket.delta import apply, load_delta

        merged = apply(encoder_tensors(args.base), load_delta(args.delta))
        return {**load(args.base), "model": merged}, Path(args.base)
    checkpoint = _whole_checkpoint(args.checkpoint)
    if args.ticket is not None:
        from fairseq_tickets.convert.under_ticket import with_ticket
        from fairseq_tickets.tickets import load_super_ticket

        checkpoint = with_ticket(checkpoint, load_super_ticket(args.ticket), f"--ticket {args.ticket}")
    return checkpoint, Path(args.checkpoint)


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
    from fairseq_tickets.convert.peft import base_checked, save_peft
    from fairseq_tickets.dominant_ticket.delta import load_delta

    delta, base = load_delta(args.delta), encoder_tensors(args.base)
    base_checked(delta, base, args.base)
    report = save_peft(delta, base, args.output, head=args.head)
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


def _tokenizer_of(checkpoint: Mapping[str, Any], origin: Path) -> Path | None:
    """Folder with dict.txt: the checkpoint's own, or that of the model that training started from."""
    folders = [origin.parent]
    cfg = checkpoint.get("cfg")
    section = cfg["checkpoint"] if cfg is not None and "checkpoint" in cfg else None
    if section is not None and "finetune_from_model" in section and section["finetune_from_model"]:
        folders.append(Path(str(section["finetune_from_model"])).parent)
    return next((folder for folder in folders if (folder / "dict.txt").is_file()), None)


def _labels_of(checkpoint: Mapping[str, Any]) -> list[str] | None:
    """Class names from task.json in the data that the checkpoint was trained on, where it still exists."""
    cfg = checkpoint.get("cfg")
    task = cfg["task"] if cfg is not None and "task" in cfg else None
    if task is None or "data" not in task or not task["data"]:
        return None
    path = Path(str(task["data"])) / "task.json"
    if not path.is_file():
        return None
    labels = read_json(path, "task").get("labels")
    return [str(label) for label in labels] if labels else None
