"""The figures of a GPU's record: layers compared with nn.RNN on cuDNN, and the kernels alone."""

from __future__ import annotations

from collections.abc import Sequence
from math import log2

from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure

from ..precision import MODES
from ..shapes import Shape
from .figures import BOUND, Draw, Theme, curves, finish, panels_of, readable
from .gpu import KERNELS as NAMES
from .gpu import compared_to_nn_rnn
from .records import Row
from .tables import PASSES, Line

ALTERNATIVES = {
    "gpu-ratios": "Map of nn.RNN's time over ours, layers by modes, inference and training",
    "gpu-width": "Microseconds per step of a layer against hidden units, with the lower bound",
    "gpu-kernels": "Microseconds per step against hidden units, every kernel and the lower bound",
}

#: T and B in the figures of growth with H, of layers and of kernels; both in the group cudnn.
WIDTH = (512, 64)
KERNELS = (1024, 16)

#: The fewest points of a curve.
POINTS = 3

#: The two modes in which most widths were measured.
TWO = ("float32", "float16")


def drawings(rows: Sequence[Row]) -> dict[str, Draw]:
    """The figures that have rows, by name."""
    found: dict[str, Draw] = {}
    timed = [row for row in rows if "times" in row and "auto" in row]
    layers = [
        one
        for one in compared_to_nn_rnn(timed)
        if one.row["scope"] == "layer" and one.row["step"] in PASSES
    ]
    if len(layers) >= POINTS:
        found["gpu-ratios"] = lambda f, t: _ratios(f, t, layers)
    width = [
        one for one in layers if one.row["step"] == "inference" and _is_plain(one.shape, WIDTH)
    ]
    if len({one.shape.H for one in width}) >= POINTS:
        found["gpu-width"] = lambda f, t: _width(f, t, width)
    alone = [
        row
        for row in timed
        if row["scope"] == "kernel"
        and row["step"] == "forward"
        and _is_plain(Shape(**row["work"]), KERNELS)
    ]
    if len({row["work"]["H"] for row in alone}) >= POINTS:
        found["gpu-kernels"] = lambda f, t: _kernels(f, t, alone)
    return found


def _is_plain(shape: Shape, sizes: tuple[int, int]) -> bool:
    return sizes == (shape.T, shape.B) and shape.I == shape.H and not shape.traits


def _ratios(figure: Figure, theme: Theme, every: Sequence[Line]) -> None:
    """nn.RNN's time over ours: a row for each layer, a column for each mode."""
    found = {(one.row["step"], one.shape, one.row["mode"]): one.over("nn.RNN") for one in every}
    shapes = sorted(
        {shape for _, shape, _ in found}, key=lambda w: (w.H, w.T, w.B, w.I, w.traits), reverse=True
    )
    modes = [mode for mode in MODES if any(key[2] == mode for key in found)]
    figure.set_size_inches(10, 1.6 + 0.27 * len(shapes))
    panels = panels_of(figure, theme, len(PASSES))
    colours = LinearSegmentedColormap.from_list("", (theme.losing, theme.paper, theme.winning))
    norm = Normalize(-3, 3)  # from 1/8 to 8
    for axes, which in zip(panels, PASSES, strict=True):
        for y, shape in enumerate(shapes):
            for x, mode in enumerate(modes):
                ratio = found.get((which, shape, mode))
                if ratio is None:
                    continue
                colour = colours(norm(log2(ratio)))
                axes.fill_between([x, x + 1], y, y + 1, color=colour, linewidth=0)
                axes.text(
                    x + 0.5,
                    y + 0.46,
                    f"{ratio:.2f}" if ratio < 10 else f"{ratio:.1f}",
                    ha="center",
                    va="center",
                    fontsize=9,
                    color=readable(colour, theme),
                    fontweight="bold" if ratio < 1 else "normal",
                )
        axes.set(xlim=(0, len(modes)), ylim=(0, len(shapes)))
        axes.set_xticks([x + 0.5 for x in range(len(modes))], modes)
        axes.xaxis.tick_top()
        axes.set_yticks([y + 0.5 for y in range(len(shapes))], map(str, shapes))
        axes.tick_params(length=0, labelsize=8.5)
        axes.spines[:].set_visible(False)
        axes.set_title(which, color=theme.ink, fontsize=11)
    for axes in panels[1:]:
        axes.set_yticks([])
    figure.suptitle(
        "nn.RNN's time over ours, layers (T, B, I, H) ordered by H (below 1: nn.RNN is faster)",
        color=theme.ink,
        fontsize=12.5,
    )


def _width(figure: Figure, theme: Theme, every: Sequence[Line]) -> None:
    """Microseconds per step of a layer against H."""
    panels = panels_of(figure, theme, len(TWO))
    for axes, mode in zip(panels, TWO, strict=True):
        series: dict[str, dict[float, float]] = {}
        for one in (one for one in every if one.row["mode"] == mode):
            scale = 1e3 / one.shape.T
            for name, shown in ((one.ours, "fastrnn"), ("nn.RNN", "nn.RNN")):
                us = scale * one.row["times"][name]["ms"][2]
                series.setdefault(shown, {})[one.shape.H] = us
            if "floor" in one.row:
                bound = scale * max(one.row["floor"].values())
                series.setdefault(BOUND, {})[one.shape.H] = bound
        curves(axes, theme, series)
        axes.set_title(mode, color=theme.ink, fontsize=11)
        axes.set_xlabel("H = I, hidden units", color=theme.ink)
    panels[0].set_ylabel("µs per step", color=theme.ink)
    steps, batch = WIDTH
    finish(figure, theme, panels, f"Inference of a layer, T = {steps}, B = {batch}")


def _kernels(figure: Figure, theme: Theme, rows: Sequence[Row]) -> None:
    """Microseconds per step of every kernel against H."""
    panels = panels_of(figure, theme, len(TWO))
    for axes, mode in zip(panels, TWO, strict=True):
        # Both panels have all kernels, for the legend.
        series: dict[str, dict[float, float]] = {
            name: {} for name in NAMES if any(name in row["times"] for row in rows)
        }
        for row in (row for row in rows if row["mode"] == mode):
            hidden, scale = row["work"]["H"], 1e3 / row["work"]["T"]
            for name, times in row["times"].items():
                series.setdefault(name, {})[hidden] = scale * times["ms"][2]
            if "floor" in row:
                series.setdefault(BOUND, {})[hidden] = scale * max(row["floor"].values())
        curves(axes, theme, series)
        axes.set_title(mode, color=theme.ink, fontsize=11)
        axes.set_xlabel("H, hidden units", color=theme.ink)
    panels[0].set_ylabel("µs per step", color=theme.ink)
    steps, batch = KERNELS
    title = f"The recurrence alone, forward, T = {steps}, B = {batch}: device time of every kernel"
    finish(figure, theme, panels, title)
