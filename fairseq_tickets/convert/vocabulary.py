"""The vocabulary of a Hugging Face tokenizer, and the fairseq dictionary that holds the same words.

fairseq numbers words its own way: `<s> <pad> </s> <unk>`, then the words of dict.txt, then `<mask>`, which
its tasks add last. So [CLS], [PAD], [SEP], [UNK] and [MASK] get these names and places, and the other words
follow in their own order. For RoBERTa and XLM-R that changes nothing; for BERT the rows of the word embedding
move.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fairseq_tickets import dictionary
from fairseq_tickets.data.vocabulary_files import read_numbers, read_words
from fairseq_tickets.documents import is_whole, shown
from fairseq_tickets.errors import UserError
from fairseq_tickets.files import PathLike, read_json

BOS, PAD, EOS, UNK, MASK = "<s>", "<pad>", "</s>", "<unk>", "<mask>"
SPECIAL = (BOS, PAD, EOS, UNK, MASK)
# fairseq symbol -> key in tokenizer_config.json and special_tokens_map.json
ROLES = {BOS: "cls_token", PAD: "pad_token", EOS: "sep_token", UNK: "unk_token", MASK: "mask_token"}
BERT_TOKENS = {BOS: "[CLS]", PAD: "[PAD]", EOS: "[SEP]", UNK: "[UNK]", MASK: "[MASK]"}
_MOST_WORDS = 1 << 23  # eight times the largest vocabulary of the field


@dataclass
class Vocabulary:
    """Words by their number in the source, and which of them play fairseq's special parts.

    Attributes:
        words: word of every number from 0; None where the tokenizer has no word for that number.
        special: fairseq symbol -> number in the source; `<mask>` may be missing.
    """

    words: list[str | None]
    special: dict[str, int]


@dataclass
class Dictionary:
    """A fairseq dictionary made from a vocabulary.

    Attributes:
        symbols: all symbols in fairseq's order, the four special ones first and `<mask>` last.
        order: source number of every symbol; -1 for a `<mask>` that the source doesn't have.
        renamed: how many words got a made-up name since dict.txt can't hold theirs.
    """

    symbols: list[str]
    order: list[int]
    renamed: int = 0

    @property
    def reordered(self) -> bool:
        """True where the numbers differ from the source's."""
        return self.order != list(range(len(self.order)))


def make_dictionary(vocabulary: Vocabulary, rows: int) -> Dictionary:
    """Order a vocabulary as fairseq does, for an embedding of `rows` rows.

    Words without a row can't be used and are left out. Rows without a word, words listed twice and words with
    a line break become `madeupwordNNNN`, as fairseq calls its fillers, so that there is a symbol for every
    row.

    Raises:
        UserError: a special word other than `<mask>` has no row.
    """
    special = {symbol: number for symbol, number in vocabulary.special.items() if number < rows}
    for symbol in (BOS, PAD, EOS, UNK):
        if symbol not in special:
            raise UserError(f"the tokenizer has no word for fairseq's {symbol} ({ROLES[symbol]} in its configuration)")
    if len(set(special.values())) < len(special):
        raise UserError(f"two of the special words {', '.join(special)} have the same number in the tokenizer")
    first = [special[symbol] for symbol in (BOS, PAD, EOS, UNK)]
    taken = {*first, special.get(MASK, -1)}
    order = [*first, *(number for number in range(rows) if number not in taken), special.get(MASK, -1)]

    symbols, used, renamed = [BOS, PAD, EOS, UNK], set(SPECIAL), 0
    words = [*vocabulary.words[:rows], *[None] * (rows - len(vocabulary.words))]
    known = {word for word in words if word is not None}
    fillers = (name for name in map("madeupword{:04d}".format, range(10**9)) if name not in known)
    for number in order[4:-1]:
        word = words[number]
        if word is None or word in used or any(c in word for c in "\r\n"):
            renamed += word is not None
            word = next(fillers)
        used.add(word)
        symbols.append(word)
    return Dictionary([*symbols, MASK], order, renamed)


def write_dictionary(path: Path, symbols: Sequence[str]) -> None:
    """Write dict.txt: all symbols but the special ones, which fairseq adds; the counts mean nothing."""
    with open(path, "w", encoding="utf-8", newline="\n") as handle:
        handle.writelines(f"{symbol} 1\n" for symbol in symbols[4:-1])


def read_dictionary(path: PathLike) -> list[str]:
    """All symbols of a dict.txt in fairseq's order, the special ones and `<mask>` included; see `dictionary`."""
    symbols = dictionary.read_dictionary(path)
    return symbols if MASK in symbols else [*symbols, MASK]


def read_vocabulary(folder: PathLike, bert: bool) -> Vocabulary:
    """Vocabulary of the tokenizer in a Hugging Face folder; `bert` says which special words to look for first.

    Read from the first that is there: tokenizer.json, vocab.txt, vocab.json, sentencepiece.bpe.model.

    Raises:
        UserError: none is there, or it isn't readable.
    """
    root = Path(folder)
    numbers = _numbers(root)
    words: list[str | None] = [None] * (max(numbers.values(), default=-1) + 1)
    for word, number in numbers.items():
        words[number] = word
    named = special_roles(root)
    special: dict[str, int] = {}
    for symbol in SPECIAL:
        usual = (BERT_TOKENS[symbol], symbol) if bert else (symbol, BERT_TOKENS[symbol])
        candidates = (named.get(ROLES[symbol]), *usual)
        found = [numbers[candidate] for candidate in candidates if candidate in numbers]
        if found:
            special[symbol] = found[0]
    return Vocabulary(words, special)


def _numbers(root: Path) -> dict[str, int]:
    if (root / "tokenizer.json").is_file():
        return _from_tokenizer_json(read_json(root / "tokenizer.json", "tokenizer"), root / "tokenizer.json")
    more = root / "added_tokens.json"
    added = _word_numbers(read_json(more, "added tokens"), more) if more.is_file() else {}
    if (root / "vocab.txt").is_file():
        words = read_words(root / "vocab.txt")
        return {**{word: number for number, word in enumerate(words)}, **added}
    if (root / "vocab.json").is_file():
        return {**read_numbers(root / "vocab.json"), **added}
    if (root / "sentencepiece.bpe.model").is_file():
        return _from_sentencepiece(root / "sentencepiece.bpe.model")
    raise UserError(
        f"no vocabulary in {root}: expected tokenizer.json, vocab.txt, vocab.json or sentencepiece.bpe.model"
    )


def _from_tokenizer_json(content: Any, path: Path) -> dict[str, int]:
    try:
        vocabulary = content["model"]["vocab"]
        if isinstance(vocabulary, list):  # Unigram: [word, score] in order
            numbers = {str(entry[0]): number for number, entry in enumerate(vocabulary)}
        else:
            numbers = _word_numbers(vocabulary, path)
        added = {str(entry["content"]): entry["id"] for entry in content.get("added_tokens", [])}
        return {**numbers, **_word_numbers(added, path)}
    except (KeyError, TypeError, IndexError, AttributeError, ValueError) as error:
        raise UserError(f"{path} is not a tokenizer.json with a vocabulary: {error!r}") from error


def _word_numbers(content: Any, path: Path) -> dict[str, int]:
    if not isinstance(content, Mapping):
        raise UserError(f"{path} must map words to numbers")
    for word, number in content.items():
        if not is_whole(number, 0, _MOST_WORDS):
            raise UserError(f"{path}: the number of {shown(word)} is {shown(number)}; it must be 0 to {_MOST_WORDS:,}")
    return dict(content)


def _from_sentencepiece(path: Path) -> dict[str, int]:
    """XLM-R's numbering: `<s> <pad> </s> <unk>`, the pieces after the model's own three, then `<mask>`."""
    try:
        from sentencepiece import SentencePieceProcessor
    except ImportError as error:
        raise UserError(f"reading {path} needs the package sentencepiece, or a tokenizer.json beside it") from error
    try:
        model = SentencePieceProcessor(model_file=str(path))
    except (OSError, RuntimeError) as error:
        raise UserError(f"{path} is not a sentencepiece model: {error}") from error
    pieces = [model.id_to_piece(number) for number in range(3, model.get_piece_size())]
    return {word: number for number, word in enumerate([BOS, PAD, EOS, UNK, *pieces, MASK])}


def special_roles(root: Path) -> dict[str, str]:
    """Role (cls_token, sep_token, ...) -> word, as the tokenizer's configuration in a folder says."""
    words: dict[str, str] = {}
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if (root / name).is_file():
            content = read_json(root / name, "tokenizer configuration")
            for role in ROLES.values():
                value = content.get(role) if isinstance(content, dict) else None
                if isinstance(value, dict):
                    value = value.get("content")
                if isinstance(value, str):
                    words[role] = value
    return words
