"""Tickets sharing: which parameters a task may move, and who owns which head and FFN.

Liang et al. 2021, section 4 and Algorithm 1: task i updates θ^i = M(θ, Ω^i), the parameters its ticket keeps.
A structure in several tickets is moved by those tasks together, one in a single ticket by that task only, one
in no ticket is pruned. An update that gathers gradients of several tasks may move the union of their tickets.

A head's parameters are its rows of W^Q, W^K and W^V with their biases and its columns of W^O; an FFN's are
the whole of W^FC1 and W^FC2 with both biases. The rest can't be pruned, and every task moves it: W^O's bias,
layer norms, embeddings. What a ticket allows is given as plain ranges along one axis, so that an optimizer
can slice values and state alike.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from fairseq_tickets.errors import UserError
from fairseq_tickets.parameters import ModelShape, parse
from fairseq_tickets.tickets import SuperTicket

_TASK_HEAD = re.compile(r"(?:^|\.)classification_heads\.([^.]+)\.")


class Allowed(NamedTuple):
    """The part of a parameter that may move: ranges [start, stop) along `axis`, rising and never touching
    each other.

    Attributes:
        axis: 0 = rows (and the elements of a bias), 1 = columns.
        ranges: None means the whole parameter; an empty tuple means none of it.
    """

    axis: int
    ranges: tuple[tuple[int, int], ...] | None

    @property
    def whole(self) -> bool:
        """True when nothing is held still."""
        return self.ranges is None

    @property
    def nothing(self) -> bool:
        """True when nothing may move."""
        return self.ranges == ()

    def complement(self, size: int) -> Allowed:
        """What is held still; `size` is the parameter's length along `axis`."""
        if self.ranges is None:
            return NOTHING
        edges = [0, *(edge for pair in self.ranges for edge in pair), size]
        gaps = tuple((start, stop) for start, stop in zip(edges[::2], edges[1::2]) if start < stop)
        return WHOLE if gaps == ((0, size),) else Allowed(self.axis, gaps)


WHOLE = Allowed(0, None)
NOTHING = Allowed(0, ())


def allowed(
    ticket: SuperTicket, layer: int, matrix: str, kind: str, present_heads: Sequence[int] | None = None
) -> Allowed:
    """The part of one of the six matrices' weight or bias that `ticket` lets move.

    Args:
        ticket: of the active task, or the union of the active tasks' tickets.
        layer: index of the layer.
        matrix: one of MATRICES.
        kind: "weight", stored (out_features, in_features), or "bias".
        present_heads: original indices, rising, of the heads that a compact layer still has; None = all.
    """
    if matrix in ("fc1", "fc2"):
        return WHOLE if ticket.ffn[layer] else NOTHING
    if matrix == "out_proj" and kind == "bias":
        return WHOLE
    present = range(ticket.shape.heads) if present_heads is None else present_heads
    kept = [position for position, head in enumerate(present) if ticket.heads[layer][head]]
    if len(kept) == len(present):
        return WHOLE
    axis = 1 if matrix == "out_proj" else 0
    return Allowed(axis, _ranges(kept, ticket.shape.embed_dim // ticket.shape.heads))


def allowed_by_name(
    ticket: SuperTicket,
    name: str,
    task_heads: Collection[str] | None = None,
    present_heads: Mapping[int, Sequence[int]] | None = None,
) -> Allowed:
    """The part of any parameter of a model that `ticket` lets move, by the parameter's name.

    Args:
        ticket: of the active task, or the union of the active tasks' tickets.
        name: full parameter name, as in `parameters`.
        task_heads: names of the active tasks' classification heads: the others must not move; None = all may.
        present_heads: for each compact layer the heads it still has; see `allowed`.
    """
    role = parse(name)
    if role is not None:
        if role.layer >= ticket.shape.layers:
            raise UserError(f"{name}: the ticket is for a model of {ticket.shape.layers} layers")
        present = None if present_heads is None else present_heads.get(role.layer)
        return allowed(ticket, role.layer, role.matrix, role.kind, present)
    head = _TASK_HEAD.search(name)
    if head is not None and task_heads is not None and head[1] not in task_heads:
        return NOTHING
    return WHOLE


def union(tickets: Sequence[SuperTicket]) -> SuperTicket:
    """The ticket that keeps what any of `tickets` keeps.

    Raises:
        UserError: no tickets, or tickets of different model sizes.
    """
    if not tickets:
        raise UserError("tickets sharing: no tickets; at least 1 is needed")
    shape = tickets[0].shape
    for index, ticket in enumerate(tickets[1:], start=2):
        ticket.validate_for(shape, f"ticket {index} of {len(tickets)}")
    heads = [[int(any(head)) for head in zip(*rows)] for rows in zip(*(ticket.heads for ticket in tickets))]
    ffn = [int(any(column)) for column in zip(*(ticket.ffn for ticket in tickets))]
    return SuperTicket(shape, heads, ffn, {"union_of": [ticket.provenance for ticket in tickets]})


class Ownership(NamedTuple):
    """Which tasks own which structure.

    Attributes:
        tasks: names, in the order given.
        shape: the tickets' model.
        heads: [layer][head] -> indices into `tasks` of the owners, rising.
        ffn: [layer] -> likewise.
    """

    tasks: list[str]
    shape: ModelShape
    heads: list[list[list[int]]]
    ffn: list[list[int]]

    def counts(self) -> dict[str, dict[str, int]]:
        """For "heads" and "ffn": how many are owned by none, by exactly one, by at least two but fewer than
        most, by most (more than half, not all), by all. With one task, "all" is that task and "one" is 0."""
        heads = [owners for row in self.heads for owners in row]
        return {"heads": self._tally(heads), "ffn": self._tally(self.ffn)}

    def exclusive(self, task: str) -> dict[str, int]:
        """Number of heads and FFNs that `task` alone owns."""
        alone = [self.tasks.index(task)]
        return {"heads": sum(row.count(alone) for row in self.heads), "ffn": self.ffn.count(alone)}

    def _tally(self, structures: Sequence[Sequence[int]]) -> dict[str, int]:
        tally = {"none": 0, "one": 0, "some": 0, "most": 0, "all": 0}
        for owners in structures:
            tally[_share(len(owners), len(self.tasks))] += 1
        return tally


def ownership(tickets: Mapping[str, SuperTicket]) -> Ownership:
    """Owners of every head and FFN; `tickets` maps task names to tickets.

    Raises:
        UserError: no tickets, or tickets of different model sizes; the task is named.
    """
    if not tickets:
        raise UserError("tickets sharing: no tickets; at least 1 is needed")
    tasks = list(tickets)
    shape = tickets[tasks[0]].shape
    for task in tasks:
        tickets[task].validate_for(shape, f"the ticket of task {task}")
    layers = range(shape.layers)
    return Ownership(
        tasks,
        shape,
        [
            [[i for i, t in enumerate(tasks) if tickets[t].heads[layer][head]] for head in range(shape.heads)]
            for layer in layers
        ],
        [[i for i, t in enumerate(tasks) if tickets[t].ffn[layer]] for layer in layers],
    )


def _share(owners: int, tasks: int) -> str:
    if owners == 0:
        return "none"
    if owners == tasks:
        return "all"
    if owners == 1:
        return "one"
    return "most" if 2 * owners > tasks else "some"


def _ranges(heads: Sequence[int], head_dim: int) -> tuple[tuple[int, int], ...]:
    """Element ranges of rising head positions, neighbours merged."""
    merged: list[tuple[int, int]] = []
    for head in heads:
        start = head * head_dim
        if merged and merged[-1][1] == start:
            merged[-1] = (merged[-1][0], start + head_dim)
        else:
            merged.append((start, start + head_dim))
    return tuple(merged)
