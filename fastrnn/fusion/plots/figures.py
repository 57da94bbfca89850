"""What all plots share: sizes, colours, legends and the text of users.

All plots have a white background, stay readable on a phone, and use colour-blind safe colours.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from .. import files

# Colour-blind safe colours of Okabe and Ito; markers distinguish the lines in greyscale.
STYLES = (
    ("#0072B2", "o"),
    ("#E69F00", "s"),
    ("#009E73", "^"),
    ("#CC79A7", "D"),
    ("#D55E00", "v"),
    ("#56B4E9", "P"),
    ("#000000", "X"),
)
SIZE = (5.2, 3.2)  # inches, without the legend; text stays readable at a width of 400 pixels


def new_figure(size: tuple[float, float]) -> Figure:
    """Return an empty figure of the given size in inches."""
    figure = Figure(figsize=size, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def save(figure: Figure, path: Path) -> None:
    """Save a figure in the format of the path's extension."""
    # Without a date and a version, the same run gives the same bytes.
    with files.named(path):
        figure.savefig(path, dpi=150, metadata={"Software": None})


def line_style(index: int) -> dict[str, Any]:
    """Return the colour, marker and dashes of a line; the first 28 differ."""
    colour, marker = STYLES[index % len(STYLES)]
    dashes = ("-", "--", "-.", ":")[index // len(STYLES) % 4]
    return {"color": colour, "marker": marker, "linestyle": dashes, "linewidth": 1.8}


def style_axes(axes: Axes) -> None:
    """Draw light horizontal grid lines, and no top and right frame."""
    axes.grid(axis="y", color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def add_legend(figure: Figure, axes: Axes, most_columns: int = 3) -> None:
    """Add the legend of the axes below them, in as many columns as fit.

    The figure becomes taller by the height of the legend.
    """
    handles, names = axes.get_legend_handles_labels()
    if not names:
        return
    names = [shorten(name, 48) for name in names]
    for columns in range(min(most_columns, len(names)), 0, -1):
        legend = figure.legend(
            handles, names, loc="outside lower center", ncols=columns, frameon=False, fontsize=9.5
        )
        box = legend.get_window_extent()
        if columns == 1 or box.width <= figure.bbox.width:
            break
        legend.remove()
    figure.set_figheight(figure.get_figheight() + box.height / figure.dpi)


def shorten(text: str, max_length: int = 14) -> str:
    """Shorten and escape a user's text for a plot. Its beginning and its end remain."""
    text = " ".join(text.split())
    if len(text) > max_length:
        end = (max_length - 1) // 2
        text = f"{text[: max_length - 1 - end].rstrip()}…{text[len(text) - end :].lstrip()}"
    # matplotlib renders text between two dollar signs as a formula
    return text.replace("$", r"\$")
