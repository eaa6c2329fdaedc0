"""One small table model and its three renderings: markdown, CSV and LaTeX.

A column group may span several cells, as in the dimension tables of paper D: markdown joins them with spaces,
CSV numbers them, LaTeX gives each its own column. Notes and the signature travel with the table in every
format.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from fairseq_tickets.errors import UserError

FORMATS = ("markdown", "csv", "latex")
# Okabe and Ito's colours, light enough behind black text: RGB in 0..255. Six stay recognisable.
HIGHLIGHTS = ((86, 180, 233), (230, 159, 0), (0, 158, 115), (240, 228, 66), (204, 121, 167), (213, 94, 0))


@dataclass(frozen=True)
class Cell:
    """One value as text.

    Attributes:
        text: what is shown; "-" means that nothing was measured.
        bold: best of its kind, or a popular dimension.
        colour: index into HIGHLIGHTS for the background (LaTeX, terminal), None for none.
        runs: keys of the runs behind the value, for pages that can link to them.
    """

    text: str
    bold: bool = False
    colour: int | None = None
    runs: tuple[str, ...] = ()


@dataclass
class Table:
    """A table ready to be printed.

    Attributes:
        title: one line.
        header: (name, number of cells it spans) for each column group.
        rows: cells, as many a row as the spans add up to.
        notes: what a reader must know: what is missing, which rule was used.
        signature: where the numbers come from, so that two tables can be compared.
    """

    title: str
    header: list[tuple[str, int]]
    rows: list[list[Cell]]
    notes: list[str] = field(default_factory=list)
    signature: str = ""

    def __post_init__(self) -> None:
        width = sum(span for _, span in self.header)
        assert all(len(row) == width for row in self.rows), "every row fills every column"

    def names(self) -> list[str]:
        """One name a column; the columns of a group are numbered from 1."""
        return [name if span == 1 else f"{name} {i + 1}" for name, span in self.header for i in range(span)]

    def to_json(self) -> dict[str, Any]:
        """Content for --json: title, column names, rows of texts, notes, signature."""
        rows = [[cell.text for cell in row] for row in self.rows]
        return {
            "title": self.title,
            "columns": self.names(),
            "rows": rows,
            "notes": self.notes,
            "signature": self.signature,
        }


def cells(*texts: str) -> list[Cell]:
    """Plain cells."""
    return [Cell(text) for text in texts]


def columns(*names: str) -> list[tuple[str, int]]:
    """Header of single columns."""
    return [(name, 1) for name in names]


def render(table: Table, style: str, colour: bool = False) -> str:
    """The table as text with a final newline.

    Args:
        table: what to print.
        style: one of FORMATS.
        colour: True paints highlighted cells with terminal colours (markdown only).

    Raises:
        UserError: unknown style.
    """
    if style == "markdown":
        return _markdown(table, colour)
    if style == "csv":
        return _csv(table)
    if style == "latex":
        return _latex(table)
    raise UserError(f"--format {style}: must be one of {', '.join(FORMATS)}")


def render_all(tables: Sequence[Table], style: str, colour: bool = False) -> str:
    """Several tables, one after the other, an empty line between."""
    return "\n".join(render(table, style, colour) for table in tables)


def _markdown(table: Table, colour: bool) -> str:
    grid = [[name for name, _ in table.header]]
    for row in table.rows:
        merged, start = [], 0
        for _, span in table.header:
            merged.append(" ".join(_markdown_cell(cell) for cell in row[start : start + span]))
            start += span
        grid.append(merged)
    grid = [[text.replace("|", "\\|") for text in row] for row in grid]
    widths = [max(3, *(len(row[i]) for row in grid)) for i in range(len(table.header))]
    lines = ["| " + " | ".join(text.ljust(width) for text, width in zip(row, widths)) + " |" for row in grid]
    if colour:
        lines[1:] = [_paint(line, row) for line, row in zip(lines[1:], table.rows)]
    rule = "|" + "|".join("-" * (width + 1) + (":" if i else "-") for i, width in enumerate(widths)) + "|"
    parts = [f"**{table.title}**", "", lines[0], rule, *lines[1:]]
    if table.notes:
        parts += ["", *(f"- {note}" for note in table.notes)]
    if table.signature:
        parts += ["", f"`{table.signature}`"]
    return "\n".join(parts) + "\n"


def _markdown_cell(cell: Cell) -> str:
    return f"**{cell.text}**" if cell.bold and cell.text else cell.text


def _paint(line: str, row: Sequence[Cell]) -> str:
    painted, start = [], 0
    for cell in row:
        text = _markdown_cell(cell)
        at = line.find(text, start)
        painted.append(line[start:at])
        if cell.colour is None:
            painted.append(text)
        else:
            red, green, blue = HIGHLIGHTS[cell.colour % len(HIGHLIGHTS)]
            painted.append(f"\x1b[30;48;2;{red};{green};{blue}m{text}\x1b[0m")
        start = at + len(text)
    return "".join(painted) + line[start:]


def _csv(table: Table) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(table.names())
    writer.writerows([cell.text for cell in row] for row in table.rows)
    for line in [table.title, *table.notes, table.signature]:
        if line:
            out.write(f"# {line}\n")
    return out.getvalue()


def _latex(table: Table) -> str:
    spans = [span for _, span in table.header]
    used = sorted({cell.colour % len(HIGHLIGHTS) for row in table.rows for cell in row if cell.colour is not None})
    lines = ["% needs \\usepackage{booktabs}" + (" and \\usepackage[table]{xcolor}" if used else "")]
    for index in used:
        red, green, blue = HIGHLIGHTS[index]
        lines.append(f"\\definecolor{{ticket{index}}}{{RGB}}{{{red},{green},{blue}}}")
    lines += [f"% {table.signature}"] if table.signature else []
    lines += ["\\begin{tabular}{l" + "r" * (sum(spans) - 1) + "}", "\\toprule"]
    heads = [
        _tex(name) if span == 1 else f"\\multicolumn{{{span}}}{{c}}{{{_tex(name)}}}" for name, span in table.header
    ]
    lines += [" & ".join(heads) + " \\\\", "\\midrule"]
    lines += [" & ".join(_latex_cell(cell) for cell in row) + " \\\\" for row in table.rows]
    lines += ["\\bottomrule", "\\end{tabular}", f"% {table.title}"]
    lines += [f"% {note}" for note in table.notes]
    return "\n".join(lines) + "\n"


def _latex_cell(cell: Cell) -> str:
    text = _tex(cell.text)
    if cell.bold and text:
        text = f"\\textbf{{{text}}}"
    return text if cell.colour is None else f"\\cellcolor{{ticket{cell.colour % len(HIGHLIGHTS)}!50}}{text}"


def _tex(text: str) -> str:
    text = text.replace("\\", "\\textbackslash ")
    text = re.sub(r"([&%#_{}])", r"\\\1", text)
    text = re.sub(r"W\^(\w+)", r"$W^{\\mathrm{\1}}$", text)
    return text.replace("±", "$\\pm$").replace("σ", "$\\sigma$").replace("λ", "$\\lambda$")
