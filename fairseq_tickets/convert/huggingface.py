"""Hugging Face BERT, RoBERTa, XLM-R, MiniLM or MPNet -> the weights of a fairseq RoBERTa and its dictionary.

All of them are the same post-norm encoder; four things differ, and each has an exact answer:

- BERT adds the embedding of segment 0 to every token before the embedding layer norm: it is added into the
  word embeddings once. Segment 1 has no place in RoBERTa and is left behind.
- fairseq numbers positions from padding_idx + 1 = 2: BERT's positions move up by two. RoBERTa's are there
  already.
- fairseq's first four words are `<s> <pad> </s> <unk>` and `<mask>` is its last: rows of the word embedding
  move.
- MPNet adds a learned bias to the attention scores (see relative_position.py): arch `ticket_roberta` has it where the
  checkpoint does.

Layer norms use the source's eps (1e-12 in BERT): it is recorded as `layernorm_eps`, which arch
`ticket_roberta` obeys.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fairseq_tickets.convert.names import (
    EMBED_POSITIONS,
    EMBED_TOKENS,
    HEADS,
    LM_HEAD,
    RELATIVE_BIAS,
    SENTENCE_ENCODER,
    layer_to_fairseq,
    plain_hf_name,
)
from fairseq_tickets.convert.shape import FAIRSEQ_EPS, ModelConfig, config_from_hf
from fairseq_tickets.convert.vocabulary import PAD, Dictionary, Vocabulary, make_dictionary
from fairseq_tickets.documents import is_whole, shown
from fairseq_tickets.errors import UserError
from fairseq_tickets.parameters import LARGEST
from fairseq_tickets.recorded import PADDING_ROWS

BERT_TYPES = ("bert",)
ROBERTA_TYPES = ("roberta", "xlm-roberta", "mpnet")
HEAD_NAME = "sentence_classification_head"  # fairseq's default
_LM_HEAD_SEED = 0
_TABLES = {"vocab_size": "word", "max_position_embeddings": "position", "type_vocab_size": "token_type"}


@dataclass
class Converted:
    """A model under fairseq's names.

    Attributes:
        tensors: parameter name -> float32 tensor.
        dictionary: its words, row by row.
        config: the fields of arch `ticket_roberta`.
        notes: what was added or changed, one sentence each.
        not_carried: what the source has and fairseq's RoBERTa has no place for.
    """

    tensors: dict[str, Tensor]
    dictionary: Dictionary
    config: ModelConfig
    notes: list[str] = field(default_factory=list)
    not_carried: list[str] = field(default_factory=list)


def to_fairseq(tensors: Mapping[str, Tensor], config: Mapping[str, Any], vocabulary: Vocabulary) -> Converted:
    """Rename, reorder and fold a Hugging Face encoder into fairseq's RoBERTa; pure.

    Args:
        tensors: the source's, with or without the prefix `bert.` or `roberta.`.
        config: content of config.json.
        vocabulary: words and special words of the source's tokenizer.

    Raises:
        UserError: another architecture, a tensor missing, or a shape that contradicts the config.
    """
    bert = architecture_of(config) in BERT_TYPES
    _check_config(config, tensors)
    rest = {plain_hf_name(name): tensor.float() for name, tensor in tensors.items() if tensor.is_floating_point()}
    notes: list[str] = []
    if any(tensor.dtype in (torch.float16, torch.bfloat16) for tensor in tensors.values()):
        notes.append("half-precision weights were widened to float32")

    words = _take(rest, "embeddings.word_embeddings.weight")
    dictionary = make_dictionary(vocabulary, words.shape[0])
    words = words + _take_segments(rest)[0]
    result = {EMBED_TOKENS: _reorder(words, dictionary.order, words.mean(dim=0))}
    if dictionary.order[-1] < 0:
        notes.append("the source has no mask word; fairseq's <mask> starts as the mean of the word embeddings")
    if dictionary.renamed:
        notes.append(f"{dictionary.renamed} words that dict.txt can't hold were renamed to madeupwordNNNN")
    left_out = sum(word is not None for word in vocabulary.words[words.shape[0] :])
    if left_out:
        notes.append(f"{left_out} words of the tokenizer have no row in the word embedding and were left out")

    positions = _take(rest, "embeddings.position_embeddings.weight")
    result[EMBED_POSITIONS] = _shift_positions(positions, 0 if bert else _padding(config, vocabulary) + 1)
    for kind in ("weight", "bias"):
        result[f"{SENTENCE_ENCODER}layernorm_embedding.{kind}"] = _take(rest, f"embeddings.LayerNorm.{kind}")
    for name in list(rest):
        fairseq_name = layer_to_fairseq(name)
        if fairseq_name is not None:
            result[fairseq_name] = rest.pop(name)

    if architecture_of(config) == "mpnet":
        result[RELATIVE_BIAS] = _take(rest, "encoder.relative_attention_bias.weight")
        notes.append("it has MPNet's relative position bias, which stock fairseq lacks: use arch ticket_roberta")
    model = config_from_hf(config, result[EMBED_POSITIONS].shape[0] - PADDING_ROWS)
    _check_shapes(result, model, config)
    if model["layernorm_eps"] != FAIRSEQ_EPS:
        notes.append(
            f"layer norms have epsilon {model['layernorm_eps']}: arch ticket_roberta obeys it, "
            f"stock roberta computes with {FAIRSEQ_EPS}"
        )
    result.update(_lm_head(rest, dictionary, result[EMBED_TOKENS], notes))
    result.update(_classification_head(rest, notes))
    not_carried = _left_behind(tensors, rest)
    # loaded files and tied tensors share memory; what is returned is the caller's own
    tied = result[EMBED_TOKENS].clone()
    clones = {name: tensor.clone() for name, tensor in result.items()}
    clones[EMBED_TOKENS] = clones[LM_HEAD + "weight"] = tied
    return Converted(clones, dictionary, model, notes, not_carried)


def architecture_of(config: Mapping[str, Any]) -> str:
    """model_type of a config.json; a UserError says which are supported."""
    architecture = str(config.get("model_type"))
    if architecture not in BERT_TYPES + ROBERTA_TYPES:
        raise UserError(
            f"config.json: model_type {architecture!r} is not supported; it must be one of "
            f"{', '.join(BERT_TYPES + ROBERTA_TYPES)}"
        )
    return architecture


def _check_config(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Raise UserError where config.json tells of other embeddings than there are, or of heads that are cut out."""
    if config.get("pruned_heads"):
        raise UserError(
            f"config.json: pruned_heads is {shown(config['pruned_heads'])}; in fairseq's RoBERTa all layers have "
            "the same number of heads"
        )
    plain = {plain_hf_name(name): tensor for name, tensor in tensors.items()}
    for field_name, kind in _TABLES.items():
        table = plain.get(f"embeddings.{kind}_embeddings.weight")
        if table is None or table.dim() != 2 or config.get(field_name) is None:
            continue
        if not is_whole(config[field_name], 0, LARGEST) or config[field_name] != table.shape[0]:
            raise UserError(
                f"config.json and weights disagree: {field_name} is {shown(config[field_name])}, and the {kind} "
                f"embeddings have {table.shape[0]} rows"
            )


def _padding(config: Mapping[str, Any], vocabulary: Vocabulary) -> int:
    """The padding's number, after which a RoBERTa's positions start; config.json and tokenizer must agree on it."""
    padding = config.get("pad_token_id")
    if padding is not None and not is_whole(padding, 0, LARGEST):
        raise UserError(f"config.json: pad_token_id is {shown(padding)}; it must be a whole number of at least 0")
    number = 1 if padding is None else int(padding)
    if number != vocabulary.special[PAD]:
        raise UserError(
            f"config.json: pad_token_id is {number}, and the tokenizer's padding has number {vocabulary.special[PAD]}: "
            "positions start after it, so one of them belongs to another model"
        )
    return number


def _take(rest: dict[str, Tensor], name: str) -> Tensor:
    if name not in rest:
        raise UserError(f"the source lacks the tensor {name}; this is not a whole BERT or RoBERTa encoder")
    return rest.pop(name)


def _take_segments(rest: dict[str, Tensor]) -> Tensor:
    segments = rest.pop("embeddings.token_type_embeddings.weight", None)
    return torch.zeros(1, 1) if segments is None else segments


def _reorder(rows: Tensor, order: list[int], missing: Tensor) -> Tensor:
    """Rows in the order given; -1 takes `missing`. (n, ...) -> (len(order), ...)"""
    return torch.cat([rows, missing.unsqueeze(0)])[torch.tensor(order)]


def _shift_positions(positions: Tensor, first: int) -> Tensor:
    """Rows from `first` on, after two rows that fairseq never uses (the source's where it has them)."""
    unused = (
        positions[:PADDING_ROWS] if first == PADDING_ROWS else positions.new_zeros(PADDING_ROWS, positions.shape[1])
    )
    return torch.cat([unused, positions[first:]])


def _check_shapes(result: Mapping[str, Tensor], model: ModelConfig, config: Mapping[str, Any]) -> None:
    embed, ffn = model["encoder_embed_dim"], model["encoder_ffn_embed_dim"]
    expected: dict[str, tuple[Any, ...]] = {EMBED_TOKENS: (result[EMBED_TOKENS].shape[0], embed)}
    expected[EMBED_POSITIONS] = (result[EMBED_POSITIONS].shape[0], embed)
    for layer in range(int(model["encoder_layers"] or 0)):
        prefix = f"{SENTENCE_ENCODER}layers.{layer}."
        matrices = {f"self_attn.{name}_proj": (embed, embed) for name in ("q", "k", "v", "out")}
        matrices.update({"fc1": (ffn, embed), "fc2": (embed, ffn)})
        for module, shape in matrices.items():
            expected[f"{prefix}{module}.weight"] = shape
            expected[f"{prefix}{module}.bias"] = shape[:1]
        for module in ("self_attn_layer_norm", "final_layer_norm"):
            expected[f"{prefix}{module}.weight"] = expected[f"{prefix}{module}.bias"] = (embed,)
    if RELATIVE_BIAS in result:
        expected[RELATIVE_BIAS] = (model["relative_attention_buckets"], model["encoder_attention_heads"])
    for name, shape in expected.items():
        if name not in result:
            raise UserError(f"the source lacks the tensor for {name}, though config.json says the model has it")
        if tuple(result[name].shape) != shape:
            raise UserError(f"config.json and weights disagree: {name} is {tuple(result[name].shape)}, not {shape}")
    extra = [name for name in result if name.startswith(SENTENCE_ENCODER + "layers.") and name not in expected]
    if extra:
        raise UserError(
            f"config.json says num_hidden_layers {config['num_hidden_layers']}, but the weights have {extra[0]}"
        )


def _lm_head(rest: dict[str, Tensor], dictionary: Dictionary, words: Tensor, notes: list[str]) -> dict[str, Tensor]:
    """The masked-language-model head: the source's, or a new one, since a fairseq RoBERTa always has one."""
    embed = words.shape[1]
    names = {"dense": ("cls.predictions.transform.dense", "lm_head.dense")}
    names["layer_norm"] = ("cls.predictions.transform.LayerNorm", "lm_head.layer_norm")
    head: dict[str, Tensor] = {}
    for ours, theirs in names.items():
        for kind in ("weight", "bias"):
            found = [rest.pop(f"{name}.{kind}") for name in theirs if f"{name}.{kind}" in rest]
            if found:
                head[f"{LM_HEAD}{ours}.{kind}"] = found[0]
    biases = [rest.pop(name) for name in _LM_BIASES if name in rest]
    for name in _LM_DECODERS:
        decoder = rest.pop(name, None)
        if decoder is not None and dictionary.order[-1] >= 0 and decoder.shape == words.shape:
            difference = decoder[torch.tensor(dictionary.order)] - words
            if (difference - difference[:1]).abs().max() > 1e-6:
                notes.append("the language-model head's own output matrix was replaced by the word embeddings")
    if len(head) == 4 and biases:
        head[LM_HEAD + "bias"] = _reorder(biases[0], dictionary.order, biases[0].mean())
    else:
        generator = torch.Generator().manual_seed(_LM_HEAD_SEED)
        head = {
            LM_HEAD + "dense.weight": torch.randn(embed, embed, generator=generator) * 0.02,
            LM_HEAD + "dense.bias": torch.zeros(embed),
            LM_HEAD + "layer_norm.weight": torch.ones(embed),
            LM_HEAD + "layer_norm.bias": torch.zeros(embed),
            LM_HEAD + "bias": torch.zeros(words.shape[0]),
        }
        notes.append(
            "the source has no language-model head; fairseq's is there with fixed random weights "
            "(N(0, 0.02)), and sentence tasks never use it"
        )
    head[LM_HEAD + "weight"] = words
    return head


def _classification_head(rest: dict[str, Tensor], notes: list[str]) -> dict[str, Tensor]:
    """A sentence classifier: RoBERTa's dense + out_proj, or BERT's pooler + classifier: one function."""
    layouts = (("classifier.dense", "classifier.out_proj"), ("pooler.dense", "classifier"))
    for dense, out_proj in layouts:
        parts = {"dense": dense, "out_proj": out_proj}
        names = {f"{ours}.{kind}": f"{hf}.{kind}" for ours, hf in parts.items() for kind in ("weight", "bias")}
        if all(name in rest for name in names.values()):
            notes.append(f"the classifier was carried over as classification head {HEAD_NAME!r}")
            return {f"{HEADS}{HEAD_NAME}.{ours}": rest.pop(name) for ours, name in names.items()}
    return {}


def _left_behind(tensors: Mapping[str, Tensor], rest: Mapping[str, Tensor]) -> list[str]:
    """Names of what wasn't carried over, in words where it is well known."""
    left = []
    segments = next((t for n, t in tensors.items() if n.endswith("token_type_embeddings.weight")), None)
    if segments is not None and segments.shape[0] > 1:
        left.append("segment-1 embeddings (RoBERTa has one segment; pairs are joined by </s> </s>)")
    if any(name.startswith("pooler.") for name in rest):
        left.append("pooler (fairseq's classification head is trained from scratch instead)")
    if any(name.startswith("cls.seq_relationship.") for name in rest):
        left.append("next-sentence classifier")
    known = ("pooler.", "cls.seq_relationship.")
    left.extend(sorted(name for name in rest if not name.startswith(known)))
    return left


_LM_BIASES = ("cls.predictions.bias", "cls.predictions.decoder.bias", "lm_head.bias", "lm_head.decoder.bias")
_LM_DECODERS = ("cls.predictions.decoder.weight", "lm_head.decoder.weight")
