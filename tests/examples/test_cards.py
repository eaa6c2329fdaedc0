"""Every command and snippet of the method cards, and of README.md's "In fairseq", does what it says, on tiny inputs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from fairseq_tickets.glue import TASK_METRICS
from fairseq_tickets.plugin.multitask.task_list import read_tasks

from . import workplace
from .cards import ROOT, Block, fenced, pairs, run_card, section

README = ROOT / "README.md"
# What the card leaves to the reader: to use the model under the delta. Its outputs must change and change back.
BEFORE_DELTA = """
import torch
def predicted():
    tokens = torch.tensor([[0, 5, 6, 7, 2], [0, 5, 2, 1, 1]])
    with torch.no_grad():
        return model(tokens, features_only=True, classification_head_name="sentence_classification_head")[0].clone()
"""
AFTER_DELTA = """
assert not torch.equal(under_delta, predicted())
base.apply(load_delta("checkpoints/dominant/checkpoint_best.safetensors"))
assert torch.equal(under_delta, predicted())
"""


@dataclass(frozen=True)
class Card:
    """A markdown file and what its fenced blocks must do.

    Attributes:
        path: from the repository's root.
        section: title of the only section that is run; None = the whole file.
        needs: folders of the work place that the card takes as given.
        files: copied file of the examples -> changes in it, so that it is small enough; each must match.
        blocks: one for each fenced block, in order.
    """

    path: str
    blocks: Sequence[Block]
    section: str | None = None
    needs: Sequence[str] = ("models", "data")
    files: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def text(self) -> str:
        """What is run: the file, and the card's results beside it."""
        text = (ROOT / self.path).read_text(encoding="utf-8")
        results = (ROOT / self.path).with_name("RESULTS.md")
        if results.is_file():
            text += results.read_text(encoding="utf-8")
        return section(text, self.section) if self.section else text


SCORES = r"^layer +0 +1 +FFN$"  # heading of the table that `importance` prints
KEPT = r"\d+ of 10 heads, \d of 5 FFNs kept"  # logged by a run under a super ticket
REPORT = r"^\|Δθ\| .*> σ=5e-05 "  # heading of the table of `extract --report`
COLUMNS = r"^\| Model .* winning .* random "  # heading of `table levels`

CARDS = {
    "README": Card(
        "README.md",
        [
            Block(
                "bash",
                changes={"data/RTE ... --ticket": "data/RTE {FIRST} --ticket"},
                writes=[
                    "models/minilm/model.pt",
                    "models/minilm/dict.txt",
                    "data/RTE/task.json",
                    "data/RTE/input0/train.bin",
                    "checkpoints/full/checkpoint_best.pt",
                    "rte.npz",
                    "rte20.json",
                    "checkpoints/rte20/checkpoint_best.pt",
                ],
                prints=[SCORES, KEPT, r"valid on 'valid' subset"],
            )
        ],
        section="In fairseq",
        needs=["path", "glue"],
    ),
    "super_tickets": Card(
        "examples/super_tickets/README.md",
        [
            Block(
                "bash",
                writes=[
                    "checkpoints/full/checkpoint_best.pt",
                    "rte.npz",
                    "rte20.json",
                    "checkpoints/rte20/checkpoint_best.pt",
                ],
                prints=[SCORES, KEPT],
            ),
            Block(
                "bash",
                writes=["runs/quick/results/runs.jsonl", "phase.pdf", "phase.png"],
                prints=[r"^0 runs finished, \d+ left", r"^\d+ runs finished, 0 left", COLUMNS],
            ),
            Block("bash", writes=["transition.pdf", "gain.pdf"], prints=[COLUMNS, r"^\| SuperT minilm, all of dev"]),
        ],
        needs=["models", "data", "glue"],
        files={
            "examples/super_tickets/protocol/quick.yaml": {
                "subset: 1200": "subset: 48",
                "max_epoch: 2": "max_epoch: 1",
                "levels: [0.2, 0.4, 0.6]": "levels: [0.4]",
            }
        },
    ),
    "dominant_ticket": Card(
        "examples/dominant_ticket/README.md",
        [
            Block(
                "bash",
                changes={"--max-epoch 10": "--max-epoch 6"},
                writes=[
                    "checkpoints/l1/checkpoint_last.pt",
                    "rte.json",
                    "rte.npz",
                    "checkpoints/dominant/checkpoint_best.pt",
                    "checkpoints/dominant/checkpoint_best.safetensors",
                    "rte-dense.pt",
                ],
                prints=[REPORT, r"^\| Layer \| W\^Q "],
            ),
            Block(
                "python", changes={"    ...": "    under_delta = predicted()"}, before=BEFORE_DELTA, after=AFTER_DELTA
            ),
            Block("bash", prints=[r"^0 runs finished, \d+ left"]),
            Block(
                "bash",
                writes=["out_weighted.pdf", "skeleton.pdf"],
                prints=[r"^\| Dominant-1 minilm", r"^\| seeds +\| dimension", r"^\| ticket +\| matrix"],
            ),
        ],
        needs=["models", "data", "glue"],
    ),
    "salience": Card(
        "examples/salience/README.md",
        [
            Block(
                "bash",
                changes={"--max-update 200": "--max-update 4", "--batch-size 16": "--batch-size 8"},
                writes=["salient.json", "inputs.npz", "checkpoints/salient/checkpoint_best.pt"],
                prints=[
                    r"metric gradient; wrote salient.json: dominant ticket: \d+ dimensions",
                    r"^\| tickets \| dimension ",
                ],
            ),
            Block("bash", writes=["explain.png"], prints=[r"^\| W\^V +\| +rms of the input"]),
            Block("bash", prints=[r"^\| W\^FC1 +\| +rms of the input +\| 0\.\d+"]),
            Block(
                "bash",
                changes={"--model models/minilm/model.pt --data data/SST-2 --seeds 1 --output causal.json": "--help"},
                prints=["^Does a large input make a dimension dominant"],
            ),
            Block(
                "bash",
                changes={"--workers 2": "--dry-run"},
                prints=[r"^0 runs finished, \d+ left", r"^\| Salience-1 minilm \| +79\.0"],
            ),
        ],
        needs=["models", "data", "glue"],
    ),
    "early_iterative": Card(
        "examples/early_iterative/README.md",
        [
            Block(
                "bash",
                writes=["early.npz", "early20.json", "checkpoints/early20/checkpoint_best.pt"],
                prints=[SCORES, KEPT],
            ),
            Block(
                "bash",
                writes=["runs/early-iterative/results/runs.jsonl"],
                prints=[
                    r"^0 runs finished, \d+ left",
                    r"^\d+ runs finished, 0 left",
                    r"^\| minilm \| SST-2 \| 20 % +\| 50 % ",
                    r"^\| minilm \| SST-2 \| 20 % +\| 10 % ",
                ],
            ),
            Block(
                "bash",
                changes={"--workers 2": "--dry-run"},
                prints=[
                    r"^\d+ runs finished, 0 left",
                    r"^\| minilm \| SST-2 \| 40 % +\| 50 % ",
                    r"^\| minilm \| SST-2 \| 40 % +\| 10 % ",
                ],
            ),
        ],
        needs=["models", "data", "glue"],
        files={
            "examples/early_iterative/protocol/minilm.yaml": {
                "subset: 2000": "subset: 48",
                "seeds: [1, 2, 3]": "seeds: [1]",
                "max_epoch: 2": "max_epoch: 1",
                "levels: [0.4]": "levels: [0.2]",
                "after: [0.01, 0.05, 0.1, 0.25, 0.5]": "after: [0.5]",
            }
        },
    ),
    "evidence": Card(
        "examples/evidence/README.md",
        [
            Block(  # the results are of other data than those here, and refused
                "bash",
                changes={"cp examples/evidence/results/{super_tickets,dominant,under_way}.jsonl": "ls"},
                prints=[r"^0 runs finished, \d+ left", COLUMNS],
            ),
            Block(
                "bash",
                changes={
                    "--task MNLI": "--task RTE",
                    "data/MNLI": "data/RTE",
                    "--valid-examples 1000": "--valid-examples 40",
                    ",tokenizer.json": "",
                },
                writes=["data/RTE/task.json", "checkpoints/mnli/checkpoint_best.pt", "models/minilm-mnli/model.pt"],
                prints=[r"^0 runs finished, \d+ left"],
            ),
            Block("bash", writes=["transition.pdf"], prints=[COLUMNS, r"^\| SuperT minilm, all of dev"]),
            Block("bash", prints=[r"^\| Dominant-1 minilm", r"^\| Random elements minilm", r"^\| seeds +\| dimension"]),
            Block("bash", prints=[r"^\| minilm-mnli \| RTE"]),
        ],
        needs=["models", "glue"],
    ),
    "ticket_sharing": Card(
        "examples/ticket_sharing/README.md",
        [
            Block("yaml"),
            Block(
                "bash",
                writes=["runs/shared/checkpoint_best.pt"],
                prints=[r"RTE_accuracy [\d.]+", r"STS-B_pearson", r"RTE_score [\d.]+", r" score [\d.]+", "remaining"],
            ),
            Block("bash", writes=["runs/shared_rte/checkpoint_best.pt"], prints=[KEPT]),
            Block("bash", prints=[r"^0 runs finished, \d+ left"]),
            Block(
                "bash",
                writes=["importance.pdf", "importance_map.pdf"],
                prints=[r"^\| Ticket-Share minilm \+ ST fine-tuning", r"^\| only SST-2 "],
            ),
        ],
        needs=["models", "data", "tickets", "glue"],
        files={
            "examples/ticket_sharing/tasks/glue_small.yaml": {"train_examples: 6000": "train_examples: 48"},
            "examples/ticket_sharing/config/glue_small.yaml": {"max_epoch: 5": "max_epoch: 1"},
        },
    ),
}


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return workplace.make(tmp_path_factory.mktemp("workplace"))


def test_every_card_is_in_the_table() -> None:
    assert {path.parent.name for path in (ROOT / "examples").glob("*/README.md")} | {"README"} == set(CARDS)


@pytest.mark.parametrize("name", CARDS)
def test_table_fits_the_card(name: str, tmp_path: Path) -> None:
    """No block without an expectation, and no change that has nothing to change: in no time, where a run takes long."""
    card = CARDS[name]
    pairs(card.text(), card.blocks)
    workplace.take(tmp_path, tmp_path, [], card.files)


@pytest.mark.slow
@pytest.mark.parametrize("name", CARDS)
def test_card_runs(name: str, made: Path, tmp_path: Path) -> None:
    card = CARDS[name]
    folder = workplace.take(made, tmp_path, card.needs, card.files)
    programs = [
        (block, program.replace("{FIRST}", first_options())) for block, program in pairs(card.text(), card.blocks)
    ]
    run_card(programs, folder, GLUE_DIR=str(folder / "glue"))


@pytest.mark.slow
def test_the_road_of_a_dominant_ticket(made: Path, tmp_path: Path) -> None:
    """README.md says it in one sentence, with the command in three pieces of code."""
    sentence = re.search(
        r"^A dominant ticket takes.*?(?=\n\n)", section(README.read_text("utf-8"), "In fairseq"), re.M | re.S
    )
    assert sentence
    l1, extract, ticket, *_ = re.findall(r"`(.*?)`", sentence[0], re.S)
    program = f"""
        fairseq-train data/RTE {first_options()} {l1} --save-dir checkpoints/l1
        {extract} --report
        fairseq-train data/RTE {first_options()} {ticket} --lr 1e-3 --save-dir checkpoints/d1"""
    writes = ["checkpoints/l1/checkpoint_last.pt", "d1.json", "checkpoints/d1/checkpoint_best.pt"]
    folder = workplace.take(made, tmp_path, ["models", "data"], {})
    run_card([(Block("bash", writes=writes, prints=[REPORT]), program)], folder)


def test_list_of_tasks_in_the_card(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DATA", str(tmp_path / "data"))
    monkeypatch.setenv("TICKETS", str(tmp_path / "tickets"))
    (block,) = (content for language, content in fenced(CARDS["ticket_sharing"].text()) if language == "yaml")
    (tmp_path / "tasks.yaml").write_text(block, encoding="utf-8")
    entries = read_tasks(str(tmp_path / "tasks.yaml"))
    assert entries and {entry.name for entry in entries} <= set(TASK_METRICS)
    assert entries[0].ticket == str(tmp_path / "tickets" / "RTE.json")


def test_what_has_nothing_to_change_is_refused() -> None:
    text = "```bash\necho one\n```\n"
    ((_, program),) = pairs(text, [Block("bash", changes={"one": "two"})])
    assert program == "echo two\n"
    with pytest.raises(AssertionError, match="nothing to change"):
        pairs(text, [Block("bash", changes={"three": "two"})])
    with pytest.raises(AssertionError, match="other blocks"):
        pairs(text + text, [Block("bash")])


def test_a_failing_or_idle_block_is_noticed(tmp_path: Path) -> None:
    for block, program, message in (
        (Block("bash"), "false\ntrue", "exit code 1"),
        (Block("bash"), "false | true", "exit code 1"),
        (Block("bash", writes=["a"]), "true", "no a"),
        (Block("bash", writes=["b"]), "touch b", "no b"),
        (Block("bash", prints=["^yes$"]), "echo no", "not printed"),
        (Block("python"), "raise SystemExit(3)", "exit code 3"),
    ):
        with pytest.raises(AssertionError, match=message):
            run_card([(block, program)], tmp_path)


def test_exports_reach_the_next_block(tmp_path: Path) -> None:
    blocks = [(Block("bash"), "export WORDS='a\n  b'"), (Block("bash", prints=["^a b$"]), "echo $WORDS")]
    run_card(blocks, tmp_path)


def first_options() -> str:
    """Options of the first training command of README.md, which later ones abbreviate to `...`."""
    found = re.search(r"fairseq-train data/RTE (.*?)--save-dir checkpoints/full", README.read_text("utf-8"), re.S)
    assert found
    return found[1].replace("\\\n", " ")
