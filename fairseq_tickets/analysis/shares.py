"""Tickets across tasks: importance and task shares (paper S, section 8 and Figure 6), and who owns which
super ticket.

For each structure (head or FFN), the *Ticket Importance* is its importance score averaged over tasks, the
*Task Share* a task's score over the sum of all tasks' scores. Head scores are ℓ2-normalised within their
layer, as for pruning (section 3), so that tasks with large losses do not swamp the rest. Deviation: the paper
states no normalisation for FFNs; without any, one task's loss scale would decide every share, so FFN scores
are ℓ2-normalised over the layers of a task.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from fairseq_tickets.analysis.markup import Table, cells, columns
from fairseq_tickets.arrays import FloatArray
from fairseq_tickets.errors import UserError
from fairseq_tickets.scores import ImportanceScores
from fairseq_tickets.tickets import SuperTicket


class Shares(NamedTuple):
    """Figure 6 in numbers.

    Attributes:
        tasks: names, the order of the first axis of the shares.
        head_importance: (layers, heads), mean over tasks.
        head_shares: (tasks, layers, heads), summing to 1 over tasks; 0 everywhere where every task scores 0.
        ffn_importance: (layers,).
        ffn_shares: (tasks, layers).
    """

    tasks: list[str]
    head_importance: FloatArray
    head_shares: FloatArray
    ffn_importance: FloatArray
    ffn_shares: FloatArray


class Owned(NamedTuple):
    """How many structures of one kind are in the tickets of how many tasks."""

    kind: str
    total: int
    by_number_of_tasks: list[int]  # index = number of tasks
    by_single_owner: dict[str, int]


def task_shares(scores: Mapping[str, ImportanceScores]) -> Shares:
    """Importance and shares from one scores file a task.

    Raises:
        UserError: no tasks, or models of different sizes.
    """
    if not scores:
        raise UserError("task shares need the scores of at least one task")
    first_name, first = next(iter(scores.items()))
    for name, other in scores.items():
        if other.heads.shape != first.heads.shape:
            raise UserError(
                f"the scores of {first_name} and {name} belong to different models: "
                f"(layers, heads) {first.heads.shape} and {other.heads.shape}"
            )
    heads = np.stack([unit_norm(s.heads, axis=1) for s in scores.values()])  # (tasks, layers, heads)
    ffn = np.stack([unit_norm(s.ffn, axis=0) for s in scores.values()])  # (tasks, layers)
    return Shares(list(scores), heads.mean(axis=0), _share(heads), ffn.mean(axis=0), _share(ffn))


def shares_table(found: Shares) -> Table:
    """Every structure with its importance and its share for each task; the data behind Figure 6."""
    layers, heads = found.head_importance.shape
    rows = []
    for layer in range(layers):
        for head in range(heads):
            rows.append(
                cells(
                    str(layer),
                    str(head),
                    f"{found.head_importance[layer, head]:.4f}",
                    *(f"{share:.4f}" for share in found.head_shares[:, layer, head]),
                )
            )
        shares = (f"{share:.4f}" for share in found.ffn_shares[:, layer])
        rows.append(cells(str(layer), "FFN", f"{found.ffn_importance[layer]:.4f}", *shares))
    header = columns("layer", "head", "importance", *found.tasks)
    notes = ["head scores normalised within a layer, FFN scores over layers; shares sum to 1 over tasks"]
    return Table("Ticket importance and task shares", header, rows, notes)


def ownership(tickets: Mapping[str, SuperTicket]) -> list[Owned]:
    """Count heads and FFNs by how many tasks' tickets keep them.

    Raises:
        UserError: no tickets, or tickets of different model sizes.
    """
    if not tickets:
        raise UserError("ownership needs at least one super ticket")
    shape = next(iter(tickets.values())).shape
    for name, ticket in tickets.items():
        ticket.validate_for(shape, name)
    kinds = {
        "heads": np.array([ticket.heads for ticket in tickets.values()]).reshape(len(tickets), -1),
        "FFNs": np.array([ticket.ffn for ticket in tickets.values()]),
    }
    found = []
    for kind, kept in kinds.items():  # (tasks, structures)
        owners = kept.sum(axis=0)
        single = {name: int(row[owners == 1].sum()) for name, row in zip(tickets, kept)}
        found.append(Owned(kind, len(owners), np.bincount(owners, minlength=len(tickets) + 1).tolist(), single))
    return found


def ownership_table(tickets: Mapping[str, SuperTicket]) -> Table:
    """Tickets owned by no task (pruned in sharing), one, several, most (more than half) and all; and by which
    one alone.
    """
    tasks = len(tickets)
    found = ownership(tickets)
    half = tasks // 2  # most: more than half of the tasks, but not all
    bands: Sequence[tuple[str, range]] = (
        ("none (pruned)", range(0, 1)),
        ("one task", range(1, 2)),
        ("several, at most half", range(2, half + 1)),
        ("most, not all", range(max(half + 1, 2), tasks)),
        ("all tasks", range(max(tasks, 2), tasks + 1)),
    )
    rows = []
    for name, band in bands:
        counts = [(sum(kind.by_number_of_tasks[i] for i in band), kind.total) for kind in found]
        rows.append(cells(name, *(f"{n} ({100 * n / total:.0f}%)" for n, total in counts)))
    for task in tickets:
        rows.append(cells(f"only {task}", *(str(kind.by_single_owner[task]) for kind in found)))
    header = columns("in the tickets of", *(kind.kind for kind in found))
    shape = next(iter(tickets.values())).shape
    names = ", ".join(tickets)
    notes = [f"{tasks} tasks: {names}; {shape.layers} layers x {shape.heads} heads, {shape.layers} FFNs"]
    return Table("Super tickets owned by one task, shared by most, shared by all", header, rows, notes)


def unit_norm(values: FloatArray, axis: int) -> FloatArray:
    """Divided by their ℓ2 norm along an axis; zeros stay zeros."""
    norms = np.linalg.norm(values, axis=axis, keepdims=True)
    result: FloatArray = np.divide(values, norms, out=np.zeros_like(values), where=norms > 0)
    return result


def _share(values: FloatArray) -> FloatArray:
    total = values.sum(axis=0, keepdims=True)
    result: FloatArray = np.divide(values, total, out=np.zeros_like(values), where=total > 0)
    return result
