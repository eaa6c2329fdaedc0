"""A sentencepiece model -> the tokenizer of the `tokenizers` library that splits text the same way.

The file is a protocol buffer (sentencepiece_model.proto); its few fields that matter are read here, since the package
protobuf is not needed for anything else. What is built is what transformers builds for XLM-R: the model's own
normalisation table, words split at white space, each beginning with ▁, and a unigram model.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Union

from fairseq_tickets.errors import UserError

UNIGRAM = 1
_PIECES, _TRAINER, _NORMALIZER = 1, 2, 3  # fields of ModelProto
_PIECE, _SCORE, _TYPE = 1, 2, 3  # of SentencePiece
_MODEL_TYPE, _BYTE_FALLBACK = 3, 35  # of TrainerSpec
_CHARSMAP = 2  # of NormalizerSpec
_UNKNOWN = 2  # SentencePiece.Type

Value = Union[int, bytes]


def tokenizer_from_sentencepiece(path: Path) -> dict[str, Any]:
    """Content of a tokenizer.json with the model's own numbers, without post-processor.

    Raises:
        UserError: not a sentencepiece model, or not a unigram one.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    try:
        return _tokenizer(_fields(data), path)
    except (IndexError, struct.error, UnicodeDecodeError, TypeError) as error:
        raise UserError(f"{path} is not a whole sentencepiece model: {error}") from error


def _tokenizer(model: list[tuple[int, Value]], path: Path) -> dict[str, Any]:
    vocabulary: list[tuple[str, float]] = []
    unknown = None
    trainer: dict[int, Value] = {}
    charsmap = b""
    for number, value in model:
        if number == _PIECES:
            piece = dict(_fields(_bytes(value)))
            score = struct.unpack("<f", _bytes(piece.get(_SCORE, bytes(4))))[0]
            if piece.get(_TYPE) == _UNKNOWN:
                unknown = len(vocabulary)
            vocabulary.append((_bytes(piece[_PIECE]).decode("utf-8"), score))
        elif number == _TRAINER:
            trainer = dict(_fields(_bytes(value)))
        elif number == _NORMALIZER:
            charsmap = _bytes(dict(_fields(_bytes(value))).get(_CHARSMAP, b""))
    if not vocabulary or unknown is None:
        raise UserError(f"{path} is not a sentencepiece model: it has no pieces, or none for unknown words")
    if trainer.get(_MODEL_TYPE, UNIGRAM) != UNIGRAM:
        raise UserError(f"{path}: only unigram models of sentencepiece have a counterpart in transformers' tokenizers")
    metaspace = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    precompiled = {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(charsmap).decode("ascii")}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": precompiled if charsmap else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, metaspace]},
        "post_processor": None,
        "decoder": metaspace,
        "model": {
            "type": "Unigram",
            "unk_id": unknown,
            "vocab": vocabulary,
            "byte_fallback": bool(trainer.get(_BYTE_FALLBACK, 0)),
        },
    }


def _bytes(value: Value) -> bytes:
    if not isinstance(value, bytes):
        raise TypeError("a number stands where text must be")
    return value


def _fields(data: bytes) -> list[tuple[int, Value]]:
    """(field number, value) of a message: numbers of wire type 0, bytes of the others."""
    return list(_iterate(data))


def _iterate(data: bytes) -> Iterator[tuple[int, Value]]:
    place = 0
    while place < len(data):
        key, place = _varint(data, place)
        kind = key & 7
        if kind == 0:
            value, place = _varint(data, place)
            yield key >> 3, value
            continue
        size, place = {1: (8, place), 5: (4, place)}.get(kind) or _varint(data, place)
        if kind not in (1, 2, 5) or place + size > len(data):
            raise IndexError("a field ends after the file")
        yield key >> 3, data[place : place + size]
        place += size


def _varint(data: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
        shift += 7
        if shift > 63:
            raise IndexError("a number is too long")
