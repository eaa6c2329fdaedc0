"""Fine-tuned checkpoints of ours -> a dense checkpoint for stock fairseq, or a Hugging Face RoBERTa folder.

Both hold the same function as the checkpoint, tickets included (see `dense.py`). The one thing stock fairseq
can't represent is a layer-norm epsilon other than 1e-5: then the difference is measured and reported. Hugging
Face's can.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fairseq_tickets import recorded, safetensors_files
from fairseq_tickets.convert.forward import eps_difference
from fairseq_tickets.convert.names import EMBED_TOKENS
from fairseq_tickets.convert.shape import (
    FAIRSEQ_EPS,
    ModelConfig,
    classification_heads,
    count_parameters,
    fairseq_checkpoint,
)
from fairseq_tickets.convert.source import TOKENIZER_FILES, copy_tokenizer
from fairseq_tickets.convert.to_huggingface import to_huggingface
from fairseq_tickets.convert.tokenizer import export_tokenizer
from fairseq_tickets.convert.under_ticket import dense_model
from fairseq_tickets.convert.vocabulary import read_dictionary
from fairseq_tickets.errors import UserError
from fairseq_tickets.files import PathLike, write_json
from fairseq_tickets.folders import filled_folder

FAIRSEQ_FILES = ("dict.txt", "encoder.json", "vocab.bpe", *TOKENIZER_FILES)


@dataclass
class ExportReport:
    """What an export wrote.

    Attributes:
        output: the file or folder.
        config: the fields of arch `ticket_roberta`.
        head: the classification head that Hugging Face got, or None.
        parameters: number of weights, the tied language-model projection counted once.
        eps_difference: for stock fairseq, the largest change of a logit since its epsilon is 1e-5; 0 if the same.
        notes: what else the user should know, one sentence each.
    """

    output: Path
    config: ModelConfig
    parameters: int
    head: str | None = None
    eps_difference: float = 0.0
    notes: list[str] = field(default_factory=list)


def export_fairseq(checkpoint: Mapping[str, Any], output: PathLike, tokenizer: PathLike | None = None) -> ExportReport:
    """Write a dense checkpoint of arch `roberta` that stock fairseq 0.12.2 loads (`from_pretrained`).

    Args:
        checkpoint: content of a fairseq checkpoint, see `fairseq_tickets.checkpoint.load`.
        output: a file ending in .pt, or a folder that gets model.pt, dict.txt and the tokenizer files.
        tokenizer: folder that `import` wrote (dict.txt and tokenizer), for an output folder.

    Raises:
        UserError: no RoBERTa in the checkpoint, a broken ticket, a dict.txt of another model, or no place to
        write.
    """
    from fairseq_tickets.checkpoint import save

    config, tensors = dense_model(checkpoint)
    report = ExportReport(Path(output), config, count_parameters(tensors))
    options = recorded.options(checkpoint, "model")
    stock: ModelConfig = {**config, "pooler_activation_fn": str(options.get("pooler_activation_fn", "tanh"))}
    content = fairseq_checkpoint(tensors, stock)
    if config["layernorm_eps"] != FAIRSEQ_EPS:
        heads = classification_heads(tensors)
        report.eps_difference = eps_difference(tensors, config, FAIRSEQ_EPS, heads[0] if heads else None)
        report.notes.append(
            f"stock fairseq's layer norms have epsilon {FAIRSEQ_EPS}, this model's {config['layernorm_eps']}: "
            f"there its {'logits' if heads else 'hidden states'} differ by up to {report.eps_difference:.1e} "
            "(measured on random words); arch ticket_roberta and --to hf keep the model's own"
        )
    if str(output).endswith(".pt"):
        save(content, Path(output))
        return report
    with filled_folder(output, "model.pt", FAIRSEQ_FILES) as stage:
        if tokenizer is None:
            report.notes.append("no dict.txt was written, and from_pretrained needs one: give --tokenizer DIR")
        else:
            source = Path(tokenizer)
            symbols = read_dictionary(source / "dict.txt")
            if len(symbols) != tensors[EMBED_TOKENS].shape[0]:
                raise UserError(
                    f"{source / 'dict.txt'} belongs to another model: it has {len(symbols)} words with the "
                    f"special ones, the checkpoint has {tensors[EMBED_TOKENS].shape[0]}"
                )
            copy_tokenizer(source, stage, FAIRSEQ_FILES)
        save(content, stage / "model.pt")
    return report


def export_huggingface(
    checkpoint: Mapping[str, Any],
    output: PathLike,
    tokenizer: PathLike | None = None,
    head: str | None = None,
    labels: Sequence[str] | None = None,
) -> ExportReport:
    """Write a folder for transformers: RobertaForSequenceClassification, or RobertaForMaskedLM without a head.

    Args:
        checkpoint: content of a fairseq checkpoint, see `fairseq_tickets.checkpoint.load`.
        output: the folder.
        tokenizer: folder that `import` wrote (dict.txt and tokenizer).
        head: which classification head, where the checkpoint has several.
        labels: names of the classes in order; LABEL_0, ... where None.

    Raises:
        UserError: as `export_fairseq`, and a head that transformers' RoBERTa can't represent.
    """
    config, tensors = dense_model(checkpoint)
    chosen = _choose_head(classification_heads(tensors), head)
    report = ExportReport(Path(output), config, count_parameters(tensors), chosen)
    options = recorded.options(checkpoint, "model")
    if chosen is not None and options.get("pooler_activation_fn", "tanh") != "tanh":
        raise UserError(
            f"pooler_activation_fn is {options['pooler_activation_fn']!r}; transformers' RoBERTa "
            "classifier has tanh only"
        )
    named, settings = to_huggingface(tensors, config, chosen, labels)
    if chosen is not None:
        report.notes.append("transformers' RoBERTa classifier has no language-model head; it was left out")
    with filled_folder(output, "config.json", TOKENIZER_FILES) as stage:
        if tokenizer is None:
            report.notes.append("no tokenizer was written: give --tokenizer DIR, the folder that import wrote")
        else:
            rows, longest = tensors[EMBED_TOKENS].shape[0], int(config["max_positions"] or 0)
            report.notes.extend(export_tokenizer(Path(tokenizer), stage, rows, longest))
        safetensors_files.write(stage / "model.safetensors", named, {"format": "pt"})
        write_json(stage / "config.json", settings)
    return report


def _choose_head(names: list[str], wanted: str | None) -> str | None:
    if wanted is not None and wanted not in names:
        raise UserError(f"--head {wanted}: the checkpoint's classification heads are: {', '.join(names) or 'none'}")
    if wanted is None and len(names) > 1:
        raise UserError(f"the checkpoint has several classification heads; give --head, one of: {', '.join(names)}")
    return wanted or (names[0] if names else None)
