// Which kernel serves a call on a CUDA device, how it is cut, and why. Knows nothing of torch and
// nothing of CUDA: the device is a plain struct, so every choice can be tried on any machine.
#pragma once

#include <cstdint>
#include <string>

#include "../params.h"

namespace fastrnn::cuda {

enum class Strategy { cluster, grid, step };  // numbered so in fastrnn/ops/backends/cuda.py
constexpr Strategy STRATEGIES[] = {Strategy::cluster, Strategy::grid, Strategy::step};
enum class Direction { forward, backward };

// How the products are computed: `half` for both half precisions; float32 as tf32 or in full.
enum class Mode { half, tf32, float32, float64 };

constexpr int element_bytes(Mode mode) {
  return mode == Mode::half ? 2 : mode == Mode::float64 ? 8 : 4;
}

struct Device {
  int major, minor;       // compute capability
  int processors;         // multiprocessors
  int shared_bytes;       // that one block may ask for
  int clusters[5];        // that run at once, of 1, 2, 4, 8, 16 blocks: one a multiprocessor
  bool cooperative;       // whether blocks that wait for one another can be launched
};

// How W_hh and the batch are cut. A k-step is 32 bytes of the product's depth; a warp's share of
// W_hh is `resident` k-steps in registers and `streamed` in shared memory for each of its tiles of
// 16 units.
struct Tiling {
  int blocks;    // that share a group's W_hh for a tile of the batch
  int m_tiles;   // tiles of 16 units of a block
  int splits;    // of the depth, over warps
  int resident;  // 4, 8, 16 or 32
  int streamed;
  int rows;      // batch rows of a tile, at most 32

  // Tiles of 8 batch rows that the products have: what is beyond `rows` is computed, not exchanged.
  FASTRNN_HOST_DEVICE constexpr int n_tiles() const { return rows <= 8 ? 1 : rows <= 16 ? 2 : 4; }
};

// cluster: a warp has one tile of units, a block m_tiles · splits warps.
// grid: a warp has all m_tiles of its block, a block splits warps.
//
// A cell of `gates` gates has a W_hh of gates · H rows. Forward, a warp has the rows of all gates
// of its units: so many tiles for each tile of units. Backward, the gates are part of the depth.
// There is no kernel of several gates yet, and for them the limits below are estimates.
FASTRNN_HOST_DEVICE constexpr int gate_tiles(Direction direction, int gates) {
  return direction == Direction::forward ? gates : 1;
}

// The tensors that a step of a cell reads: forward, its input's share of each gate; backward, the
// gradient of the result, and what forward saved: its result, or the gates and two more.
FASTRNN_HOST_DEVICE constexpr int streams(Direction direction, int gates) {
  return direction == Direction::forward ? gates : gates == 1 ? 2 : gates + 2;
}

// The steps by which the cluster kernel's reads run ahead: a step of few rows is shorter than a
// trip to memory.
FASTRNN_HOST_DEVICE constexpr int cluster_ahead(int n_tiles) { return n_tiles == 1 ? 4 : 2; }

// The shared memory of a block of the cluster kernel, in bytes from its beginning: two mbarriers,
// two buffers of the state, W_hh, two of the splits' sums, and what was read ahead.
struct ClusterLayout {
  int64_t row;    // bytes of a row of the state: 16 more than its depth, so that eight rows' pieces
  int64_t state;  // of 16 bytes lie in different banks
  int64_t weights, sums, ahead, end;

  constexpr ClusterLayout(const Tiling& t, int element_bytes, Direction direction, int gates = 1)
      : row(int64_t{t.splits} * (t.resident + t.streamed) * 32 + 16),
        state(128),
        weights(state + 16 * t.n_tiles() * row),
        sums(weights + int64_t{t.m_tiles} * t.splits * t.streamed * 512 *
                           gate_tiles(direction, gates)),
        ahead(sums + int64_t{t.splits - 1} * t.m_tiles * t.n_tiles() * 1024 *
                         gate_tiles(direction, gates)),
        end(ahead + int64_t{t.m_tiles} * t.n_tiles() * 128 * element_bytes *
                        cluster_ahead(t.n_tiles()) * streams(direction, gates)) {}
};

// Bytes of dynamic shared memory of a block.
constexpr int64_t cluster_shared_bytes(const Tiling& tiling, int element_bytes,
                                       Direction direction, int gates = 1) {
  return ClusterLayout(tiling, element_bytes, direction, gates).end;
}

// The cluster kernel by its registers: which instances there are, and the threads of a block.
// A lane also holds its chunks of the state, twice as many in float32. `gate_tiles` as above.
constexpr bool cluster_compiled(Mode mode, int resident, int n_tiles) {
  const int most = mode == Mode::half ? 128 : mode == Mode::tf32 ? 64 : 32;
  return mode != Mode::float64 && resident * n_tiles <= most;
}
constexpr int cluster_threads(Mode mode, int fragments, int n_tiles, int gate_tiles = 1) {
  const int chunks = n_tiles * gate_tiles * (mode == Mode::half ? 1 : 2);
  if (fragments >= 32 || chunks >= 8 || fragments * chunks > 32) return 256;
  return chunks >= 4 || fragments * chunks > 16 ? 384 : 512;
}
constexpr bool cluster_fits(Mode mode, const Tiling& t, int gate_tiles = 1) {
  const int fragments = t.resident * gate_tiles;
  return t.rows > 0 && t.rows <= 32 && fragments <= 32 &&
         cluster_compiled(mode, fragments, t.n_tiles()) &&
         t.m_tiles * t.splits * 32 <= cluster_threads(mode, fragments, t.n_tiles(), gate_tiles) &&
         t.splits <= 8 && (t.splits == 1 || t.m_tiles <= 15);  // a barrier each
}

// Of a block of grid: the sums of its warps, twice; W_hh; what lanes keep; the rows' lengths.
constexpr int64_t grid_shared_bytes(const Tiling& t, int gate_tiles = 1) {
  const int64_t tiles = int64_t{t.m_tiles} * gate_tiles;
  const int64_t fragments = t.splits * tiles * (2 * t.n_tiles() + t.streamed);
  return fragments * 512 + t.splits * 32 * 64 + 32 * t.n_tiles();
}

// The grid kernel by its fragments, the k-steps of W_hh in a warp's registers: four registers each
// for every lane. How many threads a block may have at most, and how many pairs of k-steps of the
// state a warp then has registers for: its whole share, since it waits for all of it at once.
constexpr int grid_threads(Mode mode, int fragments) {
  return fragments <= (mode == Mode::half ? 16 : 8) ? 512 : 256;
}
constexpr int grid_pieces(Mode mode, int fragments) {
  return grid_threads(mode, fragments) == 512 ? 8 : 16;
}

constexpr bool grid_fits(Mode mode, const Tiling& t, int gate_tiles = 1) {
  const int fragments = t.m_tiles * gate_tiles * t.resident;
  const int most = mode == Mode::float32 ? 16 : 32;  // its three products need registers too
  return mode != Mode::float64 && t.m_tiles <= 2 && fragments <= most && t.streamed % 2 == 0 &&
         32 * t.splits <= grid_threads(mode, fragments) &&
         t.resident + t.streamed <= 2 * grid_pieces(mode, fragments) &&
         t.rows > 0 && t.rows <= 32 &&
         t.n_tiles() * t.m_tiles <= t.splits;  // a warp for the end of each tile of a step
}

struct Plan {
  Strategy strategy;
  Mode mode;
  Tiling tiling;       // not of `step`
  int threads;         // of a block
  int64_t shared;      // bytes of dynamic shared memory of a block
  int64_t tiles;       // G · ceil(B / rows): each the work of `blocks` blocks
  int64_t at_once;     // tiles that run at once; the others follow
  double cycles;       // of a call, by the model in plan.cpp
};

// What a choice depends on, beside the device.
struct Sizes {
  Mode mode;
  Direction direction;
  int64_t T, B, G, H;
  int gates = 1;  // of W_hh, [G, gates · H, H]

  bool operator==(const Sizes&) const = default;
};

// The best plan of one strategy, or why it cannot serve.
struct Option {
  Plan plan;
  std::string refusal;  // empty: it can
};

Option best(Strategy strategy, const Device& device, const Sizes& sizes);

// The fastest of all strategies, by the model. `step` serves everything, so there always is one.
Plan make_plan(const Device& device, const Sizes& sizes);

const char* name(Strategy strategy);

// A plan in words: where W_hh lies, how the batch is cut, how many tiles run at once.
std::string describe(const Plan& plan);

}  // namespace fastrnn::cuda
