"""Plots of the attributions of single predictions, and of the recurrent layer's states."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from ..config.inputs import of_modality
from .metrics import SIZE, new_figure, save, shorten

SIGNED = "RdBu_r"  # red supports the prediction, blue opposes it


def states(
    path: Path,
    values: Tensor,
    lengths: Sequence[int],
    step_names: Sequence[str],
    row_names: Sequence[str],
) -> None:
    """Plot the units of the state over the steps: values [B, T, H], one panel per row."""
    order = values[:, -1].mean(0).argsort()  # place similar units next to each other
    lines = math.ceil(len(row_names) / 2)
    figure = new_figure((SIZE[0], 0.9 + 1.9 * lines))
    grid = figure.subplots(lines, 2, squeeze=False).flatten()
    image = None
    for axes, state, length, row in zip(grid, values, lengths, row_names, strict=False):
        units = state[:length, order].t().numpy()
        image = axes.imshow(units, aspect="auto", cmap=SIGNED, vmin=-1, vmax=1)
        axes.set_title(shorten(row, 24), fontsize=9)
        axes.set_yticks([])
        if length > 14 or (length > 4 and max(len(name) for name in step_names) > 4):
            axes.set_xticks(range(0, length, max(1, length // 6)))
            axes.set_xticklabels(range(1, length + 1, max(1, length // 6)), fontsize=8)
        else:
            names = [shorten(name, 16) for name in step_names[:length]]
            axes.set_xticks(range(length))
            axes.set_xticklabels(names, fontsize=8, rotation=15)
    for axes in grid[len(row_names) :]:
        axes.set_visible(False)
    figure.supylabel("units of the state", fontsize=10)
    if image is not None:
        figure.colorbar(image, ax=list(grid), location="bottom", shrink=0.5, aspect=30, pad=0.04)
    save(figure, path)


def example(
    path: Path,
    batch: Mapping[str, Tensor],
    attributions: Mapping[str, Tensor],
    steps: Sequence[Mapping[str, Any]],
    columns: Sequence[Mapping[str, Any]] = (),
) -> bool:
    """Plot one row and the attribution of its prediction: red supports it, blue opposes it.

    Args:
        batch: a batch of this row only.
        attributions: of images [U, S, S], audio [F, mels] and series [L, K], by input.
        steps: name and `attribution` of each step that the recurrent layer reads.
        columns: the same of each tabular column.

    Returns:
        Whether a picture was written; False if there is nothing to draw.
    """
    panels: list[tuple[float, Callable[[Any], None]]] = []  # height, and what draws it
    for name in of_modality(attributions, "image"):
        height = 1.5 if batch[name].dim() > 1 else 2.2
        values = attributions[name]
        panels.append((height, partial(_plot_images, batch=batch, name=name, values=values)))
    for modality, what in (("audio", "mel bands over time"), ("series", "variables over time")):
        for name in of_modality(attributions, modality):
            values = attributions[name].t()
            signal = batch[name][0].t().reshape(values.shape)  # a waveform has one band
            title = f"{name}: {what}"
            panels.append((1.3, partial(_plot_heatmap, signal=signal, values=values, title=title)))
    for bars, what in ((columns, "column"), (steps if len(steps) > 1 else (), "step")):
        if bars:
            panels.append((1.7, partial(_plot_bars, bars=bars, what=what)))
    if not panels:
        return False
    heights = [height for height, _ in panels]
    figure = new_figure((SIZE[0], sum(heights)))
    parts = figure.subfigures(len(panels), 1, squeeze=False, height_ratios=heights)
    for part, (_, draw) in zip(parts[:, 0], panels, strict=True):
        draw(part)
    save(figure, path)
    return True


def _plot_images(figure: Any, batch: Mapping[str, Tensor], name: str, values: Tensor) -> None:
    """Plot images above or left of their attributions [U, S, S]."""
    index = batch[name][0].reshape(-1)[:12].tolist()  # at most the first twelve of a stream
    frames = batch[f"{name}_frames"].float()
    single = len(index) == 1 and batch[name].dim() == 1
    grid = figure.subplots(1 if single else 2, 2 if single else len(index), squeeze=False)
    limit = float(values.abs().max()) or 1.0
    pairs = [(grid[0, 0], grid[0, 1])] if single else list(zip(grid[0], grid[1], strict=True))
    for (image_axes, value_axes), frame in zip(pairs, index, strict=True):
        pixels = frames[frame].permute(1, 2, 0).numpy() / 255
        grey = pixels.mean(-1)
        image_axes.imshow(pixels if pixels.shape[-1] == 3 else grey, cmap="gray", vmin=0, vmax=1)
        value_axes.imshow(0.75 + 0.25 * grey, cmap="gray", vmin=0, vmax=1)
        shown = values[frame].numpy()
        opacity = abs(shown) / limit
        value_axes.imshow(shown, cmap=SIGNED, vmin=-limit, vmax=limit, alpha=opacity)
    for axes in grid.flatten():
        axes.set_xticks([])
        axes.set_yticks([])
    title = f"{name} and its attribution" if single else f"{name}s, step by step"
    if name != "image" and not single:
        title = f"{name}, step by step"
    figure.suptitle(title, fontsize=9)


def _plot_heatmap(figure: Any, signal: Tensor, values: Tensor, title: str) -> None:
    """Plot a signal next to its attributions, both [K, L]."""
    signal_axes, value_axes = figure.subplots(1, 2)
    image: dict[str, Any] = {"aspect": "auto", "origin": "lower"}
    signal_axes.imshow(signal.numpy(), cmap="gray", **image)
    limit = float(values.abs().max()) or 1.0
    value_axes.imshow(values.numpy(), cmap=SIGNED, vmin=-limit, vmax=limit, **image)
    for axes in (signal_axes, value_axes):
        axes.set_yticks([])
        axes.tick_params(labelsize=8)
    figure.suptitle(title, fontsize=9)


def _plot_bars(figure: Any, bars: Sequence[Mapping[str, Any]], what: str) -> None:
    axes = figure.subplots()
    values = [step["attribution"] or 0.0 for step in bars]
    colours = ["#b2182b" if value > 0 else "#2166ac" for value in values]
    axes.bar(range(len(values)), values, color=colours)
    axes.axhline(0, color="#444444", linewidth=0.8)
    names = [shorten(str(step["name"]), 16) for step in bars]
    if len(names) > 6:
        names = [str(number + 1) for number in range(len(names))]
    every = max(1, len(names) // 15)
    axes.set_xticks(range(0, len(names), every), names[::every], fontsize=8)
    axes.tick_params(axis="y", labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"contribution of each {what} to the predicted label's logit", fontsize=9)
