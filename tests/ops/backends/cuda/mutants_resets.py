"""As mutants.py, for the kernels with resets."""

from .mutation import Kernel, Mutant, Runs
from .test_edge_cases import INFINITY

CLUSTER_RESETS = Kernel("cluster", "forward", resets=True)
GRID_RESETS = Kernel("grid", "forward", resets=True)
GRID_RESETS_BACKWARD = Kernel("grid", "backward", resets=True)
STEP_RESETS_BACKWARD = Kernel("step", "backward", resets=True)
STEP_RESETS_FLOAT64 = Kernel("step", "forward", "float64", resets=True)

MUTANTS = [
    Mutant(
        "the reset of the previous step, in reverse groups",
        CLUSTER_RESETS,
        "pass_traits.h",
        {"descending ? t + 1 : t;": "t;"},
        Runs(32, blocks=2, reverse=True),
        "not close",
    ),
    Mutant(
        "resets of rows that have ended",
        CLUSTER_RESETS,
        "pass_traits.h",
        {"later < length &&": "later < p.T &&"},
        Runs(32, blocks=2, layout="lengths", reverse=True),
        "not close|heap-buffer-overflow",
    ),
    Mutant(
        "h0 not reset",
        CLUSTER_RESETS,
        "cluster_warp.h",
        {"reset_rows >> b & 1 ? uint2{0, 0} : chunk": "chunk"},
        Runs(32, blocks=2),
        "not close",
    ),
    Mutant(
        "reset a step late",
        CLUSTER_RESETS,
        "cluster.h",
        {"time(s + 2), first_row": "time(s + 1), first_row"},
        Runs(32, blocks=2),
        "not close",
    ),
    Mutant(
        "multiplied by 0",
        GRID_RESETS,
        "epilogue.h",
        {"(resets.at(i) ? 0 : sum[i])": "(resets.at(i) ? 0 : 1) * sum[i]"},
        Runs(32, splits=2, relu=True, spoilt={"pre": INFINITY}),
        "not close",
    ),
    Mutant(
        "grad_h_n reset",
        GRID_RESETS_BACKWARD,
        "epilogue.h",
        {"begins[i % 2] ? first[i] : dh[i];": "begins[i % 2] && !resets.at(i) ? first[i] : dh[i];"},
        Runs(32, splits=2, reverse=True),
        "not close",
    ),
    Mutant(
        "grad_h0 not reset",
        GRID_RESETS_BACKWARD,
        "grid_warp.h",
        {"(has_resets<P>) epilogue.load": "(has_resets<P>) if (t != order.end()) epilogue.load"},
        Runs(32, splits=2),
        "not close",
    ),
    Mutant(
        "one row's resets for all",
        STEP_RESETS_BACKWARD,
        "epilogue.h",
        {"crosses_reset(p, t, first_row + row, ": "crosses_reset(p, t, first_row, "},
        Runs(32),
        "not close",
        quick=True,
    ),
    Mutant(
        "not reset without mma",
        STEP_RESETS_FLOAT64,
        "step.h",
        {"if (has_resets<P> && inside &&": "if (has_resets<P> && !inside &&"},
        Runs(32),
        "not close",
    ),
]
