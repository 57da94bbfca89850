"""Plots of the score on degraded inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .figures import SIZE, add_legend, line_style, new_figure, save, shorten, style_axes

Records = Sequence[Mapping[str, Any]]  # modality, change, strength and score


def by_strength(path: Path, records: Records, unchanged: float | None, score_name: str) -> None:
    """Plot the score over the strength of the changes that have one, a line for each change.

    Args:
        records: those of the `robustness` of evaluation.json with a strength.
        unchanged: the score on the unchanged rows; None if it is undefined.
    """
    figure = new_figure(SIZE)
    axes = figure.subplots()
    strengths = sorted({each["strength"] for each in records})
    lines: dict[str, dict[str, dict[float, float]]] = {}  # input -> change -> strength -> score
    for each in records:
        line = lines.setdefault(each["modality"], {}).setdefault(each["change"], {})
        if each["score"] is not None:
            line[each["strength"]] = each["score"]
    for index, (modality, changes) in enumerate(lines.items()):
        for number, (change, line) in enumerate(changes.items()):
            style = line_style(index)
            if number:  # the changes of an input have the same colour
                style["linestyle"] = ("--", "-.", ":")[(number - 1) % 3]
            axes.plot(
                [0, *(1 + strengths.index(strength) for strength in line)],
                np.array([unchanged, *line.values()], float),
                **style, label=f"{modality} ({change})", clip_on=False, zorder=3,
            )  # fmt: skip
    axes.set_xticks(range(len(strengths) + 1), ["none", *(f"{each:g}" for each in strengths)])
    axes.set(xlabel="strength: noise / signal, or share replaced", ylabel=score_name)
    if not _negative(records, unchanged):
        axes.set_ylim(0, 1)
    style_axes(axes)
    add_legend(figure, axes, most_columns=2)
    save(figure, path)


def others(path: Path, records: Records, unchanged: float | None, score_name: str) -> None:
    """Plot the score of changes without a strength, each in a row; a line marks the unchanged one.

    Args:
        records: those of the `robustness` of evaluation.json without a strength.
        unchanged: the score on the unchanged rows; None if it is undefined.
    """
    figure = new_figure((SIZE[0], 1.0 + 0.26 * len(records)))
    axes = figure.subplots()
    if unchanged is not None:
        axes.axvline(unchanged, color="#444444", linestyle=(0, (5, 3)), linewidth=1.1)
    inputs = list(dict.fromkeys(each["modality"] for each in records))
    for place, each in enumerate(records):
        if each["score"] is not None:
            style = line_style(inputs.index(each["modality"]))
            axes.plot(each["score"], place, **style, markersize=7, clip_on=False, zorder=3)
    names = [shorten(f"{each['modality']} {each['change']}", 40) for each in records]
    axes.set_yticks(range(len(records)), names, fontsize=9)
    axes.set_ylim(len(records) - 0.5, -0.5)
    figure.supxlabel(f"{score_name}; dashed: unchanged", fontsize=10)
    if not _negative(records, unchanged):
        axes.set_xlim(0, 1)
    style_axes(axes)
    save(figure, path)


def _negative(records: Records, unchanged: float | None) -> bool:
    """Whether a score is negative, which R² may be."""
    return any((score or 0) < 0 for score in (unchanged, *(each["score"] for each in records)))
