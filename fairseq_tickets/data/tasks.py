"""What each known task's files look like: columns, labels, metrics, file names, official numbers of examples.

The nine GLUE tasks (Wang et al. 2018) in their original files, SNLI (Bowman et al. 2015), SciTail (Khot et al. 2018),
and the three tasks of `data.docstrings`. A split called `valid1` or `test1` is MNLI's mismatched one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from fairseq_tickets.errors import UserError
from fairseq_tickets.glue import TASK_METRICS

PAIR = ("sentence1", "sentence2")
NLI = ("contradiction", "entailment", "neutral")
ENTAILS = ("entailment", "not_entailment")
GLUE_FILES: Mapping[str, tuple[str, ...]] = {"train": ("train",), "valid": ("dev",), "test": ("test",)}
SUFFIXES = (".tsv", ".jsonl")


@dataclass(frozen=True)
class TaskSpec:
    """One sentence task.

    Attributes:
        sentences: names of the one or two sentence columns.
        label: name of the label or score column.
        labels: the classes in the order of their indices; empty for regression.
        score_range: lowest and highest score of a regression task, None for classification.
        metrics: the task's metrics, the main one first; F1 and MCC take class 1 as positive.
        files: split -> possible file names without suffix, the GLUE name first.
        headerless: column names of files that have no header line, by number of columns.
        official: split -> number of examples that the published data have.
        folders: names of the task's folder besides `name`.
    """

    name: str
    sentences: tuple[str, ...]
    labels: tuple[str, ...]
    label: str = "label"
    score_range: tuple[float, float] | None = None
    metrics: tuple[str, ...] = ("accuracy",)
    files: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: GLUE_FILES)
    headerless: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    official: Mapping[str, int] = field(default_factory=dict)
    folders: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        """ "regression" or "classification", as task.json says it."""
        return "regression" if self.score_range is not None else "classification"


def _counts(train: int, valid: int, test: int) -> dict[str, int]:
    return {"train": train, "valid": valid, "test": test}


_SPECS = (
    TaskSpec(
        "CoLA",
        ("sentence",),
        ("0", "1"),
        headerless={4: ("source", "label", "mark", "sentence")},
        official=_counts(8551, 1043, 1063),
    ),
    TaskSpec("SST-2", ("sentence",), ("0", "1"), official=_counts(67349, 872, 1821), folders=("SST2",)),
    TaskSpec(
        "MRPC",
        ("#1 String", "#2 String"),
        ("0", "1"),
        label="Quality",
        official=_counts(3668, 408, 1725),
    ),
    TaskSpec(
        "STS-B",
        PAIR,
        (),
        label="score",
        score_range=(0.0, 5.0),
        official=_counts(5749, 1500, 1379),
        folders=("STSB",),
    ),
    TaskSpec(
        "QQP",
        ("question1", "question2"),
        ("0", "1"),
        label="is_duplicate",
        official=_counts(363846, 40430, 390965),
    ),
    TaskSpec(
        "MNLI",
        PAIR,
        NLI,
        label="gold_label",
        files={
            "train": ("train",),
            "valid": ("dev_matched",),
            "valid1": ("dev_mismatched",),
            "test": ("test_matched",),
            "test1": ("test_mismatched",),
        },
        official={"train": 392702, "valid": 9815, "valid1": 9832, "test": 9796, "test1": 9847},
    ),
    TaskSpec("QNLI", ("question", "sentence"), ENTAILS, official=_counts(104743, 5463, 5463)),
    TaskSpec("RTE", PAIR, ENTAILS, official=_counts(2490, 277, 3000)),
    TaskSpec("WNLI", PAIR, ("0", "1"), official=_counts(635, 71, 146)),
    TaskSpec(
        "SNLI",
        PAIR,
        NLI,
        label="gold_label",
        files={
            "train": ("train", "snli_1.0_train"),
            "valid": ("dev", "snli_1.0_dev"),
            "test": ("test", "snli_1.0_test"),
        },
        official=_counts(549367, 9842, 9824),
        folders=("snli_1.0",),
    ),
    TaskSpec(
        "SciTail",
        ("premise", "hypothesis"),
        ("entails", "neutral"),
        files={
            "train": ("train", "scitail_1.0_train"),
            "valid": ("dev", "scitail_1.0_dev"),
            "test": ("test", "scitail_1.0_test"),
        },
        headerless={3: ("premise", "hypothesis", "label"), 2: ("premise", "hypothesis")},
        # The TSV release; the release in SNLI's layout has 23,596 training pairs.
        official=_counts(23097, 1304, 2126),
        folders=("tsv_format",),
    ),
    TaskSpec("describes", ("name", "sentence"), ("describes", "describes_another")),
    TaskSpec("origin", ("sentence",), ("numpy", "python", "scipy", "torch")),
    TaskSpec("follows", PAIR, ("follows", "not_follows")),
)
TASKS: Mapping[str, TaskSpec] = {
    spec.name: replace(spec, metrics=TASK_METRICS.get(spec.name, spec.metrics)) for spec in _SPECS
}


def find_task(name: str) -> TaskSpec:
    """The task called `name`; case, dashes and underscores don't matter ("sst2" is SST-2).

    Raises:
        UserError: no such task; the message lists all.
    """
    for spec in TASKS.values():
        if _plain(name) in {_plain(known) for known in (spec.name, *spec.folders)}:
            return spec
    raise UserError(f"--task {name}: unknown; one of {', '.join(TASKS)} (other data: --train, --columns, --label)")


def find_files(folder: Path, spec: TaskSpec) -> dict[str, Path]:
    """Files of each split of a task. `folder` holds a folder named after the task, or is that folder.

    Raises:
        UserError: no such folder, or no file for training or validation; the message names the expected path.
    """
    if not folder.is_dir():
        raise UserError(f"--glue {folder}: no such folder")
    wanted = {_plain(known) for known in (spec.name, *spec.folders)}
    inside = sorted(entry for entry in folder.iterdir() if entry.is_dir() and _plain(entry.name) in wanted)
    if not inside and _plain(folder.resolve().name) in wanted:
        inside = [folder]
    if not inside:
        raise UserError(f"--glue {folder}: it holds no folder {spec.name} with the task's files")
    found: dict[str, Path] = {}
    for split, stems in spec.files.items():
        suffixes = (*SUFFIXES, ".txt") if spec.name == "SNLI" else SUFFIXES
        candidates = [inside[0] / (stem + suffix) for stem in stems for suffix in suffixes]
        existing = [path for path in candidates if path.is_file()]
        if existing:
            found[split] = existing[0]
        elif split in ("train", "valid"):
            raise UserError(f"{candidates[0]}: no such file; {spec.name} needs it for its {split} split")
    return found


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())
