"""A Hugging Face tokenizer whose numbers are fairseq's: what an exported model needs beside its weights.

Where import moved no rows (RoBERTa, XLM-R) the tokenizer files are copied. For BERT the word numbers in
tokenizer.json are rewritten, and pairs are joined as the fine-tuned model saw them in fairseq: `<s> A </s>
</s> B </s>`, one segment.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fairseq_tickets.convert.source import copy_tokenizer
from fairseq_tickets.convert.vocabulary import (
    BOS,
    EOS,
    MASK,
    ROLES,
    Vocabulary,
    make_dictionary,
    read_dictionary,
    read_vocabulary,
)
from fairseq_tickets.errors import UserError
from fairseq_tickets.files import read_json, write_json


def export_tokenizer(source: Path, target: Path, rows: int, max_positions: int) -> list[str]:
    """Write a tokenizer for an embedding of `rows` rows in fairseq's order; returns notes, one sentence each.

    Args:
        source: folder that `import` wrote: dict.txt and the tokenizer's files.
        target: folder to write to.
        rows: rows of the exported word embedding.
        max_positions: longest sequence of the model.

    Raises:
        UserError: dict.txt or the tokenizer belongs to another model.
    """
    symbols = read_dictionary(source / "dict.txt")
    if len(symbols) != rows:
        raise UserError(
            f"{source / 'dict.txt'} belongs to another model: it has {len(symbols)} words with the "
            f"special ones, the checkpoint has {rows}"
        )
    vocabulary = read_vocabulary(source, bert=(source / "vocab.txt").is_file())
    dictionary = make_dictionary(vocabulary, rows if MASK in vocabulary.special else rows - 1)
    if dictionary.symbols != symbols:
        raise UserError(f"the tokenizer in {source} is not the one that its dict.txt was made from")
    if not dictionary.reordered:
        copy_tokenizer(source, target)
        return []
    if not (source / "tokenizer.json").is_file():
        return [f"no tokenizer was written: {source} has no tokenizer.json whose numbers could be changed"]
    content = read_json(source / "tokenizer.json", "tokenizer")
    if not isinstance(content["model"]["vocab"], dict):
        return ["no tokenizer was written: only WordPiece and BPE vocabularies can be renumbered"]
    numbers = {old: new for new, old in enumerate(dictionary.order) if old >= 0}
    with open(target / "tokenizer.json", "w", encoding="utf-8") as handle:
        json.dump(_renumbered(content, numbers, vocabulary), handle, ensure_ascii=False, indent=1)
    configuration = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": max_positions,
        "model_input_names": ["input_ids", "attention_mask"],
        **{ROLES[symbol]: vocabulary.words[number] for symbol, number in vocabulary.special.items()},
    }
    write_json(target / "tokenizer_config.json", configuration)
    return ["the tokenizer's words were renumbered to fairseq's order, and pairs are joined by two end words"]


def _renumbered(content: dict[str, Any], numbers: dict[int, int], vocabulary: Vocabulary) -> dict[str, Any]:
    model = dict(content["model"])
    kept = ((word, numbers[old]) for word, old in model["vocab"].items() if old in numbers)
    model["vocab"] = dict(sorted(kept, key=lambda item: item[1]))
    added = [{**token, "id": numbers[token["id"]]} for token in content["added_tokens"] if token["id"] in numbers]
    return {
        **content,
        "model": model,
        "added_tokens": sorted(added, key=lambda token: int(token["id"])),
        "truncation": None,
        "padding": None,
        "post_processor": _template(*(str(vocabulary.words[vocabulary.special[s]]) for s in (BOS, EOS))),
    }


def _template(bos: str, eos: str) -> dict[str, Any]:
    def special(word: str) -> dict[str, Any]:
        return {"SpecialToken": {"id": word, "type_id": 0}}

    def sequence(name: str) -> dict[str, Any]:
        return {"Sequence": {"id": name, "type_id": 0}}

    first = [special(bos), sequence("A"), special(eos)]
    return {
        "type": "TemplateProcessing",
        "single": first,
        "pair": [*first, special(eos), sequence("B"), special(eos)],
        "special_tokens": {
            word: {"id": word, "ids": [number], "tokens": [word]} for word, number in ((bos, 0), (eos, 2))
        },
    }
