"""Tokenizers behind one small interface: sentences in, pieces as the fairseq dictionary writes them out.

A file or folder is recognised by what it holds: tokenizer.json (Hugging Face), encoder.json + vocab.bpe (GPT-2 BPE of
fairseq's RoBERTa, whose dictionary holds GPT-2's numbers as words), vocab.json + merges.txt (the same BPE, pieces as
words), a sentencepiece model (XLM-R's, or one trained here), vocab.txt (WordPiece). Special tokens are never produced:
a "</s>" or "[SEP]" inside a sentence is text.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fairseq_tickets.data.vocabulary_files import (
    check_dense,
    check_merges,
    is_special,
    read_merges,
    read_numbers,
    read_words,
    special_words,
)
from fairseq_tickets.errors import UserError
from fairseq_tickets.files import read_json, sha256

MOST_FOREIGN = 0.2  # of a dictionary's words, beside sentencepiece
SENTENCEPIECE_NAME = "sentencepiece.model"
BPE_FILES = (("encoder.json", "vocab.bpe"), ("vocab.json", "merges.txt"))
EXPECTED = "tokenizer.json, encoder.json + vocab.bpe, vocab.json + merges.txt, a sentencepiece *.model, or vocab.txt"


class Tokenizer:
    """The interface.

    Attributes:
        kind: "huggingface", "gpt2-bpe", "sentencepiece" or "wordpiece".
        files: the files it was made from.
        symbols: the piece of every number that `encode_batch` returns, as the fairseq dictionary writes it.
        facts: what else task.json is to say about it: "lowercase", where the files leave that open.
    """

    kind: str
    files: tuple[Path, ...]
    symbols: Sequence[str]
    facts: Mapping[str, Any] = {}

    def encode_batch(self, sentences: Sequence[str]) -> list[list[int]]:
        """Numbers of the pieces of each sentence: indices into `symbols`."""
        raise NotImplementedError

    def encode(self, sentence: str) -> list[str]:
        """Pieces of one sentence, as the fairseq dictionary writes them."""
        return [self.symbols[number] for number in self.encode_batch([sentence])[0]]

    def written(self) -> dict[str, str]:
        """Every piece, and how the fairseq dictionary writes it."""
        return {symbol: symbol for symbol in self.symbols}

    def serialised(self) -> Any:
        """Content of the tokenizer.json that is this tokenizer; None if it is none of the `tokenizers` library."""
        return None

    def describe(self) -> dict[str, Any]:
        """Kind, files and checksums, for task.json."""
        files = [{"file": f.name, "sha256": sha256(f)} for f in self.files]
        return {"kind": self.kind, "files": files, **self.facts}


class _Fast(Tokenizer):
    """A tokenizer of the `tokenizers` library; encodes batches in parallel."""

    def __init__(self, kind: str, files: tuple[Path, ...], backend: Any, numbers_as_words: bool = False) -> None:
        self.kind, self.files, self._backend = kind, files, backend
        backend.no_truncation()
        backend.no_padding()
        backend.encode_special_tokens = True
        numbers = backend.get_vocab()
        check_dense(numbers, f"--tokenizer {files[0]}")
        self.pieces = [""] * (max(numbers.values(), default=-1) + 1)
        for piece, number in numbers.items():
            self.pieces[number] = piece
        self.symbols = [str(number) for number in range(len(self.pieces))] if numbers_as_words else self.pieces
        self._encode_batch = getattr(backend, "encode_batch_fast", backend.encode_batch)  # older versions lack it

    def written(self) -> dict[str, str]:
        return dict(zip(self.pieces, self.symbols))

    def serialised(self) -> Any:
        return json.loads(self._backend.to_str())

    def encode_batch(self, sentences: Sequence[str]) -> list[list[int]]:
        return [encoding.ids for encoding in self._encode_batch(list(sentences), add_special_tokens=False)]


class _SentencePiece(Tokenizer):
    kind = "sentencepiece"

    def __init__(self, path: Path) -> None:
        import sentencepiece

        self.files = (path,)
        self._processor = sentencepiece.SentencePieceProcessor()
        try:
            self._processor.LoadFromSerializedProto(path.read_bytes())
        except (RuntimeError, OSError) as error:
            raise UserError(f"--tokenizer {path}: it is no sentencepiece model ({_first_line(error)})") from error
        self.symbols = [self._processor.IdToPiece(n) for n in range(self._processor.GetPieceSize())]
        self._threads = os.cpu_count() or 1

    def encode_batch(self, sentences: Sequence[str]) -> list[list[int]]:
        numbers: list[list[int]] = self._processor.Encode(list(sentences), out_type=int, num_threads=self._threads)
        return numbers


def load_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer in a file or folder, recognised by file names.

    Raises:
        UserError: nothing there, nothing recognised, or a damaged file.
    """
    if path.is_dir():
        return _load_folder(path)
    if not path.is_file():
        raise UserError(f"--tokenizer {path}: no such file or folder")
    for pair in BPE_FILES:
        if path.name in pair:
            return _byte_level(path.parent / pair[0], path.parent / pair[1])
    if path.suffix == ".json":
        return _tokenizer_json(path)
    if path.suffix == ".model":
        return _SentencePiece(path)
    if path.suffix == ".txt":
        return _wordpiece(path)
    raise UserError(f"--tokenizer {path}: not recognised; give {EXPECTED}, or a folder with them")


def fitting(tokenizer: Tokenizer, words: Sequence[str], dictionary: Path) -> Tokenizer:
    """The tokenizer, writing its pieces as the dictionary has them: as text or, in fairseq's RoBERTa, as numbers.

    Args:
        tokenizer: from `load_tokenizer`.
        words: the dictionary's, without fairseq's special ones.
        dictionary: its file, for messages.

    Raises:
        UserError: the dictionary has words that the tokenizer can't write, so one of them is cut or another model's.
            (Beside sentencepiece a few are allowed: unknown letters got into dictionaries made from text.)
    """
    own = [word for word in words if not is_special(word)]
    foreign = _foreign(own, tokenizer.symbols)
    if foreign and isinstance(tokenizer, _Fast) and tokenizer.kind == "gpt2-bpe":
        as_numbers = tokenizer.symbols is not tokenizer.pieces
        other = tokenizer.pieces if as_numbers else [str(number) for number in range(len(tokenizer.pieces))]
        if len(_foreign(own, other)) < len(foreign):
            tokenizer.symbols, foreign = other, _foreign(own, other)
    allowed = MOST_FOREIGN * len(own) if tokenizer.kind == "sentencepiece" else 0
    if len(foreign) > allowed:
        raise UserError(
            f"--dict {dictionary}: {len(foreign)} of its {len(own)} words, such as {foreign[0]!r}, are unknown to"
            f" --tokenizer {tokenizer.files[0]}: one is cut, or dictionary and tokenizer don't belong together"
        )
    return tokenizer


def _foreign(words: Sequence[str], symbols: Sequence[str]) -> list[str]:
    known = set(symbols)
    return [word for word in words if word not in known]


def has_tokenizer(path: Path) -> bool:
    """True for a file, and for a folder in which `load_tokenizer` recognises something."""
    if not path.is_dir():
        return path.is_file()
    if any((path / name).is_file() for name in ("tokenizer.json", "vocab.txt")) or any(path.glob("*.model")):
        return True
    return any((path / vocabulary).is_file() and (path / merges).is_file() for vocabulary, merges in BPE_FILES)


def train_sentencepiece(sentences: Sequence[str], size: int, output: Path) -> None:
    """Train a sentencepiece unigram model with `size` pieces (<unk> included) and write it to `output`.

    Raises:
        UserError: the text has too few pieces for `size`, or too many letters.
    """
    import sentencepiece

    try:
        with open(output, "wb") as model:
            sentencepiece.SentencePieceTrainer.Train(
                sentence_iterator=iter(sentences),
                model_writer=model,
                vocab_size=size,
                unk_id=0,
                bos_id=-1,
                eos_id=-1,
                pad_id=-1,
                character_coverage=0.9999,
                num_threads=1,  # the same model for the same text
                minloglevel=2,
            )
    except (RuntimeError, ValueError) as error:
        raise UserError(f"--train-sentencepiece {size}: {_training_error(error)}") from error


def _load_folder(folder: Path) -> Tokenizer:
    if (folder / "tokenizer.json").is_file():
        return _tokenizer_json(folder / "tokenizer.json")
    for vocabulary, merges in BPE_FILES:
        if (folder / vocabulary).is_file() and (folder / merges).is_file():
            return _byte_level(folder / vocabulary, folder / merges)
    models = sorted(folder.glob("*.model"))
    if len(models) == 1:
        return _SentencePiece(models[0])
    if models:
        raise UserError(f"--tokenizer {folder}: it holds {len(models)} sentencepiece models; name one of them")
    if (folder / "vocab.txt").is_file():
        return _wordpiece(folder / "vocab.txt")
    raise UserError(f"--tokenizer {folder}: no tokenizer in it; it should hold {EXPECTED}")


def _tokenizer_json(path: Path) -> Tokenizer:
    tokenizers = _library(path)
    content = read_json(path, "tokenizer")
    model = content.get("model") if isinstance(content, dict) else None
    if isinstance(model, dict) and model.get("type") == "BPE" and not model.get("ignore_merges"):
        _check_bpe(model, content.get("added_tokens"), path)
    with _refused(path, "tokenizer.json"):
        backend = tokenizers.Tokenizer.from_file(str(path))
    return _Fast("huggingface", (path,), backend)


def _check_bpe(model: dict[str, Any], added: Any, path: Path) -> None:
    """Whether the merges of a tokenizer.json make its vocabulary; what isn't even a list is the library's matter."""
    vocabulary, merges = model.get("vocab"), model.get("merges")
    if isinstance(vocabulary, dict) and isinstance(merges, list):
        pairs = [tuple(merge.split(" ") if isinstance(merge, str) else map(str, merge)) for merge in merges]
        special = {str(token.get("content")) for token in added or () if isinstance(token, dict)}
        if all(len(pair) == 2 for pair in pairs):
            check_merges(vocabulary, [(first, second) for first, second in pairs], special, f"--tokenizer {path}")


def _byte_level(vocabulary: Path, merges: Path) -> Tokenizer:
    tokenizers = _library(vocabulary)
    numbers, pairs = read_numbers(vocabulary), read_merges(merges)
    check_merges(numbers, pairs, special_words(vocabulary.parent), f"--tokenizer {vocabulary} and {merges.name}")
    with _refused(vocabulary, "byte-level BPE"):
        backend = tokenizers.Tokenizer(tokenizers.models.BPE(numbers, pairs))
    prefix = _stated(vocabulary.with_name("tokenizer_config.json"), "add_prefix_space") is True
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    return _Fast("gpt2-bpe", (vocabulary, merges), backend, numbers_as_words=vocabulary.name == "encoder.json")


def _wordpiece(path: Path) -> Tokenizer:
    tokenizers = _library(path)
    pieces = read_words(path)
    numbers = {piece: number for number, piece in enumerate(pieces)}
    if "[UNK]" not in numbers:
        raise UserError(f"--tokenizer {path}: it is no WordPiece vocabulary (no line [UNK])")
    config = path.with_name("tokenizer_config.json")
    lowercase = _stated(config, "do_lower_case")
    if lowercase is None:  # whether no piece but the bracketed ones has a capital
        lowercase = not any(letter.isupper() for piece in pieces if not piece.startswith("[") for letter in piece)
    with _refused(path, "WordPiece vocabulary"):
        backend = tokenizers.Tokenizer(tokenizers.models.WordPiece(numbers, unk_token="[UNK]"))
    backend.normalizer = tokenizers.normalizers.BertNormalizer(
        lowercase=lowercase,
        strip_accents=_stated(config, "strip_accents"),  # None: as lowercase
        handle_chinese_chars=_stated(config, "tokenize_chinese_chars") is not False,
    )
    backend.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    made = _Fast("wordpiece", (path,), backend)
    made.facts = {"lowercase": lowercase}
    return made


def _stated(config: Path, setting: str) -> bool | None:
    """What a tokenizer_config.json says of a setting; None where it says nothing or is not there."""
    content = read_json(config, "tokenizer configuration") if config.is_file() else {}
    stated = content.get(setting) if isinstance(content, dict) else None
    return stated if isinstance(stated, bool) else None


def _library(path: Path) -> Any:
    try:
        import tokenizers
    except ImportError as error:
        raise UserError(f"--tokenizer {path}: it needs the package tokenizers: pip install tokenizers") from error
    return tokenizers


@contextlib.contextmanager
def _refused(path: Path, kind: str) -> Iterator[None]:
    """Whatever the tokenizers library raises on a file, plain Exception or a panic of its Rust part, as a UserError."""
    try:
        yield
    except Exception as error:
        raise UserError(f"--tokenizer {path}: it is no {kind} ({_first_line(error)})") from error
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise UserError(f"--tokenizer {path}: it is no {kind} ({_first_line(error)})") from error


def _training_error(error: Exception) -> str:
    """The part of sentencepiece's message that a user can act on, after its source file and condition."""
    message = _first_line(error).rsplit("] ", 1)[-1].strip()
    return message or "sentencepiece cannot train on this text; is it very short?"


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
