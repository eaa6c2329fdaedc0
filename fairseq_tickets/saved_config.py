"""The options in a checkpoint, rebuilt out of what is known before fairseq sees them.

fairseq builds the task, model and criterion that a checkpoint's own `cfg` or `args` names, and evaluates some of their
options as Python (wav2vec's `conv_feature_layers`, fconv's `encoder_layers`, `xformers_att_config`, `adam_betas`). So
a config from a file is as dangerous as a pickle. Here names come from a list, a model's options are those that
RoBERTa has, each of its own kind, all other options are plain values, and `user_dir` loads nothing.
"""

from __future__ import annotations

import math
import re
from argparse import Namespace
from collections.abc import Mapping
from typing import Any

from fairseq_tickets.errors import UserError
from fairseq_tickets.parameters import EMBEDDINGS, parse

# what may be built: ours, and of fairseq 0.12.2 what belongs to RoBERTa and evaluates none of its options
NAMES = {
    "model": "roberta roberta_base roberta_large roberta_prenorm xlm xlmr camembert gottbert "
    "ticket_roberta ticket_roberta_base ticket_roberta_large",
    "task": "masked_lm multilingual_masked_lm legacy_masked_lm sentence_prediction sentence_ranking "
    "ticket_sentence_prediction ticket_multitask",
    "criterion": "masked_lm sentence_prediction sentence_ranking cross_entropy label_smoothed_cross_entropy "
    "ticket_sentence_prediction ticket_sentence_prediction_l1",
    "optimizer": "adadelta adafactor adagrad adam adamax cpu_adam lamb nag sgd ticket",
    "lr_scheduler": "cosine fixed inverse_sqrt pass_through polynomial_decay reduce_lr_on_plateau step tri_stage "
    "triangular",
    "scoring": "bleu sacrebleu chrf wer meteor",
    "bpe": "gpt2 bert sentencepiece subword_nmt fastbpe hf_byte_bpe byte_bpe bytes characters",
    "tokenizer": "moses nltk space",
}
SECTIONS = (
    "common common_eval distributed_training dataset optimization checkpoint bmuf generation eval_lm interactive ema"
).split()

SIZE, SHARE, REAL, FLAG, WORD = "a whole number above 0", "0 to 1", "a number", "true or false", "a text"
MODEL = {
    SIZE: "encoder_layers encoder_embed_dim encoder_ffn_embed_dim encoder_attention_heads max_positions "
    "tokens_per_sample max_source_positions max_target_positions quant_noise_pq_block_size min_params_to_wrap "
    "relative_attention_buckets",
    SHARE: "dropout attention_dropout activation_dropout pooler_dropout encoder_layerdrop quant_noise_pq "
    "quant_noise_scalar layernorm_eps",
    REAL: "mha_reg_scale_factor ffn_reg_scale_factor mha_heads_to_keep ffn_blocks_to_remove",
    FLAG: "encoder_normalize_before layernorm_embedding load_checkpoint_heads untie_weights_roberta "
    "encoder_learned_pos no_token_positional_embeddings "
    "spectral_norm_classification_head no_scale_embedding adaptive_input",
    WORD: "activation_fn pooler_activation_fn finetune_from_model recompute_attention",
}
KINDS = {name: kind for kind, names in MODEL.items() for name in names.split()}
# of the arguments in older checkpoints, what tasks and criteria for sentences read beside the model's
ARGUMENTS = (
    "data seed num_classes init_token separator_token regression_target classification_head_name no_shuffle "
    "shorten_method shorten_data_split_list add_prev_output_tokens truncate_sequence sample_break_mode mask_prob "
    "leave_unmasked_prob random_token_prob mask_whole_words freq_weighted_replacement num_shards shard_id dataset_impl "
    "lr adam_betas adam_eps weight_decay warmup_updates total_num_update power end_learning_rate clip_norm update_freq "
    "max_update max_epoch batch_size max_sentences max_tokens fp16 save_dir sentence_avg gpt2_encoder_json "
    "gpt2_vocab_bpe sentencepiece_model bpe_codes multilang_sampling_alpha"
).split()
EVALUATED = re.compile(r"_betas$|^adafactor_eps$")
PAIR = re.compile(r"[\[(]\s*[-+.\deE]+\s*(,\s*[-+.\deE]+\s*)*,?\s*[\])]")
REFERENCE = re.compile(r"\$\{[a-z_.]+\}")  # to another option; omegaconf would call what stands before a colon
LARGEST = 1 << 20  # of a model's sizes
DEEPEST = 4


def clean(state: dict[str, Any], source: str) -> None:
    """Replace `args` and `cfg` in a checkpoint's content by what is known of them; both may be missing.

    Raises:
        UserError: a component that isn't on the list, an option of another kind, or a model larger than its weights.
    """
    if state.get("args") is not None:
        state["args"] = _arguments(state["args"], source)
        _check_size(vars(state["args"]), state.get("model"), source)
    if state.get("cfg") is not None:
        state["cfg"] = {section: _section(section, value, source) for section, value in _sections(state["cfg"])}
        model = state["cfg"].get("model")
        _check_size(vars(model) if isinstance(model, Namespace) else model or {}, state.get("model"), source)


def check_model_options(options: Mapping[str, Any], source: str) -> None:
    """Raise UserError where one of a model's known options is of another kind than the model has; None is right."""
    for name in KINDS.keys() & options.keys():
        if options[name] is not None:
            _check_kind(name, options[name], source)


def _sections(cfg: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return [(name, value) for name, value in cfg.items() if name in SECTIONS or name in NAMES or name == "_name"]


def _section(section: str, value: Any, source: str) -> Any:
    if value is None or section == "_name":
        return None
    options = vars(value) if isinstance(value, Namespace) else value
    if not isinstance(options, Mapping):
        raise UserError(f"{source} is damaged: cfg.{section} is of kind {type(value).__name__}, not options by name")
    if section == "model":
        made: Any = _model(options, f"{source}: cfg.model", required=True)
        return Namespace(**made) if isinstance(value, Namespace) else made
    if section in NAMES and isinstance(value, Namespace):  # of components without a config class: all arguments
        named = {"_name": options["_name"]} if "_name" in options else {}
        for name in named.values():
            _check_name(section, name, source)
        made = _arguments(Namespace(**{key: item for key, item in options.items() if key != "_name"}), source)
        return Namespace(**vars(made), **named)
    if section in NAMES:
        _check_name(section, options.get("_name"), source)
    plain = {str(name): _plain(str(name), item, f"{source}: cfg.{section}", 0) for name, item in options.items()}
    return {**plain, "user_dir": None} if "user_dir" in plain else plain


def _model(options: Mapping[Any, Any], source: str, required: bool) -> dict[str, Any]:
    name = options.get("_name") or options.get("arch")
    if name is not None or required:
        _check_name("model", name, source)
    made = {"_name": options.get("_name"), "arch": options.get("arch")}
    made = {key: value for key, value in made.items() if key in options}
    check_model_options(options, source)
    made.update((key, options[key]) for key in KINDS.keys() & options.keys())
    kept = options.get("encoder_layers_to_keep")
    if kept is not None and re.fullmatch(r"\d+(,\d+)*", str(kept)):
        made["encoder_layers_to_keep"] = str(kept)
    return made


def _arguments(args: Namespace, source: str) -> Namespace:
    given = vars(args)
    made = _model(given, f"{source}: args", required=False)
    for name in ARGUMENTS:
        if name in given:
            made[name] = _plain(name, given[name], f"{source}: args", 0)
    for section in NAMES.keys() - {"model"}:
        if section in given:
            _check_name(section, given[section], source)
            made[section] = given[section]
    return Namespace(**made)


def _check_name(section: str, name: Any, source: str) -> None:
    if name is None and section not in ("model", "task"):
        return
    known = NAMES[section].split()
    if not isinstance(name, str) or name not in known:
        shown = f"{name!r:.60}" if name is not None else "nothing"
        raise UserError(
            f"{source} is refused: it names {shown} as its {section}, and fairseq would build that; allowed are "
            f"{', '.join(known)}"
        )


def _check_kind(name: str, value: Any, source: str) -> None:
    kind = KINDS[name]
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    fits = {
        SIZE: number and isinstance(value, int) and 1 <= value <= 10**12,
        SHARE: number and 0 <= value <= 1,
        REAL: number,
        FLAG: isinstance(value, bool) or value in (0, 1),
        WORD: isinstance(value, str) and ("$" not in value or REFERENCE.fullmatch(value) is not None),
    }
    if isinstance(value, str) and REFERENCE.fullmatch(value):
        return
    if not fits[kind]:
        raise UserError(f"{source}: {name} is {value!r:.60}; it must be {kind}")


def _plain(name: str, value: Any, source: str, depth: int) -> Any:
    """`value` if it is a plain one: no object, no text that fairseq or omegaconf would evaluate."""
    if isinstance(value, Namespace):
        value = vars(value)
    if isinstance(value, Mapping) and depth < DEEPEST and "_name" not in value and "_target_" not in value:
        return {str(key): _plain(str(key), item, source, depth + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple)) and depth < DEEPEST:
        return [_plain(name, item, source, depth + 1) for item in value]
    if value is None or isinstance(value, (bool, int)) or (isinstance(value, float) and not math.isnan(value)):
        return value
    if isinstance(value, str):
        reference = REFERENCE.fullmatch(value) is not None
        if not reference and ("${" in value or (EVALUATED.search(name) and not PAIR.fullmatch(value))):
            raise UserError(f"{source} is refused: {name} is {value!r:.60}, which fairseq would evaluate")
        return value
    raise UserError(f"{source} is refused: {name} is of kind {type(value).__name__}, not a plain value")


def _check_size(options: Mapping[str, Any], tensors: Any, source: str) -> None:
    """A model much larger than its weights would fill the memory before anything could be compared."""
    if not isinstance(tensors, Mapping) or EMBEDDINGS[0] not in tensors:
        return
    layers = {role.layer for role in map(parse, tensors) if role is not None}
    real = {"encoder_layers": len(layers), "encoder_embed_dim": int(tensors[EMBEDDINGS[0]].shape[-1])}
    for name, size in real.items():
        given = options.get(name)
        if isinstance(given, int) and given > size:
            raise UserError(f"{source}: {name} is {given}, but its weights are those of {size}")
    for name in ("encoder_ffn_embed_dim", "max_positions", "encoder_attention_heads"):
        given = options.get(name)
        if isinstance(given, int) and given > LARGEST:
            raise UserError(f"{source}: {name} is {given}; its weights are much smaller")
