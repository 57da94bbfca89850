"""Plots of the attributions of single predictions, and of the recurrent layer's states."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from matplotlib.ticker import MaxNLocator
from torch import Tensor

from ..config.inputs import of_modality
from .figures import SIZE, new_figure, save, shorten

SIGNED = "RdBu_r"  # red supports the prediction, blue opposes it
_MOST_BARS = 15  # with names
_MOST_NAMES = 40  # along the states


def states(
    path: Path,
    values: Tensor,
    lengths: Sequence[int],
    step_names: Sequence[str],
    row_names: Sequence[str],
) -> None:
    """Plot the units of the state over the steps: values [B, T, H], one panel per row.

    Steps with names run down, others to the right.
    """
    last = values[range(len(values)), [length - 1 for length in lengths]]
    order = last.mean(0).argsort()  # place similar units next to each other
    limit = max(1.0, float(values.abs().max()))
    down = not _numbered(step_names) and len(step_names) <= _MOST_NAMES
    lines = math.ceil(len(row_names) / (3 if down else 2))
    across = math.ceil(len(row_names) / lines)
    height = 0.5 + 0.17 * len(step_names) if down else 1.9
    figure = new_figure((SIZE[0], 0.9 + max(height, 1.0) * lines))
    grid = figure.subplots(lines, across, squeeze=False, sharey=down)
    image = None
    for axes, state, length, row in zip(grid.flatten(), values, lengths, row_names, strict=False):
        steps = state[:length, order].numpy()
        extent = (0.5, length + 0.5, 0, steps.shape[1])
        image = axes.imshow(
            steps if down else steps.T, aspect="auto", cmap=SIGNED, vmin=-limit, vmax=limit,
            extent=None if down else extent,
        )  # fmt: skip
        axes.set_title(shorten(row, 14 if down else 24), fontsize=9)
        axes.tick_params(labelsize=9)
        if down:
            axes.set_xticks([])
            axes.set_yticks(
                range(length), [_shorten_step(name, 28) for name in step_names], fontsize=8
            )
        else:
            axes.set_yticks([])
            axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    for axes in grid.flatten()[len(row_names) :]:
        axes.set_visible(False)
    if down:
        figure.supxlabel("units of the state", fontsize=10)
    else:
        figure.supylabel("units of the state", fontsize=10)
        figure.supxlabel(_axis_name(step_names), fontsize=10)
    if image is not None:
        bar = figure.colorbar(image, ax=list(grid.flatten()), location="top", shrink=0.5, aspect=30)
        bar.set_label("value of a unit", fontsize=9)
        bar.ax.tick_params(labelsize=9)
    save(figure, path)


def example(
    path: Path,
    batch: Mapping[str, Tensor],
    attributions: Mapping[str, Tensor],
    steps: Sequence[Mapping[str, Any]],
    columns: Sequence[Mapping[str, Any]] = (),
    frame_ms: Mapping[str, float] | None = None,
) -> bool:
    """Plot one row and the attribution of its prediction: red supports it, blue opposes it.

    Args:
        batch: a batch of this row only.
        attributions: of images [U, S, S], audio [F, mels] and series [L, K], by input.
        steps: name and `attribution` of each step that the recurrent layer reads.
        columns: the same of each tabular column.
        frame_ms: milliseconds between two frames of each audio; 10 if not given.

    Returns:
        Whether a picture was written; False if there is nothing to draw.
    """
    panels: list[tuple[float, Callable[[Any], None]]] = []  # height, and what draws it
    for name in of_modality(attributions, "image"):
        height = 1.7 if batch[name].dim() > 1 else 2.3
        values = attributions[name]
        panels.append((height, partial(_plot_images, batch=batch, name=name, values=values)))
    for modality, names in (
        ("audio", ("time in seconds", "mel band")),
        ("series", ("step", "variable")),
    ):
        for name in of_modality(attributions, modality):
            width = (frame_ms or {}).get(name, 10.0) / 1000 if modality == "audio" else 1.0
            heatmap = partial(_plot_heatmap, axis_names=names, width=width, title=_title(name))
            values = attributions[name].t()
            signal = batch[name][0].t().reshape(values.shape)  # a waveform has one band
            panels.append((1.6, partial(heatmap, signal=signal, values=values)))
    for bars, what in ((columns, "column"), (steps if len(steps) > 1 else (), "step")):
        if bars:
            named = not _numbered([str(each["name"]) for each in bars])
            height = 0.8 + 0.21 * min(len(bars), _MOST_BARS) if named else 1.8
            draw = _plot_named_bars if named else _plot_numbered_bars
            panels.append((height, partial(draw, bars=bars, what=what)))
    if not panels:
        return False
    heights = [height for height, _ in panels]
    figure = new_figure((SIZE[0], sum(heights)))
    parts = figure.subfigures(len(panels), 1, squeeze=False, height_ratios=heights)
    for part, (_, draw_panel) in zip(parts[:, 0], panels, strict=True):
        draw_panel(part)
    save(figure, path)
    return True


def _title(name: str) -> str:
    return f"{shorten(name, 40)} and its attribution"


def _numbered(names: Sequence[str]) -> str:
    """Return what the steps are, "text" for "text 1", "text 2" and so on; "" if they have names."""
    what = names[0].rpartition(" ")[0]
    return what if list(names) == [f"{what} {n}" for n in range(1, len(names) + 1)] else ""


def _axis_name(step_names: Sequence[str]) -> str:
    """Return "step", or "step of text" for "text 1", "text 2" and so on."""
    what = _numbered(step_names)
    return "step" if what in ("", "step") else f"step of {shorten(what, 30)}"


def _shorten_step(name: str, max_length: int) -> str:
    """Shorten the name of a step, or of both factors of a product of inputs."""
    parts = name.split(" × ")
    return " × ".join(shorten(part, max_length // len(parts) - len(parts) + 1) for part in parts)


def _plot_images(figure: Any, batch: Mapping[str, Tensor], name: str, values: Tensor) -> None:
    """Plot images above or left of their attributions [U, S, S]."""
    index = batch[name][0].reshape(-1).tolist()
    total, index = len(index), index[:12]
    frames = batch[f"{name}_frames"].float()
    single = len(index) == 1 and batch[name].dim() == 1
    grid = figure.subplots(1 if single else 2, 2 if single else len(index), squeeze=False)
    limit = float(values.abs().max()) or 1.0
    pairs = [(grid[0, 0], grid[0, 1])] if single else list(zip(grid[0], grid[1], strict=True))
    for step, ((image_axes, value_axes), frame) in enumerate(zip(pairs, index, strict=True), 1):
        pixels = frames[frame].permute(1, 2, 0).numpy() / 255
        grey = pixels.mean(-1)
        image_axes.imshow(pixels if pixels.shape[-1] == 3 else grey, cmap="gray", vmin=0, vmax=1)
        value_axes.imshow(0.75 + 0.25 * grey, cmap="gray", vmin=0, vmax=1)
        shown = values[frame].numpy()
        opacity = abs(shown) / limit
        value_axes.imshow(shown, cmap=SIGNED, vmin=-limit, vmax=limit, alpha=opacity)
        if not single:
            value_axes.set_xlabel(str(step), fontsize=9)
    for axes in grid.flatten():
        axes.set_xticks([])
        axes.set_yticks([])
    title = _title(name)
    if not single:
        title += " by step" if total == len(index) else f", the first {len(index)} of {total} steps"
    figure.suptitle(title, fontsize=9)


def _plot_heatmap(
    figure: Any,
    signal: Tensor,
    values: Tensor,
    axis_names: tuple[str, str],
    width: float,
    title: str,
) -> None:
    """Plot a signal left of its attributions, both [K, L]; a step is `width` wide."""
    signal_axes, value_axes = figure.subplots(1, 2, sharey=True, gridspec_kw={"wspace": 0.1})
    rows, columns = signal.shape
    # Series and mel bands count from 1, time begins at 0.
    left = 0.0 if width != 1 else 0.5
    extent = (left, left + width * columns, 0.5, rows + 0.5)
    image: dict[str, Any] = {"aspect": "auto", "origin": "lower", "extent": extent}
    signal_axes.imshow(signal.numpy(), cmap="gray", **image)
    limit = float(values.abs().max()) or 1.0
    value_axes.imshow(values.numpy(), cmap=SIGNED, vmin=-limit, vmax=limit, **image)
    for axes in (signal_axes, value_axes):
        axes.set_xlabel(axis_names[0], fontsize=9)
        axes.tick_params(labelsize=9)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=width == 1))
        axes.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    signal_axes.set_ylabel(axis_names[1], fontsize=9)
    figure.suptitle(title, fontsize=9)


def _plot_named_bars(figure: Any, bars: Sequence[Mapping[str, Any]], what: str) -> None:
    """Plot a horizontal bar for each step or column; of many, those with the longest bars."""
    values = [each["attribution"] or 0.0 for each in bars]
    longest = sorted(range(len(bars)), key=lambda bar: -abs(values[bar]))[:_MOST_BARS]
    chosen = sorted(longest)  # as they are read
    axes = figure.subplots()
    shown = [values[bar] for bar in chosen]
    axes.barh(range(len(chosen)), shown, color=_colours(shown), height=0.7)
    names = [_shorten_step(str(bars[bar]["name"]), 40) for bar in chosen]
    axes.set_yticks(range(len(chosen)), names)
    axes.set_ylim(len(chosen) - 0.4, -0.6)
    axes.axvline(0, color="#444444", linewidth=0.8)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    left_out = f": the {len(chosen)} largest of {len(bars)}" if len(chosen) < len(bars) else ""
    _finish_bars(figure, axes, f"contribution of each {what} to the prediction{left_out}")


def _plot_numbered_bars(figure: Any, bars: Sequence[Mapping[str, Any]], what: str) -> None:
    axes = figure.subplots()
    values = [each["attribution"] or 0.0 for each in bars]
    axes.bar(range(1, len(values) + 1), values, color=_colours(values))
    axes.axhline(0, color="#444444", linewidth=0.8)
    axes.xaxis.set_major_locator(MaxNLocator(10, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.set_xlim(0.4, len(values) + 0.6)
    axes.set_xlabel(_axis_name([str(each["name"]) for each in bars]), fontsize=9)
    _finish_bars(figure, axes, f"contribution of each {what} to the prediction")


def _colours(values: Sequence[float]) -> list[str]:
    return ["#b2182b" if value > 0 else "#2166ac" for value in values]


def _finish_bars(figure: Any, axes: Any, title: str) -> None:
    axes.tick_params(labelsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title, fontsize=9)
