"""The tokenizer that a model was trained with, as transformers' AutoTokenizer loads it: same words, same numbers.

Training numbers words in two steps: the tokenizer's pieces (see `data/tokenization.py`), then the line of each piece in
dict.txt, where unknown ones are `<unk>`. Both are made one here: a tokenizer.json that holds the tokenizer as it is
(lower-casing, accents, prefix space, merges, scores) and fairseq's numbers. It also joins sentences as the task did:

    init_token A </s>                          one sentence
    init_token A </s> separator_token B </s>   a pair; BERT's have no separator, RoBERTa's the separator </s>

so that the exported model sees what the trained one saw, whatever the source's habits are. The special words keep the
source's names ([CLS], [SEP]) where it has some, else they have fairseq's. Two things a tokenizer.json can't say:

- BPE's merges are by number, so pieces that dict.txt lacks can't all be `<unk>`: they get numbers after the
  dictionary's, and the exported embedding has copies of `<unk>`'s row there. The same function.
- A unigram model (sentencepiece) finds its special words in text too: "</s>" typed in a sentence is `</s>` there, and
  was no special word in training. A note says so.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fairseq_tickets.convert.sentencepiece_model import tokenizer_from_sentencepiece
from fairseq_tickets.convert.vocabulary import BERT_TOKENS, EOS, ROLES, SPECIAL, UNK, special_roles
from fairseq_tickets.data.tokenization import Tokenizer, fitting, load_tokenizer
from fairseq_tickets.errors import UserError
from fairseq_tickets.files import write_json

END, UNKNOWN = 2, 3  # </s> and <unk> in every fairseq dictionary


@dataclass(frozen=True)
class Joined:
    """How a task made a sequence of its sentences, in fairseq's numbers.

    Attributes:
        init_token: put first; None = nothing.
        separator_token: put before the second sentence; None = nothing.
    """

    init_token: int | None = 0
    separator_token: int | None = None


def export_tokenizer(
    source: Path,
    target: Path,
    symbols: Sequence[str],
    dictionary: Path,
    joined: Joined | None,
    longest: int,
) -> tuple[int, list[str]]:
    """Write tokenizer.json and tokenizer_config.json.

    Returns:
        How many copies of `<unk>`'s row the embedding needs after its own rows, and notes, one sentence each.

    Args:
        source: tokenizer file or folder, as `prepare --tokenizer` takes it.
        target: folder to write to.
        symbols: fairseq's dictionary, the special words included; see `read_dictionary`.
        dictionary: its file, for messages.
        joined: the task's.
        longest: tokens of the longest sequence.

    Raises:
        UserError: no tokenizer there or a damaged one, or a special number that the dictionary lacks.
    """
    tokenizer = fitting(load_tokenizer(source), symbols[END + 2 : -1], dictionary)
    content = tokenizer.serialised()
    if content is None:
        content = tokenizer_from_sentencepiece(tokenizer.files[0])
    lines = {symbol: number for number, symbol in enumerate(symbols)}
    words = special_words(tokenizer)
    known = {lines[symbol]: word for symbol, word in words.items()}
    notes = []
    if joined is None:
        joined = Joined(0, None if words[EOS] == BERT_TOKENS[EOS] else END)
        notes.append("no sentence task is recorded; pairs are joined as the source's kind does (--separator-token)")
    numbers = {
        piece: UNKNOWN if written in SPECIAL else lines.get(written, UNKNOWN)
        for piece, written in tokenizer.written().items()
    }
    numbers.update((word, number) for number, word in known.items())
    missing = [piece for piece, number in numbers.items() if number == UNKNOWN and piece != words[UNK]]
    copies = missing if content["model"]["type"] == "BPE" else []
    numbers.update((piece, len(symbols) + place) for place, piece in enumerate(sorted(copies)))
    content["model"] = _model(content["model"], numbers, [known.get(n, s) for n, s in enumerate(symbols)], known)
    content.update(
        added_tokens=_added(content["added_tokens"], numbers, known),
        post_processor=_template(joined, known),
        truncation=None,
        padding=None,
    )
    with open(target / "tokenizer.json", "w", encoding="utf-8") as handle:
        json.dump(content, handle, ensure_ascii=False, indent=1)
    write_json(
        target / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": longest,
            "model_input_names": ["input_ids", "attention_mask"],
            "padding_side": "right",
            "truncation_side": "right",
            "clean_up_tokenization_spaces": False,
            "split_special_tokens": True,  # "</s>" inside a sentence is text, as it was in training
            **{ROLES[symbol]: word for symbol, word in words.items()},
            "bos_token": words[SPECIAL[0]],
            "eos_token": words[EOS],
        },
    )
    notes.append(_say(joined, known))
    if missing:
        notes.append(
            f"{len(missing)} pieces of the tokenizer are not in dict.txt; they mean {words[UNK]}, as in training"
        )
    if content["model"]["type"] == "Unigram":
        notes.append(
            f"where a sentence spells a special word such as {words[EOS]}, the tokenizer takes it for that word"
        )
    return len(copies), notes


def special_words(tokenizer: Tokenizer) -> dict[str, str]:
    """fairseq symbol -> the tokenizer's word for it: as its configuration says, else BERT's, else fairseq's."""
    folder, pieces = tokenizer.files[0].parent, set(tokenizer.written())
    named = special_roles(folder)
    words = {}
    for symbol in SPECIAL:
        usual = (symbol, BERT_TOKENS[symbol])
        candidates = (named.get(ROLES[symbol]), *(usual[::-1] if BERT_TOKENS[UNK] in pieces else usual))
        words[symbol] = next((word for word in candidates if word in pieces), symbol)
    return words


def _model(
    model: dict[str, Any], numbers: dict[str, int], words: Sequence[str], known: dict[int, str]
) -> dict[str, Any]:
    """The tokenizer's model with fairseq's numbers; `words` are the dictionary's, the special ones by their names."""
    if model["type"] == "Unigram":  # a list of (piece, score), whose places are the numbers
        lowest = min(score for _, score in model["vocab"])
        rows = [[word, lowest] for word in words]
        for piece, score in model["vocab"]:
            if numbers[piece] != UNKNOWN:
                rows[numbers[piece]] = [piece, score]
        return {**model, "vocab": rows, "unk_id": UNKNOWN}
    if model["type"] not in ("WordPiece", "BPE", "WordLevel"):
        raise UserError(f"the tokenizer's model is a {model['type']}, which can't be renumbered for transformers")
    vocabulary = {
        **{piece: numbers[piece] for piece in model["vocab"]},
        **{word: number for number, word in known.items()},
    }
    return {**model, "vocab": dict(sorted(vocabulary.items(), key=lambda item: item[1]))}


def _added(tokens: list[dict[str, Any]], numbers: dict[str, int], known: dict[int, str]) -> list[dict[str, Any]]:
    """The special words, and the source's other added words that have a number of their own."""
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    given = {token["content"]: token for token in tokens}
    added = {number: {**plain, **given.get(word, {}), "id": number, "content": word} for number, word in known.items()}
    for word, token in given.items():
        number = numbers.get(word)
        if number is not None and number not in added:
            added[number] = {**token, "id": number}
    return [added[number] for number in sorted(added)]


def _template(joined: Joined, known: dict[int, str]) -> dict[str, Any]:
    for name in ("init_token", "separator_token"):
        number = getattr(joined, name)
        if number is not None and number not in known:
            raise UserError(f"the task's {name} is {number}; only the special words {sorted(known)} can be exported")

    def special(*tokens: int | None) -> list[dict[str, Any]]:
        return [{"SpecialToken": {"id": known[token], "type_id": 0}} for token in tokens if token is not None]

    def sequence(name: str) -> list[dict[str, Any]]:
        return [{"Sequence": {"id": name, "type_id": 0}}]

    first = [*special(joined.init_token), *sequence("A"), *special(END)]
    used = {known[n]: n for n in (joined.init_token, joined.separator_token, END) if n is not None}
    return {
        "type": "TemplateProcessing",
        "single": first,
        "pair": [*first, *special(joined.separator_token), *sequence("B"), *special(END)],
        "special_tokens": {word: {"id": word, "ids": [number], "tokens": [word]} for word, number in used.items()},
    }


def _say(joined: Joined, known: dict[int, str]) -> str:
    parts = (joined.init_token, "A", END, joined.separator_token, "B", END)
    words = [str(part) if isinstance(part, str) else known[part] for part in parts if part is not None]
    return f"the tokenizer joins two sentences as {' '.join(words)}"
