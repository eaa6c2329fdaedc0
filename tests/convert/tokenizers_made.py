"""Hugging Face folders of every kind of tokenizer that is taken, trained here on a text, with a small random model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tokenizers
import torch
from tokenizers import models, pre_tokenizers, trainers

SIZE = 700
SIZES = {
    "hidden_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 20,
    "max_position_embeddings": 514,
    "initializer_range": 0.3,
}
BERT_SPECIAL = ["[PAD]", "[unused0]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
ROBERTA_SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]


def write_model(folder: Path, kind: str, rows: int, **settings: Any) -> None:
    """config.json and model.safetensors; `kind` Bert, Roberta or XLMRoberta."""
    import transformers

    ids = {"pad_token_id": 0} if kind == "Bert" else {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
    config = getattr(transformers, f"{kind}Config")(vocab_size=rows, **{**SIZES, **ids, **settings})
    torch.manual_seed(3)
    getattr(transformers, f"{kind}Model")(config).save_pretrained(folder)


def wordpiece(folder: Path, text: Sequence[str], size: int = SIZE, **stated: Any) -> None:
    """vocab.txt and tokenizer_config.json."""
    tokenizer = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = tokenizers.normalizers.BertNormalizer(
        lowercase=stated["do_lower_case"], strip_accents=stated.get("strip_accents")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.train_from_iterator(text, trainers.WordPieceTrainer(vocab_size=size, special_tokens=BERT_SPECIAL))
    words = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    (folder / "vocab.txt").write_text("".join(f"{word}\n" for word, _ in words), encoding="utf-8")
    config = {"tokenizer_class": "BertTokenizer", **stated}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    write_model(folder, "Bert", len(words))


def byte_level(text: Sequence[str], prefix: bool, special: list[str], size: int = SIZE) -> Any:
    """GPT-2's kind of BPE."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=special, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(text, trainer)
    return tokenizer


def split_bpe(folder: Path, tokenizer: Any, names: tuple[str, str]) -> dict[str, int]:
    """The two files of a BPE; returns the vocabulary."""
    content = json.loads(tokenizer.to_str())["model"]
    vocabulary: dict[str, int] = content["vocab"]
    (folder / names[0]).write_text(json.dumps(vocabulary), encoding="utf-8")
    merges = (" ".join(pair) if isinstance(pair, list) else pair for pair in content["merges"])
    (folder / names[1]).write_text("\n".join(["#version: 0.2", *merges]) + "\n", encoding="utf-8")
    return vocabulary


def roberta_files(folder: Path, text: Sequence[str], prefix: bool, size: int = SIZE) -> None:
    """vocab.json and merges.txt, with RoBERTa's special words where RoBERTa has them."""
    tokenizer = byte_level(text, prefix, ROBERTA_SPECIAL[:4], size)
    vocabulary = split_bpe(folder, tokenizer, ("vocab.json", "merges.txt"))
    vocabulary["<mask>"] = len(vocabulary)
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    config = {"tokenizer_class": "RobertaTokenizer", "add_prefix_space": prefix}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    write_model(folder, "Roberta", len(vocabulary))


def roberta_json(folder: Path, text: Sequence[str], prefix: bool) -> None:
    """tokenizer.json of the same kind."""
    tokenizer = byte_level(text, prefix, ROBERTA_SPECIAL[:4])
    tokenizer.add_special_tokens(["<mask>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    write_model(folder, "Roberta", tokenizer.get_vocab_size())


def sentencepiece_file(folder: Path, text: Sequence[str], size: int = SIZE) -> None:
    """sentencepiece.bpe.model with XLM-R's special pieces."""
    import io

    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(text), model_writer=model, vocab_size=size, num_threads=1, minloglevel=2
    )
    (folder / "sentencepiece.bpe.model").write_bytes(model.getvalue())
    config = {"tokenizer_class": "XLMRobertaTokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    write_model(folder, "XLMRoberta", size + 2)  # <pad> and <mask> are no pieces of the model


def unigram_json(folder: Path, text: Sequence[str], size: int = SIZE) -> None:
    """tokenizer.json with a unigram model, in XLM-R's order."""
    tokenizer = tokenizers.Tokenizer(models.Unigram())
    tokenizer.normalizer = tokenizers.normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=size, special_tokens=ROBERTA_SPECIAL[:4], unk_token="<unk>")
    tokenizer.train_from_iterator(text, trainer)
    tokenizer.add_special_tokens(["<mask>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    write_model(folder, "XLMRoberta", tokenizer.get_vocab_size())


def public_bpe(folder: Path, text: Sequence[str], size: int = SIZE) -> None:
    """What fairseq's public folders hold: encoder.json, vocab.bpe, and a dict.txt of numbers in another order."""
    tokenizer = byte_level(text, False, ["<|endoftext|>"], size)
    vocabulary = split_bpe(folder, tokenizer, ("encoder.json", "vocab.bpe"))
    numbers = sorted(vocabulary.values(), key=lambda number: number * 7919 % 1009)
    fillers = [f"madeupword{number:04d}" for number in range(3)]
    lines = [*map(str, numbers[:-5]), *fillers]  # and five pieces that the dictionary lacks
    (folder / "dict.txt").write_text("".join(f"{line} 1\n" for line in lines))
