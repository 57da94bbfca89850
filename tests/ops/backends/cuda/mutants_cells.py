"""Mutants of the kernels of LSTM and GRU; see mutants.py."""

from .mutation import Kernel, Mutant, Runs


def kernel(strategy: str, direction: str, cell: str, element: str, resets: bool = False) -> Kernel:
    return Kernel(strategy, direction, element, resets, cell)


CLUSTER_LSTM = kernel("cluster", "forward", "LSTM", "float32")
CLUSTER_LSTM_RESETS = kernel("cluster", "forward", "LSTM", "float32", resets=True)
CLUSTER_LSTM_BACKWARD = kernel("cluster", "backward", "LSTM", "float32")
CLUSTER_GRU_BACKWARD = kernel("cluster", "backward", "GRU", "float32", resets=True)
GRID_GRU = kernel("grid", "forward", "GRU", "float32", resets=True)
GRID_GRU_BACKWARD = kernel("grid", "backward", "GRU", "float32")
STEP_LSTM = kernel("step", "forward", "LSTM", "float32")
STEP_LSTM_BACKWARD = kernel("step", "backward", "LSTM", "float32", resets=True)

MUTANTS = [
    Mutant(
        "c of inactive rows changes",
        CLUSTER_LSTM,
        "cluster_cell.h",
        {"this->acc_bit(rows.active, n, i) ? next_c[i] : c[n][i]": "next_c[i]"},
        Runs(32, blocks=2, layout="lengths"),
        "not close",
    ),
    Mutant(
        "all gates have the weights of the first",
        CLUSTER_LSTM,
        "cluster_cells.h",
        {"weight_hh + int64_t{m} * H * H": "weight_hh"},
        Runs(32, blocks=2),
        "not close",
    ),
    Mutant(
        "the splits of all gates share their memory",
        CLUSTER_LSTM,
        "mma.h",
        {"slot(n * TILES + m)[((index": "slot(n * TILES)[((index"},
        Runs(32, blocks=2, splits=2),
        "not close",
    ),
    Mutant(
        "the streamed weights of all gates share their memory",
        CLUSTER_LSTM,
        "cluster_cells.h",
        {"streamed + m * 32, tiling.streamed": "streamed, tiling.streamed"},
        Runs(48, blocks=1),
        "not close",
    ),
    Mutant(
        "other blocks start from 0 after a reset",
        CLUSTER_LSTM_RESETS,
        "cluster_cell.h",
        {"reset ? this->state_chunk(p.reset_h, n, i) : h[n][i]": "reset ? uint2{0, 0} : h[n][i]"},
        Runs(32, blocks=2),
        "not close",
    ),
    Mutant(
        "the lane's own states are not reset",
        CLUSTER_LSTM_RESETS,
        "cluster_cell.h",
        {"    if (rows.resets) start_from_reset(n, rows.resets, before, next_c);\n": ""},
        Runs(32, blocks=2),
        "not close",
    ),
    Mutant(
        "the first step reads no initial state",
        CLUSTER_LSTM_BACKWARD,
        "cluster_cell_backward.h",
        {"rows.active & (~rows.next_active | rows.next_resets)": "rows.active & rows.next_resets"},
        Runs(32, blocks=2, layout="lengths"),
        "not close",
    ),
    Mutant(
        "all gates of dz overwrite each other",
        CLUSTER_LSTM_BACKWARD,
        "cluster_cells.h",
        {"state_row_bytes + k * gate_bytes;": "state_row_bytes;"},
        Runs(32, blocks=2),
        "not close",
    ),
    Mutant(
        "the bytes of one gate are expected",
        CLUSTER_LSTM_BACKWARD,
        "cluster_cells.h",
        {
            "warp.wait_for_state(s, warp.rows * units * 8 * Cell::SENT);": "warp.wait_for_state(s, "
            "warp.rows * units * 8);"
        },
        Runs(32, blocks=2),
        "not close|one arrival too many|more bytes|deadlock",
    ),
    Mutant(
        "gradients of inactive rows change",
        CLUSTER_LSTM_BACKWARD,
        "cluster_cell_backward.h",
        {"dh[n][i] = is_active ? next_dh[i] : dh[n][i];": "dh[n][i] = next_dh[i];"},
        Runs(32, blocks=2, layout="lengths"),
        "not close",
    ),
    Mutant(
        "dq is not exchanged",
        CLUSTER_GRU_BACKWARD,
        "cluster_cell_backward.h",
        {"C::z_is_pre ? gates[k] : dz[k]": "gates[k]"},
        Runs(32, blocks=2),
        "not close",
        quick=True,
    ),
    Mutant(
        "gradients pass a reset",
        CLUSTER_GRU_BACKWARD,
        "cluster_cell_backward.h",
        {"      dh[n][i] = 0;\n": ""},
        Runs(32, blocks=2),
        "not close",
    ),
    Mutant(
        "a reset before the first step matters in backward",
        CLUSTER_GRU_BACKWARD,
        "cluster_cells.h",
        {"!(backward && s == 0) && crosses_reset": "crosses_reset"},
        Runs(32, blocks=2, reverse=True),
        "not close",
    ),
    Mutant(
        "all gates have the weights of the first",
        GRID_GRU,
        "grid.h",
        {"weight_hh + m % K * p.H * p.H": "weight_hh"},
        Runs(32, splits=2),
        "not close",
    ),
    Mutant(
        "resets are a step late",
        GRID_GRU,
        "grid.h",
        {"    starts = next_starts;\n": ""},
        Runs(32, splits=2),
        "not close",
    ),
    Mutant(
        "lengths overlap what the cell keeps",
        GRID_GRU,
        "grid.h",
        {"(cell_inputs) + cell_bytes": "(cell_inputs)"},
        Runs(32, splits=2),
        "not close|heap-buffer-overflow|deadlock|SEGV",
    ),
    Mutant(
        "dz is exchanged in grad_pre",
        GRID_GRU_BACKWARD,
        "grid.h",
        {"return C::z_is_pre && exchanges_in_result": "return exchanges_in_result"},
        Runs(32, splits=2),
        "not close",
    ),
    Mutant(
        "all gates of dz are published in one place",
        GRID_GRU_BACKWARD,
        "grid_warp.h",
        {"k * units * static_cast<int>": "0 * units * static_cast<int>"},
        Runs(32, splits=2),
        "not close|deadlock",
    ),
    Mutant(
        "the depth ends after one gate",
        GRID_GRU_BACKWARD,
        "pass_traits.h",
        {"gate < gates_of<P> && unit < H": "gate < 1 && unit < H"},
        Runs(32, splits=2),
        "not close",
    ),
    Mutant(
        "c is lost between launches",
        STEP_LSTM,
        "step.h",
        {"if (i > 0) inputs.kept() =": "if (i > 1) inputs.kept() ="},
        Runs(32),
        "not close",
    ),
    Mutant(
        "one buffer of dz",
        STEP_LSTM_BACKWARD,
        "step_tile.h",
        {"(((launch & 1) * p.B + b)": "((0 * p.B + b)"},
        Runs(64),
        "not close",
    ),
    Mutant(
        "a row that ends multiplies no dz",
        STEP_LSTM_BACKWARD,
        "step_tile.h",
        {
            "previous >= length) return nullptr": "previous >= length || "
            "(tile.t >= length && tile.t != tile.order.end())) return nullptr"
        },
        Runs(32, layout="lengths", reverse=True),
        "not close",
    ),
    Mutant(
        "the gradient of the start state is only that of the last reset",
        STEP_LSTM_BACKWARD,
        "cell_step.h",
        {"[p.state_at(b, group) + unit] += value;": "[p.state_at(b, group) + unit] = value;"},
        Runs(32, steps=9),
        "not close",
    ),
]
