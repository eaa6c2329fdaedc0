"""Prepared folders, read back by fairseq's own task."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from fairseq_tickets.data.generic import generic_task
from fairseq_tickets.data.prepare import prepare
from fairseq_tickets.data.tasks import TaskSpec, find_files, find_task
from fairseq_tickets.errors import UserError
from tests.data.samples import TRAIN, VALID, write_gpt2, write_pairs, write_wordpiece

SPEC = TaskSpec("toy", ("sentence1", "sentence2"), ("no", "yes"))


def files(folder: Path) -> dict[str, Path]:
    write_pairs(folder)
    return {"train": folder / "train.tsv", "valid": folder / "dev.tsv", "test": folder / "test.tsv"}


def fairseq_task(folder: Path, num_classes: int, regression: bool = False) -> Any:
    """fairseq's own sentence_prediction task on a prepared folder, in file order."""
    import fairseq  # noqa: F401
    from fairseq.tasks.sentence_prediction import SentencePredictionConfig, SentencePredictionTask

    cfg = SentencePredictionConfig(
        data=str(folder),
        num_classes=num_classes,
        init_token=0,
        separator_token=2,
        no_shuffle=True,
        max_positions=512,
    )
    cfg.regression_target, cfg.seed = regression, 1
    return SentencePredictionTask.setup_task(cfg)


def batch(task: Any, split: str) -> Any:
    dataset = task.load_dataset(split)
    return dataset.collater([dataset[index] for index in range(len(dataset))])


def test_fairseq_reads_back_the_sentences_and_labels(tmp_path: Path) -> None:
    write_wordpiece(tmp_path / "tok")
    content = prepare(SPEC, files(tmp_path / "in"), tmp_path / "out", tokenizer=tmp_path / "tok")
    task = fairseq_task(tmp_path / "out", 2)
    for split, rows in (("train", TRAIN), ("valid", VALID)):
        sample = batch(task, split)
        texts = [
            task.dictionary.string(row, extra_symbols_to_ignore={1}, include_eos=True)
            for row in sample["net_input"]["src_tokens"]
        ]
        for text, (first, second, _) in zip(texts, rows):
            spelled = text.replace(" ##", "").replace(" .", ".")
            assert spelled == f"{first} </s> </s> {second} </s>"
        assert sample["target"].flatten().tolist() == [SPEC.labels.index(label) for _, _, label in rows]
        # `string` hides <s>, so look at the numbers: <s> first, and the recorded length is the real one
        assert sample["net_input"]["src_tokens"][:, 0].tolist() == [0] * len(rows)
        assert content["splits"][split]["longest"] == int(sample["net_input"]["src_lengths"].max())
    assert "target" not in batch(task, "test")
    assert not (tmp_path / "out" / "label" / "test.bin").exists()


def test_task_json_says_all(tmp_path: Path) -> None:
    write_wordpiece(tmp_path / "tok")
    inputs = files(tmp_path / "in")
    with open(inputs["train"], "ab") as handle:
        handle.write(b"bad line\nthe cat\t\tyes\na zebra ran\ta cat\tno\n")
    returned = prepare(SPEC, inputs, tmp_path / "out", tokenizer=tmp_path / "tok", max_length=13)
    content = json.loads((tmp_path / "out" / "task.json").read_text(encoding="utf-8"))
    assert content == returned
    assert (content["format"], content["version"], content["kind"]) == (
        "fairseq-tickets/task",
        2,
        "classification",
    )
    assert content["labels"] == ["no", "yes"] and content["num_classes"] == 2 and content["metric"] == "accuracy"
    assert content["pairs"] is True and content["partial"] is False and content["regression_range"] is None
    train = content["splits"]["train"]
    assert (train["lines"], train["kept"]) == (6, 4)
    assert train["rejected"] == {"bad column count": [5], "empty sentence": [6]}
    assert train["label_counts"] == {"no": 3, "yes": 1}
    # the cat sat . | a cat sat . | the dog ran . | a cat sat . | cat ##s | dog ##s | a ? ran | a cat
    assert (train["tokens"], train["unknown_tokens"]) == (4 * 4 + 2 + 2 + 3 + 2, 1)
    assert (train["longest"], train["longer_than_max_length"]) == (4 + 4 + 4, 0)
    assert content["splits"]["test"]["labelled"] is False


def test_a_sentence_without_tokens_is_rejected_and_named(tmp_path: Path) -> None:
    write_wordpiece(tmp_path / "tok")
    inputs = files(tmp_path / "in")
    with open(inputs["train"], "ab") as handle:
        handle.write("the cat\t\u200b\tyes\n".encode())  # a zero-width space: WordPiece's cleaning removes it
    content = prepare(SPEC, inputs, tmp_path / "out", tokenizer=tmp_path / "tok")
    assert content["splits"]["train"]["rejected"] == {"no tokens": [5]}
    assert content["splits"]["train"]["kept"] == 3


def test_scores(tmp_path: Path) -> None:
    write_wordpiece(tmp_path / "tok")
    (tmp_path / "train.tsv").write_text("text\tgrade\nthe cat\t2.5\na dog\t0.1\na cat\t9\n", encoding="utf-8")
    inputs = {"train": tmp_path / "train.tsv", "valid": tmp_path / "train.tsv"}
    spec = generic_task("grades", inputs, ["text"], "grade", score_range=(0.0, 5.0))
    content = prepare(spec, inputs, tmp_path / "out", tokenizer=tmp_path / "tok")
    assert content["kind"] == "regression" and content["num_classes"] == 1 and content["labels"] == []
    assert content["regression_range"] == [0.0, 5.0] and content["metrics"] == ["pearson", "spearman"]
    assert content["splits"]["train"]["rejected"] == {"bad score": [4]} and content["pairs"] is False
    task = fairseq_task(tmp_path / "out", 1, regression=True)
    assert batch(task, "valid")["target"].flatten().tolist() == pytest.approx([2.5, 0.1])


def test_gpt2_numbers_with_fairseqs_dictionary(tmp_path: Path) -> None:
    write_gpt2(tmp_path / "tok")
    (tmp_path / "dict.txt").write_text("6 100\n3 50\n4 20\n", encoding="utf-8")  # as RoBERTa's: GPT-2 numbers as words
    (tmp_path / "train.tsv").write_text("text\tlabel\nthe a\tx\na\ty\n", encoding="utf-8")
    inputs = {"train": tmp_path / "train.tsv", "valid": tmp_path / "train.tsv"}
    spec = generic_task("t", inputs, ["text"], "label")
    prepare(
        spec,
        inputs,
        tmp_path / "out",
        tokenizer=tmp_path / "tok" / "encoder.json",
        dictionary=tmp_path / "dict.txt",
    )
    sample = batch(fairseq_task(tmp_path / "out", 2), "train")
    assert sample["net_input"]["src_tokens"].tolist() == [[0, 4, 6, 5, 2], [0, 5, 2, 1, 1]]


def test_dictionary_of_another_tokenizer_is_refused(tmp_path: Path) -> None:
    write_wordpiece(tmp_path / "tok")
    (tmp_path / "other.txt").write_text("6 100\n3 50\n", encoding="utf-8")
    with pytest.raises(
        UserError, match=r"other.txt: 2 of its 2 words, such as '6', are unknown.*don't belong together"
    ):
        prepare(
            SPEC,
            files(tmp_path / "in"),
            tmp_path / "out",
            tokenizer=tmp_path / "tok",
            dictionary=tmp_path / "other.txt",
        )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "holds no words"),
        ("the\n", "line 1 is 'the'; it must be a word, a space and a count"),
        ("the 1\nthe 1\n", "line 2: Duplicate word 'the'"),
    ],
)
def test_bad_dictionaries(tmp_path: Path, content: str, message: str) -> None:
    write_wordpiece(tmp_path / "tok")
    (tmp_path / "tok" / "dict.txt").write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        prepare(SPEC, files(tmp_path / "in"), tmp_path / "out", tokenizer=tmp_path / "tok")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "tok"]


def test_sentencepiece_trained_here(tmp_path: Path) -> None:
    inputs = files(tmp_path / "in")
    content = prepare(SPEC, inputs, tmp_path / "out", sentencepiece_size=17)
    assert content["tokenizer"]["kind"] == "sentencepiece" and content["splits"]["train"]["unknown_tokens"] == 0
    dictionary = (tmp_path / "out" / "input0" / "dict.txt").read_text(encoding="utf-8").splitlines()
    assert len(dictionary) == 16 and all(line.endswith(" 1") for line in dictionary)  # 17 pieces less <unk>
    # The model can be used for the next task, with its dictionary.
    again = prepare(
        SPEC,
        inputs,
        tmp_path / "again",
        tokenizer=tmp_path / "out" / "sentencepiece.model",
        dictionary=tmp_path / "out" / "input0" / "dict.txt",
    )
    assert again["splits"] == content["splits"]
    assert (tmp_path / "again" / "input1" / "train.bin").read_bytes() == (
        tmp_path / "out" / "input1" / "train.bin"
    ).read_bytes()


def test_subset_takes_part_of_train_only(tmp_path: Path) -> None:
    write_wordpiece(tmp_path / "tok")
    content = prepare(SPEC, files(tmp_path / "in"), tmp_path / "out", tokenizer=tmp_path / "tok", subset="2", seed=5)
    assert content["subset"] == {"asked": "2", "seed": 5, "examples": 2, "of": 3}
    assert (content["splits"]["train"]["kept"], content["splits"]["valid"]["kept"]) == (2, 2)
    assert len(batch(fairseq_task(tmp_path / "out", 2), "train")["target"]) == 2


def test_partial_files_are_flagged(tmp_path: Path) -> None:
    write_wordpiece(tmp_path / "tok")
    spec = TaskSpec("toy", SPEC.sentences, SPEC.labels, official={"train": 4, "valid": 2})
    content = prepare(spec, files(tmp_path / "in"), tmp_path / "out", tokenizer=tmp_path / "tok", subset="1")
    assert content["partial"] is True
    assert [content["splits"][split]["partial"] for split in ("train", "valid", "test")] == [
        True,
        False,
        False,
    ]


def test_labels_are_needed_in_train_and_valid(tmp_path: Path) -> None:
    write_wordpiece(tmp_path / "tok")
    inputs = files(tmp_path / "in")
    with pytest.raises(UserError, match="test.tsv: no column label; a valid file needs it"):
        prepare(SPEC, {**inputs, "valid": inputs["test"]}, tmp_path / "out", tokenizer=tmp_path / "tok")


def test_options_that_do_not_fit(tmp_path: Path) -> None:
    write_wordpiece(tmp_path / "tok")
    inputs = files(tmp_path / "in")
    cases = [
        ({}, "either --tokenizer or --train-sentencepiece"),
        (
            {"tokenizer": tmp_path / "tok", "sentencepiece_size": 30},
            "either --tokenizer or --train-sentencepiece",
        ),
        ({"sentencepiece_size": 30, "dictionary": tmp_path / "tok" / "dict.txt"}, "makes its own dictionary"),
        ({"tokenizer": write_gpt2(tmp_path / "bpe")}, "--dict: not given"),
        (
            {"tokenizer": tmp_path / "tok", "dictionary": tmp_path / "absent"},
            "cannot read --dict file .*absent: No such file",
        ),
        ({"tokenizer": tmp_path / "tok", "subset": "4"}, "--subset 4: a count must be 1 to 3"),
    ]
    for options, message in cases:
        with pytest.raises(UserError, match=message):
            prepare(SPEC, inputs, tmp_path / "out", **options)
        assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.skipif("GLUE_DIR" not in os.environ, reason="GLUE_DIR names no folder with GLUE's files")
def test_real_mrpc_and_its_first_pair(tmp_path: Path) -> None:
    spec = find_task("MRPC")
    found = find_files(Path(os.environ["GLUE_DIR"]), spec)
    content = prepare(spec, found, tmp_path / "out", sentencepiece_size=2000)
    assert [content["splits"][split]["kept"] for split in ("train", "valid", "test")] == [3668, 408, 1725]
    assert content["splits"]["valid"]["label_counts"] == {"0": 129, "1": 279} and content["partial"] is False
    task = fairseq_task(tmp_path / "out", 2)
    sample = task.load_dataset("valid")[0]
    text = task.dictionary.string(sample["net_input.src_tokens"], bpe_symbol="sentencepiece", include_eos=True)
    first, second = text.split("</s></s>")
    assert first.strip().startswith("He said the foodservice pie business doesn 't fit")
    assert (
        second.replace("</s>", "").strip()
        == '" The foodservice pie business does not fit our long-term growth strategy .'
    )
    assert int(sample["target"]) == 1
