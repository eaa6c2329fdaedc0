"""`fairseq-tickets prune`: what it writes, prints and refuses."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from fairseq_tickets.cli import main
from fairseq_tickets.files import sha256
from fairseq_tickets.scores import ImportanceScores
from fairseq_tickets.tickets import load_super_ticket

# Normalised: .6 .8 / .385 .923 / 0 0 / .8 .6, so half of the heads is: layer 2's, head 0 of layer 1, head 0
# of layer 0.
HEADS = [[3, 4], [5, 12], [0, 0], [8, 6]]
MODEL = {"layers": 4, "heads": 2, "embed_dim": 6, "ffn_dim": 7}


@pytest.fixture
def files(tmp_path):
    provenance = {"model": MODEL, "task": "RTE", "vocab_size": 10, "positions": 5}
    ImportanceScores(np.array(HEADS, float), np.array([4, 1, 3, 2.0]), 9, provenance).save(tmp_path / "s.npz")
    return tmp_path


def prune(files, *options):
    arguments = {"--scores": files / "s.npz", "--heads": "0.5", "--ffn": "0.25", "--output": files / "t.json"}
    arguments.update(zip(options[::2], options[1::2]))
    return main(["prune", *(str(word) for pair in arguments.items() for word in pair)])


def test_by_hand(files, capsys):
    assert prune(files) == 0
    ticket = load_super_ticket(files / "t.json")
    assert ticket.heads == [[0, 1], [0, 1], [0, 0], [1, 1]] and ticket.ffn == [1, 0, 1, 1]
    assert ticket.provenance["scores"]["sha256"] == sha256(files / "s.npz")
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["0", "1", "of", "2", "kept", "0"]
    assert lines[2].split() == ["1", "1", "of", "2", "pruned", "0"]
    assert lines[3].split() == ["2", "0", "of", "2", "kept", "0", "1"]
    assert lines[4].split() == ["3", "2", "of", "2", "kept", "-"]
    # A head: 3 (6 * 3 + 3) + 3 * 6 = 81; an FFN: 6 * 7 + 7 + 7 * 6 + 6 = 97; a layer: 2 * 81 + 97 + 6 + 24 =
    # 289. Pruned 4 * 81 + 97 = 421 of 4 * 289 = 1156, with embeddings (10 + 5) * 6 + 12 = 102 more: 63.6 and
    # 66.5 %.
    assert "66.5 % of the encoder with its embeddings, 63.6 % of the layers" in lines[-2]


def test_json_says_the_same(files, capsys):
    assert main(["prune", "--json", "--scores", str(files / "s.npz"), "--heads", "0.5", "--ffn", "0.25"]
                + ["--output", str(files / "t.json")]) == 0  # fmt: skip
    printed = json.loads(capsys.readouterr().out)
    assert printed["pruned_heads"] == [[0], [0], [0, 1], []] and printed["pruned_ffn"] == [1]
    assert printed["weight_remaining"]["encoder"] == pytest.approx(1 - 421 / 1258)
    assert printed["weight_remaining"]["without_embeddings"] == pytest.approx(1 - 421 / 1156)


def test_keep_seed_and_protection_are_passed_on(files):
    tickets = {}
    for name, options in {
        "losing": ("--keep", "losing"),
        "seed 1": ("--keep", "random", "--seed", "1"),
        "seed 2": ("--keep", "random", "--seed", "2"),
        "protected": ("--min-heads-per-layer", "1"),
    }.items():
        assert prune(files, *options) == 0
        tickets[name] = load_super_ticket(files / "t.json")
    assert tickets["losing"].heads == [[0, 0], [1, 0], [1, 1], [0, 1]]
    assert tickets["seed 1"].heads != tickets["seed 2"].heads
    assert tickets["protected"].heads == [[0, 1], [0, 1], [0, 1], [1, 0]]


def test_a_level_too_low_for_a_kind_is_said(files, capsys):
    assert prune(files, "--ffn", "0.2") == 0
    assert "note: --ffn 0.2 prunes none: floor(0.2 x 4) is 0" in capsys.readouterr().out
    assert load_super_ticket(files / "t.json").ffn == [1, 1, 1, 1]


@pytest.mark.parametrize(
    "options, text",
    [
        (("--heads", "0", "--ffn", "0"), "heads 0 and ffn 0 prune nothing"),
        (("--heads", "1"), "heads is 1; it must be from 0 to less than 1"),
        (("--heads", "1.5"), "heads is 1.5; it must be from 0 to less than 1"),
        (("--ffn", "-0.1"), "ffn is -0.1; it must be from 0 to less than 1"),
        (("--ffn", "half"), "ffn is 'half'; it must be a number from 0 to less than 1"),
        (("--min-heads-per-layer", "2"), "min_heads_per_layer 2 leaves 0 heads to prune"),
        (("--keep", "random", "--seed", "-1"), "seed is -1"),
        (("--scores", "missing.npz"), "cannot read scores file missing.npz"),
    ],
)
def test_bad_input_is_one_clear_line_and_writes_nothing(files, options, text, capsys):
    assert prune(files, *options) == 2
    error = capsys.readouterr().err
    assert error.startswith("fairseq-tickets: error: ") and text in error and error.count("\n") == 1
    assert [path.name for path in files.iterdir()] == ["s.npz"]


def test_a_ticket_that_can_not_be_written_leaves_the_old_one(files, capsys):
    assert prune(files) == 0
    before = (files / "t.json").read_text()
    (files / "folder").mkdir()
    assert prune(files, "--output", files / "folder") == 2
    assert prune(files, "--output", files / "s.npz" / "t.json") == 2
    assert capsys.readouterr().err.count("cannot write") == 2
    assert (files / "t.json").read_text() == before
    assert sorted(path.name for path in files.iterdir()) == ["folder", "s.npz", "t.json"]


def test_it_loads_neither_torch_nor_fairseq(files):
    code = (
        "import sys; from fairseq_tickets.cli import main; "
        f"main(['prune', '--scores', '{files}/s.npz', '--heads', '.5', '--ffn', '.5', "
        f"'--output', '{files}/t.json']); "
        "assert not {'torch', 'fairseq'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
