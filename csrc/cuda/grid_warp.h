// A warp of the grid kernel: the exchange between blocks, the state of a lane in shared memory, the
// warp's tile of the work, and the parts of a step.
//
// Some functions take references to the kernel's pointers, as a lambda would: with copies they
// compile to different SASS. Loading W_hh in a function also changes the SASS of the kernel.
#pragma once

#include "cell_epilogue.h"
#include "operand_load.h"
#include "plan.h"

namespace fastrnn::cuda {

// Marks a word of the state that is not written yet. These bits are a NaN; a state with them is
// stored as another NaN.
constexpr uint32_t sentinel = 0xffffffff;

__device__ inline bool has_sentinel(uint4 words) {
  return words.x == sentinel || words.y == sentinel || words.z == sentinel || words.w == sentinel;
}
template <class E> __device__ uint2 replace_sentinel(uint2 chunk) {
  constexpr uint32_t nan = E::word_values == 2 ? 0x7fff7fff : 0x7fffffff;
  return {chunk.x == sentinel ? nan : chunk.x, chunk.y == sentinel ? nan : chunk.y};
}

struct Empty {};

// The state of a lane between steps, in shared memory, since W_hh fills the registers: its offsets
// within a step, and the inputs of the next epilogue. With resets it is no larger. A cell that saves
// gates has more inputs; only the lanes of an epilogue have memory for them.
template <class E, class P> struct LaneState {
  int64_t state_offset, publish_offset;  // in bytes of StateExchange::states
  int64_t result_offset, result_state;   // in elements: of a step, and of a state
  std::conditional_t<has_resets<P>, int8_t, int> valid_k_tiles;  // of the state
  [[no_unique_address]] RowResets<P> resets;
  std::conditional_t<has_resets<P>, int16_t, int> unit;
  [[no_unique_address]] std::conditional_t<has_resets<P>, int, Empty> own_row;
  [[no_unique_address]] std::conditional_t<saves_gates<P>, Empty, typename Epilogue<E, P>::Inputs>
      inputs;
};

// The memory through which the blocks exchange the state.
struct StateExchange {
  void* states;                   // [T, B, G, width]
  const void* initial;            // [B, G, width], forward only: h0; null: 0
  int64_t width;                  // at least H, a multiple of 16 bytes
  int64_t row_bytes, step_bytes;  // strides of batch rows and of steps
  bool in_result;                 // whether `states` is the result tensor
};

template <class E, class P, int M, int RESIDENT>
constexpr int grid_max_threads = grid_threads(E::word_values == 2 ? Mode::half : Mode::float32,
                                              M* gate_tiles_of<P>* RESIDENT, saves_gates<P>);

// The maximum size of the inputs of a cell that saves gates.
template <class E, class P>
constexpr int grid_inputs_bytes = grid_cell_bytes(mode_of<E>, pass_of<P>, traits_of<P>);

template <class E, class P, int M, int RESIDENT> struct GridWarp {
  static constexpr int size = sizeof(typename E::Storage);
  static constexpr int TILES = M * gate_tiles_of<P>;  // of W_hh
  static constexpr bool few_registers = grid_max_threads<E, P, M, RESIDENT> > 256;
  static constexpr int K_TILES = few_registers ? 8 : 16;  // see grid_k_tiles
  // Independent accumulators.
  static constexpr int CHAINS = TILES > 2 ? 1 : few_registers ? 2 / TILES : 4 / TILES;

  // The kernel's arguments.
  const P& p;
  const StateExchange& exchange;
  const int blocks, streamed, rows;
  const int64_t first_tile;

  // The warp and the lane.
  const int warp = threadIdx.x / 32, splits = blockDim.x / 32;
  const Lane<E> lane{static_cast<int>(threadIdx.x % 32)};

  // Their units, of some batch rows of a group.
  const int n_tiles = (rows + 7) / 8, k_tiles = (RESIDENT + streamed) / 2;
  const int64_t tile = first_tile + blockIdx.x / blocks;
  const int rank = blockIdx.x % blocks;
  const int64_t tiles_of_group = (p.B + rows - 1) / rows, group = tile / tiles_of_group;
  const int64_t first_row = tile % tiles_of_group * rows;

  // Loads the lengths of the tile's rows into shared memory and returns the longest. Called by all
  // threads.
  __device__ int load_lengths(int* lengths) const {
    for (int i = threadIdx.x; i < 8 * n_tiles; i += blockDim.x) {
      lengths[i] = i < rows ? row_length(p, first_row + i) : -1;
    }
    __syncthreads();
    int steps = 0;
    for (int i = 0; i < rows; ++i) steps = lengths[i] > steps ? lengths[i] : steps;
    return steps;
  }

  // Finds the lane's part of the state: 16 bytes of each k-tile within `width`, of row lane.g.
  __device__ void locate_state(LaneState<E, P>* lane_state) const {
    const int64_t first_byte = int64_t{warp} * k_tiles * k_tile_bytes + 16 * lane.q;
    const int64_t bytes = exchange.width * size - first_byte;
    const int64_t valid = bytes <= 0 ? 0 : (bytes + k_tile_bytes - 1) / k_tile_bytes;
    lane_state->valid_k_tiles = valid < k_tiles ? static_cast<int>(valid) : k_tiles;
    lane_state->state_offset =
        (first_row + lane.g) * exchange.row_bytes + group * exchange.width * size + first_byte;
  }

  // Finds the chunks that the lane stores in its epilogue.
  __device__ void locate_tile(LaneState<E, P>* lane_state, int64_t own_row,
                              const Epilogue<E, P>& epilogue) const {
    lane_state->result_offset = epilogue.offset;
    lane_state->unit = epilogue.unit;
    if constexpr (has_resets<P>) lane_state->own_row = own_row;
    lane_state->publish_offset = (own_row + lane.chunk_row(0)) * exchange.row_bytes +
                                 (group * exchange.width + epilogue.unit) * size;
  }

  // The lane's part of the state that step t multiplies, of the n-th tile of batch rows.
  struct StateRow {
    const unsigned char* from;
    int k_tiles;
    bool awaited;
  };
  __device__ StateRow state_row(const int* lengths, const LaneState<E, P>* lane_state,
                                TimeOrder order, int n, int t, uint32_t starts) const {
    if constexpr (saves_gates<P> && !is_backward<P>) {
      if (starts >> n & 1) {
        const auto* const from = static_cast<const unsigned char*>(p.padded_reset_h) +
                                 (8 * n * exchange.row_bytes + lane_state->state_offset);
        return {from, p.padded_reset_h ? lane_state->valid_k_tiles : 0, false};
      }
    }
    const int length = lengths[8 * n + lane.g], previous = order.previous(t, length);
    const bool begins = previous < 0;
    const bool needed =
        begins ? !is_backward<P> && exchange.initial && t < length : t < length || t == order.end();
    const auto* const from =
        static_cast<const unsigned char*>(begins ? exchange.initial : exchange.states);
    const int64_t at = begins ? 0 : previous * exchange.step_bytes;
    return {from + (at + 8 * n * exchange.row_bytes + lane_state->state_offset),
            needed ? lane_state->valid_k_tiles : 0, !begins};
  }

  // Bit n: whether row lane.g of the n-th tile of batch rows starts from reset_h at t. Forward of
  // cells that save gates: for others, the epilogue ignores the product.
  __device__ uint32_t resets_of(const int* lengths, TimeOrder order, int t) const {
    uint32_t starts = 0;
    if constexpr (saves_gates<P> && !is_backward<P>) {
      if (!p.resets) return 0;
      for (int n = 0; n < n_tiles; ++n) {
        const int row = 8 * n + lane.g;
        starts |= crosses_reset(p, t, first_row + row, order.descending, lengths[row]) << n;
      }
    }
    return starts;
  }

  __device__ static void load(uint4 (&h)[K_TILES], const StateRow& row, int c) {
    h[c] = {0, 0, 0, 0};
    if (c < row.k_tiles) h[c] = ptx::ld_relaxed(row.from + c * k_tile_bytes);
  }

  // Reloads words that were not written yet until all are.
  __device__ static void wait_for_state(uint4 (&h)[K_TILES], StateRow& row) {
    for (int again = row.awaited; again;) {
      again = 0;
      row.from = ptx::opaque(row.from);
#pragma unroll
      for (int c = 0; c < K_TILES; ++c) {
        if (!has_sentinel(h[c])) continue;
        h[c] = ptx::ld_relaxed(row.from + c * k_tile_bytes);
        again = 1;
      }
    }
    __syncwarp();
  }

  // Stores this warp's sums of the n-th tile of batch rows for the warps that have an epilogue.
  __device__ void store_sums(float4* step_sums, const float (&sum)[TILES][CHAINS][4], int n) const {
#pragma unroll
    for (int m = 0; m < TILES; ++m) {
      float total[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        total[j] = sum[m][0][j];
#pragma unroll
        for (int chain = 1; chain < CHAINS; ++chain) total[j] += sum[m][chain][j];
      }
      step_sums[((n * TILES + m) * splits + warp) * 32 + threadIdx.x % 32] = {total[0], total[1],
                                                                              total[2], total[3]};
    }
  }

  // sum += all warps' sums of the tile of this warp's epilogue.
  __device__ void reduce_sums(float (&sum)[TILES / M][4], const float4* step_sums) const {
#pragma unroll
    for (int k = 0; k < TILES / M; ++k) {
#pragma unroll 4
      for (int j = 0; j < splits; ++j) {
        const float4 part =
            step_sums[((warp * (TILES / M) + k) * splits + j) * 32 + threadIdx.x % 32];
        sum[k][0] += part.x, sum[k][1] += part.y, sum[k][2] += part.z, sum[k][3] += part.w;
      }
    }
  }
};

// Loads the inputs of step t's epilogue. Waiting for the other blocks' state hides the latency.
template <class E, class P>
__device__ void load_inputs(LaneState<E, P>* const& lane_state,
                            typename Epilogue<E, P>::Inputs& inputs, const Epilogue<E, P>& epilogue,
                            const TimeOrder& order, int t) {
  if constexpr (has_resets<P>) epilogue.load_resets(lane_state->resets, t, lane_state->own_row);
  if (t == order.end()) return;
  epilogue.load(inputs, t);
  if (order.next(t) != order.end()) epilogue.prefetch(order.next(t));
}

// Stores a chunk of step t's state for the other blocks. Returns whether that is in the result.
template <class E, class P> struct Publish {
  const StateExchange& exchange;
  const LaneState<E, P>* const& lane_state;
  const Epilogue<E, P>& epilogue;
  const int t;

  // k: the gate, in backward.
  __device__ bool operator()(int i, uint2 chunk, int k = 0) const {
    const int64_t units = exchange.width / (is_backward<P> ? gates_of<P> : 1);  // of a gate
    if (epilogue.unit >= units) return true;
    auto* const to =
        static_cast<unsigned char*>(exchange.states) +
        (t * exchange.step_bytes + i * exchange.row_bytes + lane_state->publish_offset +
         k * units * static_cast<int>(sizeof(typename E::Storage)));
    // An infinity beyond H would be multiplied by 0, which is NaN.
    const uint2 mask = unit_mask<E>(epilogue.unit, epilogue.p.H);
    ptx::st_relaxed(to, replace_sentinel<E>({chunk.x & mask.x, chunk.y & mask.y}));
    return exchange.in_result;
  }
};

__device__ inline void store_words(uint4* to, const uint32_t (&words)[4]) {
  *to = {words[0], words[1], words[2], words[3]};
}

// sum += k-tile c of W_hh times that of the state. The first RESIDENT k-steps of W_hh are in
// registers, the others in shared memory, `stride` apart.
template <class E, int RESIDENT, int CHAINS>
__device__ void mma_k_tile(float (&sum)[CHAINS][4], const uint32_t (&resident)[RESIDENT][4],
                           const uint4* streamed, int stride, uint4 h, int c) {
  uint32_t loaded[2][4];
  if (c >= RESIDENT / 2) {
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const uint4 words = streamed[(2 * c - RESIDENT + j) * stride];
      loaded[j][0] = words.x, loaded[j][1] = words.y;
      loaded[j][2] = words.z, loaded[j][3] = words.w;
    }
  }
  const auto& w = loaded;
  const auto& low = c < RESIDENT / 2 ? resident[2 * c % RESIDENT] : w[0];
  const auto& high = c < RESIDENT / 2 ? resident[(2 * c + 1) % RESIDENT] : w[1];
  mma_k_step<E>(sum[2 * c % CHAINS], low, h.x, h.y);
  mma_k_step<E>(sum[(2 * c + 1) % CHAINS], high, h.z, h.w);
}

}  // namespace fastrnn::cuda
