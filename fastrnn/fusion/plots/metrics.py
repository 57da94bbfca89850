"""Plots of a run: learning curves and results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from .. import files
from .figures import (
    SIZE,
    STYLES,
    add_legend,
    line_style,
    new_figure,
    save,
    shorten,
    style_axes,
)


class Score(Protocol):
    """The loss and the score of one pass over a split."""

    @property
    def loss(self) -> float: ...

    @property
    def score(self) -> float: ...


class History(Protocol):
    """A network's name and, for each epoch, its scores by split."""

    @property
    def name(self) -> str: ...

    @property
    def epochs(self) -> Sequence[Mapping[str, Score]]: ...


def curves(
    trained: Sequence[History],
    path: Path,
    title: str,
    levels: Mapping[str, float] | None = None,
    score_name: str = "accuracy",
) -> None:
    """Plot training loss and validation score over epochs; the extension sets the format.

    Args:
        levels: name -> score to mark with a dashed line.
        score_name: the score, at most 1, for the panel's title.
    """
    figure = new_figure((11, 4.4))
    left, right = figure.subplots(1, 2)
    loss = {each.name: [scores["train"].loss for scores in each.epochs] for each in trained}
    score = {each.name: [scores["val"].score for scores in each.epochs] for each in trained}
    _plot_lines(left, loss, "Training loss")
    _plot_lines(right, score, f"Validation {score_name}", levels)
    left.set_ylim(bottom=0)
    positive = all(value >= 0 for values in score.values() for value in values)
    right.set_ylim(0 if positive else None, 1)  # R² may be negative
    add_legend(figure, left, most_columns=8)
    figure.suptitle(shorten(title, 80), fontsize=13)
    with files.named(path):
        figure.savefig(path, dpi=150)


def learning_curve(path: Path, series: Mapping[str, Sequence[float]], title: str) -> None:
    """Plot one value of every model over the epochs."""
    figure = new_figure(SIZE)
    axes = figure.subplots()
    _plot_lines(axes, series, title)
    values = [value for each in series.values() for value in each]
    if min(values) >= 0:
        axes.set_ylim(0, 1 if max(values) <= 1 and "loss" not in title.lower() else None)
    add_legend(figure, axes)
    save(figure, path)


def _plot_lines(
    axes: Axes,
    series: Mapping[str, Sequence[float]],
    title: str,
    levels: Mapping[str, float] | None = None,
) -> None:
    for index, (name, values) in enumerate(series.items()):
        axes.plot(
            range(1, len(values) + 1),
            values,
            **line_style(index),
            markersize=5,
            label=name,
            clip_on=False,
            zorder=3,
        )
    for name, value in (levels or {}).items():
        axes.axhline(value, color="#444444", linestyle=(0, (5, 3)), linewidth=1.1, zorder=2)
        axes.annotate(
            f"{name}: {value:.3f}",
            (1, value),
            xytext=(-2, 4),
            textcoords="offset points",
            xycoords=axes.get_yaxis_transform(),
            ha="right",
            fontsize=9,
            color="#222222",
        )
    axes.set(xlabel="epoch", title=title)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    style_axes(axes)


def models(path: Path, scores: Mapping[str, Mapping[str, float | None]], score_name: str) -> None:
    """Plot one bar per model, with its interval; `scores`: model -> value, low, high."""
    figure = new_figure((SIZE[0], 1.1 + 0.38 * len(scores)))
    axes = figure.subplots()
    for place, score in enumerate(scores.values()):
        value, low, high = (score[each] for each in ("value", "low", "high"))
        if value is None:
            continue
        axes.barh(place, value, color=STYLES[0][0] if place == 0 else "#9db8c9", height=0.62)
        if low is not None and high is not None:
            axes.plot([low, high], [place, place], color="#222222", linewidth=1.4)
        end = value if high is None else max(value, high)
        axes.annotate(
            f"{value:.3f}".replace("-", "−"), (max(end, 0), place), xytext=(5, 0),
            textcoords="offset points", va="center", fontsize=9.5,
        )  # fmt: skip
    axes.set_yticks(range(len(scores)), [shorten(name, 36) for name in scores])
    axes.invert_yaxis()
    axes.set_xlabel(score_name)
    axes.set_xlim(right=axes.get_xlim()[1] * 1.1)
    axes.spines[["top", "right"]].set_visible(False)
    save(figure, path)


def confusion(path: Path, counts: Sequence[Sequence[int]], labels: Sequence[str]) -> None:
    """Plot a confusion matrix: rows are true labels, columns predicted ones.

    The colour is the share of the row.
    """
    table = np.array(counts, dtype=float)
    share = table / np.maximum(table.sum(1, keepdims=True), 1)
    figure = new_figure((SIZE[0], SIZE[0]))
    axes = figure.subplots()
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    size = len(labels)
    if size <= 15:
        digits = len(str(int(table.max())))
        fontsize = min(10.0, 330 / size / digits)  # a cell is about 250 / size points wide
        for row, column in np.ndindex(size, size):
            if table[row, column]:
                axes.text(
                    column, row, f"{int(table[row, column])}", ha="center", va="center",
                    fontsize=fontsize,
                    color="white" if share[row, column] > 0.55 else "#222222",
                )  # fmt: skip
    if size <= 30:
        names = [shorten(label, 20) for label in labels]
        long = max(len(each) for each in names) * size > 40
        fontsize = 9.5 if size <= 15 else 7.0
        axes.set_xticks(range(size), names, rotation=90 if long else 0, fontsize=fontsize)
        axes.set_yticks(range(size), names, fontsize=fontsize)
    else:
        axes.set(xticks=[], yticks=[])
    axes.set(xlabel="predicted", ylabel="true")
    save(figure, path)


def roc(path: Path, curves: Mapping[str, Mapping[str, Any]]) -> None:
    """Plot ROC curves; `curves`: model -> false_positive, true_positive and auroc."""
    figure = new_figure((SIZE[0], SIZE[0]))
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="#888888", linestyle=(0, (4, 3)), linewidth=1)
    for index, (name, curve) in enumerate(curves.items()):
        axes.plot(
            curve["false_positive"],
            curve["true_positive"],
            color=STYLES[index % len(STYLES)][0],
            linestyle="-" if index == 0 else ("--", "-.", ":")[index % 3],
            linewidth=2.4 if index == 0 else 1.5,
            label=f"{name} ({curve['auroc']:.3f})",
        )
    axes.set(xlabel="false positive rate", ylabel="true positive rate", aspect="equal")
    style_axes(axes)
    add_legend(figure, axes, most_columns=2)
    save(figure, path)


def reliability(path: Path, bins: Sequence[Mapping[str, float]], xlabel: str) -> None:
    """Plot a reliability diagram; the size of a point shows its number of items."""
    figure = new_figure((SIZE[0], SIZE[0]))
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="#888888", linestyle=(0, (4, 3)), linewidth=1)
    total = sum(each["items"] for each in bins)
    x = [each["confidence"] for each in bins]
    y = [each["right"] for each in bins]
    axes.plot(x, y, color=STYLES[0][0], linewidth=1.6)
    sizes = [30 + 500 * each["items"] / total for each in bins]
    axes.scatter(x, y, sizes, color=STYLES[0][0], alpha=0.75, zorder=3, clip_on=False)
    axes.set(xlabel=xlabel, ylabel="observed frequency", aspect="equal")
    axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
    style_axes(axes)
    save(figure, path)


def scatter(path: Path, points: Sequence[Sequence[float | None]], name: str) -> None:
    """Plot the predicted values of a regression against the true values of the column `name`.

    Points with None, a value that is not finite, are left out.
    """
    table = np.array([point for point in points if None not in point], float).reshape(-1, 2)
    figure = new_figure((SIZE[0], SIZE[0]))
    axes = figure.subplots()
    if table.size:
        ends = [table.min(), table.max()]
        axes.plot(ends, ends, color="#888888", linestyle=(0, (4, 3)), linewidth=1)
    axes.scatter(table[:, 0], table[:, 1], 14, color=STYLES[0][0], alpha=0.6, linewidths=0)
    name = shorten(name, 40)
    axes.set(xlabel=f"true {name}", ylabel=f"predicted {name}")
    style_axes(axes)
    save(figure, path)


def state_swap(path: Path, after: Sequence[Mapping[str, Any]]) -> None:
    """Plot, for each step after a swap of states, whose prediction the model gives."""
    figure = new_figure(SIZE)
    axes = figure.subplots()
    known = [each for each in after if each["differ"]]
    for key, name, (colour, marker) in (
        ("donor", "other row's prediction", STYLES[0]),
        ("host", "own prediction", STYLES[1]),
    ):
        axes.plot(
            [each["steps"] for each in known], [each[key] for each in known],
            color=colour, marker=marker, linewidth=1.8, label=name, clip_on=False,
        )  # fmt: skip
    axes.set(xlabel="steps after the swap", ylabel="share of rows", ylim=(0, 1))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    style_axes(axes)
    add_legend(figure, axes)
    save(figure, path)
