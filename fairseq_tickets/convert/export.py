"""Fine-tuned checkpoints of ours -> a dense checkpoint for stock fairseq, or a Hugging Face RoBERTa folder.

Both hold the same function as the checkpoint, tickets included (see `dense.py`). The one thing stock fairseq
can't represent is a layer-norm epsilon other than 1e-5: then the difference is measured and reported. Hugging
Face's can.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fairseq_tickets.convert.dense import TICKET_FFN, TICKET_HEADS, dense_state_dict
from fairseq_tickets.convert.forward import eps_difference
from fairseq_tickets.convert.huggingface import fairseq_checkpoint
from fairseq_tickets.convert.names import (
    EMBED_POSITIONS,
    EMBED_TOKENS,
    HEADS,
    LM_HEAD,
    SENTENCE_ENCODER,
    layer_to_hf,
)
from fairseq_tickets.convert.shape import (
    FAIRSEQ_EPS,
    ModelConfig,
    classification_heads,
    config_from_checkpoint,
    recorded_options,
)
from fairseq_tickets.convert.source import TOKENIZER_FILES, copy_tokenizer
from fairseq_tickets.convert.staging import staged_folder
from fairseq_tickets.convert.tokenizer import export_tokenizer
from fairseq_tickets.convert.vocabulary import read_dictionary
from fairseq_tickets.errors import UserError
from fairseq_tickets.files import PathLike, write_json
from fairseq_tickets.parameters import model_shape

if TYPE_CHECKING:
    from fairseq_tickets.dominant_ticket.delta import Delta
    from fairseq_tickets.tickets import DominantTicket, SuperTicket


FAIRSEQ_FILES = ("dict.txt", "encoder.json", "vocab.bpe", *TOKENIZER_FILES)


@dataclass
class ExportReport:
    """What an export wrote.

    Attributes:
        output: the file or folder.
        config: the fields of arch `ticket_roberta`.
        head: the classification head that Hugging Face got, or None.
        parameters: number of weights, the tied language-model projection counted once.
        eps_difference: for stock fairseq, the largest change of a logit since its epsilon is 1e-5; 0 where it
        is the same. notes: what else the user should know, one sentence each.
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
    report = ExportReport(Path(output), config, _count(tensors))
    options = recorded_options(checkpoint)
    stock: ModelConfig = {**config, "pooler_activation_fn": str(options.get("pooler_activation_fn", "tanh"))}
    content = fairseq_checkpoint(tensors, stock)
    if config["layernorm_eps"] != FAIRSEQ_EPS:
        heads = classification_heads(tensors)
        report.eps_difference = eps_difference(tensors, config, FAIRSEQ_EPS, heads[0] if heads else None)
        report.notes.append(
            f"stock fairseq's layer norms have epsilon {FAIRSEQ_EPS}, this model's "
            f"{config['layernorm_eps']}: in stock "
            f"fairseq its {'logits' if heads else 'hidden states'} differ by up to "
            f"{report.eps_difference:.1e} (measured on "
            "random words); arch ticket_roberta and --to hf keep the model's own"
        )
    if str(output).endswith(".pt"):
        save(content, Path(output))
        return report
    with staged_folder(output, owned=FAIRSEQ_FILES) as stage:
        if tokenizer is None:
            report.notes.append("no dict.txt was written, and from_pretrained needs one: give --tokenizer DIR")
        else:
            source = Path(tokenizer)
            symbols = read_dictionary(source / "dict.txt")
            if len(symbols) != tensors[EMBED_TOKENS].shape[0]:
                raise UserError(
                    f"{source / 'dict.txt'} belongs to another model: it has {len(symbols)} words "
                    "with the special "
                    f"ones, the checkpoint has {tensors[EMBED_TOKENS].shape[0]}"
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
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    config, tensors = dense_model(checkpoint)
    chosen = _choose_head(classification_heads(tensors), head)
    report = ExportReport(Path(output), config, _count(tensors), chosen)
    options = recorded_options(checkpoint)
    if chosen is not None and options.get("pooler_activation_fn", "tanh") != "tanh":
        raise UserError(
            f"pooler_activation_fn is {options['pooler_activation_fn']!r}; transformers' RoBERTa "
            "classifier has tanh only"
        )
    named, settings = to_huggingface(tensors, config, chosen, labels)
    if chosen is not None:
        report.notes.append("transformers' RoBERTa classifier has no language-model head; it was left out")
    with staged_folder(output, owned=TOKENIZER_FILES) as stage:
        if tokenizer is None:
            report.notes.append("no tokenizer was written: give --tokenizer DIR, the folder that import wrote")
        else:
            rows, longest = tensors[EMBED_TOKENS].shape[0], int(config["max_positions"] or 0)
            report.notes.extend(export_tokenizer(Path(tokenizer), stage, rows, longest))
        try:
            save_file(named, str(stage / "model.safetensors"), metadata={"format": "pt"})
        except SafetensorError as error:  # its name for a full disk, among others
            raise UserError(f"cannot write {Path(output) / 'model.safetensors'}: {error}") from error
        write_json(stage / "config.json", settings)
    return report


def dense_model(checkpoint: Mapping[str, Any]) -> tuple[ModelConfig, dict[str, Tensor]]:
    """The model's settings and dense weights, of a plain, gated or compact checkpoint."""
    config = config_from_checkpoint(checkpoint)
    return config, dense_state_dict(checkpoint["model"], int(config["encoder_ffn_embed_dim"] or 0))


def with_ticket(checkpoint: Mapping[str, Any], ticket: SuperTicket, source: str) -> dict[str, Any]:
    """A full model's checkpoint under a super ticket; `source` names the ticket in errors.

    Raises:
        UserError: the ticket is for another size, or the checkpoint is under a ticket already.
    """
    config = config_from_checkpoint(checkpoint)
    tensors = checkpoint["model"]
    if TICKET_HEADS in tensors:
        raise UserError(f"{source}: this checkpoint was trained under a super ticket and is exported under that one")
    ticket.validate_for(model_shape(tensors, int(config["encoder_attention_heads"] or 0)), source)
    buffers = {
        TICKET_HEADS: torch.tensor(ticket.heads, dtype=torch.uint8),
        TICKET_FFN: torch.tensor(ticket.ffn, dtype=torch.uint8),
    }
    return {**checkpoint, "model": {**tensors, **buffers}}


def make_delta_checked(checkpoint: Mapping[str, Any], base: Mapping[str, Tensor], ticket: DominantTicket) -> Delta:
    """The delta of a model trained under a dominant ticket; checks that nothing else of the encoder moved.

    Args:
        checkpoint: content of the trained checkpoint.
        base: tensors of the model that training started from.
        ticket: the dominant ticket.

    Raises:
        UserError: other sizes, or a parameter outside the ticket differs from the base: a delta would lose
        it.
    """
    from fairseq_tickets.checkpoint import fingerprint, is_head
    from fairseq_tickets.dominant_ticket.delta import apply, make_delta

    _, tensors = dense_model(checkpoint)
    delta = make_delta(tensors, ticket, fingerprint(base))
    merged = apply(base, delta)
    for name, tensor in tensors.items():
        if not is_head(name) and (name not in merged or not torch.equal(merged[name], tensor)):
            raise UserError(
                f"{name} differs from --base outside the ticket, so a delta file can't hold this model; "
                "was it trained from another base or under another ticket?"
            )
    return delta


def to_huggingface(
    tensors: Mapping[str, Tensor], config: ModelConfig, head: str | None, labels: Sequence[str] | None = None
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Hugging Face RoBERTa tensors and config.json of dense fairseq weights; pure.

    Raises:
        UserError: a head whose inner width isn't the model's, or labels that aren't as many as its classes.
    """
    embed = int(config["encoder_embed_dim"] or 0)
    named = {"roberta.embeddings.token_type_embeddings.weight": tensors[EMBED_TOKENS].new_zeros(1, embed)}
    plain = {
        EMBED_TOKENS: "embeddings.word_embeddings.weight",
        EMBED_POSITIONS: "embeddings.position_embeddings.weight",
        f"{SENTENCE_ENCODER}layernorm_embedding.weight": "embeddings.LayerNorm.weight",
        f"{SENTENCE_ENCODER}layernorm_embedding.bias": "embeddings.LayerNorm.bias",
    }
    for name, tensor in tensors.items():
        theirs = plain.get(name) or layer_to_hf(name)
        if theirs is not None:
            named["roberta." + theirs] = tensor
    settings = _settings(tensors, config)
    if head is None:
        for name, tensor in tensors.items():
            if name.startswith(LM_HEAD) and name != LM_HEAD + "weight":
                named["lm_head." + name[len(LM_HEAD) :]] = tensor
        settings["architectures"] = ["RobertaForMaskedLM"]
    else:
        prefix = f"{HEADS}{head}."
        named.update({"classifier." + n[len(prefix) :]: t for n, t in tensors.items() if n.startswith(prefix)})
        settings.update(_head_settings(named, embed, head, labels))
    return {name: tensor.contiguous() for name, tensor in named.items()}, settings


def _settings(tensors: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Any]:
    return {
        "model_type": "roberta",
        "vocab_size": tensors[EMBED_TOKENS].shape[0],
        "hidden_size": config["encoder_embed_dim"],
        "num_hidden_layers": config["encoder_layers"],
        "num_attention_heads": config["encoder_attention_heads"],
        "intermediate_size": config["encoder_ffn_embed_dim"],
        "hidden_act": config["activation_fn"],
        "hidden_dropout_prob": config["dropout"],
        "attention_probs_dropout_prob": config["attention_dropout"],
        "classifier_dropout": config["pooler_dropout"],
        "max_position_embeddings": tensors[EMBED_POSITIONS].shape[0],
        "position_embedding_type": "absolute",
        "type_vocab_size": 1,
        "layer_norm_eps": config["layernorm_eps"],
        "bos_token_id": 0,
        "pad_token_id": 1,
        "eos_token_id": 2,
        "torch_dtype": "float32",
    }


def _head_settings(named: Mapping[str, Tensor], embed: int, head: str, labels: Sequence[str] | None) -> dict[str, Any]:
    weight = named.get("classifier.out_proj.weight")
    if weight is None or named["classifier.dense.weight"].shape != (embed, embed):
        raise UserError(f"classification head {head!r} is not {embed} wide inside; transformers' RoBERTa can't hold it")
    classes = weight.shape[0]
    names = [f"LABEL_{number}" for number in range(classes)] if labels is None else list(labels)
    if len(names) != classes:
        raise UserError(f"{len(names)} label names for the {classes} classes of head {head!r}")
    return {
        "architectures": ["RobertaForSequenceClassification"],
        "id2label": {str(number): name for number, name in enumerate(names)},
        "label2id": {name: number for number, name in enumerate(names)},
        "problem_type": "regression" if classes == 1 else "single_label_classification",
    }


def _choose_head(names: list[str], wanted: str | None) -> str | None:
    if wanted is not None and wanted not in names:
        raise UserError(f"--head {wanted}: the checkpoint's classification heads are: {', '.join(names) or 'none'}")
    if wanted is None and len(names) > 1:
        raise UserError(f"the checkpoint has several classification heads; give --head, one of: {', '.join(names)}")
    return wanted or (names[0] if names else None)


def _count(tensors: Mapping[str, Tensor]) -> int:
    return sum(tensor.numel() for name, tensor in tensors.items() if name != LM_HEAD + "weight")
