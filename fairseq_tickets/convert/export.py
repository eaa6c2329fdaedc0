"""Fine-tuned checkpoints of ours -> a dense checkpoint for stock fairseq, or a Hugging Face RoBERTa folder.

Both hold the same function as the checkpoint, tickets included (see `dense.py`). The one thing stock fairseq
can't represent is a layer-norm epsilon other than 1e-5: then the difference is measured and reported. Hugging
Face's can.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fairseq_tickets import recorded, safetensors_files
from fairseq_tickets.convert.dense import TICKET_FFN, TICKET_HEADS
from fairseq_tickets.convert.forward import eps_difference
from fairseq_tickets.convert.names import EMBED_TOKENS, HEADS
from fairseq_tickets.convert.shape import (
    FAIRSEQ_EPS,
    ModelConfig,
    classification_heads,
    count_parameters,
    fairseq_checkpoint,
)
from fairseq_tickets.convert.source import TOKENIZER_FILES, copy_tokenizer
from fairseq_tickets.convert.to_huggingface import to_huggingface
from fairseq_tickets.convert.tokenizer import UNKNOWN, Joined, export_tokenizer
from fairseq_tickets.convert.under_ticket import dense_model
from fairseq_tickets.convert.vocabulary import read_dictionary
from fairseq_tickets.data.tokenization import has_tokenizer
from fairseq_tickets.dictionary import symbols_digest
from fairseq_tickets.errors import UserError
from fairseq_tickets.files import PathLike, read_json, write_json
from fairseq_tickets.folders import filled_folder
from fairseq_tickets.task_record import TaskRecord, dictionary_digest, recorded_task

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


def export_fairseq(
    checkpoint: Mapping[str, Any],
    output: PathLike,
    tokenizer: PathLike | None = None,
    dictionary: PathLike | None = None,
) -> ExportReport:
    """Write a dense checkpoint of arch `roberta` that stock fairseq 0.12.2 loads (`from_pretrained`).

    Args:
        checkpoint: content of a fairseq checkpoint, see `fairseq_tickets.checkpoint.load`.
        output: a file ending in .pt, or a folder that gets model.pt, dict.txt and the tokenizer files.
        tokenizer: folder that `import` wrote (dict.txt and tokenizer), for an output folder.
        dictionary: fairseq's dict.txt; where None, the one in the tokenizer's folder.

    Raises:
        UserError: no RoBERTa in the checkpoint, a broken ticket, a dict.txt of another model, or no place to
        write.
    """
    from fairseq_tickets.checkpoint import save

    config, tensors = dense_model(checkpoint)
    report = ExportReport(Path(output), config, count_parameters(tensors), notes=_pruned(checkpoint))
    options = recorded.options(checkpoint, "model")
    stock: ModelConfig = {**config, "pooler_activation_fn": str(options.get("pooler_activation_fn", "tanh"))}
    content = fairseq_checkpoint(tensors, stock, dictionary_digest(checkpoint))
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
        words = _dictionary_path(tokenizer, dictionary)
        if words is None:
            report.notes.append("no dict.txt was written, and from_pretrained needs one: give --tokenizer DIR")
        else:
            _read_words(words, tensors, checkpoint)
            shutil.copyfile(words, stage / "dict.txt")
            if tokenizer is not None:
                copy_tokenizer(Path(tokenizer), stage, FAIRSEQ_FILES[1:])
        save(content, stage / "model.pt")
    return report


def export_huggingface(
    checkpoint: Mapping[str, Any],
    output: PathLike,
    tokenizer: PathLike | None = None,
    head: str | None = None,
    labels: Sequence[str] | None = None,
    dictionary: PathLike | None = None,
    task: TaskRecord | None = None,
) -> ExportReport:
    """Write a folder for transformers: RobertaForSequenceClassification, or RobertaForMaskedLM without a head.

    An XLM-R that `import` recorded as one keeps that name: the same function, and another class of transformers.

    Args:
        checkpoint: content of a fairseq checkpoint, see `fairseq_tickets.checkpoint.load`.
        output: the folder.
        tokenizer: tokenizer file or folder, such as the folder that `import` wrote.
        head: which classification head, where the checkpoint has several.
        labels: names of the classes in order; where None, the task's, else LABEL_0, ...
        dictionary: fairseq's dict.txt; where None, the one in the tokenizer's folder.
        task: how sentences are joined and what the classes are; where None, what the checkpoint records.

    Raises:
        UserError: as `export_fairseq`, and a head that transformers' RoBERTa can't represent.
    """
    config, tensors = dense_model(checkpoint)
    chosen = _choose_head(classification_heads(tensors), head)
    report = ExportReport(Path(output), config, count_parameters(tensors), chosen, notes=_pruned(checkpoint))
    options = recorded.options(checkpoint, "model")
    if chosen is not None and options.get("pooler_activation_fn", "tanh") != "tanh":
        raise UserError(
            f"pooler_activation_fn is {options['pooler_activation_fn']!r}; transformers' RoBERTa "
            "classifier has tanh only"
        )
    task = task or recorded_task(checkpoint, chosen)
    if labels is None and chosen is not None and task is not None and task.labels is not None:
        classes = tensors[f"{HEADS}{chosen}.out_proj.bias"].shape[0]
        if len(task.labels) == classes:
            labels = task.labels
        else:
            report.notes.append(f"the data name {len(task.labels)} labels for {classes} classes; no names were written")
    regression = None if task is None else task.regression
    named, settings = to_huggingface(tensors, config, chosen, labels, regression, _architecture(tokenizer))
    if chosen is not None:
        report.notes.append("transformers' RoBERTa classifier has no language-model head; it was left out")
    words = _dictionary_path(tokenizer, dictionary)
    symbols = _read_words(words, tensors, checkpoint) if words is not None else []
    with filled_folder(output, "config.json", TOKENIZER_FILES) as stage:
        if tokenizer is None or words is None or not has_tokenizer(Path(tokenizer)):
            report.notes.append("no tokenizer was written: give --tokenizer DIR, with the tokenizer and its dict.txt")
        else:
            longest = int(config["max_positions"] or 0)
            longest = longest if task is None or task.max_positions is None else min(longest, task.max_positions)
            joined = None if task is None else Joined(task.init_token, task.separator_token)
            copies, notes = export_tokenizer(Path(tokenizer), stage, symbols, words, joined, longest)
            report.notes.extend(notes)
            _copy_unknown(named, settings, copies)
        safetensors_files.write(stage / "model.safetensors", named, {"format": "pt"})
        write_json(stage / "config.json", settings)
    return report


def _dictionary_path(tokenizer: PathLike | None, dictionary: PathLike | None) -> Path | None:
    if dictionary is not None or tokenizer is None:
        return None if dictionary is None else Path(dictionary)
    folder = Path(tokenizer) if Path(tokenizer).is_dir() else Path(tokenizer).parent
    return folder / "dict.txt" if (folder / "dict.txt").is_file() else None


def _read_words(path: Path, tensors: Mapping[str, Tensor], checkpoint: Mapping[str, Any]) -> list[str]:
    """The dictionary's words: as many as the model has rows, and those that the checkpoint tells of."""
    symbols, rows = read_dictionary(path), tensors[EMBED_TOKENS].shape[0]
    if len(symbols) != rows:
        raise UserError(
            f"{path} belongs to another model: it has {len(symbols)} words with the special ones, the checkpoint has "
            f"{rows}"
        )
    if dictionary_digest(checkpoint) not in (None, symbols_digest(symbols)):
        raise UserError(f"{path} is not the checkpoint's dictionary: its words have other numbers; give its own")
    return symbols


def _copy_unknown(named: dict[str, Tensor], settings: dict[str, Any], copies: int) -> None:
    """Rows for pieces that the dictionary lacks: `<unk>`'s, in place."""
    for name in named:
        if copies and name.endswith(("embeddings.word_embeddings.weight", "lm_head.bias")):
            row = named[name][UNKNOWN]
            named[name] = torch.cat([named[name], row.expand(copies, *row.shape)])
    settings["vocab_size"] += copies


def _architecture(tokenizer: PathLike | None) -> str:
    """model_type of what `import` made the model from, as the record in its folder says."""
    record = None if tokenizer is None else Path(tokenizer) / "import.json"
    content = read_json(record, "import record") if record is not None and record.is_file() else {}
    known = content.get("architecture") if isinstance(content, dict) else None
    return "xlm-roberta" if known == "xlm-roberta" else "roberta"


def _pruned(checkpoint: Mapping[str, Any]) -> list[str]:
    """What a super ticket took out, which an export puts back as zeros."""
    heads, ffn = (checkpoint["model"].get(name) for name in (TICKET_HEADS, TICKET_FFN))
    if heads is None or ffn is None:
        return []
    return [
        f"{int((heads == 0).sum())} of {heads.numel()} heads and {int((ffn == 0).sum())} of {ffn.numel()} FFNs are "
        "pruned: they are written as zeros, the same function at full size"
    ]


def _choose_head(names: list[str], wanted: str | None) -> str | None:
    if wanted is not None and wanted not in names:
        raise UserError(f"--head {wanted}: the checkpoint's classification heads are: {', '.join(names) or 'none'}")
    if wanted is None and len(names) > 1:
        raise UserError(f"the checkpoint has several classification heads; give --head, one of: {', '.join(names)}")
    return wanted or (names[0] if names else None)
