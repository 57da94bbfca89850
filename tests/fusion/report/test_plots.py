"""The plot of the learning curves."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from matplotlib.figure import Figure

from fastrnn.fusion.plots import metrics


@pytest.mark.parametrize("scores", [(0.2, 0.6), (-0.6, 0.6)])
def test_axis_of_the_score_has_every_value(
    scores: tuple[float, float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Figure] = []
    create = metrics.new_figure

    def keep(*args: Any) -> Figure:
        drawn.append(create(*args))
        return drawn[-1]

    monkeypatch.setattr(metrics, "new_figure", keep)
    epochs = [
        {name: SimpleNamespace(loss=1.0, score=score) for name in ("train", "val")}
        for score in scores
    ]
    history = SimpleNamespace(name="fusion", epochs=epochs)
    metrics.curves([history], tmp_path / "curves.png", "run", score_name="R²")
    _, right = drawn[0].axes
    low, high = right.get_ylim()
    assert low <= min(scores)
    assert high == 1
    assert right.get_title() == "Validation R²"
