"""Ticket files: what comes back, and every field that may be wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Callable

import pytest

from fairseq_tickets.errors import UserError
from fairseq_tickets.parameters import MATRICES
from fairseq_tickets.tickets import load_dominant_ticket, load_super_ticket, load_ticket

from .analysis.samples import SMALL, skeleton_ticket, super_ticket

SUPER = super_ticket(SMALL, [[1, 0, 1, 1], [1, 1, 1, 1], [0, 0, 1, 0]], [1, 0, 1], task="RTE", seed=1)
DOMINANT = skeleton_ticket(SMALL, 1)
DOMINANT.counts = {m: [[i + 1 for i, _ in enumerate(row)] for row in DOMINANT.dimensions[m]] for m in MATRICES}

Change = Callable[[dict[str, Any]], Any]


def changed(content: dict[str, Any], where: str, value: Any) -> dict[str, Any]:
    """The content with the value at a place like "model/layers" replaced; `...` drops it."""
    copy: Any = json.loads(json.dumps(content))
    *path, last = [int(step) if step.isdigit() else step for step in where.split("/")]
    holder = copy
    for step in path:
        holder = holder[step]
    if value is ...:
        del holder[last]
    else:
        holder[last] = value
    return copy


def test_tickets_come_back(tmp_path: Path) -> None:
    SUPER.save(tmp_path / "s.json")
    DOMINANT.save(tmp_path / "d.json")
    assert load_super_ticket(tmp_path / "s.json") == SUPER
    assert load_dominant_ticket(tmp_path / "d.json") == DOMINANT
    with pytest.raises(UserError, match="s.json is a super ticket; a dominant ticket is needed"):
        load_dominant_ticket(tmp_path / "s.json")
    with pytest.raises(UserError, match="d.json is a dominant ticket; a super ticket is needed"):
        load_super_ticket(tmp_path / "d.json")


BOTH = [
    ("format", ..., "its format must be"),
    ("format", "fairseq-tickets/result", "its format must be"),
    ("version", ..., "version None is unknown"),
    ("version", True, "version True is unknown"),
    ("version", 1.0, "version 1.0 is unknown"),
    ("version", "1", "version '1' is unknown"),
    ("version", 2, "version 2 is unknown"),
    ("model", ..., "lacks 'model'"),
    ("model", [3, 4, 20, 50], r"model is \[3, 4, 20, 50\]; it must give layers, heads, embed_dim, ffn_dim"),
    ("model/heads", ..., "it must give layers, heads, embed_dim, ffn_dim"),
    ("model/layers", 3.0, "model.layers is 3.0; it must be a whole number from 1"),
    ("model/layers", 0, "model.layers is 0"),
    ("model/heads", True, "model.heads is True"),
    ("model/embed_dim", 2**63, "model.embed_dim is 9223372036854775808"),
    ("model/embed_dim", 21, "model.heads is 4; it must divide embed_dim, which is 21"),
    ("model/ffn_dim", "50", "model.ffn_dim is '50'"),
    ("model/layers", 2, "(layers x heads)|one list for each of 2 layers"),
    ("provenance", [["task", "RTE"]], "provenance is .*; it must be an object"),
    ("provenance", None, "provenance is None; it must be an object"),
]
OWN = [
    (SUPER, "heads", ..., "lacks 'heads'"),
    (SUPER, "ffn", ..., "lacks 'ffn'"),
    (SUPER, "heads", {"0": [1, 1, 1, 1]}, "heads must be 3 lists of 4 numbers"),
    (SUPER, "heads/1", "1111", "heads must be 3 lists of 4 numbers"),
    (SUPER, "heads/1", [1, 1, 1], "heads must be 3 lists of 4 numbers"),
    (SUPER, "heads/1/2", 1.0, "1.0 is neither 1 .kept. nor 0 .pruned."),
    (SUPER, "heads/1/2", True, "True is neither"),
    (SUPER, "heads/1/2", 2, "2 is neither"),
    (SUPER, "heads/1/2", None, "None is neither"),
    (SUPER, "heads/1/2", [1], r"\[1\] is neither"),
    (SUPER, "ffn", "111", "ffn must be one number for each of the 3 layers"),
    (SUPER, "ffn/0", 0.0, "0.0 is neither"),
    (DOMINANT, "dimensions", ..., "lacks 'dimensions'"),
    (DOMINANT, "dimensions", [], "dimensions must name exactly q_proj"),
    (DOMINANT, "dimensions/q_proj", ..., "dimensions must name exactly q_proj"),
    (DOMINANT, "dimensions/in_proj", [[], [], []], "dimensions must name exactly q_proj"),
    (DOMINANT, "dimensions/q_proj", [[], []], "dimensions: q_proj must have one list for each of 3 layers"),
    (DOMINANT, "dimensions/fc2/1", 7, "dimensions: fc2 must have one list for each"),
    (DOMINANT, "dimensions/fc2/1", [51], "layer 1, fc2: dimension 51 is out of range; it must be 0 to 50"),
    (DOMINANT, "dimensions/fc1/1", [21], "layer 1, fc1: dimension 21 is out of range; it must be 0 to 20"),
    (DOMINANT, "dimensions/fc1/1", [-1], "dimension -1 is out of range"),
    (DOMINANT, "dimensions/fc1/1", [1.0], "dimension 1.0 is out of range"),
    (DOMINANT, "dimensions/fc1/1", [True], "dimension True is out of range"),
    (DOMINANT, "dimensions/fc1/1", [[1]], r"dimension \[1\] is out of range"),
    (DOMINANT, "dimensions/fc1/1", [3, 3], r"a dimension is listed twice in \[3, 3\]"),
    (DOMINANT, "counts", {}, "counts must name exactly q_proj"),
    (DOMINANT, "counts", [1], "counts must name exactly q_proj"),
    (DOMINANT, "counts/q_proj", [[], [], [1, 2, 3, 4, 5, 6]], "q_proj: counts must have the same layout"),
    (DOMINANT, "counts/v_proj/0/0", "many", "layer 0, v_proj: the count 'many' must be a whole number from 0 to 20"),
    (DOMINANT, "counts/v_proj/0/0", 1.5, "the count 1.5 must be"),
    (DOMINANT, "counts/v_proj/0/0", None, "the count None must be"),
    (DOMINANT, "counts/v_proj/0/0", True, "the count True must be"),
    (DOMINANT, "counts/v_proj/0/0", 21, "the count 21 must be a whole number from 0 to 20"),
    (DOMINANT, "counts/v_proj/0/0", -1, "the count -1 must be"),
]


ROWS = [*((ticket, *row) for ticket in (SUPER, DOMINANT) for row in BOTH), *OWN]
NAMES = [f"{type(ticket).__name__} {where} {value}" for ticket, where, value, _ in ROWS]


@pytest.mark.parametrize("ticket, where, value, says", ROWS, ids=NAMES)
def test_a_wrong_field_is_named(ticket: Any, where: str, value: Any, says: str, tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text(json.dumps(changed(ticket.to_json(), where, value)))
    with pytest.raises(UserError, match=rf"t\.json.*({says})") as caught:
        load_ticket(tmp_path / "t.json")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [None, [], "ticket", 1, {"format": ["fairseq-tickets/super"]}, {"format": {}}])
def test_other_json_is_no_ticket(content: Any, tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"t\.json is not a ticket file"):
        load_ticket(tmp_path / "t.json")
