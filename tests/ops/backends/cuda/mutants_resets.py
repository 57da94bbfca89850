"""Mutants of the kernels with resets; see mutants.py."""

from .mutation import Kernel, Mutant, Runs
from .test_edge_cases import INFINITY

CLUSTER_RESETS = Kernel("cluster", "forward", resets=True)
GRID_RESETS = Kernel("grid", "forward", resets=True)
GRID_RESETS_BACKWARD = Kernel("grid", "backward", resets=True)
STEP_RESETS_BACKWARD = Kernel("step", "backward", resets=True)
STEP_RESETS_FLOAT64 = Kernel("step", "forward", "float64", resets=True)

MUTANTS = [
    Mutant(
        "reverse groups use the reset of step t",
        CLUSTER_RESETS,
        "pass_traits.h",
        {"descending ? t + 1 : t;": "t;"},
        Runs(32, blocks=2, reverse=True),
        "not close",
    ),
    Mutant(
        "resets beyond the end of a row are used",
        CLUSTER_RESETS,
        "pass_traits.h",
        {"later < length &&": "later < p.T &&"},
        Runs(32, blocks=2, layout="lengths", reverse=True),
        "not close|heap-buffer-overflow",
    ),
    Mutant(
        "h0 is not reset",
        CLUSTER_RESETS,
        "cluster_warp.h",
        {"reset_rows >> b & 1 ? uint2{0, 0} : chunk": "chunk"},
        Runs(32, blocks=2),
        "not close",
    ),
    Mutant(
        "resets are a step late",
        CLUSTER_RESETS,
        "cluster.h",
        {"time(s + 2), first_row": "time(s + 1), first_row"},
        Runs(32, blocks=2),
        "not close",
    ),
    Mutant(
        "the product is multiplied by 0",
        GRID_RESETS,
        "epilogue.h",
        {"(resets.at(i) ? 0 : sum[0][i])": "(resets.at(i) ? 0 : 1) * sum[0][i]"},
        Runs(32, splits=2, relu=True, poisoned={"pre": INFINITY}),
        "not close",
    ),
    Mutant(
        "grad_h_n is reset",
        GRID_RESETS_BACKWARD,
        "epilogue.h",
        {"begins[i % 2] ? first[i] : dh[i];": "begins[i % 2] && !resets.at(i) ? first[i] : dh[i];"},
        Runs(32, splits=2, reverse=True),
        "not close",
    ),
    Mutant(
        "grad_h0 is not reset",
        GRID_RESETS_BACKWARD,
        "grid_warp.h",
        {"(has_resets<P>) epilogue.load": "(has_resets<P>) if (t != order.end()) epilogue.load"},
        Runs(32, splits=2),
        "not close",
    ),
    Mutant(
        "all rows use the resets of one row",
        STEP_RESETS_BACKWARD,
        "epilogue.h",
        {"crosses_reset(p, t, first_row + row, ": "crosses_reset(p, t, first_row, "},
        Runs(32),
        "not close",
        quick=True,
    ),
    Mutant(
        "no reset in the kernel without mma",
        STEP_RESETS_FLOAT64,
        "step_simt.h",
        {"if (has_resets<P> && !saves_gates<P> &&": "if (false &&"},
        Runs(32),
        "not close",
    ),
]
