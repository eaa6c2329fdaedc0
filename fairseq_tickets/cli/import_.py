"""`fairseq-tickets import`: Hugging Face folder -> fairseq checkpoint, dictionary, tokenizer; adapter -> delta."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING

from fairseq_tickets.errors import UserError

if TYPE_CHECKING:
    from fairseq_tickets.convert import ImportReport

DESCRIPTION = """\
Turn a Hugging Face folder of BERT, RoBERTa, XLM-R or MiniLM into what fairseq needs.

In:   config.json, model.safetensors or pytorch_model.bin, and the tokenizer's files
      (a sentence-transformers folder will do).
Out:  model.pt        fairseq checkpoint; it records the model's shape and layer-norm epsilon
      dict.txt        fairseq dictionary, one word for every row of the embedding
      import.json     where it came from (checksums), sizes, and what couldn't be carried over
      tokenizer files, copied, for `fairseq-tickets prepare`

The result computes the same hidden states as the source. What RoBERTa has no place for (BERT's second segment,
its pooler) is named on standard error.

With --adapter and --base: a peft LoRA adapter whose A selects input dimensions, such as `export --to peft` writes,
becomes the delta file of a dominant ticket. Another LoRA changes whole matrices and is refused.

Examples:
  fairseq-tickets import --model minilm/ --output models/minilm
  fairseq-train DATA --user-dir "$(fairseq-tickets user-dir)" --arch ticket_roberta \\
      --finetune-from-model models/minilm/model.pt ...
  fairseq-tickets import --adapter rte-adapter --base models/minilm/model.pt --output rte.safetensors
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--model", metavar="DIR", help="Hugging Face folder with config.json and weights")
    source.add_argument("--adapter", metavar="DIR", help="folder of a peft adapter: adapter_config.json and weights")
    parser.add_argument("--base", metavar="FILE", help="with --adapter: the checkpoint of the model it belongs to")
    parser.add_argument(
        "--output",
        required=True,
        metavar="PATH",
        help="folder to write; with --adapter, a .safetensors file",
    )
    parser.add_argument("--json", action="store_true", help="print sizes and notes as JSON on standard output")


def run(args: argparse.Namespace) -> int:
    """Convert, then say what was done."""
    from fairseq_tickets.convert import import_folder

    if args.adapter is not None:
        return _import_adapter(args)
    if args.base is not None:
        raise UserError("--base goes with --adapter")
    report = import_folder(args.model, args.output)
    for note in report.notes:
        print(f"note: {note}", file=sys.stderr)
    for left in report.not_carried:
        print(f"not carried over: {left}", file=sys.stderr)
    if args.json:
        print(json.dumps(_figures(report), indent=1))
        return 0
    config = report.config
    print(
        f"{report.architecture}: {config['encoder_layers']} layers, "
        f"{config['encoder_attention_heads']} heads, "
        f"{config['encoder_embed_dim']} wide, FFN {config['encoder_ffn_embed_dim']}, {report.words:,} words, "
        f"{report.parameters:,} parameters"
    )
    print(f"written to {report.output}: {', '.join(report.files)}")
    limit = "" if config["max_positions"] == 512 else f" --max-positions {config['max_positions']}"
    print(f"train with: --arch ticket_roberta --finetune-from-model {report.output / 'model.pt'}{limit}")
    return 0


def _import_adapter(args: argparse.Namespace) -> int:
    from fairseq_tickets.checkpoint import encoder_tensors, load
    from fairseq_tickets.convert.from_peft import load_peft
    from fairseq_tickets.convert.shape import config_from_checkpoint
    from fairseq_tickets.dominant_ticket.delta import save_delta
    from fairseq_tickets.parameters import model_shape

    if args.base is None:
        raise UserError("--adapter needs --base, the checkpoint of the model that it belongs to")
    if not args.output.endswith(".safetensors"):
        raise UserError(f"--adapter gives a delta file: --output {args.output} must end in .safetensors")
    heads = int(config_from_checkpoint(load(args.base, mmap=True))["encoder_attention_heads"] or 0)
    base = encoder_tensors(args.base)
    delta, notes = load_peft(args.adapter, base, model_shape(base, heads))
    save_delta(args.output, delta)
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    if args.json:
        figures = {"output": args.output, "base": delta.base, "notes": notes}
        print(json.dumps({**figures, "trainable_parameters": delta.ticket.trainable_parameters()}, indent=1))
    else:
        print(f"written to {args.output}: {delta.ticket.describe()}")
    return 0


def _figures(report: ImportReport) -> dict[str, object]:
    return {
        "architecture": report.architecture,
        "output": str(report.output),
        "files": report.files,
        "model": report.config,
        "words": report.words,
        "parameters": report.parameters,
        "notes": report.notes,
        "not_carried_over": report.not_carried,
    }
