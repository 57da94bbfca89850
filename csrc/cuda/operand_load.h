// How grid and step bring a product's operands from global memory to the matrix unit.
//
// A piece is 64 bytes of the product's depth, two k-steps. Of each, lane 4 g + q takes the 16 bytes
// from 16 q on: of row g of the state in one load, and of two rows of W_hh. The matrix unit wants
// words q and q + 4 of each k-step; which words of the depth stand there is all one, so long as
// W_hh and the state agree: of this lane's four words, the first two are its share of one k-step,
// the last two of the other.
#pragma once

#include "mma_traits.h"

namespace fastrnn::cuda {

constexpr int piece_bytes = 64;

// What the kernels ask of their tensors' layout, worked out once on the host.
struct Access {
  int64_t row;   // elements from a batch row to the next
  int64_t step;  // from a step to the next, where rows are not packed
  bool chunks;   // whether all tensors can be read 8 bytes at once
  bool pieces;   // W_hh, and what the state is read from, 16 bytes
};

// 16 bytes of a row of H units: from `unit` on, 0 beyond H.
template <class E>
__device__ uint4 load_words(const typename E::Storage* row, int64_t unit, int64_t H, bool aligned) {
  if (unit >= H) return {0, 0, 0, 0};
  if (aligned) return *reinterpret_cast<const uint4*>(row + unit);
  const uint2 low = load_chunk<E>(row, unit, H, false);
  const uint2 high = load_chunk<E>(row, unit + E::chunk, H, false);
  return {low.x, low.y, high.x, high.y};
}

// The lane's first unit of a piece.
template <class E> __device__ int64_t piece_unit(int64_t piece, const Lane<E>& lane) {
  return (piece * piece_bytes + 16 * lane.q) / static_cast<int>(sizeof(typename E::Storage));
}

// W_hh, or its transpose, for 16 units from `first_unit` on and one piece: two k-steps. All lanes.
template <class E, bool Transposed>
__device__ void load_weights(uint32_t (&w)[2][4], const typename E::Storage* weight_hh, int64_t H,
                             int64_t first_unit, int64_t piece, const Lane<E>& lane,
                             const Access& access) {
  if constexpr (Transposed) {
    // Rows of memory run along the units: a lane reads the two units of its quad, or in half
    // precision those of another lane's, and the transpose within the warp brings its own.
    constexpr bool half = E::values == 2;
    const int64_t unit = first_unit + lane.chunk_unit();
    const int64_t first = piece * (piece_bytes / static_cast<int>(sizeof(typename E::Storage))) +
                          (half ? 8 * (lane.g / 2) + lane.g % 2 : 4 * lane.q);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int64_t k = first + j * E::values;
      uint2 chunk = {0, 0};
      if (k < H) chunk = load_chunk<E>(weight_hh + k * H, unit, H, access.chunks);
      E::to_rows(chunk, w[j / 2][2 * (j % 2)], w[j / 2][2 * (j % 2) + 1]);
    }
  } else {
    const int64_t k = piece_unit(piece, lane);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int64_t unit = first_unit + (i ? lane.second() : lane.first());
      uint4 words = {0, 0, 0, 0};
      if (unit < H) words = load_words<E>(weight_hh + unit * H, k, H, access.pieces);
      const uint2 low = E::operand({words.x, words.y}), high = E::operand({words.z, words.w});
      w[0][i] = low.x, w[0][2 + i] = low.y, w[1][i] = high.x, w[1][2 + i] = high.y;
    }
  }
}

// sum += one k-step of W_hh times one of the state.
template <class E>
__device__ void multiply(float (&sum)[4], const uint32_t (&w)[4], uint32_t low, uint32_t high) {
  const uint2 operand = E::operand({low, high});
  const uint32_t h[1][2] = {{operand.x, operand.y}};
  E::template multiply<1>(reinterpret_cast<float(&)[1][4]>(sum), w, h);
}

}  // namespace fastrnn::cuda
