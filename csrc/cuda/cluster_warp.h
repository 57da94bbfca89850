// A warp of the cluster kernel: its tile of the work, and the self-contained parts of a step.
#pragma once

#include "mma.h"
#include "pass_traits.h"

namespace fastrnn::cuda {

// The rows of a call's tensors: the bytes from one to the next in a step, and their alignment; and
// that of the rows of a layer's input and of W_ih.
struct ClusterRows {
  int64_t bytes;
  int alignment, input_alignment;
  bool has_grad_out;  // of nn.RNN's cells in backward
};

template <class E, class P, int RESIDENT, int N> struct ClusterWarp {
  using Storage = typename E::Storage;
  static constexpr bool backward = is_backward<P>;
  static constexpr int gates = gates_of<P>;

  // The kernel's arguments.
  const P& p;
  const Tiling& tiling;
  const ClusterLayout& layout;
  const ClusterRows& data;
  unsigned char* const shared;

  // The block, the warp and the lane.
  const uint32_t base = ptx::cvta_shared(shared);
  const int lane_index = threadIdx.x % 32, warp = __shfl_sync(~0u, threadIdx.x / 32, 0);
  const Lane<E> lane{lane_index};
  const int blocks = tiling.blocks, cluster_rank = ptx::cluster_ctarank();
  const int layers = projects<P> ? tiling.layers : 1;
  const int layer = projects<P> ? cluster_rank / blocks : 0, rank = cluster_rank - layer * blocks;
  const int m_tile = warp % tiling.m_tiles, split = warp / tiling.m_tiles;
  const int first_k = split * (RESIDENT + tiling.streamed);

  // Its units, of some batch rows of a group.
  const int H = static_cast<int>(p.H), tiles_of_units = (H + 15) / 16;
  const int first_tile = rank * tiles_of_units / blocks;
  const int m_tiles = (rank + 1) * tiles_of_units / blocks - first_tile;  // of this block
  const int first_unit = 16 * (first_tile + m_tile), unit = first_unit + lane.chunk_unit();
  const uint2 valid_units = unit_mask<E>(unit, H);
  const int tiles_of_group = static_cast<int>((p.B + tiling.rows - 1) / tiling.rows);
  const int tile = blockIdx.x / (layers * blocks), group = tile / tiles_of_group;
  const int first_row = tile % tiles_of_group * tiling.rows;
  const int rest = static_cast<int>(p.B) - first_row;
  const int rows = rest < tiling.rows ? rest : tiling.rows, n_tiles = (rows + 7) / 8;

  // Its steps.
  const int length = row_length();  // a lane holds the length of one row
  const int steps = max_over_lanes(length);
  const bool descending = (group >= p.reverse_from) != backward;

  const uint32_t valid_rows = unit < H ? ~0u >> (32 - rows) : 0;

  // Byte offset of the lane's first chunk within a step.
  const int alignment = data.alignment;
  const bool aligned = alignment == 8;
  const int64_t& row_bytes = data.bytes;
  const int64_t chunk_offset =
      (first_row + lane.chunk_row(0)) * row_bytes + group * p.H * sizeof(Storage);

  __device__ int row_length() const {
    if (lane_index >= rows) return 0;
    return int(p.lengths ? p.lengths[first_row + lane_index] : p.T);
  }

  __device__ static int max_over_lanes(int steps) {
#pragma unroll
    for (int i = 16; i > 0; i /= 2) {
      const int other = __shfl_xor_sync(~0u, steps, i);
      steps = other > steps ? other : steps;
    }
    return steps;
  }

  // Whether the block has a tile of units for the warp.
  __device__ bool has_units() const { return m_tile < m_tiles; }

  __device__ int time(int s) const { return descending ? steps - 1 - s : s; }

  // Waits until all blocks have sent their part of the state that step s multiplies.
  __device__ void wait_for_state(int s, int bytes) const {
    if (s > 0 && blocks == 1) {
      __syncthreads();
    } else if (s > 0) {
      const uint32_t barrier = base + s % 2 * 8;
      ptx::mbarrier_wait(barrier, unsigned(s - 1) / 2 % 2);
      if (threadIdx.x == 0) ptx::mbarrier_arrive_expect_tx(barrier, bytes);
    }
  }

  // Bit b: whether row b is active.
  __device__ uint32_t active_rows(int t) const { return __ballot_sync(~0u, 0 <= t && t < length); }

  // The bit of the row of the lane's chunk.
  __device__ bool chunk_bit(uint32_t mask, int n, int i) const {
    return (mask >> lane.chunk_row(0) >> (8 * n + i) & 1) != 0;
  }

  // The lane's chunk i of the n-th 8 batch rows, in a step at `step` bytes.
  __device__ Storage* row(const void* tensor, int64_t step, int n, int i) const {
    const int64_t at = step + chunk_offset + (8 * n + i) * row_bytes;
    return reinterpret_cast<Storage*>(const_cast<char*>(static_cast<const char*>(tensor)) + at);
  }
  // The same in a state.
  __device__ Storage* state_row(const void* state, int n, int i) const {
    // Recomputed, so that the loop does not keep them in registers.
    const int tile = ptx::opaque(blockIdx.x) / (layers * blocks), group = tile / tiles_of_group;
    const int first_row = tile % tiles_of_group * tiling.rows;
    return static_cast<Storage*>(const_cast<void*>(state)) +
           p.state_at(first_row + lane.chunk_row(0) + 8 * n + i, group);
  }
  __device__ int64_t step_offset(int t) const {
    if (unsigned(t) >= unsigned(steps)) return 0;
    return (p.offsets ? p.offsets[t] : t * p.B) * row_bytes;
  }

  __device__ void store_rows(const SplitK& split_k, void* result, int64_t offset, uint32_t active,
                             const uint2 (&words)[N][E::lane_chunks]) const {
#pragma unroll
    for (int n = 0; n < N; ++n) {
      if (!split_k.owns(n)) continue;
#pragma unroll
      for (int i = 0; i < E::lane_chunks; ++i) {
        const bool is_active = chunk_bit(active, n, i);
        if (!chunk_bit(p.offsets ? active : valid_rows, n, i)) continue;
        store_chunk<E>(row(result, offset, n, i), unit, H, aligned,
                       is_active ? words[n][i] : uint2{0, 0});
      }
    }
  }

  // Loads the initial state into this block's buffer 0. Zeros the padding of both buffers.
  __device__ void load_initial_state(uint32_t reset_rows) const {
    const int state_row_bytes = static_cast<int>(layout.state_row_bytes),
              state_bytes = 8 * N * state_row_bytes;
    for (int b = warp; b < 8 * N; b += blockDim.x / 32) {
      for (int c = lane_index; c < state_row_bytes / 8; c += 32) {
        uint2* const to = reinterpret_cast<uint2*>(shared + layout.state + b * state_row_bytes) + c;
        uint2 chunk{0, 0};
        if constexpr (!backward) {
          const void* first = p.h0;
          if constexpr (saves_gates<P>) first = reset_rows >> b & 1 ? p.reset_h : first;
          if (b < rows && first) {
            chunk =
                load_chunk<E>(static_cast<const Storage*>(first) + p.state_at(first_row + b, group),
                              c * E::chunk_units, H, aligned);
          }
        }
        if constexpr (has_resets<P> && !saves_gates<P>) {
          chunk = reset_rows >> b & 1 ? uint2{0, 0} : chunk;
        }
        to[0] = E::operand(chunk);
        to[state_bytes / 8] = {0, 0};
      }
    }
  }

  __device__ void init_mbarriers(int bytes) const {
    if (threadIdx.x == 0 && blocks > 1) {
      for (int i = 0; i < 2; ++i) ptx::mbarrier_init(base + 8 * i, 1);
      ptx::fence_mbarrier_init();
      for (int i = 0; i < 2; ++i) ptx::mbarrier_arrive_expect_tx(base + 8 * i, bytes);
    }
  }
};

// Loads the W_hh of a warp's tile: RESIDENT k-steps from `first_k` on into registers, `count` more
// into shared memory, where the warp has TILES tiles.
template <class E, class P, int RESIDENT>
__device__ void load_weights(uint32_t (&w)[RESIDENT][4], uint4* streamed, int count,
                             const typename E::Storage* weight_hh, int H, int first_unit,
                             int first_k, const Lane<E>& lane, int alignment) {
  constexpr int k_step = 8 * E::word_values;
#pragma unroll
  for (int k = 0; k < RESIDENT; ++k) {
    load_fragment<E, P>(w[k], weight_hh, H, first_unit, (first_k + k) * k_step, lane, alignment);
  }
#pragma unroll 1
  for (int k = 0; k < count; ++k) {
    uint32_t v[4];
    load_fragment<E, P>(v, weight_hh, H, first_unit, (first_k + RESIDENT + k) * k_step, lane,
                        alignment);
    streamed[k * gate_tiles_of<P> * 32] = {v[0], v[1], v[2], v[3]};
  }
}

}  // namespace fastrnn::cuda
