"""`fairseq-tickets import`: a Hugging Face folder -> fairseq checkpoint, dictionary and tokenizer."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fairseq_tickets.convert import ImportReport

HELP = "turn a Hugging Face folder into a fairseq checkpoint, dictionary and tokenizer"
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

Example:
  fairseq-tickets import --model minilm/ --output models/minilm
  fairseq-train DATA --user-dir "$(fairseq-tickets user-dir)" --arch ticket_roberta \\
      --finetune-from-model models/minilm/model.pt ...
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument(
        "--model", required=True, metavar="DIR", help="Hugging Face folder with config.json and weights"
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="folder to write; made if missing")
    parser.add_argument("--json", action="store_true", help="print sizes and notes as JSON on standard output")


def run(args: argparse.Namespace) -> int:
    """Convert, then say what was done."""
    from fairseq_tickets.convert import import_folder

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
