"""Tokenizers behind one small interface: sentences in, pieces as the fairseq dictionary writes them out.

A file or folder is recognised by what it holds: tokenizer.json (Hugging Face), encoder.json + vocab.bpe (GPT-2 BPE of
fairseq's RoBERTa, whose dictionary holds GPT-2's numbers as words), vocab.json + merges.txt (the same BPE, pieces as
words), a sentencepiece model (XLM-R's, or one trained here), vocab.txt (WordPiece). Special tokens are never produced:
a "</s>" or "[SEP]" inside a sentence is text.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fairseq_tickets.errors import UserError
from fairseq_tickets.files import sha256

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
        if hasattr(backend, "encode_special_tokens"):  # without it (before 0.15), such text becomes <unk>
            backend.encode_special_tokens = True
        numbers = backend.get_vocab()
        symbols = [""] * (max(numbers.values()) + 1)
        for piece, number in numbers.items():
            symbols[number] = str(number) if numbers_as_words else piece
        self.symbols = symbols
        self._encode_batch = getattr(backend, "encode_batch_fast", backend.encode_batch)  # older versions lack it

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
    _readable(path)
    try:
        backend = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises plain Exception
        raise UserError(f"--tokenizer {path}: it is no tokenizer.json ({_first_line(error)})") from error
    return _Fast("huggingface", (path,), backend)


def _byte_level(vocabulary: Path, merges: Path) -> Tokenizer:
    tokenizers = _library(vocabulary)
    for path in (vocabulary, merges):
        _readable(path)
    try:
        model = tokenizers.models.BPE.from_file(str(vocabulary), str(merges))
    except Exception as error:  # the library raises plain Exception
        raise UserError(f"--tokenizer {vocabulary}: it is no byte-level BPE ({_first_line(error)})") from error
    backend = tokenizers.Tokenizer(model)
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    return _Fast("gpt2-bpe", (vocabulary, merges), backend, numbers_as_words=vocabulary.name == "encoder.json")


def _wordpiece(path: Path) -> Tokenizer:
    tokenizers = _library(path)
    _readable(path)
    try:
        pieces = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise UserError(f"--tokenizer {path}: it is not UTF-8 text") from error
    if pieces and not pieces[-1]:
        pieces.pop()
    numbers = {piece.rstrip("\r"): number for number, piece in enumerate(pieces)}
    if "[UNK]" not in numbers:
        raise UserError(f"--tokenizer {path}: it is no WordPiece vocabulary (no line [UNK])")
    lowercase = _lowercase(path.with_name("tokenizer_config.json"), pieces)
    backend = tokenizers.Tokenizer(tokenizers.models.WordPiece(numbers, unk_token="[UNK]"))
    backend.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=lowercase)
    backend.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    made = _Fast("wordpiece", (path,), backend)
    made.facts = {"lowercase": lowercase}
    return made


def _lowercase(config: Path, pieces: Sequence[str]) -> bool:
    """do_lower_case where a configuration says it; else whether no piece but the bracketed ones has a capital."""
    try:
        stated = json.loads(config.read_text(encoding="utf-8")).get("do_lower_case")
    except (OSError, ValueError, AttributeError):
        stated = None
    if isinstance(stated, bool):
        return stated
    return not any(letter.isupper() for piece in pieces if not piece.startswith("[") for letter in piece)


def _library(path: Path) -> Any:
    try:
        import tokenizers
    except ImportError as error:
        raise UserError(f"--tokenizer {path}: it needs the package tokenizers: pip install tokenizers") from error
    return tokenizers


def _readable(path: Path) -> None:
    try:
        path.open("rb").close()
    except OSError as error:
        raise UserError(f"--tokenizer {path}: cannot read it: {error.strerror or error}") from error


def _training_error(error: Exception) -> str:
    """The part of sentencepiece's message that a user can act on, after its source file and condition."""
    message = _first_line(error).rsplit("] ", 1)[-1].strip()
    return message or "sentencepiece cannot train on this text; is it very short?"


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
