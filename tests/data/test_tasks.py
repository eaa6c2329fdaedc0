"""Every known task's layout is read, in small files made here; real files where GLUE_DIR names them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fairseq_tickets.data.readers import read_examples
from fairseq_tickets.data.tasks import TASKS, TaskSpec, find_files, find_task
from fairseq_tickets.errors import UserError

NLI_COLUMNS = "index\tpromptID\tpairID\tgenre\tp1\tp2\tp3\tp4\tsentence1\tsentence2\tlabel1"
# task, file, content, split, expected sentences, expected label
LAYOUTS = [
    ("CoLA", "CoLA/train.tsv", "gj04\t1\t\tOur friends.\n", "train", ("Our friends.",), "1"),
    ("CoLA", "CoLA/dev.tsv", "gj04\t0\t*\tThe the.\n", "valid", ("The the.",), "0"),
    ("CoLA", "CoLA/test.tsv", "index\tsentence\n0\tBill left.\n", "test", ("Bill left.",), None),
    ("SST-2", "SST-2/train.tsv", "sentence\tlabel\nfine film \t1\n", "train", ("fine film",), "1"),
    ("SST-2", "SST-2/test.tsv", "index\tsentence\n0\tdull .\n", "test", ("dull .",), None),
    (
        "MRPC",
        "MRPC/train.tsv",
        "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n1\t7\t8\tA\tB\n",
        "train",
        ("A", "B"),
        "1",
    ),
    (
        "MRPC",
        "MRPC/test.tsv",
        "index\t#1 ID\t#2 ID\t#1 String\t#2 String\n0\t7\t8\tA\tB\n",
        "test",
        ("A", "B"),
        None,
    ),
    (
        "STS-B",
        "STS-B/dev.tsv",
        "index\tgenre\tsentence1\tsentence2\tscore\n0\tg\tA\tB\t4.750\n",
        "valid",
        ("A", "B"),
        4.75,
    ),
    (
        "QQP",
        "QQP/train.tsv",
        "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n1\t2\t3\tA?\tB?\t0\n",
        "train",
        ("A?", "B?"),
        "0",
    ),
    ("QQP", "QQP/test.tsv", "id\tquestion1\tquestion2\n1\tA?\tB?\n", "test", ("A?", "B?"), None),
    (
        "MNLI",
        "MNLI/train.tsv",
        f"{NLI_COLUMNS}\tgold_label\n" + "x\t" * 8 + "A\tB\tn\tneutral\n",
        "train",
        ("A", "B"),
        "neutral",
    ),
    (
        "MNLI",  # four more columns in dev than in train
        "MNLI/dev_mismatched.tsv",
        f"{NLI_COLUMNS}\tl2\tl3\tl4\tl5\tgold_label\n" + "x\t" * 8 + "A\tB\tn\tn\tn\tn\tn\tentailment\n",
        "valid1",
        ("A", "B"),
        "entailment",
    ),
    (
        "QNLI",
        "QNLI/dev.tsv",
        "index\tquestion\tsentence\tlabel\n0\tA?\tB\tnot_entailment\n",
        "valid",
        ("A?", "B"),
        "not_entailment",
    ),
    (
        "RTE",
        "RTE/train.tsv",
        "index\tsentence1\tsentence2\tlabel\n0\tA\tB\tentailment\n",
        "train",
        ("A", "B"),
        "entailment",
    ),
    ("WNLI", "WNLI/train.tsv", "index\tsentence1\tsentence2\tlabel\n0\tA\tB\t1\n", "train", ("A", "B"), "1"),
    (
        "SNLI",
        "SNLI/snli_1.0_train.txt",
        "gold_label\tp\tsentence1\tsentence2\nneutral\tx\tA\tB\n",
        "train",
        ("A", "B"),
        "neutral",
    ),
    (
        "SNLI",
        "snli_1.0/snli_1.0_dev.jsonl",
        '{"gold_label": "contradiction", "sentence1": "A", "sentence2": "B"}\n',
        "valid",
        ("A", "B"),
        "contradiction",
    ),
    ("SciTail", "SciTail/scitail_1.0_train.tsv", "A\tB\tentails\n", "train", ("A", "B"), "entails"),
    ("origin", "origin/train.tsv", "sentence\tlabel\nA b.\tscipy\n", "train", ("A b.",), "scipy"),
    (
        "follows",
        "follows/dev.tsv",
        "sentence1\tsentence2\tlabel\nA\tB\tfollows\n",
        "valid",
        ("A", "B"),
        "follows",
    ),
]


def read(spec: TaskSpec, path: Path):
    labels = None if spec.score_range else spec.labels
    return read_examples(path, spec.sentences, spec.label, labels, spec.score_range, spec.headerless)


@pytest.mark.parametrize(
    ("task", "file", "content", "split", "sentences", "label"), LAYOUTS, ids=[r[1] for r in LAYOUTS]
)
def test_layout(tmp_path: Path, task: str, file: str, content: str, split: str, sentences, label) -> None:
    spec = find_task(task)
    path = tmp_path / file
    path.parent.mkdir()
    for stems in spec.files.values():  # so that the other splits are there, too
        path.with_name(stems[0] + ".tsv").touch()
    path.with_name(spec.files[split][0] + ".tsv").unlink()
    path.write_text(content, encoding="utf-8")
    assert find_files(tmp_path, spec)[split] == path
    examples = read(spec, path)
    assert tuple(column[0] for column in examples.sentences) == sentences and len(examples) == 1
    assert (examples.labels or examples.scores) == ([] if label is None else [label])


@pytest.mark.parametrize(
    ("name", "found"), [("RTE", "RTE"), ("sst2", "SST-2"), ("STS_B", "STS-B"), ("scitail", "SciTail")]
)
def test_names_are_forgiving(name: str, found: str) -> None:
    assert find_task(name).name == found


def test_unknown_task_lists_the_known() -> None:
    with pytest.raises(UserError, match="--task ReCoRD: unknown; one of CoLA, SST-2"):
        find_task("ReCoRD")


def test_missing_folders_and_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        find_files(tmp_path / "absent", find_task("RTE"))
    with pytest.raises(UserError, match="holds no folder RTE"):
        find_files(tmp_path, find_task("RTE"))
    (tmp_path / "RTE").mkdir()
    (tmp_path / "RTE" / "train.tsv").touch()
    with pytest.raises(UserError, match="dev.tsv: no such file"):
        find_files(tmp_path, find_task("RTE"))
    (tmp_path / "RTE" / "dev.tsv").touch()
    assert set(find_files(tmp_path / "RTE", find_task("RTE"))) == {
        "train",
        "valid",
    }  # the task's own folder works, too


# From the datasets' papers and the files themselves (see GLUE_DIR/MANIFEST.md).
REAL = {
    "RTE": (2490, 277, 3000),
    "MRPC": (3668, 408, 1725),
    "SST-2": (67349, 872, 1821),
    "STS-B": (5749, 1500, 1379),
}


@pytest.mark.skipif("GLUE_DIR" not in os.environ, reason="GLUE_DIR names no folder with GLUE's files")
@pytest.mark.parametrize("task", REAL)
def test_official_counts(task: str) -> None:
    spec = TASKS[task]
    files = find_files(Path(os.environ["GLUE_DIR"]), spec)
    examples = {split: read(spec, path) for split, path in files.items()}
    assert tuple(len(examples[split]) for split in ("train", "valid", "test")) == REAL[task]
    assert all(found.rejected == {} for found in examples.values())
    assert tuple(spec.official[split] for split in ("train", "valid", "test")) == REAL[task]
    assert examples["train"].labelled and not examples["test"].labelled


@pytest.mark.skipif("GLUE_DIR" not in os.environ, reason="GLUE_DIR names no folder with GLUE's files")
def test_label_counts_of_real_rte() -> None:
    labels = read(TASKS["RTE"], find_files(Path(os.environ["GLUE_DIR"]), TASKS["RTE"])["train"]).labels
    assert (labels.count("entailment"), labels.count("not_entailment")) == (1249, 1241)
