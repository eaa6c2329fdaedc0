"""Dimension tables of dominant tickets in the layouts of paper D: Table 1, Table 4 and Tables 5 to 10; and
recurrence.

A "popular" dimension recurs through layers. Which numbers mean the same dimension depends on a matrix's
input: W^Q, W^K, W^V and W^FC1 all read the residual stream, W^O reads the joined heads, W^FC2 the FFN's
hidden layer. Recurrence is counted within these three spaces (deviation: the paper colours numbers whatever
the matrix; W^FC2's 2 is not the others' 2). The bias is its own entry in each space: index in_features. A row
with fewer than top-k dimensions ends in "None".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from fairseq_tickets.analysis.markup import Cell, Table, cells, columns
from fairseq_tickets.errors import UserError
from fairseq_tickets.parameters import MATRICES, PAPER_NAMES
from fairseq_tickets.tickets import DominantTicket

SORTS = ("count", "index")
SPACES = {
    "q_proj": "residual stream",
    "k_proj": "residual stream",
    "v_proj": "residual stream",
    "out_proj": "joined heads",
    "fc1": "residual stream",
    "fc2": "FFN hidden layer",
}
_FEWEST_CELLS = 3  # a dimension seen in fewer places than this is not popular


def popular_dimensions(
    tickets: Sequence[DominantTicket], matrices: Sequence[str], number: int
) -> list[tuple[str, int]]:
    """The `number` dimensions that stand in most places, as (space, index), most places first.

    A place is one (ticket, matrix, layer). Dimensions in fewer than 3 places never count; ties go to the
    smaller index. Biases are not among them.
    """
    seen: Counter[tuple[str, int]] = Counter()
    for ticket in tickets:
        for _, matrix, dims in ticket.items():
            if matrix in matrices:
                bias = ticket.shape.in_features(matrix)
                seen.update((SPACES[matrix], index) for index in dims if index != bias)
    ranked = sorted(seen.items(), key=lambda item: (-item[1], item[0]))
    return [place for place, count in ranked[:number] if count >= _FEWEST_CELLS]


def layer_table(
    ticket: DominantTicket,
    matrices: Sequence[str] = MATRICES,
    sort: str = "count",
    popular: int = 6,
    name: str = "",
) -> Table:
    """Table 1: a row a layer, a group of top-k dimensions a matrix.

    Args:
        ticket: the ticket.
        matrices: which matrices, in this order.
        sort: "count" keeps the ticket's order, most out-weighted parameters first; "index" sorts by number.
        popular: how many popular dimensions to highlight, 0 for none.
        name: of the ticket, for the title.
    """
    _check(sort, matrices)
    colours = {place: i for i, place in enumerate(popular_dimensions([ticket], matrices, popular))}
    columns_ = [(PAPER_NAMES[m], ticket, m) for m in matrices]
    return _table(f"Dominated dimensions{' of ' + name if name else ''}", columns_, sort, colours, bias=False)


def bias_table(ticket: DominantTicket, sort: str = "count", name: str = "") -> Table:
    """Table 4: W^O and W^FC2, with the bias highlighted wherever it is among the dimensions."""
    _check(sort, ())
    columns_ = [(PAPER_NAMES[m], ticket, m) for m in ("out_proj", "fc2")]
    title = f"Dominated dimensions of W^O and W^FC2{', ' + name if name else ''}; bias highlighted"
    return _table(title, columns_, sort, {}, bias=True)


def comparison_table(
    tickets: Mapping[str, DominantTicket], matrix: str, sort: str = "index", popular: int = 6
) -> Table:
    """Tables 5 to 10: one matrix, a group of dimensions a ticket.

    Raises:
        UserError: no tickets, or tickets of different model sizes.
    """
    _check(sort, (matrix,))
    if not tickets:
        raise UserError("a comparison table needs at least one ticket")
    first, *others = tickets.items()
    for name, ticket in others:
        ticket.validate_for(first[1].shape, name)
    colours = {place: i for i, place in enumerate(popular_dimensions(list(tickets.values()), (matrix,), popular))}
    columns_ = [(name, ticket, matrix) for name, ticket in tickets.items()]
    return _table(f"Structure comparison of {PAPER_NAMES[matrix]}", columns_, sort, colours, bias=False)


def recurrence(ticket: DominantTicket, matrix: str) -> dict[int, list[int]]:
    """Dimension -> the layers whose top-k list it is in, rising; dimensions in most layers first."""
    layers: dict[int, list[int]] = {}
    for layer, dims in enumerate(ticket.dimensions[matrix]):
        for index in dims:
            layers.setdefault(index, []).append(layer)
    return dict(sorted(layers.items(), key=lambda item: (-len(item[1]), item[0])))


def recurrence_table(tickets: Mapping[str, DominantTicket], at_least: int = 2) -> Table:
    """The skeleton as numbers: for each ticket and matrix the dimensions in at least `at_least` layers, and
    which layers.
    """
    rows = []
    for name, ticket in tickets.items():
        for matrix in MATRICES:
            for index, layers in recurrence(ticket, matrix).items():
                if len(layers) >= at_least:
                    shown = "bias" if index == ticket.shape.in_features(matrix) else str(index)
                    share = f"{len(layers)} of {ticket.shape.layers}"
                    rows.append(cells(name, PAPER_NAMES[matrix], shown, share, _ranges(layers)))
    header = columns("ticket", "matrix", "dimension", "layers", "which")
    notes = [] if rows else [f"no dimension is in {at_least} layers or more"]
    return Table(f"Dimensions that recur in at least {at_least} layers", header, rows, notes)


def _table(
    title: str,
    groups: Sequence[tuple[str, DominantTicket, str]],
    sort: str,
    colours: Mapping[tuple[str, int], int],
    bias: bool,
) -> Table:
    widths = [max(1, *(len(dims) for dims in ticket.dimensions[matrix])) for _, ticket, matrix in groups]
    rows = []
    for layer in range(groups[0][1].shape.layers):
        row = [Cell(str(layer))]
        for (_, ticket, matrix), width in zip(groups, widths):
            dims = ticket.dimensions[matrix][layer]
            for index in sorted(dims) if sort == "index" else dims:
                colour = colours.get((SPACES[matrix], index))
                if bias and index == ticket.shape.in_features(matrix):
                    colour = 0
                row.append(Cell(str(index), colour is not None, colour))
            row += cells(*["None"] * (width - len(dims)))
        rows.append(row)
    header = [("Layer", 1), *((name, width) for (name, _, _), width in zip(groups, widths))]
    return Table(title, header, rows, _notes(groups, sort, colours))


def _notes(
    groups: Sequence[tuple[str, DominantTicket, str]], sort: str, colours: Mapping[tuple[str, int], int]
) -> list[str]:
    shape = groups[0][1].shape
    used = dict.fromkeys(matrix for _, _, matrix in groups)
    by_index: dict[int, list[str]] = {}
    for matrix in used:
        by_index.setdefault(shape.in_features(matrix), []).append(PAPER_NAMES[matrix])
    bias = ", ".join(f"{index} in {' '.join(names)}" for index, names in by_index.items())
    order = "most out-weighted parameters first" if sort == "count" else "sorted by index"
    notes = [f"zero-indexed input dimensions, {order}; the bias is {bias}"]
    if colours:
        popular = ", ".join(f"{index} ({space})" for space, index in colours)
        notes.append(f"highlighted, most recurrent first: {popular}")
    return notes


def _check(sort: str, matrices: Sequence[str]) -> None:
    if sort not in SORTS:
        raise UserError(f"--sort {sort}: must be count or index")
    for matrix in matrices:
        if matrix not in MATRICES:
            raise UserError(f"--matrix {matrix}: must be one of {', '.join(MATRICES)}")


def _ranges(numbers: Sequence[int]) -> str:
    runs: list[list[int]] = []
    for n in numbers:
        if runs and n == runs[-1][-1] + 1:
            runs[-1].append(n)
        else:
            runs.append([n])
    return ", ".join(str(r[0]) if len(r) == 1 else f"{r[0]}-{r[-1]}" for r in runs)
