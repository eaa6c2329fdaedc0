"""The look of every figure, and how it is saved: colour-blind safe, readable in grey, the same bytes for the
same input.

Colours are Okabe and Ito's, given in an order of falling contrast in grey, and every line also has its own
marker and dash. Text is text in the PDF (TrueType), 8 points at the width of one or two journal columns.
Saved files hold no date.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fairseq_tickets.errors import UserError
from fairseq_tickets.files import PathLike, atomic_write

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, VERMILION = "#0072B2", "#E69F00", "#009E73", "#D55E00"
PURPLE, SKY, YELLOW, BLACK = "#CC79A7", "#56B4E9", "#F0E442", "#000000"
PALETTE = (BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY, YELLOW, BLACK)
HATCHES = ("", "///", "...", "\\\\\\", "xxx", "---", "ooo", "+++")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
DASHES: tuple[Any, ...] = (
    "-",
    (0, (4, 1.5)),
    (0, (1, 1.2)),
    (0, (4, 1.5, 1, 1.5)),
    (0, (7, 2)),
    "--",
    ":",
    "-.",
)
COLUMN, PAGE = 3.35, 6.9  # widths of one column and of the page, inches
SETTINGS = {
    "font.size": 8,
    "axes.titlesize": 8.5,
    "axes.labelsize": 8,
    "legend.fontsize": 7.5,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "lines.linewidth": 1.2,
    "lines.markersize": 3.5,
    "legend.frameon": False,
    "figure.dpi": 100,
    "savefig.dpi": 300,
    "pdf.fonttype": 42,
    "svg.hashsalt": "fairseq-tickets",
    "svg.fonttype": "none",  # text stays text
    "hatch.linewidth": 0.4,
    "figure.constrained_layout.use": True,
}
SUFFIXES = (".pdf", ".png", ".svg")
SUFFIX_RULE = "a figure must end in .pdf, .png or .svg"


def new_figure(width: float, height: float) -> Figure:
    """Empty figure in inches, in this package's style; needs no display.

    Raises:
        UserError: matplotlib is not installed.
    """
    try:
        import matplotlib
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        message = f"plots need matplotlib ({error}); install it with: pip install 'fairseq_tickets[plots]'"
        raise UserError(message) from error
    with matplotlib.rc_context(SETTINGS):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
    return figure


def seeds_in_words(numbers: Iterable[int]) -> str:
    """How many runs stand behind the means of a figure: "3 seeds", "2 to 5 seeds"."""
    found = sorted(numbers)
    low, high = found[0], found[-1]
    return f"{low} seed{'s' if low > 1 else ''}" if low == high else f"{low} to {high} seeds"


def caption(figure: Figure, text: str) -> None:
    """A small line below everything: what lines, bands and whiskers are."""
    figure.supxlabel(text, fontsize=7)


def styled() -> Any:
    """Context in which axes must be filled, so that text and lines take this package's settings."""
    import matplotlib

    return matplotlib.rc_context(SETTINGS)


def save(figure: Figure, path: PathLike, source: str = "") -> None:
    """Write a PDF, PNG or SVG, whole or not at all; the same figure gives the same bytes.

    Args:
        figure: what to write.
        path: ends in .pdf, .png or .svg.
        source: a line for the file's metadata: where the numbers come from.

    Raises:
        UserError: another suffix, or the file can't be written.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise UserError(f"--output {path}: {SUFFIX_RULE}")
    metadata: dict[str, Any] = {"Title": source, "Creator": "fairseq_tickets"}
    if suffix == ".pdf":
        metadata.update(CreationDate=None, ModDate=None, Producer=None)
    elif suffix == ".svg":
        metadata.update(Date=None)
    else:
        metadata = {"Title": source, "Software": "fairseq_tickets"}
    drawn = io.BytesIO()
    with styled():
        figure.savefig(drawn, format=suffix[1:], metadata=metadata)
    with atomic_write(path) as temporary:
        temporary.write_bytes(drawn.getvalue())
