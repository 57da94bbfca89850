"""The plan: a choice for every call, within every limit of the device."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastrnn._explain import GPUS
from fastrnn.ops.backends import cpp

pytestmark = pytest.mark.skipif(
    cpp.EXTENSION.unusable is not None, reason="the extension is not built"
)

BYTES = {"half": 2, "tf32": 4, "float32": 4, "float64": 8}
NAMES = {
    **{name: gpu[1:] for name, gpu in GPUS.items()},
    "T4": ((7, 5), 40, 65536, (0, 0, 0, 0, 0)),
    "RTX 4090": ((8, 9), 128, 101376, (0, 0, 0, 0, 0)),
    "a seventh of an H100": ((9, 0), 16, 232448, (16, 8, 4, 0, 0)),
    "an H100 whose driver allows no clusters": ((9, 0), 132, 232448, (0, 0, 0, 0, 0)),
}
#: Registers a thread needs beside those that hold W_hh, at the very least.
OTHERS = 40


def plans(name, mode, backward, T, B, G, H):
    module = cpp.EXTENSION.module
    return module.plans(module.Device(*NAMES[name]), mode, backward, T, B, G, H)


def check(name, mode, backward, T, B, G, H):
    """The choice is the fastest of the options, and each keeps within the device."""
    capability, processors, shared, clusters = NAMES[name]
    chosen, options = plans(name, mode, backward, T, B, G, H)
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
        # Every unit and all of the product's depth, and every row of every group.
        assert t.blocks * t.m_tiles * 16 >= H
        assert t.splits * (t.resident + t.streamed) * 32 >= H * BYTES[mode]
        assert plan.tiles == G * math.ceil(B / t.rows)
        # Registers, shared memory and room for all that wait for one another.
        of_a_warp = 1 if strategy == "cluster" else t.m_tiles
        assert warps == t.splits * (t.m_tiles if strategy == "cluster" else 1) <= 32
        assert 4 * t.resident * of_a_warp + OTHERS <= min(255, 65536 // plan.threads)
        assert warps * of_a_warp * t.streamed * 512 <= plan.shared <= shared
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
def test_a_sweep(name, mode):
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
)
def test_any_sizes(name, mode, backward, T, B, G, H):
    check(name, mode, backward, T, B, G, H)


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
def test_who_serves_what(name, mode, H, strategy, backward):
    assert plans(name, mode, backward, 1000, 1, 1, H)[0] == strategy


def test_a_single_row_is_spread_over_a_cluster():
    """There is nothing else to split, and the exchange costs less than one block's products."""
    plan = plans("H100", "half", False, 1000, 1, 1, 512)[1]["cluster"]
    assert plan.tiling.blocks > 1


def test_a_batch_is_split_over_clusters_first():
    """And so thinly that all run at once, since what is exchanged counts."""
    plan = plans("H100", "half", False, 1000, 16, 1, 512)[1]["cluster"]
    assert 1 < plan.tiles <= plan.at_once
    assert plan.tiling.rows < 8


def test_a_refusal_says_why():
    options = plans("A100", "half", False, 10, 8, 1, 64)[1]
    assert options["cluster"] == "clusters need compute capability 9.0"
    options = plans("H100", "half", False, 10, 8, 1, 16384)[1]
    assert "does not fit" in options["cluster"]
    assert "does not fit" in options["grid"]
