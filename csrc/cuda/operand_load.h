// How the grid and step kernels load the operands of mma from global memory.
//
// A k-tile is 64 bytes of the K dimension: two k-steps. Lane 4 g + q loads 16 bytes of it, from
// byte 16 q on: of row g of the state in one load, and of two rows of W_hh. mma expects words q and
// q + 4 of each k-step. The order of words along K does not matter as long as W_hh and the state
// agree. So the first two of a lane's four words serve one k-step, the last two the other.
#pragma once

#include "pass_traits.h"
#include "plan.h"

namespace fastrnn::cuda {

constexpr int k_tile_bytes = 64;

// The layout of a call's tensors, computed once on the host.
struct TensorLayout {
  int64_t row_stride;    // elements from a batch row to the next
  int64_t step_stride;   // elements from a step to the next, unless rows are packed
  bool aligned_chunks;   // whether all tensors allow 8-byte accesses
  bool aligned_k_tiles;  // whether W_hh and the tensors that hold states allow 16-byte loads
};

// Loads 16 bytes of a row of H units: from `unit` on, 0 beyond H.
template <class E>
__device__ uint4 load_16_bytes(const typename E::Storage* row, int64_t unit, int64_t H,
                               bool aligned) {
  if (unit >= H) return {0, 0, 0, 0};
  if (aligned) return *reinterpret_cast<const uint4*>(row + unit);
  const uint2 low = load_chunk<E>(row, unit, H, false);
  const uint2 high = load_chunk<E>(row, unit + E::chunk_units, H, false);
  return {low.x, low.y, high.x, high.y};
}

// The lane's first unit of a k-tile.
template <class E> __device__ int64_t k_tile_unit(int64_t k_tile, const Lane<E>& lane) {
  return (k_tile * k_tile_bytes + 16 * lane.q) / static_cast<int>(sizeof(typename E::Storage));
}

// Loads W_hh, in backward its transpose, for 16 units from `first_unit` on and one k-tile. Called by
// all lanes.
template <class E, class P>
__device__ void load_weights(uint32_t (&w)[2][4], const typename E::Storage* weight_hh, int64_t H,
                             int64_t first_unit, int64_t k_tile, const Lane<E>& lane,
                             const TensorLayout& layout) {
  if constexpr (is_backward<P>) {
    // Rows of memory run along the units. A float32 lane reads its own two units. In half precision
    // a lane reads another lane's, and the transpose within the warp exchanges them.
    constexpr bool half = E::word_values == 2;
    const int64_t unit = first_unit + lane.chunk_unit();
    const int64_t first = k_tile * (k_tile_bytes / static_cast<int>(sizeof(typename E::Storage))) +
                          (half ? 8 * (lane.g / 2) + lane.g % 2 : 4 * lane.q);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int64_t k = first + j * E::word_values;
      uint2 chunk = {0, 0};
      const auto row = weight_row<E, P>(k, H);
      if (row.exists) {
        chunk = load_chunk<E>(weight_hh + row.index * H, unit, H, layout.aligned_chunks);
      }
      E::transpose_weights(chunk, w[j / 2][2 * (j % 2)], w[j / 2][2 * (j % 2) + 1]);
    }
  } else {
    const int64_t k = k_tile_unit(k_tile, lane);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int64_t unit = first_unit + (i ? lane.second_unit() : lane.first_unit());
      uint4 words = {0, 0, 0, 0};
      if (unit < H) words = load_16_bytes<E>(weight_hh + unit * H, k, H, layout.aligned_k_tiles);
      const uint2 low = E::operand({words.x, words.y}), high = E::operand({words.z, words.w});
      w[0][i] = low.x, w[0][2 + i] = low.y, w[1][i] = high.x, w[1][2 + i] = high.y;
    }
  }
}

// sum += one k-step of W_hh times one of the state.
template <class E>
__device__ void mma_k_step(float (&sum)[4], const uint32_t (&w)[4], uint32_t low, uint32_t high) {
  const uint2 operand = E::operand({low, high});
  const uint32_t h[1][2] = {{operand.x, operand.y}};
  E::template mma<1>(reinterpret_cast<float (&)[1][4]>(sum), w, h);
}

}  // namespace fastrnn::cuda
