// Chooses the strategy and the tiling of a call on a CUDA device. Independent of torch and of CUDA:
// the device is a plain struct, so that every choice can be tested on any machine.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "../params.h"

namespace fastrnn::cuda {

// The first three in the order of fastrnn/ops/backends/cuda.py. `rows` serves the operators of layers.
enum class Strategy { cluster, grid, step, rows };
constexpr Strategy STRATEGIES[] = {Strategy::cluster, Strategy::grid, Strategy::step};
enum class Pass { forward, backward };

// The precision of the products: `half` for bfloat16 and float16, `tf32` or `float32` for float32.
enum class Mode { half, tf32, float32, float64 };

constexpr int element_bytes(Mode mode) {
  return mode == Mode::half ? 2 : mode == Mode::float64 ? 8 : 4;
}

constexpr int element_bytes(DType dtype) {
  return dtype == DType::float64 ? 8 : dtype == DType::float32 ? 4 : 2;
}

// The units of a gate in the depth of a backward product: a whole number of 16 bytes.
FASTRNN_HOST_DEVICE constexpr int64_t padded_units(int64_t H, int element_bytes) {
  return (H * element_bytes + 15) / 16 * 16 / element_bytes;
}

struct Device {
  int major, minor;  // compute capability
  int processors;    // multiprocessors
  int shared_bytes;  // maximum shared memory of a block
  int clusters[5];   // active clusters of 1, 2, 4, 8, 16 blocks, with one block per multiprocessor
  bool cooperative;  // whether cooperative launch is supported
};

// How W_hh and the batch are tiled. A k-step is 32 bytes of the K dimension. For each of its tiles
// of 16 units, a warp keeps `resident` k-steps of W_hh in registers and `streamed` in shared
// memory.
struct Tiling {
  int blocks;    // blocks that divide the W_hh of a group, for a tile of the batch
  int m_tiles;   // tiles of 16 units per block
  int splits;    // splits of the K dimension over warps
  int resident;  // 4, 8, 16 or 32
  int streamed;
  int rows;        // batch rows of a tile, at most 32
  int layers = 1;  // of a stack: the cluster has `blocks` blocks for each

  // Tiles of 8 batch rows of the products. Rows beyond `rows` are computed but not exchanged.
  FASTRNN_HOST_DEVICE constexpr int n_tiles() const { return rows <= 8 ? 1 : rows <= 16 ? 2 : 4; }
};

// cluster: a warp has one tile of units, and a block has m_tiles · splits warps.
// grid: a warp has all m_tiles of its block, and a block has `splits` warps.
//
// The W_hh of a cell with `gates` gates has gates · H rows. In forward, a warp has the rows of all
// gates of its units: `gates` tiles for each tile of units. In backward, the gates are part of the
// K dimension.
constexpr int gate_tiles(Pass pass, const CellTraits& cell) {
  return pass == Pass::forward ? int(cell.gates) : 1;
}

// The number of values of a unit that a step of a cell reads. Forward reads pre of each gate.
// Backward reads grad_out, and what forward saved: out, or the gates, the inner value if there is
// one, and the state before the step.
constexpr int step_inputs(Pass pass, const CellTraits& cell) {
  if (pass == Pass::forward) return int(cell.gates);
  return cell.saves ? 2 + int(cell.gates) + cell.has_inner : 2;
}

// The number of steps whose inputs the cluster kernel prefetches. A step with few rows is shorter
// than the latency of global memory.
FASTRNN_HOST_DEVICE constexpr int cluster_stages(int n_tiles) { return n_tiles == 1 ? 4 : 2; }

// The bytes of the biases of a tile of units, and of its unit_param, in the shared memory of a cluster
// block.
FASTRNN_HOST_DEVICE constexpr int cluster_bias_bytes(Pass pass, const CellTraits& cell) {
  return cell.saves && pass == Pass::forward ? 256 * (int(cell.gates) + cell.has_unit_param) : 0;
}

// The k-steps of a layer's input that a kernel multiplies by W_ih, two at a time.
FASTRNN_HOST_DEVICE constexpr int input_k_steps(int64_t I, int element_bytes) {
  return static_cast<int>((I * element_bytes + 63) / 64 * 2);
}
// As the state's: 16 bytes more, so that ldmatrix reads eight rows from different banks.
FASTRNN_HOST_DEVICE constexpr int input_row_bytes(int k_steps) { return 32 * k_steps + 16; }

// The layout of a cluster block's shared memory, as byte offsets: two mbarriers, two buffers of the
// state, W_hh, two buffers of the splits' sums, and for each tile of units the stages of prefetched
// inputs and the lanes' biases. Cells that save no gates keep the biases in registers. With an input
// projection the inputs are rows of x, and W_ih follows the biases. In a stack the rows that a layer
// receives take the place of the first tile's x. Backward has other inputs, and receives rows at the
// end.
struct ClusterLayout {
  // 16 bytes more than K, so that ldmatrix reads eight rows from different banks.
  int64_t state_row_bytes;
  int64_t state, weights, sums, stages, received, end;
  int tile_bytes, x_k_steps;

  constexpr ClusterLayout(const Tiling& t, int element_bytes, Pass pass, const CellTraits& cell,
                          int x_k_steps = 0)
      : state_row_bytes(int64_t{t.splits} * (t.resident + t.streamed) * 32 + 16),
        state(128),
        weights(state + 16 * t.n_tiles() * state_row_bytes),
        sums(weights + int64_t{t.m_tiles} * t.splits * t.streamed * 512 * gate_tiles(pass, cell)),
        stages(sums +
               int64_t{t.splits - 1} * t.m_tiles * t.n_tiles() * 1024 * gate_tiles(pass, cell)),
        received(stages),
        end(0),
        tile_bytes(stage_bytes(t, element_bytes, pass, cell, x_k_steps) +
                   cluster_bias_bytes(pass, cell) + x_k_steps * 512 * gate_tiles(pass, cell)),
        x_k_steps(x_k_steps) {
    end = stages + int64_t{t.m_tiles} * tile_bytes;
    if (pass == Pass::forward || x_k_steps == 0) return;
    received = end;
    end += cluster_stages(1) * 8 * input_row_bytes(x_k_steps);
  }

  // Of a tile of units.
  static constexpr int stage_bytes(const Tiling& t, int element_bytes, Pass pass,
                                   const CellTraits& cell, int x_k_steps) {
    const int stages = cluster_stages(t.n_tiles()) * t.n_tiles();
    if (x_k_steps > 0 && pass == Pass::forward) return stages * 8 * input_row_bytes(x_k_steps);
    return stages * 128 * element_bytes * step_inputs(pass, cell);
  }
};

// Bytes of dynamic shared memory of a block.
constexpr int64_t cluster_shared_bytes(const Tiling& tiling, int element_bytes, Pass pass,
                                       const CellTraits& cell) {
  return ClusterLayout(tiling, element_bytes, pass, cell).end;
}

// The limits of the cluster kernel due to registers: the instances that are compiled, and the
// maximum number of threads per block. `fragments` counts the k-steps of W_hh in the registers of a
// warp, of all tiles. A lane also holds its chunks of the state, twice as many in float32, what a cell
// with several gates or states needs, and the products of an input projection.
constexpr bool cluster_compiled(Mode mode, int resident, int n_tiles, Pass pass,
                                const CellTraits& cell, bool projects = false) {
  const int gate_tiles = cuda::gate_tiles(pass, cell), fragments = resident * gate_tiles;
  if (projects && pass == Pass::forward && mode != Mode::half && fragments > 24) return false;
  int most = mode == Mode::half ? 128 : mode == Mode::tf32 ? 64 : 32;
  const bool keeps_c_and_more = cell.has_c && cell.has_unit_param;
  if (mode == Mode::half && cell.saves && (pass == Pass::backward || keeps_c_and_more)) most = 64;
  if (mode == Mode::tf32 && gate_tiles > 1) most = 48;
  return mode != Mode::float64 && fragments <= 32 && fragments * n_tiles <= most &&
         n_tiles * gate_tiles <= 12;
}
constexpr int cluster_threads(Mode mode, int resident, int n_tiles, Pass pass,
                              const CellTraits& cell, bool projects = false) {
  const int fragments = resident * gate_tiles(pass, cell);
  if (cell.saves) {
    const bool few =
        mode == Mode::float32 || (mode == Mode::tf32 && projects && pass == Pass::backward);
    return n_tiles == 1 && fragments <= (few ? 4 : 8) ? 512 : 256;
  }
  const int chunks = n_tiles * (mode == Mode::half ? 1 : 2);
  if (fragments >= 32 || chunks >= 8 || fragments * chunks > 32) return 256;
  return chunks >= 4 || fragments * chunks > 16 ? 384 : 512;
}
constexpr bool cluster_fits(Mode mode, const Tiling& t, Pass pass, const CellTraits& cell,
                            bool projects = false) {
  return t.rows > 0 && t.rows <= (projects ? 8 : 32) &&
         cluster_compiled(mode, t.resident, t.n_tiles(), pass, cell, projects) &&
         t.m_tiles * t.splits * 32 <=
             cluster_threads(mode, t.resident, t.n_tiles(), pass, cell, projects) &&
         t.splits <= 8 && (t.splits == 1 || t.m_tiles <= 15);  // one named barrier per tile
}

// What a lane of a grid block's epilogue keeps in shared memory, for cells that save gates: the
// inputs of a step, ten numbers from a step to the next, and in forward two biases of each gate.
constexpr int grid_cell_bytes(Mode mode, Pass pass, const CellTraits& cell) {
  const bool forward = pass == Pass::forward;
  const int inputs = int(cell.gates) + (forward ? 0 : 3), biases = forward ? int(cell.gates) : 0;
  return cell.saves ? 40 + 8 * biases + 8 * (mode == Mode::half ? 1 : 2) * inputs : 0;
}

constexpr int grid_lane_bytes = 72;  // the state of a lane, LaneState in grid_warp.h

// Shared memory of a grid block: two buffers of its warps' sums, W_hh, lane states, what cells keep,
// row lengths.
constexpr int64_t grid_shared_bytes(const Tiling& t, Mode mode, Pass pass, const CellTraits& cell) {
  const int64_t tiles = int64_t{t.m_tiles} * gate_tiles(pass, cell);
  const int64_t fragments = t.splits * tiles * (2 * t.n_tiles() + t.streamed);
  const int64_t epilogues = int64_t{t.n_tiles()} * t.m_tiles;
  return fragments * 512 + t.splits * 32 * grid_lane_bytes +
         epilogues * 32 * grid_cell_bytes(mode, pass, cell) + 32 * t.n_tiles();
}

// The limits of the grid kernel due to registers. `fragments` counts the k-steps of W_hh in the
// registers of a warp, with four registers per lane each. grid_threads is the maximum number of
// threads per block. grid_k_tiles is the maximum number of k-tiles of the state per warp, which
// loads all of them at once.
constexpr int grid_threads(Mode mode, int fragments, bool saves) {
  return fragments <= (mode == Mode::half && !saves ? 16 : 8) ? 512 : 256;
}
constexpr int grid_k_tiles(Mode mode, int fragments, bool saves) {
  return grid_threads(mode, fragments, saves) == 512 ? 8 : 16;
}

// The three products of float32 need registers too, and so do two tiles of a cell's gradients.
constexpr bool grid_compiled(Mode mode, int m_tiles, int resident, Pass pass,
                             const CellTraits& cell) {
  const bool few = mode == Mode::float32 || (cell.saves && pass == Pass::backward && m_tiles > 1);
  return mode != Mode::float64 && m_tiles <= 2 &&
         m_tiles * gate_tiles(pass, cell) * resident <= (few ? 16 : 32);
}

constexpr bool grid_fits(Mode mode, const Tiling& t, Pass pass, const CellTraits& cell) {
  const int fragments = t.m_tiles * gate_tiles(pass, cell) * t.resident;
  return grid_compiled(mode, t.m_tiles, t.resident, pass, cell) && t.streamed % 2 == 0 &&
         32 * t.splits <= grid_threads(mode, fragments, cell.saves) &&
         t.resident + t.streamed <= 2 * grid_k_tiles(mode, fragments, cell.saves) && t.rows > 0 &&
         t.rows <= 32 &&
         t.n_tiles() * t.m_tiles <= t.splits;  // one warp for the epilogue of each tile
}

// rows: a block for each batch row and group. Lanes that share a unit, steps whose inputs are in shared
// memory, and the most numbers of W_hh in the registers of a lane.
constexpr int rows_lanes = 4, rows_stages = 8, rows_weights = 64;

// The part of a lane in the depth of a product with H units; 0 if they are too many.
FASTRNN_HOST_DEVICE constexpr int rows_depth(int64_t H) {
  return H <= 32 ? 8 : H <= 64 ? 16 : H <= 128 ? 32 : 0;
}
constexpr int rows_threads(int64_t H) { return static_cast<int>(H * rows_lanes + 31) / 32 * 32; }

// The layout of a block's shared memory, as byte offsets: two buffers of the state, in backward dz; the
// inputs of rows_stages steps; W_ih. Inputs are copied in chunks of 8 bytes: a vector of x, or vectors
// of H numbers.
struct RowsLayout {
  int padded_units, x_chunks, vector_chunks, chunks;  // x_chunks: of four inputs, of a lane
  int inputs, weights, end;

  constexpr RowsLayout(Pass pass, const CellTraits& cell, int64_t H, int64_t I, int element_bytes)
      : padded_units(rows_depth(H) * rows_lanes),
        x_chunks(static_cast<int>((I + 4 * rows_lanes - 1) / (4 * rows_lanes))),
        vector_chunks(I > 0 ? x_chunks * rows_lanes * element_bytes / 2
                            : static_cast<int>(H * element_bytes + 7) / 8),
        chunks(vector_chunks * (I > 0 ? 1 : vectors(pass, cell))),
        inputs(8 * padded_units * (pass == Pass::backward ? int(cell.gates) : 1)),
        weights(inputs + (rows_stages * chunks * 8 + 15) / 16 * 16),
        end(weights + x_chunks * int(cell.gates) * rows_threads(H) * 16) {}

  static constexpr int vectors(Pass pass, const CellTraits& cell) {
    if (pass == Pass::forward) return int(cell.gates);
    return 1 + int(cell.gates) + cell.has_inner + cell.saves;
  }
};

struct Plan {
  Strategy strategy;
  Mode mode;
  Tiling tiling;          // unused by `step`
  int threads;            // of a block
  int64_t shared;         // bytes of dynamic shared memory of a block
  int64_t tiles;          // G · ceil(B / rows), each computed by `blocks` blocks
  int64_t at_once;        // tiles that run at once
  double cycles;          // of a call, according to the model in plan.cpp
  bool projects = false;  // whether the kernel reads a layer's input in place of pre
};

// The sizes of a call, which determine its plan.
struct Sizes {
  Mode mode;
  Pass pass;
  int64_t T, B, G, H;
  Cell cell = Cell::rnn_tanh;

  bool operator==(const Sizes&) const = default;
};

// The best plan of one strategy, or the reason why the strategy does not support the call.
struct Option {
  Plan plan;
  std::string unsupported_reason;  // empty if it supports the call
};

Option best(Strategy strategy, const Device& device, const Sizes& sizes);

// The fastest plan of all strategies, according to the model. `step` supports every call.
Plan make_plan(const Device& device, const Sizes& sizes);

// The best plan of one launch for one or several layers that reads their input in place of pre: of
// nn.RNN, LSTM and GRU, in tiles of at most 8 batch rows. Each layer is a step behind the one before. In
// forward the first has I input features. Sizes are those of a layer.
Option best_stack(const Device& device, const Sizes& sizes, int64_t layers, int64_t I);

// The plan of `rows` for a layer, whose forward reads I input features, or pre if I is 0. Only the
// operators of layers use it.
Option best_rows(const Device& device, const Sizes& sizes, int64_t I);

// The plans of a pass of a stack, whose first layer has `input` features and the others `hidden`: for
// each layer, in the order in which they are computed, that of the launch which begins with it.
std::vector<Plan> stack_plans(const Device& device, const Sizes& sizes, int64_t layers,
                              int64_t input, int64_t hidden);

// The operations of the products of a layer's weight gradients up to which one launch of
// weight_grad.h takes less time than a launch for each. An estimate: no GPU has measured it.
constexpr double small_weight_products = 1 << 27;

const char* name(Strategy strategy);

// Describes a plan: where W_hh is stored, the tiles of the batch, how many run at once.
std::string describe(const Plan& plan);

}  // namespace fastrnn::cuda
