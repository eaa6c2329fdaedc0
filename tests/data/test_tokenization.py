"""Each kind of tokenizer is recognised by its files and gives pieces as the fairseq dictionary writes them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from fairseq_tickets.data.tokenization import fitting, load_tokenizer, train_sentencepiece
from fairseq_tickets.errors import UserError
from tests.data.samples import SENTENCES, write_gpt2, write_wordpiece


def test_wordpiece(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(write_wordpiece(tmp_path))
    assert tokenizer.kind == "wordpiece"
    assert tokenizer.encode("The cats sat. Zebra") == ["the", "cat", "##s", "sat", ".", "[UNK]"]
    assert tokenizer.encode_batch(["cats", ""]) == [[6, 10], []]
    assert [entry["file"] for entry in tokenizer.describe()["files"]] == ["vocab.txt"]


@pytest.mark.parametrize(("config", "pieces"), [('{"do_lower_case": false}', ["[UNK]", "cat"]), ("{}", ["the", "cat"])])
def test_wordpiece_case(tmp_path: Path, config: str, pieces: list[str]) -> None:
    write_wordpiece(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(config, encoding="utf-8")
    assert load_tokenizer(tmp_path / "vocab.txt").encode("The cat") == pieces


def test_wordpiece_with_capitals_keeps_them(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("[UNK]\nThe\ncat\n", encoding="utf-8")
    assert load_tokenizer(tmp_path).encode("The cat the") == ["The", "cat", "[UNK]"]


def test_gpt2_numbers_are_the_words_of_fairseqs_dictionary(tmp_path: Path) -> None:
    write_gpt2(tmp_path)
    for path in (tmp_path, tmp_path / "encoder.json", tmp_path / "vocab.bpe"):
        tokenizer = load_tokenizer(path)
        assert tokenizer.kind == "gpt2-bpe"
        assert tokenizer.encode("the a") == [
            "6",
            "4",
            "3",
        ]  # "the", space, "a"; no space is put before the sentence


def test_huggingface_roberta_files_give_pieces(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(write_gpt2(tmp_path, ("vocab.json", "merges.txt")))
    assert tokenizer.encode("the a") == ["the", "Ġ", "a"]


def test_tokenizer_json_comes_first_and_is_never_cut_or_padded(tmp_path: Path) -> None:
    import tokenizers

    write_wordpiece(tmp_path)
    pieces = {"[PAD]": 0, "[SEP]": 1, "[UNK]": 2, "cat": 3, "sep": 4, "[": 5, "]": 6}
    backend = tokenizers.Tokenizer(tokenizers.models.WordPiece(pieces, unk_token="[UNK]"))
    backend.normalizer = tokenizers.normalizers.BertNormalizer()
    backend.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    backend.add_special_tokens(["[PAD]", "[SEP]"])
    backend.enable_truncation(max_length=2)
    backend.enable_padding(length=9)
    backend.save(str(tmp_path / "tokenizer.json"))
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.kind == "huggingface"
    assert tokenizer.encode("cat cat cat [SEP]") == [
        "cat",
        "cat",
        "cat",
        "[",
        "sep",
        "]",
    ]  # no special token from text


def test_sentencepiece_is_trained_and_read(tmp_path: Path) -> None:
    for name in ("one.model", "two.model"):
        train_sentencepiece(SENTENCES, 22, tmp_path / name)
    assert (tmp_path / "one.model").read_bytes() == (tmp_path / "two.model").read_bytes()
    tokenizer = load_tokenizer(tmp_path / "one.model")
    assert tokenizer.kind == "sentencepiece" and len(tokenizer.symbols) == 22 and tokenizer.symbols[0] == "<unk>"
    pieces = tokenizer.encode("the cat </s>")
    assert "".join(pieces).startswith("▁the▁cat") and "</s>" not in pieces
    assert tokenizer.encode_batch(["the dog", "a cat"]) == [
        *tokenizer.encode_batch(["the dog"]),
        *tokenizer.encode_batch(["a cat"]),
    ]
    with pytest.raises(UserError, match="2 sentencepiece models"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(("size", "message"), [(5000, "--train-sentencepiece 5000: .*too high"), (3, "smaller than")])
def test_impossible_sentencepiece_sizes(tmp_path: Path, size: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        train_sentencepiece(SENTENCES, size, tmp_path / "m.model")


BROKEN = [
    ("tokenizer.json", b"{}", "no tokenizer.json"),
    ("tokenizer.json", b"{cut", "not valid JSON"),
    ("a.model", b"not a model", "no sentencepiece model"),
    ("vocab.txt", b"the\ncat\n", "no line .UNK."),
    ("vocab.txt", b"\xff\xfe", "not UTF-8"),
    ("encoder.json", b"{}", "vocab.bpe"),
    ("tokens.bin", b"", "not recognised"),
]


@pytest.mark.parametrize(("name", "content", "message"), BROKEN)
def test_broken_files(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        load_tokenizer(tmp_path / name)
    assert len(str(caught.value).splitlines()) == 1


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no tokenizer in it"):
        load_tokenizer(tmp_path)
    with pytest.raises(UserError, match="no such file"):
        load_tokenizer(tmp_path / "absent")


def test_without_the_tokenizers_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    write_wordpiece(tmp_path)
    write_gpt2(tmp_path)
    for name in ("vocab.txt", "encoder.json"):
        with pytest.raises(UserError, match="needs the package tokenizers: pip install"):
            load_tokenizer(tmp_path / name)


MERGES = "#version: 0.2\nt h\nth e\n"


@pytest.mark.parametrize(
    "text", [MERGES, MERGES.replace("\n", "\r\n"), MERGES.replace("\n", "\r"), MERGES[:-1], MERGES[14:]]
)
def test_any_line_end_of_merges_gives_the_same_tokens(tmp_path: Path, text: str) -> None:
    write_gpt2(tmp_path)
    (tmp_path / "vocab.bpe").write_bytes(text.encode())
    assert load_tokenizer(tmp_path).encode("the a") == ["6", "4", "3"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("#version: 0.2\nt h\n", "no merge makes 'the'"),
        ("#version: 0.2\nt h\nth", "line 3 is 'th'"),
        ("#version: 0.2\n", "no merge makes 'th' and 1 other"),
        ("", "no merge makes"),
        (MERGES + "h e\n", "'he' of the merges is not in the vocabulary"),
        (MERGES + "t h\n", "a merge stands twice"),
        (MERGES + "t  h\n", "line 4 is 't  h'"),
    ],
)
@pytest.mark.parametrize("names", [("encoder.json", "vocab.bpe"), ("vocab.json", "merges.txt")])
def test_merges_and_vocabulary_belong_together(tmp_path: Path, names: tuple[str, str], text: str, message: str) -> None:
    write_gpt2(tmp_path, names)
    (tmp_path / names[1]).write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        load_tokenizer(tmp_path)


def test_added_and_special_words_need_no_merge(tmp_path: Path) -> None:
    write_gpt2(tmp_path, ("vocab.json", "merges.txt"))
    numbers = json.loads((tmp_path / "vocab.json").read_text()) | {"<s>": 7, "[MASK]": 8, "covid": 9}
    (tmp_path / "vocab.json").write_text(json.dumps(numbers))
    with pytest.raises(UserError, match="no merge makes 'covid'"):
        load_tokenizer(tmp_path)
    (tmp_path / "added_tokens.json").write_text('{"covid": 9}')
    assert load_tokenizer(tmp_path).encode("the a") == ["the", "Ġ", "a"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 0, "b": 0}', "'a' and 'b' have the same number 0"),
        ('{"a": 0, "a": 1}', "stands twice"),
        ('{"a": -1}', "must map words to numbers"),
        ('{"a": 1.0}', "must map words to numbers"),
        ('{"a": 4000000000}', "far beyond its 1 words"),
        ('["a"]', "must map words to numbers"),
    ],
)
def test_vocabularies_that_are_none(tmp_path: Path, text: str, message: str) -> None:
    write_gpt2(tmp_path)
    (tmp_path / "encoder.json").write_text(text)
    with pytest.raises(UserError, match=message):
        load_tokenizer(tmp_path)


def test_the_dictionary_decides_between_pieces_and_numbers(tmp_path: Path) -> None:
    """RoBERTa's BPE has two file names, and its dictionary two forms: a mix of them is told by the dictionary."""
    for names in (("encoder.json", "vocab.bpe"), ("vocab.json", "merges.txt")):
        tokenizer = load_tokenizer(write_gpt2(tmp_path / names[0], names))
        numbers = fitting(tokenizer, ["6", "4", "3", "madeupword0000"], tmp_path / "dict.txt")
        assert numbers.encode("the a") == ["6", "4", "3"]
        pieces = fitting(tokenizer, ["the", "Ġ", "a", "<mask>"], tmp_path / "dict.txt")
        assert pieces.encode("the a") == ["the", "Ġ", "a"]


def test_a_cut_vocabulary_shows_by_the_dictionary(tmp_path: Path) -> None:
    write_wordpiece(tmp_path)
    lines = (tmp_path / "vocab.txt").read_text().splitlines(keepends=True)
    (tmp_path / "vocab.txt").write_text("".join(lines[:-1]))
    with pytest.raises(UserError, match=r"1 of its 8 words, such as '.', are unknown to"):
        fitting(load_tokenizer(tmp_path), ["the", "cat", "sat", "dog", "ran", "##s", "a", "."], tmp_path / "dict.txt")
