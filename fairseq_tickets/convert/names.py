"""Parameter names of Hugging Face's BERT, RoBERTa and MPNet beside fairseq's: the whole correspondence.

Both sides compute the same post-norm encoder, so almost every tensor is carried over as it is. What isn't one
to one (embeddings, language-model head, classification head) is in `huggingface.py` and `export.py`.
"""

from __future__ import annotations

import re

SENTENCE_ENCODER = "encoder.sentence_encoder."
EMBED_TOKENS = SENTENCE_ENCODER + "embed_tokens.weight"
EMBED_POSITIONS = SENTENCE_ENCODER + "embed_positions.weight"
RELATIVE_BIAS = SENTENCE_ENCODER + "relative_attention_bias.weight"  # MPNet's alone
LM_HEAD = "encoder.lm_head."
HEADS = "classification_heads."

# Hugging Face module of a layer -> fairseq module of a layer
LAYER_MODULES = {
    "attention.self.query": "self_attn.q_proj",
    "attention.self.key": "self_attn.k_proj",
    "attention.self.value": "self_attn.v_proj",
    "attention.output.dense": "self_attn.out_proj",
    "attention.output.LayerNorm": "self_attn_layer_norm",
    "intermediate.dense": "fc1",
    "output.dense": "fc2",
    "output.LayerNorm": "final_layer_norm",
}
# MPNet's names for the same
MPNET_MODULES = {
    **{f"attention.attn.{letter}": f"self_attn.{name}_proj" for letter, name in zip("qkvo", ("q", "k", "v", "out"))},
    "attention.LayerNorm": "self_attn_layer_norm",
    **{name: LAYER_MODULES[name] for name in ("intermediate.dense", "output.dense", "output.LayerNorm")},
}
_TO_FAIRSEQ = {**LAYER_MODULES, **MPNET_MODULES}
_TO_HF = {ours: theirs for theirs, ours in LAYER_MODULES.items()}
_TO_MPNET = {ours: theirs for theirs, ours in MPNET_MODULES.items()}
_HF_LAYER = re.compile(r"encoder\.layer\.(\d+)\.(.+)\.(weight|bias)$")
_FAIRSEQ_LAYER = re.compile(r"encoder\.sentence_encoder\.layers\.(\d+)\.(.+)\.(weight|bias)$")
_OLD_NORMS = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}


def plain_hf_name(name: str) -> str:
    """Hugging Face name without what varies: the prefix (bert., roberta., mpnet.) and TensorFlow's norm names."""
    for prefix in ("bert.", "roberta.", "mpnet."):
        if name.startswith(prefix):
            name = name[len(prefix) :]
    for old, new in _OLD_NORMS.items():
        name = name.replace(old, new)
    return name


def layer_to_fairseq(name: str) -> str | None:
    """fairseq name of a plain Hugging Face layer parameter, None for a parameter outside the layers."""
    found = _HF_LAYER.match(name)
    if found is None or found[2] not in _TO_FAIRSEQ:
        return None
    return f"{SENTENCE_ENCODER}layers.{found[1]}.{_TO_FAIRSEQ[found[2]]}.{found[3]}"


def layer_to_hf(name: str, mpnet: bool = False) -> str | None:
    """Plain Hugging Face name of a fairseq layer parameter, or None; the inverse of `layer_to_fairseq`."""
    modules = _TO_MPNET if mpnet else _TO_HF
    found = _FAIRSEQ_LAYER.match(name)
    if found is None or found[2] not in modules:
        return None
    return f"encoder.layer.{found[1]}.{modules[found[2]]}.{found[3]}"
