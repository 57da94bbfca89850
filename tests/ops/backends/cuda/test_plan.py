"""The plan serves every call, within all limits of the device."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastrnn._explain import GPUS
from fastrnn.ops.backends import cpu
from fastrnn.ops.cells import CELLS, CODES
from tests.utils.marks import requires_extension

pytestmark = requires_extension

BYTES = {"half": 2, "tf32": 4, "float32": 4, "float64": 8}
NAMES = {
    **{name: gpu[1:] for name, gpu in GPUS.items()},
    "T4": ((7, 5), 40, 65536, (0, 0, 0, 0, 0)),
    "RTX 4090": ((8, 9), 128, 101376, (0, 0, 0, 0, 0)),
    "a seventh of an H100": ((9, 0), 16, 232448, (16, 8, 4, 0, 0)),
    "an H100 whose driver allows no clusters": ((9, 0), 132, 232448, (0, 0, 0, 0, 0)),
}
#: Registers that a thread needs at least, in addition to those that hold W_hh.
MIN_OTHER_REGISTERS = 40


def plans(name, mode, backward, T, B, G, H, cell="RNN_TANH"):
    module = cpu.EXTENSION.module
    return module.plans(module.Device(*NAMES[name]), mode, backward, T, B, G, H, CODES[cell])


def check(name, mode, backward, T, B, G, H, cell="RNN_TANH"):
    """The plan is the fastest option, and every option fits on the device."""
    capability, processors, shared, clusters = NAMES[name]
    chosen, options = plans(name, mode, backward, T, B, G, H, cell)
    gates = CELLS[CODES[cell]].gates
    gate_tiles, depth = (1, gates * H) if backward else (gates, H)
    offered = {strategy: plan for strategy, plan in options.items() if not isinstance(plan, str)}
    assert "step" in offered
    assert offered[chosen].cycles == min(plan.cycles for plan in offered.values())
    for strategy, plan in offered.items():
        assert plan.strategy == strategy
        assert math.isfinite(plan.cycles)
        assert plan.cycles >= 0
        if strategy == "step":
            continue
        t, warps = plan.tiling, plan.threads // 32
        assert mode != "float64"
        # The tiling covers every unit, the whole depth of the product, and every row.
        assert t.blocks * t.m_tiles * 16 >= H
        assert t.splits * (t.resident + t.streamed) * 32 >= depth * BYTES[mode]
        assert plan.tiles == G * math.ceil(B / t.rows)
        # Registers, shared memory, and blocks that wait for each other fit on the device.
        warp_tiles = gate_tiles * (1 if strategy == "cluster" else t.m_tiles)
        assert warps == t.splits * (t.m_tiles if strategy == "cluster" else 1) <= 32
        registers = 4 * t.resident * warp_tiles + MIN_OTHER_REGISTERS
        assert registers <= min(255, 65536 // plan.threads)
        assert warps * warp_tiles * t.streamed * 512 <= plan.shared <= shared
        assert plan.at_once >= 1
        if strategy == "cluster":
            assert capability >= (9, 0)
            assert plan.at_once == clusters[int(math.log2(t.blocks))]
            assert 2 ** int(math.log2(t.blocks)) == t.blocks <= 16
        else:
            assert capability >= (8, 0)
            assert plan.at_once * t.blocks <= processors


SIZES = (1, 2, 7, 8, 9, 15, 16, 17, 31, 33, 64, 100, 127, 128, 129, 200, 256, 257, 384, 500)
SIZES += (512, 640, 768, 1000, 1024, 1025, 1280, 1536, 1750, 2048, 2049, 3000, 4096, 4097, 10000)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("mode", BYTES)
def test_swept_sizes(name, mode):
    for H, B, G in itertools.product(SIZES, (1, 8, 9, 32, 100, 1024), (1, 2, 5)):
        for backward, T in itertools.product((False, True), (0, 1, 100)):
            check(name, mode, backward, T, B, G, H)


@given(
    st.sampled_from(sorted(NAMES)),
    st.sampled_from(sorted(BYTES)),
    st.booleans(),
    st.integers(0, 5000),
    st.integers(1, 5000),
    st.integers(1, 64),
    st.integers(1, 8192),
    st.sampled_from(sorted(CODES)),
)
def test_random_sizes(name, mode, backward, T, B, G, H, cell):
    check(name, mode, backward, T, B, G, H, cell)


@pytest.mark.parametrize(
    ("name", "mode", "H", "strategy"),
    [
        ("H100", "half", 64, "cluster"),
        ("H100", "half", 512, "cluster"),
        ("H100", "tf32", 512, "cluster"),
        ("H100", "float32", 128, "cluster"),
        ("H100", "half", 4096, "grid"),
        ("H100", "float32", 2048, "grid"),
        ("H100", "float64", 64, "step"),
        ("H100", "half", 16384, "step"),
        ("A100", "half", 512, "grid"),
        ("T4", "half", 64, "step"),
        ("an H100 whose driver allows no clusters", "half", 512, "grid"),
    ],
)
@pytest.mark.parametrize("backward", [False, True])
def test_chosen_strategy(name, mode, H, strategy, backward):
    assert plans(name, mode, backward, 1000, 1, 1, H)[0] == strategy


def test_a_single_row_is_spread_over_a_cluster():
    """Only units can be split, and the exchange costs less than the products in one block."""
    plan = plans("H100", "half", False, 1000, 1, 1, 512)[1]["cluster"]
    assert plan.tiling.blocks > 1


def test_a_batch_is_split_over_clusters_first():
    """Into tiles so small that all run at once, since the exchange costs time per row."""
    plan = plans("H100", "half", False, 1000, 16, 1, 512)[1]["cluster"]
    assert 1 < plan.tiles <= plan.at_once
    assert plan.tiling.rows < 8


@pytest.mark.parametrize("cell", ["GRU", "LSTM", "LEAKY_PRE_TANH"])
@pytest.mark.parametrize("mode", ["half", "tf32", "float32"])
def test_cells_fit_on_the_device(mode, cell):
    for H, B in itertools.product(SIZES, (1, 8, 32, 100)):
        for backward in (False, True):
            check("H100", mode, backward, 100, B, 1, H, cell)


@pytest.mark.parametrize(
    ("sizes", "strategy", "cycles", "threads", "shared"),
    [
        (("H100", "half", False, 100, 1, 1, 512), "cluster", 174572.63356973993, 64, 18816),
        (("H100", "half", False, 100, 1, 1, 512), "grid", 294977.3333333333, 128, 13344),
        (("H100", "half", False, 100, 1, 1, 512), "step", 811636.3636363636, 0, 0),
        (("H100", "half", True, 100, 32, 1, 512), "cluster", 187057.6914080072, 128, 24960),
        (("H100", "float32", True, 100, 8, 2, 256), "grid", 324689.55555555556, 128, 13344),
        (("H100", "tf32", False, 100, 8, 2, 1000), "cluster", 456288.16075650114, 256, 209280),
        (("A100", "half", True, 100, 32, 1, 1024), "grid", 451453.77777777775, 128, 25664),
        (("A100", "half", True, 100, 32, 1, 1024), "step", 1037831.111111111, 0, 0),
    ],
)
def test_plan_of_nn_rnn(sizes, strategy, cycles, threads, shared):
    """The same as before other cells were supported."""
    plan = plans(*sizes)[1][strategy]
    assert plan.cycles == pytest.approx(cycles, rel=1e-12)
    assert (plan.threads, plan.shared) == (threads, shared)


@pytest.mark.parametrize("backward", [False, True])
def test_four_gates_have_four_times_the_weights(backward):
    """`step` reads them from L2 in every step; `grid` and `cluster` store all of them."""
    launch_cycles = 8000

    def step(cell):
        sizes = "H100", "half", backward, 100, 1, 1, 4096, cell
        return plans(*sizes)[1]["step"].cycles / (100 + backward) - launch_cycles

    assert step("LSTM") == pytest.approx(4 * step("RNN_TANH"))
    for H in (64, 128, 256):
        for strategy in ("cluster", "grid"):
            plan = plans("H100", "half", backward, 100, 1, 1, H, "LSTM")[1][strategy]
            t, warps = plan.tiling, plan.threads // 32
            tiles = (1 if backward else 4) * (1 if strategy == "cluster" else t.m_tiles)
            held = t.blocks * warps * tiles * (t.resident + t.streamed) * 512
            assert held >= 4 * H * H * 2


def test_gates_outgrow_the_cluster():
    assert not isinstance(plans("H100", "half", True, 10, 8, 1, 1024)[1]["cluster"], str)
    assert "does not fit" in plans("H100", "half", True, 10, 8, 1, 1024, "LSTM")[1]["cluster"]


def test_only_backward_exchanges_all_gates():
    """More rows cost only more exchange, and no more products, since all are in one tile."""

    def growth(backward, cell):
        few, many = (
            plans("a seventh of an H100", "half", backward, 1000, B, 1, 256, cell)[1]["grid"]
            for B in (1, 8)
        )
        assert few.tiles == many.tiles == 1
        return many.cycles - few.cycles

    assert growth(False, "LSTM") == pytest.approx(growth(False, "RNN_TANH"))
    assert growth(True, "LSTM") == pytest.approx(4 * growth(True, "RNN_TANH"))


def test_unsupported_strategies_give_a_reason():
    options = plans("A100", "half", False, 10, 8, 1, 64)[1]
    assert options["cluster"] == "clusters need compute capability 9.0"
    options = plans("H100", "half", False, 10, 8, 1, 16384)[1]
    assert "does not fit" in options["cluster"]
    assert "does not fit" in options["grid"]


def stack_plans(name, mode, backward, T, B, H, layers, inputs, cell="RNN_TANH"):
    module = cpu.EXTENSION.module
    device = module.Device(*NAMES[name])
    return module.stack_plans(device, mode, backward, T, B, H, layers, inputs, CODES[cell])


@given(
    st.sampled_from(sorted(NAMES)),
    st.sampled_from(sorted(BYTES)),
    st.booleans(),
    st.integers(0, 500),
    st.integers(1, 300),
    st.integers(1, 300),
    st.integers(1, 20),
    st.integers(1, 300),
    st.sampled_from(sorted(CODES)),
)
def test_a_stack_fits_on_the_device(name, mode, backward, T, B, H, layers, inputs, cell):
    _, _, shared, clusters = NAMES[name]
    plans_of_layers = stack_plans(name, mode, backward, T, B, H, layers, inputs, cell)
    assert len(plans_of_layers) == layers
    strategy, options = plans(name, mode, backward, T, B, 1, H, cell)
    gates, layer = CELLS[CODES[cell]].gates, 0
    while layer < layers:
        plan = plans_of_layers[layer]
        t = plan.tiling
        if plan.strategy == "rows":
            assert t.layers == 1
            assert (64 if gates > 1 else 128) >= H
            assert plan.threads >= 4 * H
            assert plan.shared <= shared
        elif plan.projects:
            assert plan.strategy == "cluster"
            assert t.layers <= 8
            assert clusters[math.ceil(math.log2(t.layers * t.blocks))] == plan.at_once >= 1
            assert t.blocks * t.m_tiles * 16 >= H
            depth = gates * H if backward else H
            assert t.splits * (t.resident + t.streamed) * 32 >= depth * BYTES[mode]
            assert t.rows <= 8
            # The shared memory of a block has its part of W_ih, of all gates.
            widest = max(inputs, H) if layer == 0 < t.layers - 1 else inputs if layer == 0 else H
            width = H if backward else widest
            assert t.m_tiles * 16 * width * BYTES[mode] * gates <= plan.shared <= shared
            # A launch for each layer has a product with W_ih, too.
            assert plan.cycles < t.layers * (options[strategy].cycles + 8000)
        else:
            assert (plan.strategy, t.layers) == (strategy, 1)
        layer += t.layers
    assert layer == layers


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("mode", ["half", "tf32"])
@pytest.mark.parametrize("cell", ["RNN_TANH", "LSTM", "GRU"])
def test_a_small_stack_is_one_launch(mode, cell, backward):
    assert stack_plans("H200", mode, backward, 8, 16, 64, 4, 64, cell)[0].tiling.layers == 4


@pytest.mark.parametrize("backward", [False, True])
def test_a_large_stack_is_a_launch_for_each_layer(backward):
    plans_of_layers = stack_plans("H200", "half", backward, 512, 64, 2048, 4, 64)
    assert [plan.tiling.layers for plan in plans_of_layers] == [1, 1, 1, 1]


def test_the_first_layer_may_have_too_many_inputs():
    """Its input product is one of torch then; the others are one launch."""
    plans_of_layers = stack_plans("H200", "half", False, 8, 16, 64, 4, 100_000)
    assert [plan.tiling.layers for plan in plans_of_layers[:2]] == [1, 3]
    assert [plan.projects for plan in plans_of_layers[:2]] == [False, True]


def test_a_product_of_many_steps_is_one_of_torch():
    """In the loop it takes part of each step, before it a launch."""
    few, many = (stack_plans("H200", "half", False, T, 16, 256, 1, 256)[0] for T in (4, 4000))
    assert (few.projects, many.projects) == (True, False)


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("mode", ["half", "tf32", "float32"])
@pytest.mark.parametrize(("cell", "H"), [("RNN_TANH", 50), ("RNN_TANH", 128), ("LSTM", 64)])
def test_a_small_layer_is_computed_row_by_row(mode, cell, H, backward):
    plan = stack_plans("H200", mode, backward, 100, 32, H, 1, 8, cell)[0]
    assert (plan.strategy, plan.tiles) == ("rows", 32)
    assert plan.projects == (not backward)


def test_a_backward_has_the_launch_of_a_product_too():
    forward, backward = (
        stack_plans("H200", "half", pass_, 1, 4, 32, 1, 8)[0] for pass_ in (False, True)
    )
    assert forward.strategy == backward.strategy == "rows"
    assert forward.cycles < 2 * 8000 < backward.cycles


def test_no_operator_of_the_recurrence_uses_rows():
    """They are verified with the other strategies."""
    assert plans("H200", "half", False, 100, 32, 1, 50)[0] == "cluster"
