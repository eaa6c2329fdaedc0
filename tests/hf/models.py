"""Small random models of every supported kind, with the same numbers on both roads."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fairseq_tickets.convert import import_folder
from tests.convert.test_import import to_fairseq_numbers
from tests.convert.test_mpnet import ticket_model
from tests.convert.toy import BERT_WORDS, ROBERTA_WORDS, hf_model, padded_batch, write_folder

KINDS = ("Bert", "Roberta", "XLMRoberta", "DistilBert", "MPNet")
LAYERS, HEADS, EMBED, FFN = 3, 2, 10, 14


class Both(NamedTuple):
    """One encoder twice.

    Attributes:
        hf: transformers' model, without a head.
        fairseq: `ticket_roberta` of what `import` made of it.
        tokens, mask: a padded batch in transformers' numbers.
        numbers: the same in fairseq's.
    """

    hf: Any
    fairseq: Any
    tokens: Tensor
    mask: Tensor
    numbers: Tensor


def model(kind: str, cls: str = "Model", **settings: Any) -> Any:
    """A random model of transformers."""
    if kind != "DistilBert":
        return hf_model(kind, cls, layer_norm_eps=1e-3 if kind != "DistilBert" else 1e-12, **settings)
    import transformers

    sizes = {"dim": EMBED, "n_layers": LAYERS, "n_heads": HEADS, "hidden_dim": FFN, "max_position_embeddings": 24}
    torch.manual_seed(3)
    config = transformers.DistilBertConfig(vocab_size=len(BERT_WORDS), pad_token_id=0, **sizes, **settings)
    made = getattr(transformers, f"DistilBert{cls}")(config)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return made.eval()


def batch(kind: str) -> tuple[Tensor, Tensor]:
    """Three sequences of unequal lengths, and the mask."""
    if kind in ("Bert", "DistilBert"):
        return padded_batch(BERT_WORDS, pad=0, first=8, last=10, avoid={0, 8, 10})
    return padded_batch(ROBERTA_WORDS, pad=1, first=0, last=2, avoid={0, 1, 2})


def both(kind: str, folder: Path) -> Both:
    """The encoder on both roads."""
    made = model(kind)
    source = bert_twin(made) if kind == "DistilBert" else made
    import_folder(write_folder(source, folder / "hf"), folder / "imported")
    tokens, mask = batch(kind)
    numbers = to_fairseq_numbers("Bert" if kind == "DistilBert" else kind, tokens, folder / "imported")
    words = BERT_WORDS if kind in ("Bert", "DistilBert") else ROBERTA_WORDS
    return Both(made, ticket_model(folder / "imported", len(words)), tokens, mask, numbers)


def bert_twin(distilbert: Any) -> Any:
    """A DistilBERT as the BERT that it is: one segment, whose embedding is 0, and no pooler."""
    twin = hf_model("Bert", "Model", layer_norm_eps=1e-12)
    names = {"q_lin": "self.query", "k_lin": "self.key", "v_lin": "self.value", "out_lin": "output.dense"}
    state = dict(twin.state_dict())
    for name, tensor in distilbert.state_dict().items():
        theirs = name.replace("transformer.layer", "encoder.layer")
        for ours, bert in names.items():
            theirs = theirs.replace(f"attention.{ours}", f"attention.{bert}")
        theirs = theirs.replace("sa_layer_norm", "attention.output.LayerNorm").replace("ffn.lin1", "intermediate.dense")
        theirs = theirs.replace("ffn.lin2", "output.dense").replace("output_layer_norm", "output.LayerNorm")
        assert theirs in state, theirs
        state[theirs] = tensor
    nn.init.zeros_(state["embeddings.token_type_embeddings.weight"])
    twin.load_state_dict(state)
    return twin


def hidden_losses(both_roads: Both) -> tuple[Any, Any]:
    """For each road, a function of rows of the batch that gives one loss an example, from the first token's state."""
    torch.manual_seed(9)
    direction = torch.randn(EMBED)

    def theirs(rows: list[int]) -> Tensor:
        inputs = {"input_ids": both_roads.tokens[rows], "attention_mask": both_roads.mask[rows]}
        return (both_roads.hf(**inputs).last_hidden_state[:, 0] @ direction).square()

    def ours(rows: list[int]) -> Tensor:
        states, _ = both_roads.fairseq(both_roads.numbers[rows], features_only=True)
        return (states[:, 0] @ direction).square()

    return theirs, ours
