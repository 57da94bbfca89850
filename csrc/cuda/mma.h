// The matrix product of a step of the cluster kernel: a tile of 16 units, whose K dimension is
// split over several warps.
#pragma once

#include "pass_traits.h"

namespace fastrnn::cuda {

template <class E, class P, int RESIDENT, int N>
constexpr int cluster_max_threads =
    cluster_threads(mode_of<E>, RESIDENT, N, pass_of<P>, traits_of<P>, projects<P>);

// Loads a lane's fragment of a k-step of W_hh, in backward of its transpose. The tile begins at
// `unit`, the k-step at k. `alignment`: the alignment of rows in bytes.
template <class E, class P>
__device__ void load_fragment(uint32_t (&w)[4], const typename E::Storage* weight_hh, int64_t H,
                              int unit, int k, const Lane<E>& lane, int alignment) {
#pragma unroll
  for (int i = 0; i < 2; ++i) {  // halves of the k-step
    const int first = k + 4 * E::word_values * i;
    if constexpr (is_backward<P>) {
      // A row of W_hh is one k: a chunk of it holds both rows of the fragment.
      const auto row = weight_row<E, P>(first + (E::lane_chunks == 1 ? lane.g : lane.q), H);
      uint2 chunk{0, 0};
      if (row.exists) {
        chunk =
            load_chunk<E>(weight_hh + row.index * H, unit + lane.chunk_unit(), H, alignment == 8);
      }
      E::transpose_weights(chunk, w[2 * i], w[2 * i + 1]);
    } else {
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const int row = unit + (j == 0 ? lane.first_unit() : lane.second_unit());
        w[2 * i + j] = load_word<E>(weight_hh + row * H, row < H, first + E::word_values * lane.q,
                                    H, alignment >= 4);
      }
    }
  }
}

// sum += w h for a warp's TILES tiles of W_hh and 8 N rows. W_hh is `resident` in registers, then
// `count` k-steps in shared memory. `state`: the lane's ldmatrix address of the operand's first 8
// rows; the next 8 rows follow after `rows` bytes.
template <class E, int TILES, int RESIDENT, int N, int CHAINS>
__device__ void mma_tiles(float (&sum)[TILES][CHAINS][N][4],
                          const uint32_t (&resident)[TILES][RESIDENT][4], const uint4* streamed,
                          int count, uint32_t state, uint32_t rows) {
  const auto load_two_k_steps = [&](uint32_t (&h)[2][N][2], uint32_t state) {
#pragma unroll
    for (int n = 0; n < N; ++n) {
      uint32_t words[4];
      ptx::ldmatrix(words, state + n * rows);
      h[0][n][0] = words[0], h[0][n][1] = words[1];
      h[1][n][0] = words[2], h[1][n][1] = words[3];
    }
  };
  const auto mma_two_k_steps = [&](float (&sum)[CHAINS][N][4], const uint32_t (&first)[4],
                                   const uint32_t (&second)[4], const uint32_t (&h)[2][N][2],
                                   int chain) {
    E::mma(sum[chain % CHAINS], first, h[0]);
    E::mma(sum[(chain + 1) % CHAINS], second, h[1]);
  };
  const auto mma_two_streamed = [&](int k, int chain) {
    uint32_t h[2][N][2];
    load_two_k_steps(h, state + (RESIDENT + k) * 32);
#pragma unroll
    for (int m = 0; m < TILES; ++m) {
      const uint4 a = streamed[(k * TILES + m) * 32], b = streamed[((k + 1) * TILES + m) * 32];
      mma_two_k_steps(sum[m], {a.x, a.y, a.z, a.w}, {b.x, b.y, b.z, b.w}, h, chain);
    }
  };
#pragma unroll
  for (int k = 0; k < RESIDENT; k += 2) {
    uint32_t h[2][N][2];
    load_two_k_steps(h, state + k * 32);
#pragma unroll
    for (int m = 0; m < TILES; ++m) {
      mma_two_k_steps(sum[m], resident[m][k], resident[m][k + 1], h, k);
    }
  }
  int k = 0;
#pragma unroll 1
  for (; k + 4 <= count; k += 4) {
    mma_two_streamed(k, 0);
    mma_two_streamed(k + 2, 2);
  }
  if (k < count) mma_two_streamed(k, 0);
#pragma unroll
  for (int m = 0; m < TILES; ++m) {
#pragma unroll
    for (int chains = CHAINS; chains > 1; chains /= 2) {
#pragma unroll
      for (int chain = 0; chain < chains / 2; ++chain) {
#pragma unroll
        for (int n = 0; n < N; ++n) {
#pragma unroll
          for (int i = 0; i < 4; ++i) sum[m][chain][n][i] += sum[m][chain + chains / 2][n][i];
        }
      }
    }
  }
}

// The reduction of a tile whose K dimension is split over warps. The n-th 8 rows have an owner,
// which adds up the other warps' sums of them.
struct SplitK {
  int count, index;  // splits, a power of two; this warp's split
  int n_tiles;       // with valid rows
  int barrier;       // for bar_sync
  float4* sums;      // [n][TILES][count - 1][32], this lane's

  __device__ int owner(int n) const { return n & (count - 1); }
  __device__ bool owns(int n) const { return owner(n) == index && n < n_tiles; }

  // The sums are in the first chain.
  template <int TILES, int CHAINS, int N>
  __device__ void reduce(float (&sums)[TILES][CHAINS][N][4]) const {
    if (count == 1) return;
#pragma unroll
    for (int n = 0; n < N; ++n) {
      if (n >= n_tiles || owns(n)) continue;
#pragma unroll
      for (int m = 0; m < TILES; ++m) {
        const float (&sum)[4] = sums[m][0][n];
        slot(n * TILES + m)[((index ^ owner(n)) - 1) * 32] = {sum[0], sum[1], sum[2], sum[3]};
      }
    }
    ptx::bar_sync(barrier, 32 * count);
#pragma unroll
    for (int n = 0; n < N; ++n) {
      if (!owns(n)) continue;
#pragma unroll
      for (int m = 0; m < TILES; ++m) {
        float (&sum)[4] = sums[m][0][n];
#pragma unroll
        for (int i = 1; i < 8; i *= 2) {
          if (i >= count) break;
#pragma unroll
          for (int j = i - 1; j < 2 * i - 1; ++j) {
            const float4 other = slot(n * TILES + m)[j * 32];
            sum[0] += other.x, sum[1] += other.y, sum[2] += other.z, sum[3] += other.w;
          }
        }
      }
    }
  }

 private:
  __device__ float4* slot(int tile) const { return sums + tile * (count - 1) * 32; }
};

}  // namespace fastrnn::cuda
