"""The table of shapes, and the selection of cases."""

from collections import Counter
from dataclasses import replace

import pytest

from benchmarks.baselines import LEVELS
from benchmarks.cells import CELLS
from benchmarks.groups import GROUPS, MAX_CPU_FLOPS, SELECTIONS, names, select
from benchmarks.precision import MODES
from benchmarks.shapes import STEPS, Shape, recurrence_flops


@pytest.mark.parametrize("name", GROUPS)
def test_a_group_is_consistent(name: str) -> None:
    group = GROUPS[name]
    assert group.about
    assert set(group.steps) <= set(STEPS)
    assert {*group.cpu, *group.cuda} <= set(MODES)
    assert "tf32" not in group.cpu
    assert group.baselines in LEVELS
    assert not [shape for shape, count in Counter(group.shapes).items() if count > 1]
    for shape in group.shapes:
        assert min(shape.T, shape.B, shape.I, shape.H) >= 1
        # A layer of nn.RNN has no heads, and a recurrence has one layer.
        assert shape.groups == 1 or group.scope == "recurrence"
        assert group.scope == "layer" or shape.layers == shape.directions == 1
        assert group.scope == "layer" or not (shape.packed or group.memory)
        # A cell with gates has its own activations, and only its layers are measured.
        assert shape.cell == "rnn" or (group.scope, shape.activation) == ("layer", "tanh")


def test_the_cells_are_measured_on_the_same_shapes() -> None:
    def sizes(group: str) -> list[Shape]:
        return [replace(w, cell="rnn", activation="tanh") for w in GROUPS[group].shapes]

    for group in ("rnn", "lstm", "gru"):
        assert {shape.cell for shape in GROUPS[group].shapes} == {group}
        assert sizes(group) == sizes("rnn")
    for group in ("mixed-lstm", "mixed-gru"):
        assert {shape.cell for shape in GROUPS[group].shapes} == {group.removeprefix("mixed-")}
        assert sizes(group) == sizes("mixed")
    anchors = {(100, 1, 64, 64), (100, 32, 128, 128), (8, 1, 16, 16), (64, 64, 512, 512)}
    assert {(w.T, w.B, w.I, w.H) for w in GROUPS["lstm"].shapes} == anchors
    packed = [w for w in GROUPS["gated-packed"].shapes if w.packed]
    assert {w.cell for w in packed} == {w.cell for w in GROUPS["gated-half"].shapes}
    assert {case.shape.cell for case in select("quick", "cpu")} == set(CELLS)
    assert {case.mode for case in select("cells", "cpu")} == {"float32", "bfloat16"}


def test_the_shapes_of_published_benchmarks_are_covered() -> None:
    heads = {(w.H, w.groups) for w in GROUPS["flashrnn"].shapes if (w.T, w.B) == (1024, 16)}
    assert heads == {(16, 48), (32, 24), (64, 12), (128, 6), (256, 3), (768, 1)}
    batches = {w.B for w in GROUPS["flashrnn"].shapes if w.groups == 1 and w.T == 1024}
    assert batches == {2, 8, 16, 32, 64, 128, 256}
    assert len(GROUPS["flashrnn-elman"].shapes) == len(GROUPS["haste"].shapes) == 16
    assert {(w.T, w.B, w.H) for w in GROUPS["flaggems"].shapes} >= {(16, 4, 32), (64, 16, 128)}
    assert [(w.T, w.B, w.H, w.groups) for w in GROUPS["xma"].shapes] == [(4096, 16, 16, 64)]
    boundaries = {256, 264, 384, 392, 512, 768, 896, 1024, 1152, 2048}
    assert {w.H for w in GROUPS["cudnn"].shapes if w.B == 64} >= boundaries
    assert [w.T for w in GROUPS["length"].shapes][:: len(GROUPS["length"].shapes) - 1] == [
        128,
        65536,
    ]


def test_names_select_groups_and_cases() -> None:
    assert names("quick") == ["overview", "lstm", "gru"]
    assert names("full") == list(GROUPS)
    assert names("neuro,overview,neuro") == ["neuro", "overview"]
    cases = select("neuro", "cpu")
    assert {case.group for case in cases} == {"neuro"}
    assert len(cases) == len(GROUPS["neuro"].shapes) * len(STEPS)
    assert {case.mode for case in select("neuro", "cuda")} == {"float32", "tf32"}
    assert select("cudnn", "cpu") == []
    assert {case.scope for case in select("full", "cpu", ("recurrence",))} == {"recurrence"}


def test_large_shapes_are_not_measured_on_a_cpu() -> None:
    huge = [w for w in GROUPS["flashrnn"].shapes if recurrence_flops(w) > MAX_CPU_FLOPS]
    assert huge
    assert not {case.shape for case in select("flashrnn", "cpu")} & set(huge)
    assert {case.shape for case in select("flashrnn", "cuda")} >= set(huge)


def test_an_unknown_name_raises_and_lists_the_known_names() -> None:
    known = "quick, cells, full, overview"
    with pytest.raises(ValueError, match=f"unknown shapes 'fast'; choose from {known}"):
        names("overview,fast")


def test_a_shape_has_a_name_and_is_restored_from_json() -> None:
    shape = Shape(10, 3, 4, 5, layers=2, bidirectional=True, packed=True, activation="relu")
    assert str(shape) == "(10, 3, 4, 5) 2-layer bidirectional packed relu"
    assert shape.id == "10x3x4x5-2-layer-bidirectional-packed-relu"
    assert Shape(**shape.to_json()) == shape
    gated = Shape(10, 3, 4, 5, packed=True, cell="lstm")
    assert (str(gated), gated.id) == ("(10, 3, 4, 5) lstm packed", "10x3x4x5-lstm-packed")
    assert Shape(**gated.to_json()) == gated
    assert Shape(1, 2, 3, 4).to_json() == {"T": 1, "B": 2, "I": 3, "H": 4}
    every = [w for group in GROUPS.values() for w in group.shapes]
    assert all(Shape(**w.to_json()) == w for w in every)
    assert len({w.id for w in every}) == len(set(every))


def test_every_selection_names_groups() -> None:
    assert all(set(groups) <= set(GROUPS) for groups in SELECTIONS.values())
