"""Dimension tables in the layouts of paper D, from rows printed there."""

from __future__ import annotations

import pytest

from fairseq_tickets.analysis import dimensions
from fairseq_tickets.analysis.markup import render
from fairseq_tickets.errors import UserError

from .samples import LARGE, SMALL, TABLE_1, TABLE_5, dominant, paper_ticket


@pytest.fixture
def table_1():
    by_matrix: dict[str, dict[int, list[int]]] = {}
    for layer, row in TABLE_1.items():
        for matrix, dims in row.items():
            by_matrix.setdefault(matrix, {})[layer] = dims
    return dominant(LARGE, by_matrix)


def texts(row):
    return [cell.text for cell in row]


def test_table_1_by_count_and_by_index(table_1):
    table = dimensions.layer_table(table_1, ("q_proj", "v_proj"))
    assert table.header == [("Layer", 1), ("W^Q", 3), ("W^V", 3)]
    assert texts(table.rows[0]) == ["0", "981", "673", "304", "673", "981", "472"]
    assert texts(table.rows[22]) == ["22", "631", "None", "None", "631", "673", "547"]
    by_index = dimensions.layer_table(table_1, ("q_proj", "v_proj"), sort="index")
    assert texts(by_index.rows[16]) == ["16", "547", "631", "673", "547", "631", "673"]


def test_popular_dimensions_by_hand(table_1):
    """In W^Q and W^V of the three rows: 673 in 5 places, 631 in 4, 547 in 3; 981 in 2 only."""
    stream = "residual stream"
    found = dimensions.popular_dimensions([table_1], ("q_proj", "v_proj"), 6)
    assert found == [(stream, 673), (stream, 631), (stream, 547)]
    assert dimensions.popular_dimensions([table_1], ("q_proj", "v_proj"), 1) == [(stream, 673)]
    row = dimensions.layer_table(table_1, ("q_proj",)).rows[0]
    assert [cell.bold for cell in row] == [
        False,
        False,
        False,
        False,
    ]  # in W^Q alone nothing is in three layers


def test_numbers_of_different_spaces_are_not_mixed():
    """Dimension 2 of W^FC2 is a hidden unit of the FFN, not a dimension of the residual stream."""
    ticket = dominant(SMALL, {"q_proj": {0: [2]}, "fc1": {0: [2]}, "fc2": {0: [2], 1: [2]}})
    assert dimensions.popular_dimensions([ticket], tuple(ticket.dimensions), 6) == []


def test_table_4_highlights_the_bias_only(table_1):
    table = dimensions.bias_table(table_1)
    bold = {(r, c): cell.text for r, row in enumerate(table.rows) for c, cell in enumerate(row) if cell.bold}
    assert bold == {(16, 1): "1024", (22, 2): "1024", (16, 5): "4096"}
    assert "1024 in W^O, 4096 in W^FC2" in table.notes[0]


def test_tables_5_to_10_layout():
    tickets = {task: paper_ticket(task) for task in ("MNLI", "QNLI", "SST", "QQP")}
    table = dimensions.comparison_table(tickets, "q_proj")
    assert table.header == [("Layer", 1), ("MNLI", 3), ("QNLI", 3), ("SST", 3), ("QQP", 3)]
    for layer, row in TABLE_5.items():
        assert texts(table.rows[layer]) == [str(layer), *(str(d) for task in row for d in row[task])]
    assert "673 (residual stream), 981 (residual stream)" in table.notes[1]  # in 12 and in 6 of 12 lists


def test_recurrence():
    ticket = dominant(SMALL, {"v_proj": {0: [7, 3], 1: [3], 2: [7, 3]}, "out_proj": {0: [20], 2: [20]}})
    assert dimensions.recurrence(ticket, "v_proj") == {3: [0, 1, 2], 7: [0, 2]}
    rows = [texts(row) for row in dimensions.recurrence_table({"t": ticket}).rows]
    assert rows == [
        ["t", "W^V", "3", "3 of 3", "0-2"],
        ["t", "W^V", "7", "2 of 3", "0, 2"],
        ["t", "W^O", "bias", "2 of 3", "0, 2"],
    ]


def test_markdown_csv_and_latex(table_1):
    table = dimensions.layer_table(table_1, ("q_proj", "v_proj"))
    line = render(table, "markdown").splitlines()[4]
    assert line.split("|")[2].strip() == "981 **673** 304"
    csv = render(table, "csv").splitlines()
    assert csv[0] == "Layer,W^Q 1,W^Q 2,W^Q 3,W^V 1,W^V 2,W^V 3"
    assert csv[1] == "0,981,673,304,673,981,472"
    latex = render(table, "latex")
    assert "\\multicolumn{3}{c}{$W^{\\mathrm{Q}}$}" in latex
    assert "0 & 981 & \\cellcolor{ticket0!50}\\textbf{673} & 304" in latex
    assert latex.count("&") == (2 + 24 * 6)


def test_terminal_colours_leave_the_text_as_it_was(table_1):
    import re

    table = dimensions.layer_table(table_1)
    painted = render(table, "markdown", colour=True)
    assert "\x1b[30;48;2;86;180;233m**673**\x1b[0m" in painted
    assert re.sub("\x1b[^m]*m", "", painted) == render(table, "markdown")


@pytest.mark.parametrize(("kind", "reason"), [("sort", "--sort size"), ("matrix", "--matrix W: must be one of q_proj")])
def test_bad_choices(table_1, kind, reason):
    with pytest.raises(UserError, match=reason):
        dimensions.layer_table(
            table_1, ("W",) if kind == "matrix" else ("q_proj",), "size" if kind == "sort" else "count"
        )


def test_tickets_of_two_models():
    with pytest.raises(UserError, match="b belongs to another model size"):
        dimensions.comparison_table({"a": dominant(SMALL, {}), "b": dominant(LARGE, {})}, "q_proj")
