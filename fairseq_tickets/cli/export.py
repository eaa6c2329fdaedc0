"""`fairseq-tickets export`: a checkpoint of ours -> plain fairseq checkpoint or Hugging Face folder."""

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

HELP = "write a plain dense checkpoint or a Hugging Face folder"
DESCRIPTION = """\
Write a fine-tuned model so that programs without this package can use it, with the same outputs.

In:   a checkpoint of fairseq-train: plain, or under a super ticket (compact or gated);
      or a delta file of a dominant ticket together with the checkpoint it was trained from.
Out:  --to fairseq (default): dense checkpoint of arch `roberta` for stock fairseq 0.12.2,
                              RobertaModel.from_pretrained(DIR, "model.pt", bpe=None);
                              a folder with dict.txt, or just the file if --output ends in .pt
      --to hf:                config.json, model.safetensors and tokenizer for transformers,
                              AutoModelForSequenceClassification.from_pretrained(DIR)

Pruned heads and FFNs come out as zeros: the same function at full size. dict.txt and the tokenizer are taken from the
folder that `import` wrote: --tokenizer, or the folder of the model that the checkpoint was fine-tuned from.

Examples:
  fairseq-tickets export --checkpoint runs/rte/checkpoint_best.pt --to hf --output rte-hf
  fairseq-tickets export --delta runs/rte/delta.safetensors --base models/minilm/model.pt --output rte.pt
"""
FAIRSEQ, HUGGING_FACE = "fairseq", "hf"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("--checkpoint", metavar="FILE", help="fine-tuned fairseq checkpoint")
    parser.add_argument("--delta", metavar="FILE", help="delta file of a dominant ticket, instead of --checkpoint")
    parser.add_argument("--base", metavar="FILE", help="with --delta: the checkpoint that it was trained from")
    parser.add_argument("--ticket", metavar="FILE", help="super ticket to put a full model under before the export")
    parser.add_argument("--to", choices=(FAIRSEQ, HUGGING_FACE), default=FAIRSEQ, help="default: %(default)s")
    parser.add_argument("--output", required=True, metavar="PATH", help="folder to write, or a file ending in .pt")
    parser.add_argument("--tokenizer", metavar="DIR", help="folder that `import` wrote, with dict.txt and tokenizer")
    parser.add_argument("--head", metavar="NAME", help="with --to hf: which classification head, if there are several")
    parser.add_argument("--labels", metavar="A,B", help="with --to hf: names of the classes, in order")
    parser.add_argument("--json", action="store_true", help="print sizes and notes as JSON on standard output")


def run(args: argparse.Namespace) -> int:
    """Load, make dense, write, and say what differs."""
    from fairseq_tickets.convert.export import export_fairseq, export_huggingface

    if args.to == HUGGING_FACE and str(args.output).endswith(".pt"):
        raise UserError(f"--to hf writes a folder, but --output {args.output} ends in .pt")
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


def _load(args: argparse.Namespace) -> tuple[Mapping[str, Any], Path]:
    """The checkpoint to export, and the file whose folder may hold the tokenizer."""
    from fairseq_tickets.checkpoint import load
    from fairseq_tickets.convert.export import with_ticket

    if (args.checkpoint is None) == (args.delta is None):
        raise UserError("give either --checkpoint, or --delta with --base")
    if (args.delta is None) != (args.base is None):
        raise UserError("--delta and --base go together: the delta file and the checkpoint it was trained from")
    if args.delta is not None:
        from fairseq_tickets.dominant_ticket.delta import apply, load_delta

        checkpoint = dict(load(args.base))
        checkpoint["model"] = apply(checkpoint["model"], load_delta(args.delta))
        return checkpoint, Path(args.base)
    checkpoint = dict(load(args.checkpoint))
    if args.ticket is not None:
        import torch

        from fairseq_tickets.convert.shape import config_from_checkpoint
        from fairseq_tickets.parameters import model_shape
        from fairseq_tickets.tickets import load_super_ticket

        ticket = load_super_ticket(args.ticket)
        heads = int(config_from_checkpoint(checkpoint)["encoder_attention_heads"] or 0)
        ticket.validate_for(model_shape(checkpoint["model"], heads), f"--ticket {args.ticket}")
        checkpoint = with_ticket(
            checkpoint, torch.tensor(ticket.heads, dtype=torch.uint8), torch.tensor(ticket.ffn, dtype=torch.uint8)
        )
    return checkpoint, Path(args.checkpoint)


def _tokenizer_of(checkpoint: Mapping[str, Any], origin: Path) -> Path | None:
    """Folder with dict.txt: the checkpoint's own, or that of the model it was fine-tuned from, where it still exists."""
    folders = [origin.parent]
    cfg = checkpoint.get("cfg")
    section = cfg["checkpoint"] if cfg is not None and "checkpoint" in cfg else None
    if section is not None and "finetune_from_model" in section and section["finetune_from_model"]:
        folders.append(Path(str(section["finetune_from_model"])).parent)
    return next((folder for folder in folders if (folder / "dict.txt").is_file()), None)


def _labels_of(checkpoint: Mapping[str, Any]) -> list[str] | None:
    """Class names from the task.json of the data that the checkpoint was trained on, where they still exist."""
    cfg = checkpoint.get("cfg")
    task = cfg["task"] if cfg is not None and "task" in cfg else None
    if task is None or "data" not in task or not task["data"]:
        return None
    path = Path(str(task["data"])) / "task.json"
    if not path.is_file():
        return None
    labels = read_json(path, "task").get("labels")
    return [str(label) for label in labels] if labels else None
