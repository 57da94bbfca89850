"""The figures of a record: docs/figures/MACHINE/NAME.png, and NAME-dark.png for dark pages."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from math import log2
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from PIL import Image

from ..shapes import Shape
from .records import Row
from .tables import PASSES, lines


@dataclass(frozen=True)
class Theme:
    """The colours of a page."""

    suffix: str
    paper: str
    ink: str
    faint: str
    losing: str
    winning: str


THEMES = (
    Theme("", "#ffffff", "#1f2328", "#d8dee4", "#d55e00", "#2a78b5"),
    Theme("-dark", "#0d1117", "#e6edf3", "#333b45", "#e8772e", "#58a6e8"),
)

#: The colour and marker of each provider, the same in all figures. The colours are from the
#: palette of Okabe and Ito, for colour-blind readers; the markers differ in grey too.
STYLES = {
    "fastrnn": ("#2a8fd0", "o"),
    "fastrnn.cuda": ("#2a8fd0", "o"),
    "fastrnn.triton": ("#56b4e9", "P"),
    "nn.RNN": ("#e69f00", "s"),
    "nn.RNN flattened": ("#e69f00", "d"),
    "onnxruntime": ("#009e73", "^"),
    "openvino": ("#999999", ">"),
    "jax scan": ("#56b4e9", "D"),
    "torch.compile": ("#cc79a7", "v"),
    "eager loop": ("#d55e00", "X"),
    "FlashRNN cuda_fused": ("#999999", "p"),
    "FlashRNN cuda": ("#999999", "h"),
    "triton.rows": ("#56b4e9", "P"),
    "triton.single_cta": ("#009e73", "^"),
    "triton.single_cta_gluon": ("#2a78b5", "D"),
    "triton.grid": ("#cc79a7", "v"),
    "cuda.cluster": ("#d55e00", "o"),
    "cuda.grid": ("#e69f00", "s"),
    "cuda.step": ("#999999", "X"),
}

#: The labels of the dashed lines.
BOUND, RESULTS = "lower bound", "results alone"

Draw = Callable[[Figure, Theme], None]


def write(drawings: Mapping[str, Draw], folder: Path) -> list[str]:
    """Draw the figures in both themes, and return their names."""
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for name, draw in drawings.items():
        for theme in THEMES:
            figure = Figure(figsize=(10, 4.6), layout="constrained", facecolor=theme.paper)
            FigureCanvasAgg(figure)
            draw(figure, theme)
            figure.savefig(drawn := BytesIO(), dpi=150)
            # The figures have few colours, and a palette takes a third of the bytes.
            few = Image.open(drawn).convert("RGB").quantize(128)
            few.save(folder / f"{name}{theme.suffix}.png", optimize=True)
        made.append(name)
    return made


def drawings(rows: Sequence[Row]) -> dict[str, Draw]:
    """The figures that have rows, by name."""
    found: dict[str, Draw] = {}
    grid = [row for row in rows if row["group"] == "grid" and "times" in row]
    for mode in dict.fromkeys(row["mode"] for row in grid):
        mine = [row for row in grid if row["mode"] == mode]
        found[f"speed-up-{mode}"] = lambda f, t, mine=mine, mode=mode: _speed_ups(f, t, mine, mode)
    width = [row for row in rows if row["group"] == "width" and "times" in row]
    if width:
        found["width"] = lambda f, t: _width(f, t, width)
    length = [row for row in rows if row["group"] == "length" and "times" in row]
    if length:
        found["length"] = lambda f, t: _length(f, t, length)
    memory = [row for row in rows if row["group"] == "length" and "mib" in row]
    if memory:
        found["memory"] = lambda f, t: _memory(f, t, memory)
    return found


def _speed_ups(figure: Figure, theme: Theme, rows: Sequence[Row], mode: str) -> None:
    """A map of nn.RNN's time over ours, B by H."""
    panels = panels_of(figure, theme, len(PASSES))
    ratios = {
        which: {
            (one.shape.B, one.shape.H): one.over("nn.RNN")
            for one in lines(row for row in rows if row["step"] == which)
        }
        for which in PASSES
    }
    known = [abs(log2(r)) for cells in ratios.values() for r in cells.values() if r is not None]
    limit = max(1.0, min(4.0, max(known, default=1.0)))
    colours = LinearSegmentedColormap.from_list("", (theme.losing, theme.paper, theme.winning))
    norm = Normalize(-limit, limit)
    every = [key for cells in ratios.values() for key in cells]
    batches, widths = (sorted({key[i] for key in every}) for i in (0, 1))
    for axes, which in zip(panels, PASSES, strict=True):
        for x, hidden in enumerate(widths):
            for y, batch in enumerate(batches):
                ratio = ratios[which].get((batch, hidden))
                if ratio is None:
                    text, colour = "–", theme.faint
                else:
                    text, colour = f"{ratio:#.2g}".rstrip("."), colours(norm(log2(ratio)))
                axes.fill_between([x, x + 1], y, y + 1, color=colour, linewidth=0)
                weight = "bold" if ratio is not None and ratio < 1 else "normal"
                axes.text(
                    x + 0.5,
                    y + 0.5,
                    text,
                    ha="center",
                    va="center",
                    fontsize=10,
                    color=readable(colour, theme),
                    fontweight=weight,
                )
        axes.set(xlim=(0, len(widths)), ylim=(0, len(batches)))
        axes.set_xticks([i + 0.5 for i in range(len(widths))], map(str, widths))
        axes.set_yticks([i + 0.5 for i in range(len(batches))], map(str, batches))
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set_title(which, color=theme.ink, fontsize=11)
        axes.set_xlabel("H = I, hidden units", color=theme.ink)
    panels[0].set_ylabel("B, batch rows", color=theme.ink)
    steps = rows[0]["work"]["T"]
    complete = all(ratio is not None for cells in ratios.values() for ratio in cells.values())
    unknown = "" if complete else "; –: nn.RNN takes too long"
    figure.suptitle(
        f"FusedRNN's speed-up over nn.RNN, {mode}, T = {steps} (below 1: slower{unknown})",
        color=theme.ink,
        fontsize=12.5,
    )


def readable(colour: Any, theme: Theme) -> str:
    """The colour of text on a colour: ink or paper, whichever has more contrast."""
    from matplotlib.colors import to_rgb

    def light(of: Any) -> float:
        red, green, blue = to_rgb(of)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    return max((theme.ink, theme.paper), key=lambda one: abs(light(one) - light(colour)))


def _width(figure: Figure, theme: Theme, rows: Sequence[Row]) -> None:
    """Microseconds per step of an inference against H, for each B, with the lower bound."""
    mine = [row for row in rows if row["step"] == "inference"]
    batches = sorted({row["work"]["B"] for row in mine})
    panels = panels_of(figure, theme, len(batches))
    for axes, batch in zip(panels, batches, strict=True):
        series: dict[str, dict[float, float]] = {}
        for row in (row for row in mine if row["work"]["B"] == batch):
            hidden, scale = row["work"]["H"], 1e3 / row["work"]["T"]
            for name, times in row["times"].items():
                series.setdefault(name, {})[hidden] = scale * times["ms"][2]
            if "floor" in row:
                bound = scale * max(row["floor"].values())
                series.setdefault(BOUND, {})[hidden] = bound
        curves(axes, theme, series)
        axes.set_title(f"B = {batch}", color=theme.ink, fontsize=11)
        axes.set_xlabel("H, hidden units", color=theme.ink)
    panels[0].set_ylabel("µs per step", color=theme.ink)
    finish(figure, theme, panels, "Time per step of the recurrence alone, inference, float32")


def _length(figure: Figure, theme: Theme, rows: Sequence[Row]) -> None:
    """Milliseconds against T."""

    def values(row: Row) -> dict[str, float]:
        found = {name: times["ms"][2] for name, times in row["times"].items()}
        return found | ({BOUND: max(row["floor"].values())} if "floor" in row else {})

    _against_steps(figure, theme, rows, values, "ms", "Time of a layer by the number of steps")


def _memory(figure: Figure, theme: Theme, rows: Sequence[Row]) -> None:
    """MiB against T."""

    def values(row: Row) -> dict[str, float]:
        return {**row["mib"], RESULTS: row["least_mib"]}

    title = "Peak memory of a layer by the number of steps"
    _against_steps(figure, theme, rows, values, "MiB", title)


def _against_steps(
    figure: Figure,
    theme: Theme,
    rows: Sequence[Row],
    values: Callable[[Row], Mapping[str, float]],
    unit: str,
    title: str,
) -> None:
    panels = panels_of(figure, theme, len(PASSES))
    for axes, which in zip(panels, PASSES, strict=True):
        series: dict[str, dict[float, float]] = {}
        for row in (row for row in rows if row["step"] == which):
            for name, value in values(row).items():
                series.setdefault(name, {})[row["work"]["T"]] = value
        curves(axes, theme, series)
        axes.set_title(which, color=theme.ink, fontsize=11)
        axes.set_xlabel("T, steps", color=theme.ink)
    panels[0].set_ylabel(unit, color=theme.ink)
    shape = Shape(**rows[0]["work"])
    what = f"B = {shape.B}, I = {shape.I}, H = {shape.H}, float32"
    finish(figure, theme, panels, f"{title}: {what}")


def panels_of(figure: Figure, theme: Theme, count: int) -> list[Axes]:
    panels = list(figure.subplots(1, count, squeeze=False)[0])
    for axes in panels:
        axes.set_facecolor(theme.paper)
        axes.tick_params(colors=theme.ink, which="both", labelsize=9.5)
    return panels


def curves(axes: Axes, theme: Theme, series: Mapping[str, Mapping[float, float]]) -> None:
    """Draw on logarithmic axes; bounds are dashed lines without markers."""
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    for name, points in series.items():
        xs = sorted(points)
        ys = [points[x] for x in xs]
        if name in STYLES:
            colour, marker = STYLES[name]
            mine = name.startswith("fastrnn")
            axes.plot(
                xs,
                ys,
                color=colour,
                marker=marker,
                markersize=6,
                linewidth=2.6 if mine else 1.6,
                label=name,
                zorder=4 if mine else 3,
            )
        elif name in (BOUND, RESULTS):
            axes.plot(xs, ys, color=theme.ink, linestyle=(0, (5, 3)), linewidth=1.2, label=name)
    every = sorted({x for points in series.values() for x in points})
    axes.set_xticks(every, _labels(every))
    axes.set_xticks([], minor=True)
    axes.yaxis.set_major_formatter(lambda y, _: f"{y:,.0f}" if y >= 1 else f"{y:g}")
    axes.grid(color=theme.faint, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["bottom", "left"]].set_color(theme.ink)


def _labels(every: Sequence[float]) -> list[str]:
    """The labels of the ticks, empty where two would overlap; ends and powers of two come first."""
    span = log2(every[-1] / every[0]) or 1.0
    kept: list[float] = []
    for x in sorted(every, key=lambda x: (x not in (every[0], every[-1]), log2(x) % 1 > 0, -x)):
        # The width of a digit is about 0.0175 of an axis.
        room = ((len(f"{x:,}") + len(f"{other:,}")) / 2 * 0.0175 + 0.01 for other in kept)
        away = (abs(log2(x / other)) / span for other in kept)
        if all(a > r for a, r in zip(away, room, strict=True)):
            kept.append(x)
    return [f"{x:,}" if x in kept else "" for x in every]


def finish(figure: Figure, theme: Theme, panels: Sequence[Axes], title: str) -> None:
    """Add one legend for all panels, and the title."""
    handles: dict[str, Any] = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    legend = figure.legend(
        handles.values(),
        handles.keys(),
        loc="outside lower center",
        ncols=len(handles) if len(handles) <= 6 else (len(handles) + 1) // 2,
        frameon=False,
        fontsize=9.5,
    )
    for text in legend.get_texts():
        text.set_color(theme.ink)
    low = min(axes.get_ylim()[0] for axes in panels)
    high = max(axes.get_ylim()[1] for axes in panels)
    for axes in panels:
        axes.set_ylim(low, high)
    figure.suptitle(title, color=theme.ink, fontsize=12.5)


def picture(folder: Path, name: str, words: str, base: Path) -> str:
    """The HTML of a figure that follows the theme of the reader's page."""
    there = (folder / name).relative_to(base)
    return (
        f'<picture><source media="(prefers-color-scheme: dark)" srcset="{there}-dark.png">'
        f'<img src="{there}.png" alt="{words}" width="100%"></picture>'
    )
