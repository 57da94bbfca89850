"""Plots of the attributions of single predictions, and of the recurrent layer's states."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from .metrics import SIZE, figure_of, save, short

SIGNED = "RdBu_r"  # red supports the prediction, blue opposes it


def states(
    path: Path, values: Tensor, lengths: Sequence[int], names: Sequence[str], rows: Sequence[str]
) -> None:
    """Plot the units of the state over the steps: values [B, T, H], one panel per row."""
    order = values[:, -1].mean(0).argsort()  # place similar units next to each other
    height = 0.9 + 1.9 * math.ceil(len(rows) / 2)
    figure = figure_of((SIZE[0], height))
    grid = figure.subplots(math.ceil(len(rows) / 2), 2, squeeze=False).flatten()
    shown = None
    for axes, each, length, row in zip(grid, values, lengths, rows, strict=False):
        table = each[:length, order].t().numpy()
        shown = axes.imshow(table, aspect="auto", cmap=SIGNED, vmin=-1, vmax=1)
        axes.set_title(short(row, 24), fontsize=9)
        axes.set_yticks([])
        if length > 14 or (length > 4 and max(len(name) for name in names) > 4):
            axes.set_xticks(range(0, length, max(1, length // 6)))
            axes.set_xticklabels(range(1, length + 1, max(1, length // 6)), fontsize=8)
        else:
            axes.set_xticks(range(length))
            axes.set_xticklabels([short(n, 16) for n in names[:length]], fontsize=8, rotation=15)
    for axes in grid[len(rows) :]:
        axes.set_visible(False)
    figure.supylabel("units of the state", fontsize=10)
    if shown is not None:
        figure.colorbar(shown, ax=list(grid), location="bottom", shrink=0.5, aspect=30, pad=0.04)
    save(figure, path)


def example(
    path: Path,
    batch: Mapping[str, Tensor],
    found: Mapping[str, Tensor],
    steps: Sequence[Mapping[str, Any]],
) -> bool:
    """Plot one row and the attribution of its prediction: red supports it, blue opposes it.

    Args:
        batch: a batch of this row only.
        found: attributions of image [U, S, S], audio [F, mels] and series [L, K].
        steps: name and `attribution` of each step that the recurrent layer reads.

    Returns:
        Whether a picture was written; False if there is nothing to draw.
    """
    panels: list[tuple[float, Callable[[Any], None]]] = []
    if "image" in found:
        panels.append(
            (1.5 if batch["image"].dim() > 1 else 2.2, lambda f: _images(f, batch, found))
        )
    if "audio" in found:
        title = "audio: mel bands over time"
        panels.append((1.3, lambda f: _heat(f, found["audio"].t(), batch["audio"][0].t(), title)))
    if "series" in found:
        title = "series: variables over time"
        panels.append((1.3, lambda f: _heat(f, found["series"].t(), batch["series"][0].t(), title)))
    if len(steps) > 1:
        panels.append((1.7, lambda f: _bars(f, steps)))
    if not panels:
        return False
    figure = figure_of((SIZE[0], sum(height for height, _ in panels)))
    heights = [height for height, _ in panels]
    parts = figure.subfigures(len(panels), 1, squeeze=False, height_ratios=heights)
    for part, (_, draw) in zip(parts[:, 0], panels, strict=True):
        draw(part)
    save(figure, path)
    return True


def _images(figure: Any, batch: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    index = batch["image"][0].reshape(-1)[:12].tolist()  # at most the first twelve of a stream
    frames, heat = batch["frames"].float(), found["image"]
    single = len(index) == 1 and batch["image"].dim() == 1
    grid = figure.subplots(1 if single else 2, 2 if single else len(index), squeeze=False)
    most = float(heat.abs().max()) or 1.0
    places = [(grid[0, 0], grid[0, 1])] if single else list(zip(grid[0], grid[1], strict=True))
    for (above, below), number in zip(places, index, strict=True):
        picture = frames[number].permute(1, 2, 0).numpy() / 255
        grey = picture.mean(-1)
        above.imshow(picture if picture.shape[-1] == 3 else grey, cmap="gray", vmin=0, vmax=1)
        below.imshow(0.75 + 0.25 * grey, cmap="gray", vmin=0, vmax=1)
        strength = (heat[number].abs() / most).numpy()
        below.imshow(heat[number].numpy(), cmap=SIGNED, vmin=-most, vmax=most, alpha=strength)
    for axes in grid.flatten():
        axes.set_xticks([])
        axes.set_yticks([])
    figure.suptitle("image and its attribution" if single else "images, step by step", fontsize=9)


def _heat(figure: Any, heat: Tensor, signal: Tensor, title: str) -> None:
    above, below = figure.subplots(1, 2)
    above.imshow(signal.numpy(), aspect="auto", origin="lower", cmap="gray")
    most = float(heat.abs().max()) or 1.0
    shown = heat.numpy()
    below.imshow(shown, aspect="auto", origin="lower", cmap=SIGNED, vmin=-most, vmax=most)
    for axes in (above, below):
        axes.set_yticks([])
        axes.tick_params(labelsize=8)
    figure.suptitle(title, fontsize=9)


def _bars(figure: Any, steps: Sequence[Mapping[str, Any]]) -> None:
    axes = figure.subplots()
    values = [each["attribution"] or 0.0 for each in steps]
    colours = ["#b2182b" if value > 0 else "#2166ac" for value in values]
    axes.bar(range(len(values)), values, color=colours)
    axes.axhline(0, color="#444444", linewidth=0.8)
    names = [short(str(each["name"]), 16) for each in steps]
    if len(names) > 6:
        names = [str(number + 1) for number in range(len(names))]
    every = max(1, len(names) // 15)
    axes.set_xticks(range(0, len(names), every), names[::every], fontsize=8)
    axes.tick_params(axis="y", labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle("contribution of each step to the predicted label's logit", fontsize=9)
