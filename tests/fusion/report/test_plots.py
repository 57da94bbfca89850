"""The plots: no text is cut off or covers another, however many inputs and long names there are."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.text import Text

from fastrnn.fusion.plots import attributions, figures, metrics, robustness

INPUTS = (
    "image",
    "audio",
    "text",
    "series",
    "tabular",
    "image:photograph_of_the_left_hand",
    "image:photograph_of_the_right_hand",
    "text:letter_of_the_referring_department",
)
LONG = "chronic obstructive disease of the lung, stage"
NOWHERE = Path("nowhere.png")


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Return the figures that the test saves; they are not written."""
    saved: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: saved.append(figure))
    return saved


def shown_labels(axis: Axis) -> list[Text]:
    """Return the tick labels that are drawn."""
    low, high = sorted(axis.get_view_interval())
    ticks = [tick for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
    return [tick.label1 for tick in ticks if tick.label1.get_visible() and tick.label1.get_text()]


def texts(figure: Figure) -> Iterator[Text]:
    """Yield every text that is drawn."""
    ticks: set[int] = set()
    for axes in figure.findobj(Axes):
        for axis in (axes.xaxis, axes.yaxis):
            ticks |= {id(each) for tick in axis.get_major_ticks() for each in tick.findobj(Text)}
            if axes.get_visible():
                yield from shown_labels(axis)
    for each in figure.findobj(Text):
        hidden = each.axes is not None and not each.axes.get_visible()
        if id(each) not in ticks and not hidden and each.get_visible() and each.get_text():
            yield each


def check(figure: Figure) -> list[str]:
    """Check that the texts lie in the figure and do not overlap, and return them."""
    figure.draw_without_rendering()
    page = figure.bbox.padded(1)
    boxes = [(each.get_text(), each.get_window_extent()) for each in texts(figure)]
    for text, box in boxes:
        inside = page.x0 <= box.x0 and page.y0 <= box.y0 and box.x1 <= page.x1 and box.y1 <= page.y1
        assert inside, f"{text!r} is cut off"
    for (one, first), (other, second) in combinations(boxes, 2):
        assert not first.padded(-0.5).overlaps(second.padded(-0.5)), f"{one!r} covers {other!r}"
    for axes in figure.axes:
        bar = axes.get_label() == "<colorbar>"
        assert min(axes.bbox.width, axes.bbox.height) > (0.04 if bar else 0.3) * figure.dpi
    return [text for text, _ in boxes]


def bars(*names: str) -> list[dict[str, object]]:
    values = np.random.default_rng(0).normal(size=len(names)) * 1e-3
    return [{"name": name, "attribution": float(v)} for name, v in zip(names, values, strict=True)]


def products(names: tuple[str, ...]) -> list[str]:
    return [*names, *(f"{one} × {other}" for one, other in combinations(names, 2))]


def parts(names: tuple[str, ...], steps: int = 0):
    """Return a batch of one row, and attributions of its images, audio and series."""
    batch, values = {}, {}
    for name in names:
        modality = name.partition(":")[0]
        if modality == "image":
            count = max(1, steps)
            batch[f"{name}_frames"] = torch.zeros(count, 3, 8, 8, dtype=torch.uint8)
            batch[name] = torch.arange(count)[None] if steps else torch.arange(1)
            values[name] = torch.randn(count, 8, 8)
        elif modality in ("audio", "series"):
            batch[name], values[name] = torch.randn(1, 250, 16), torch.randn(250, 16)
    return batch, values


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 8])
def test_example_of_a_row_names_every_bar(count, drawn):
    names = INPUTS[:count]
    batch, values = parts(names)
    columns = bars("patient_age", "date_of_admission", "referring_department", "$x$_of_$y$")
    assert attributions.example(NOWHERE, batch, values, bars(*products(names)), columns)
    shown = check(drawn[0])
    assert {"patient_age", "date_of_admission", "referring_department"} <= set(shown)
    if 1 < count <= 5:  # at most 15 bars: all have names
        assert set(products(names)) <= set(shown)


@pytest.mark.parametrize("steps", [1, 6, 30])
def test_example_of_a_stream_numbers_the_steps(steps, drawn):
    batch, values = parts(("image", "audio"), steps)
    numbered = bars(*(f"step {number}" for number in range(1, steps + 1)))
    attributions.example(NOWHERE, batch, values, numbered)
    shown = check(drawn[0])
    assert ("step" in shown) == (steps > 1)
    assert any(f"the first 12 of {steps} steps" in text for text in shown) == (steps > 12)


def test_of_many_columns_the_largest_are_shown(drawn):
    columns = [{"name": f"column {n} of 40", "attribution": (-1) ** n * n} for n in range(40)]
    attributions.example(NOWHERE, {}, {}, [], columns)
    shown = check(drawn[0])
    expected = [f"column {n} of 40" for n in range(25, 40)]
    assert [text for text in shown if text.startswith("column")] == expected
    assert "contribution of each column to the prediction: the 15 largest of 40" in shown


def test_audio_is_drawn_over_seconds(drawn):
    batch, values = parts(("audio",))
    attributions.example(NOWHERE, batch, values, [], frame_ms={"audio": 20.0})
    check(drawn[0])
    for axes in drawn[0].axes:
        assert axes.get_xlim() == (0, 5)  # 250 frames
        assert axes.get_xlabel() == "time in seconds"


@pytest.mark.parametrize(("count", "rows"), [(1, 1), (2, 4), (3, 6), (5, 4), (8, 2)])
def test_states_name_the_steps(count, rows, drawn):
    names = products(INPUTS[:count])
    values = torch.rand(rows, len(names), 12) - 0.5
    attributions.states(NOWHERE, values, [len(names)] * rows, names, [f"{LONG} {LONG}"] * rows)
    shown = check(drawn[0])
    if count <= 5:
        assert set(names) <= set(shown)


@pytest.mark.parametrize(
    ("name", "axis", "steps"), [("step", "step", 5), ("text:a", "step of text:a", 300)]
)
def test_states_of_a_stream_number_the_steps(name, axis, steps, drawn):
    lengths = [steps, max(1, steps // 2), 1]
    values = torch.rand(3, steps, 12) * 3
    names = [f"{name} {number}" for number in range(1, steps + 1)]
    attributions.states(NOWHERE, values, lengths, names, ["line 1", "line 2", "line 3"])
    assert axis in check(drawn[0])
    images = [image for axes in drawn[0].axes[:3] for image in axes.images]
    assert [image.get_array().shape for image in images] == [(12, each) for each in lengths]
    assert all(image.norm.vmax == values.abs().max() for image in images)  # not clipped


@pytest.mark.parametrize("count", [0, 3, 8])
def test_models_have_names_in_every_plot(count, drawn):
    names = ["fusion", *(f"{name} only" for name in INPUTS[:count]), "late", "no recurrence"]
    values = np.random.default_rng(0).random((len(names), 30)).tolist()
    series = dict(zip(names, values, strict=True))
    metrics.learning_curve(NOWHERE, series, "Training loss")
    metrics.models(NOWHERE, {n: {"value": -0.5, "low": -3, "high": 0.2} for n in names}, "R²")
    line = {"false_positive": [0, 1], "true_positive": [0, 1], "auroc": 0.5}
    metrics.roc(NOWHERE, dict.fromkeys(names, line))
    scores = [{split: SimpleNamespace(loss=1.0, score=0.5) for split in ("train", "val")}]
    histories = [SimpleNamespace(name=name, epochs=scores) for name in names]
    metrics.curves(histories, NOWHERE, "a run that cost $1 and not $2 " * 8)
    assert len(drawn) == 4
    for figure in drawn:
        shown = check(figure)
        for name in names[: 1 + min(count, 5)]:
            assert any(text.startswith(name) for text in shown)
    lines = [line for line in drawn[0].axes[0].get_lines() if not line.get_label().startswith("_")]
    looks = {(line.get_color(), line.get_marker(), line.get_linestyle()) for line in lines}
    assert len(looks) == len(names)


@pytest.mark.parametrize(
    ("label", "size"), [("no", 2), (LONG, 3), ("no", 12), (LONG, 15), (LONG, 30), ("no", 100)]
)
def test_labels_of_a_confusion_matrix(label, size, drawn):
    counts = np.random.default_rng(0).integers(0, 900, (size, size)).tolist()
    metrics.confusion(NOWHERE, counts, [f"{label} {number}" for number in range(size)])
    shown = check(drawn[0])
    assert sum(text.endswith(f" {size - 1}") for text in shown) == (2 if size <= 30 else 0)
    assert any(text.isdigit() for text in shown) == (size <= 15)  # counts, no ticks


def test_values_of_a_regression_have_a_name(drawn):
    metrics.scatter(NOWHERE, [[1.5e6, 1.6e6], [2.5e6, 1.9e6]], "price in $ or $100")
    assert {r"true price in \$ or \$100", r"predicted price in \$ or \$100"} <= set(check(drawn[0]))
    bins = [{"items": 5, "confidence": 0.0, "right": 0.0}]
    metrics.reliability(NOWHERE, bins, "confidence of the prediction")
    after = [{"differ": 4, "steps": n, "donor": 0.5, "host": 0.25} for n in range(1, 60)]
    metrics.state_swap(NOWHERE, after)
    check(drawn[1])
    check(drawn[2])


def changes(count: int, low: float):
    """Return records of changes of each input, some without a strength, and one without a score."""
    records = []
    for name in INPUTS[:count]:
        graded, others = ["tokens replaced"], ["removed"]
        if name == "audio":
            graded, others = ["noise", "echo"], [*others, "silence appended", "cut short"]
        kinds = [*((each, strength) for each in graded for strength in (0.25, 0.5, 1.0))]
        kinds += [(each, None) for each in others]
        records += [{"modality": name, "change": each, "strength": s} for each, s in kinds]
    scores = np.linspace(low, 1, len(records)).tolist()
    return [each | {"score": score} for each, score in zip(records, [None, *scores], strict=False)]


@pytest.mark.parametrize(("count", "low"), [(1, 0.0), (3, -2.0), (5, 0.0), (8, -2.0)])
def test_robustness_has_room_for_several_changes_of_each_input(count, low, drawn):
    records = changes(count, low)
    graded = [each for each in records if each["strength"] is not None]
    others = [each for each in records if each["strength"] is None]
    robustness.by_strength(NOWHERE, graded, 0.5, "accuracy")
    robustness.others(NOWHERE, others, 0.5, "accuracy")
    shown = [check(figure) for figure in drawn]
    labels = dict.fromkeys(f"{each['modality']} ({each['change']})" for each in graded)
    assert {figures.shorten(label, 48) for label in labels} <= set(shown[0])
    names = [figures.shorten(f"{each['modality']} {each['change']}", 40) for each in others]
    assert [text for text in shown[1] if text in names] == names
    lines, points = drawn[0].axes[0], drawn[1].axes[0]
    looks = {(each.get_color(), each.get_linestyle()) for each in lines.get_lines()}
    assert len(looks) == len(lines.get_lines()) == len(labels)
    assert len(points.get_lines()) == 1 + len(others)
    assert (lines.get_ylim() == points.get_xlim() == (0, 1)) == (low == 0)


def test_undefined_scores_and_values_are_left_out(drawn):
    records = [each | {"score": None} for each in changes(2, 0.0)]
    robustness.by_strength(NOWHERE, [each for each in records if each["strength"]], None, "R²")
    robustness.others(NOWHERE, [each for each in records if not each["strength"]], None, "R²")
    metrics.scatter(NOWHERE, [[1.0, None], [2.0, 3.0]], "price")
    metrics.scatter(NOWHERE, [[1.0, None]], "price")
    for figure in drawn:
        check(figure)
    assert not drawn[1].axes[0].get_lines()
    assert [len(each.axes[0].collections[0].get_offsets()) for each in drawn[2:]] == [1, 0]


def test_shortened_names_differ_and_are_no_formulas():
    left, right = (figures.shorten(name, 20) for name in INPUTS[5:7])
    assert len(left) == 20
    assert left != right
    assert figures.shorten("$a$\n b") == r"\$a\$ b"
    assert figures.shorten("as it is") == "as it is"


@pytest.mark.parametrize("scores", [(0.2, 0.6), (-0.6, 0.6)])
def test_axis_of_the_score_has_every_value(scores, drawn):
    epochs = [
        {name: SimpleNamespace(loss=1.0, score=score) for name in ("train", "val")}
        for score in scores
    ]
    history = SimpleNamespace(name="fusion", epochs=epochs)
    metrics.curves([history], NOWHERE, "run", score_name="R²")
    _, right = drawn[0].axes
    low, high = right.get_ylim()
    assert low <= min(scores)
    assert high == 1
    assert right.get_title() == "Validation R²"
