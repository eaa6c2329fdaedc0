"""Small random Hugging Face folders, all sizes different, and stock fairseq to judge by."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fairseq_tickets.convert.vocabulary import write_dictionary

LAYERS, HEADS, EMBED, FFN, POSITIONS = 3, 2, 10, 14, 24
# numbers are scattered on purpose, so that a row left in its old place shows
BERT_WORDS = [
    "[PAD]",
    "the",
    "[unused0]",
    "[MASK]",
    "cat",
    "##s",
    "[UNK]",
    "sat",
    "[CLS]",
    "on",
    "[SEP]",
    "mat",
    "a",
]
ROBERTA_WORDS = ["<s>", "<pad>", "</s>", "<unk>", ".", "Ġthe", "Ġcat", "s", "Ġsat", "Ġon", "Ġmat", "<mask>"]
SIZES = {
    "hidden_size": EMBED,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "intermediate_size": FFN,
    "max_position_embeddings": POSITIONS,
    "initializer_range": 0.5,
}


def hf_model(kind: str, cls: str, **settings: Any) -> Any:
    """A random transformers model; `kind` Bert, Roberta or XLMRoberta, `cls` Model, ForMaskedLM, ..."""
    import transformers

    words = BERT_WORDS if kind == "Bert" else ROBERTA_WORDS
    ids = {"pad_token_id": 0} if kind == "Bert" else {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
    config = getattr(transformers, f"{kind}Config")(**{"vocab_size": len(words), **SIZES, **ids, **settings})
    torch.manual_seed(3)
    model = getattr(transformers, f"{kind}{cls}")(config)
    with torch.no_grad():
        for parameter in model.parameters():  # biases and norms too, which start as 0 and 1
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


def write_folder(model: Any, folder: Path, binary: bool = False) -> Path:
    """Save a model as .safetensors or .bin, with a vocabulary beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    if binary:
        torch.save(model.state_dict(), folder / "pytorch_model.bin")
        model.config.save_pretrained(folder)
    else:
        model.save_pretrained(folder)
    if model.config.model_type == "bert":
        (folder / "vocab.txt").write_text("\n".join(BERT_WORDS) + "\n", encoding="utf-8")
    else:
        numbers = {word: number for number, word in enumerate(ROBERTA_WORDS)}
        (folder / "vocab.json").write_text(json.dumps(numbers), encoding="utf-8")
    return folder


def write_words(folder: Path, symbols: Sequence[str]) -> Path:
    """A dict.txt, and a tokenizer.json that knows whole words."""
    import tokenizers

    folder.mkdir(exist_ok=True)
    write_dictionary(folder / "dict.txt", symbols)
    numbers = {symbol: number for number, symbol in enumerate(symbols)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(numbers, unk_token="<unk>"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def stock_fairseq(folder: Path, eps: float | None = None, file: str = "model.pt", data: str = ".") -> Any:
    """fairseq's own RobertaModel.from_pretrained, in evaluation mode; `eps` replaces its layer norms' own."""
    from fairseq.models.roberta import RobertaModel

    hub = RobertaModel.from_pretrained(str(folder), file, data, bpe=None)
    if eps is not None:
        for module in hub.modules():
            if isinstance(module, torch.nn.LayerNorm):
                module.eps = eps
    hub.eval()
    return hub


def padded_batch(vocabulary: list[str], pad: int, first: int, last: int, avoid: set[int]) -> tuple[Tensor, Tensor]:
    """Three sequences of unequal length in the source's numbers, and the mask, 1 = a word."""
    generator = torch.Generator().manual_seed(5)
    words = torch.tensor([number for number in range(len(vocabulary)) if number not in avoid])
    lengths = (12, 7, 3)
    tokens = torch.full((3, 12), pad)
    for row, length in enumerate(lengths):
        tokens[row, :length] = words[torch.randint(len(words), (length,), generator=generator)]
        tokens[row, 0], tokens[row, length - 1] = first, last
    return tokens, (torch.arange(12) < torch.tensor(lengths)[:, None]).long()
