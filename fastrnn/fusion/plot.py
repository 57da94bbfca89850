"""A picture of how the models learned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from .train import Trained

# Okabe and Ito's colours, told apart by colour-blind readers; markers tell them apart in grey.
_STYLES = (
    ("#0072B2", "o"),
    ("#E69F00", "s"),
    ("#009E73", "^"),
    ("#CC79A7", "D"),
    ("#D55E00", "v"),
    ("#56B4E9", "P"),
    ("#000000", "X"),
)


def curves(
    trained: Sequence[Trained], path: Path, title: str, levels: Mapping[str, float] | None = None
) -> None:
    """Save training loss and validation accuracy over epochs as a picture (its ending decides).

    Args:
        levels: accuracies to mark with a dashed line, by what they are.
    """
    figure = Figure(figsize=(11, 4.8), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    for index, each in enumerate(trained):
        colour, marker = _STYLES[index % len(_STYLES)]
        epochs = range(1, len(each.epochs) + 1)
        for axes, values in (
            (left, [scores["train"].loss for scores in each.epochs]),
            (right, [scores["val"].score for scores in each.epochs]),
        ):
            axes.plot(
                epochs,
                values,
                color=colour,
                marker=marker,
                markersize=5,
                linewidth=1.8,
                label=each.name,
                clip_on=False,
                zorder=3,
            )
    for name, value in (levels or {}).items():
        right.axhline(value, color="#444444", linestyle=(0, (5, 3)), linewidth=1.1, zorder=2)
        right.annotate(
            f"{name}: {value:.3f}",
            (1, value),
            xytext=(-2, 4),
            textcoords="offset points",
            xycoords=right.get_yaxis_transform(),
            ha="right",
            fontsize=9,
            color="#222222",
        )
    left.set(xlabel="epoch", title="Training loss")
    left.set_ylim(bottom=0)
    right.set(xlabel="epoch", title="Validation accuracy")
    right.set_ylim(0, 1)
    for axes in (left, right):
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(axis="y", color="#dddddd", linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
    handles, names = left.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=len(names), frameon=False)
    figure.suptitle(title, fontsize=13)
    figure.savefig(path, dpi=150)
