"""Vocabularies and dictionaries, worked by hand; fairseq's own Dictionary reads what is written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fairseq_tickets.convert.vocabulary import (
    Vocabulary,
    make_dictionary,
    read_dictionary,
    read_vocabulary,
    write_dictionary,
)
from fairseq_tickets.errors import UserError

BERT = {"<s>": 3, "<pad>": 0, "</s>": 5, "<unk>": 2, "<mask>": 1}


def test_special_words_lead_and_mask_ends() -> None:
    made = make_dictionary(Vocabulary(["[PAD]", "[MASK]", "[UNK]", "[CLS]", "a", "[SEP]", "b"], BERT), rows=7)
    assert made.symbols == ["<s>", "<pad>", "</s>", "<unk>", "a", "b", "<mask>"]
    assert made.order == [3, 0, 5, 2, 4, 6, 1]
    assert made.reordered and made.renamed == 0


def test_roberta_stays_as_it_is() -> None:
    words = ["<s>", "<pad>", "</s>", "<unk>", "a", "<mask>"]
    special = {word: words.index(word) for word in ("<s>", "<pad>", "</s>", "<unk>", "<mask>")}
    made = make_dictionary(Vocabulary(list(words), special), rows=6)
    assert (made.symbols, made.order, made.reordered) == (words, [0, 1, 2, 3, 4, 5], False)


def test_every_row_gets_a_symbol_of_its_own() -> None:
    """A hole, one of fairseq's special words, a line break, a filler's name, and a row beyond the words."""
    words = ["[PAD]", "[MASK]", "[UNK]", "[CLS]", None, "[SEP]", "<s>", "x\ny", "madeupword0000"]
    made = make_dictionary(Vocabulary(words, BERT), rows=10)
    fillers = [f"madeupword000{number}" for number in (1, 2, 3)]
    assert made.symbols[4:-1] == [*fillers, "madeupword0000", "madeupword0004"]
    assert made.renamed == 2 and len(set(made.symbols)) == len(made.symbols) == 10


def test_without_a_mask_word_there_is_one_more_symbol() -> None:
    special = {symbol: number for symbol, number in BERT.items() if symbol != "<mask>"}
    made = make_dictionary(Vocabulary(["[PAD]", "m", "[UNK]", "[CLS]", "a", "[SEP]"], special), rows=6)
    assert (made.symbols[-3:], made.order[-3:]) == (["m", "a", "<mask>"], [1, 4, -1])


def test_words_beyond_the_embedding_are_left_out_but_special_ones_must_be_there() -> None:
    words = ["[PAD]", "[MASK]", "[UNK]", "[CLS]", "a", "[SEP]", "late"]
    assert "late" not in make_dictionary(Vocabulary(list(words), BERT), rows=6).symbols
    with pytest.raises(UserError, match=r"no word for fairseq's </s> \(sep_token"):
        make_dictionary(Vocabulary(list(words), BERT), rows=5)
    with pytest.raises(UserError, match="the same number"):
        make_dictionary(Vocabulary(list(words), {**BERT, "</s>": 3}), rows=7)


def test_fairseq_reads_the_dictionary_back(tmp_path: Path) -> None:
    from fairseq.data import Dictionary

    symbols = ["<s>", "<pad>", "</s>", "<unk>", "▁a", " ", "", "b c", "x\u2028y", "\x85", "é", "0", "<mask>"]
    write_dictionary(tmp_path / "dict.txt", symbols)
    theirs = Dictionary.load(str(tmp_path / "dict.txt"))
    theirs.add_symbol("<mask>")
    assert theirs.symbols == symbols == read_dictionary(tmp_path / "dict.txt")
    (tmp_path / "bad").write_text("a 1\nb\n")
    with pytest.raises(UserError, match="line 2 is 'b'; it must be a word, a space and a count"):
        read_dictionary(tmp_path / "bad")


def test_all_vocabulary_files(tmp_path: Path) -> None:
    """The same words from each kind of file; special words from the tokenizer's configuration where it names them."""
    words = ["[PAD]", "a", "[UNK]", "[CLS]", "[SEP]", "b"]
    numbers = {word: number for number, word in enumerate(words)}
    added = [{"id": 6, "content": "[MASK]"}]
    files = {
        "vocab.txt": "\n".join(words) + "\n[MASK]\n",
        "vocab.json": json.dumps({**numbers, "[MASK]": 6}),
        "tokenizer.json": json.dumps({"model": {"vocab": numbers}, "added_tokens": added}),
        "unigram/tokenizer.json": json.dumps(
            {"model": {"vocab": [[word, -1.0] for word in words]}, "added_tokens": added}
        ),
    }
    for number, (name, content) in enumerate(files.items()):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / Path(name).name).write_text(content)
        read = read_vocabulary(folder, bert=True)
        assert read.words == [*words, "[MASK]"], name
        assert read.special == {"<s>": 3, "<pad>": 0, "</s>": 4, "<unk>": 2, "<mask>": 6}, name
    (tmp_path / "0" / "special_tokens_map.json").write_text(json.dumps({"cls_token": {"content": "b"}}))
    assert read_vocabulary(tmp_path / "0", bert=True).special["<s>"] == 5


def test_damaged_vocabularies_are_refused(tmp_path: Path) -> None:
    for content in (
        "{}",
        "[]",
        '{"model": {"vocab": {"a": "x"}}}',
        '{"model": {"vocab": {"a": 0}}, "added_tokens": [1]}',
    ):
        (tmp_path / "tokenizer.json").write_text(content)
        with pytest.raises(UserError, match="tokenizer.json"):
            read_vocabulary(tmp_path, bert=True)
    (tmp_path / "tokenizer.json").write_text('{"model": ')
    with pytest.raises(UserError, match="not valid JSON"):
        read_vocabulary(tmp_path, bert=True)


def test_xlmr_sentencepiece_numbers_are_those_of_transformers(tmp_path: Path) -> None:
    from sentencepiece import SentencePieceTrainer

    text = tmp_path / "text"
    text.write_text("\n".join(f"the cat number {n} sat on mat {n * 7}" for n in range(50)))
    SentencePieceTrainer.train(
        input=str(text), model_prefix=str(tmp_path / "sentencepiece.bpe"), vocab_size=40, minloglevel=2
    )
    read = read_vocabulary(tmp_path, bert=False)
    lines = (tmp_path / "sentencepiece.bpe.vocab").read_text(encoding="utf-8").splitlines()
    pieces = [line.split("\t")[0] for line in lines]
    assert pieces[:3] == ["<unk>", "<s>", "</s>"]
    assert read.words == ["<s>", "<pad>", "</s>", "<unk>", *pieces[3:], "<mask>"]
    assert not make_dictionary(read, len(read.words)).reordered
