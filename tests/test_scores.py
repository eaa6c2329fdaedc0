"""The scores file: round trip, same bytes, and what is refused."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from fairseq_tickets.errors import UserError
from fairseq_tickets.scores import ImportanceScores

MODEL = {"layers": 3, "heads": 2, "embed_dim": 8, "ffn_dim": 13}


def make() -> ImportanceScores:
    heads = np.array([[0.1, 1 / 3], [2e-300, 0.0], [5.0, 1e9]])
    return ImportanceScores(heads, np.array([0.5, 0.25, 0.1]), 77, {"model": MODEL, "task": "RTE"})


def test_round_trip_is_exact_and_has_the_same_bytes(tmp_path):
    scores = make()
    scores.save(tmp_path / "new folder" / "a.npz")
    again = ImportanceScores.load(tmp_path / "new folder" / "a.npz")
    assert np.array_equal(again.heads, scores.heads) and np.array_equal(again.ffn, scores.ffn)
    assert (again.examples, again.provenance, again.shape) == (77, scores.provenance, (3, 2, 8, 13))
    again.save(tmp_path / "b.npz")
    assert (tmp_path / "b.npz").read_bytes() == (tmp_path / "new folder" / "a.npz").read_bytes()


class Bomb:
    def __reduce__(self):
        return (print, ("executed",))


def write(path, **change):
    arrays = {
        "heads": np.ones((3, 2)),
        "ffn": np.ones(3),
        "examples": np.int64(4),
        "provenance": np.array('{"format": "fairseq-tickets/scores", "version": 1}'),
    }
    arrays.update(change)
    np.savez(path, **{name: value for name, value in arrays.items() if value is not None})


@pytest.mark.parametrize(
    "change, text",
    [
        ({"heads": None}, "is not a scores file: it lacks heads"),
        ({"heads": np.array([Bomb()], dtype=object)}, "heads holds pickled Python objects"),
        ({"heads": np.ones(6)}, r"heads have the shape \(6,\)"),
        ({"heads": np.full((3, 2), np.nan)}, "heads holds a number that is not finite"),
        ({"heads": np.array([["a", "b"]])}, "heads holds texts"),
        ({"heads": np.ones((3, 2), int)}, "heads holds whole numbers"),
        ({"examples": np.float64(4)}, "examples holds floating-point numbers"),
        ({"examples": np.ones(2, int)}, r"examples has the shape \(2,\)"),
        ({"ffn": np.ones(2)}, r"ffn has the shape \(2,\); it must be \(3,\)"),
        ({"ffn": -np.ones(3)}, "ffn holds a number that is negative"),
        ({"examples": np.int64(0)}, "0 examples"),
        ({"provenance": np.array("{}")}, "its format must be"),
        ({"provenance": np.array("[]")}, "its format must be"),
        (
            {"provenance": np.array('{"format": "other", "version": 1}')},
            "format must be fairseq-tickets/scores",
        ),
        ({"provenance": np.array('{"format": "fairseq-tickets/scores", "version": 2}')}, "version 2 is unknown"),
        ({"provenance": np.array('{"format": "fairseq-tickets/scores", "version": true}')}, "version True is unknown"),
        ({"provenance": np.array('{"format": "fairseq-tickets/scores", "version": 1, "loss": NaN}')}, "holds NaN"),
        (
            {"provenance": np.array('{"format": "fairseq-tickets/scores", "version": 1, "vocab_size": 1e9}')},
            "vocab_size",
        ),
    ],
)
def test_a_wrong_file_is_refused_by_name(tmp_path, capsys, change, text):
    write(tmp_path / "s.npz", **change)
    with pytest.raises(UserError, match=text) as caught:
        ImportanceScores.load(tmp_path / "s.npz")
    assert "s.npz" in str(caught.value) and "\n" not in str(caught.value)
    assert "executed" not in capsys.readouterr().out


@pytest.mark.parametrize("keep", [0.0, 0.01, 0.3, 0.6, 0.9, 0.99])
def test_a_cut_file_is_refused(tmp_path, keep):
    make().save(tmp_path / "s.npz")
    content = (tmp_path / "s.npz").read_bytes()
    (tmp_path / "s.npz").write_bytes(content[: int(keep * len(content))])
    with pytest.raises(UserError, match="s.npz is not a readable .npz file"):
        ImportanceScores.load(tmp_path / "s.npz")


def test_other_files_are_refused(tmp_path, capsys):
    (tmp_path / "p").write_bytes(pickle.dumps(Bomb()))
    (tmp_path / "t").write_text('{"format": "fairseq-tickets/super"}')
    np.save(tmp_path / "n.npy", np.ones((3, 2)))
    for name in ("p", "t", "n.npy"):
        with pytest.raises(UserError, match="is not a readable .npz file"):
            ImportanceScores.load(tmp_path / name)
    assert "executed" not in capsys.readouterr().out
    for name in ("missing.npz", "."):
        with pytest.raises(UserError, match="cannot read scores file"):
            ImportanceScores.load(tmp_path / name)


@pytest.mark.parametrize("model", [None, {}, {**MODEL, "heads": 3}, {**MODEL, "layers": None}, {**MODEL, "heads": 2.0}])
def test_a_model_that_does_not_fit_the_scores_is_refused(model):
    scores = make()
    scores.provenance["model"] = model
    with pytest.raises(UserError, match="provenance"):
        _ = scores.shape
