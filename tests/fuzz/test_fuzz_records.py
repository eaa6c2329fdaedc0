"""Mutants of the files that commands hand on: tickets, scores, counts, results."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fairseq_tickets.analysis.results import checksum, load_results, result_from_json
from fairseq_tickets.counts import DimensionCounts
from fairseq_tickets.scores import ImportanceScores
from fairseq_tickets.super_ticket.pruning import super_ticket as prune
from fairseq_tickets.tickets import load_ticket

from ..analysis.samples import SMALL, counts_of, result, skeleton_ticket, super_ticket
from .mutate import fuzz, mutate_json, mutate_zip

SUPER = super_ticket(SMALL, [[1, 0, 1, 1], [1, 1, 1, 1], [0, 0, 1, 0]], [1, 0, 1], task="RTE", seed=1)
DOMINANT = skeleton_ticket(SMALL, 1)


@pytest.mark.parametrize("ticket", [SUPER, DOMINANT], ids=["super", "dominant"])
def test_tickets(ticket: Any, tmp_path: Path) -> None:
    """What is taken is a ticket that can be described and written again, equal to itself."""

    def read(path: Path) -> None:
        found = load_ticket(path)
        found.describe()
        found.validate_for(found.shape, "it")
        found.save(tmp_path / "again.json")
        assert load_ticket(tmp_path / "again.json") == found

    ticket.save(tmp_path / "t.json")
    fuzz(tmp_path / "t.json", lambda dice: mutate_json(ticket.to_json(), dice), read)


def test_scores(tmp_path: Path) -> None:
    heads = np.random.default_rng(1).random((3, 4))
    provenance = {"model": SMALL._asdict(), "task": "RTE", "vocab_size": 100, "positions": 20}
    ImportanceScores(heads, np.array([0.5, 0.25, 0.1]), 77, provenance).save(tmp_path / "s.npz")
    good = (tmp_path / "s.npz").read_bytes()

    def read(path: Path) -> None:
        prune(ImportanceScores.load(path), "0.3", "0.4").save(tmp_path / "t.json")
        load_ticket(tmp_path / "t.json")

    fuzz(tmp_path / "s.npz", lambda dice: mutate_zip(good, dice), read)


def test_counts(tmp_path: Path) -> None:
    DimensionCounts(counts_of(DOMINANT, 1), {"task": "RTE"}).save(tmp_path / "s.npz")
    good = (tmp_path / "s.npz").read_bytes()
    fuzz(tmp_path / "s.npz", lambda dice: mutate_zip(good, dice), DimensionCounts.load)


def test_provenance_of_scores(tmp_path: Path) -> None:
    provenance = {"model": SMALL._asdict(), "task": "RTE", "vocab_size": 100, "positions": None, "version": 1}

    def mutate(dice: Any) -> bytes:
        text = mutate_json({"format": "fairseq-tickets/scores", **provenance}, dice).decode("utf-8", "replace")
        made = io.BytesIO()
        np.savez(made, heads=np.eye(3, 4), ffn=np.arange(3.0), examples=np.int64(7), provenance=np.array(text))
        return made.getvalue()

    def read(path: Path) -> None:
        prune(ImportanceScores.load(path), "0.3", "0.4").save(tmp_path / "t.json")
        load_ticket(tmp_path / "t.json")

    ImportanceScores(np.eye(3, 4), np.arange(3), 7, {"model": SMALL._asdict()}).save(tmp_path / "s.npz")
    fuzz(tmp_path / "s.npz", mutate, read)


def test_results(tmp_path: Path) -> None:
    content = result(seed=1)

    def read(path: Path) -> None:
        for found in load_results([path]):
            found.score()
            found.searched()

    (tmp_path / "r.json").write_text(json.dumps(content))
    fuzz(tmp_path / "r.json", lambda dice: mutate_json(content, dice), read)


def test_results_with_a_checksum_are_equal_or_refused(tmp_path: Path) -> None:
    content = result(seed=1)
    content["checksum"] = checksum(content)
    original = result_from_json(content, str(tmp_path / "r.json"))

    def read(path: Path) -> None:
        (found,) = load_results([path])
        if "checksum" in path.read_text(encoding="utf-8-sig"):
            assert found == original

    (tmp_path / "r.json").write_text(json.dumps(content))
    fuzz(tmp_path / "r.json", lambda dice: mutate_json(content, dice), read)
