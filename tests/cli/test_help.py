"""The help of every command: each command line in it is taken by the real parsers, and the cheap ones are run."""

from __future__ import annotations

import argparse
import importlib
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fairseq import options
from fairseq.dataclass.utils import gen_parser_from_dataclass

from fairseq_tickets.cli import COMMANDS, main
from fairseq_tickets.counts import DimensionCounts
from fairseq_tickets.plugin.components import components
from fairseq_tickets.saliences import GAINS, DimensionSalience
from fairseq_tickets.scores import ImportanceScores
from tests.analysis.samples import SMALL, counts_of, skeleton_ticket, super_ticket

PLACE = "somewhere"  # what $(...) stands for
ROOT = Path(__file__).resolve().parents[2]
CUT = "..."  # a line with this leaves something out


def module(command: str) -> Any:
    return importlib.import_module(f"fairseq_tickets.cli.{COMMANDS[command][0]}")


def command_lines(text: str, program: str) -> list[list[str]]:
    r"""Arguments of every `program` that begins a line, follows a colon, or is started by torchrun.

    A backslash joins lines; what stands three spaces behind a command is a remark.
    """
    joined = re.sub(r"\\\n\s*", " ", text)
    found = re.findall(rf"(?:^|: +|--no-python )[ ]*{program} (.+)$", joined, re.MULTILINE)
    return [shlex.split(re.sub(r"\$\([^)]*\)", PLACE, re.split(r" {3,}", line)[0])) for line in found]


def option_strings(parser: argparse.ArgumentParser) -> set[str]:
    return {option for action in parser._actions for option in action.option_strings}


def lines_of(program: str) -> list[tuple[str, list[str]]]:
    return [(name, words) for name in COMMANDS for words in command_lines(module(name).DESCRIPTION, program)]


OURS = lines_of("fairseq-tickets")
WHOLE = [words for _, words in OURS if CUT not in words]
CHEAP = [words for words in WHOLE if words[0] in ("prune", "jaccard", "dimensions", "explain", "user-dir")]
CHEAP += [words for words in WHOLE if words[:2] in (["table", "ownership"], ["plot", "importance"])]


def name_of(words: list[str]) -> str:
    return " ".join(words[:2])


def test_the_lines_are_found() -> None:
    assert command_lines('  a-b c --x 1 \\\n    --y "$(a-b z)"   a remark\nThen:  a-b d\nof `a-b e`', "a-b") == [
        ["c", "--x", "1", "--y", PLACE],
        ["d"],
    ]
    assert len(OURS) >= 30 and len(CHEAP) >= 9
    for name in set(COMMANDS) - {"import", "export", "user-dir"}:  # whose options need more than one line, or none
        assert any(words[0] == name for of, words in OURS if of == name), f"{name} --help shows no use of it"


@pytest.mark.parametrize("words", WHOLE, ids=name_of)
def test_command_lines_are_taken(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[argparse.Namespace] = []
    monkeypatch.setattr(module(words[0]), "run", lambda args: bool(taken.append(args)))
    assert main(words) == 0 and len(taken) == 1


@pytest.mark.parametrize("words", [words for _, words in OURS], ids=name_of)
def test_their_options_are_written_out(words: list[str]) -> None:
    """Not abbreviated, as argparse would allow; in lines that are cut too."""
    parser = argparse.ArgumentParser()
    module(words[0]).add_arguments(parser)
    assert {word for word in words if word.startswith("--")} <= option_strings(parser)


def test_options_of_fairseq_train_exist() -> None:
    known = option_strings(options.get_training_parser())
    for config in components().values():
        parser = argparse.ArgumentParser(add_help=False)
        gen_parser_from_dataclass(parser, config())
        known |= option_strings(parser)
    lines = lines_of("fairseq-train")
    assert len(lines) >= 4
    for name, words in lines:
        assert {word for word in words if word.startswith("--")} <= known, name


def test_the_readme_has_a_row_of_every_command() -> None:
    table = (ROOT / "README.md").read_text(encoding="utf-8").partition("| `fairseq-tickets` |")[2].partition("\n\n")[0]
    first_columns = " ".join(line.split("|")[1] for line in table.splitlines()[2:])
    assert sorted(re.findall(r"`([^`]+)`", first_columns)) == sorted(COMMANDS)


@pytest.mark.parametrize("words", CHEAP, ids=name_of)
def test_cheap_ones_run(words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On files of the names that they use, and they write what they name."""
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("mnli", "qnli", "sst2", "s1", "s2")):
        skeleton_ticket(SMALL, seed).save(f"{name}.json")
    super_ticket(SMALL, [[1, 1, 0, 1]] * 3, [1, 0, 1]).save("rte.json")
    super_ticket(SMALL, [[1, 0, 0, 1]] * 3, [1, 1, 1]).save("mrpc.json")
    draw = np.random.default_rng(0)
    provenance = {"model": SMALL._asdict(), "vocab_size": 9, "positions": 7}
    for name in ("rte", "mrpc"):
        scores = draw.random((SMALL.layers, SMALL.heads)), draw.random(SMALL.layers)
        ImportanceScores(*scores, 5, {**provenance, "task": name.upper()}).save(f"{name}.npz")
    counts = counts_of(skeleton_ticket(SMALL, 0), 0)
    DimensionCounts(counts).save("counts.npz")
    inputs = {matrix: draw.random(table.shape) for matrix, table in counts.items()}
    gains = {name: draw.random((SMALL.layers, SMALL.embed_dim)) for name in GAINS}
    DimensionSalience(inputs, gains, {"metric": "activation"}).save("inputs.npz")
    assert main(words) == 0
    for option in ("--output", "--plot"):
        if option in words:
            assert Path(words[words.index(option) + 1]).stat().st_size > 0
