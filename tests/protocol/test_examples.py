"""The protocol files of the examples can be read, and ask for what their headers say."""

from __future__ import annotations

from pathlib import Path

import pytest

from fairseq_tickets.protocol.config import load_protocol
from fairseq_tickets.protocol.recipes.dominant import OF_DIMENSIONS

FILES = sorted((Path(__file__).parents[2] / "examples").glob("*/protocol/*.yaml"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parts[-3]}/{path.stem}")
def test_examples_are_valid(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLUE_DIR", "glue")
    protocol = load_protocol(path)
    assert protocol.super_tickets or protocol.dominant


def test_counts_in_the_headers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLUE_DIR", "glue")
    counts = {}
    for path in FILES:
        protocol = load_protocol(path)
        if protocol.super_tickets is not None:
            section = protocol.super_tickets
            by_task = (1 + len(section.levels[task]) * len(section.keep[task]) for task in section.tasks)
            more = (
                [len(protocol.early.after) * len(own) for own in protocol.early.levels.values()]
                if protocol.early
                else []
            )
            more += [len(own) for own in protocol.iterative.levels.values()] if protocol.iterative else []
            counts[f"{path.parts[-3]}/{path.stem}"] = len(protocol.seeds) * (sum(by_task) + sum(more))
        if protocol.dominant is not None:
            found = protocol.dominant
            others = len(protocol.seeds) - protocol.search_seeds
            by_method = (
                (len(found.top_k) if method in OF_DIMENSIONS else 1)
                * (protocol.search_seeds * len(found.learning_rates[method]) + others)
                for method in found.methods
            )
            counts[f"{path.parts[-3]}/{path.stem}"] = len(found.tasks) * sum(by_method)
    assert counts["dominant_ticket/minilm"] == 72
    assert counts["salience/minilm"] == 96
    assert counts["super_tickets/quick"] == 14
    assert counts["early_iterative/minilm"] == 3 * 8
    assert counts["super_tickets/minilm"] == 252
    assert counts["ticket_sharing/minilm"] == 81
    assert counts["ticket_sharing/five_tasks"] == 78
