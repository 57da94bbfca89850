// The product of a step, of the warps that share a tile of 16 units of W_hh by its depth: what each
// holds of W_hh, what it multiplies, and how the sums come together.
#pragma once

#include "mma_traits.h"
#include "plan.h"

namespace fastrnn::cuda {

template <class E>
constexpr Mode mode_of = E::values == 2 ? Mode::half : E::approximate ? Mode::tf32 : Mode::float32;

template <class E, int RESIDENT, int N>
constexpr int cluster_most_threads = cluster_threads(mode_of<E>, RESIDENT, N);

// A lane's words of a k-step of a tile of W_hh, or of its transpose: the tile begins at `unit`, the
// k-step at k of the depth. `alignment`: bytes that rows begin at multiples of.
template <class E, bool Transposed>
__device__ void load_fragment(uint32_t (&w)[4], const typename E::Storage* weight_hh, int64_t H,
                              int unit, int k, const Lane<E>& lane, int alignment) {
#pragma unroll
  for (int i = 0; i < 2; ++i) {  // halves of the depth
    const int first = k + 4 * E::values * i;
    if constexpr (Transposed) {
      // A row of W_hh is a place in the depth: a chunk of it holds both rows of the fragment.
      const int row = first + (E::rows == 1 ? lane.g : lane.q);
      uint2 chunk{0, 0};
      if (row < H) {
        chunk = load_chunk<E>(weight_hh + row * H, unit + lane.chunk_unit(), H, alignment == 8);
      }
      E::to_rows(chunk, w[2 * i], w[2 * i + 1]);
    } else {
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const int row = unit + (j == 0 ? lane.first() : lane.second());
        w[2 * i + j] = load_word<E>(weight_hh + row * H, row < H, first + E::values * lane.q, H,
                                    alignment >= 4);
      }
    }
  }
}

// sum += w h for a warp's tile of units and 8 N rows. W_hh: `resident` in registers, then `count`
// k-steps in shared memory, the lane's words. `state`: the address that the lane gives of the
// operand's first 8 rows, the next ones `rows` bytes further.
template <class E, int RESIDENT, int N, int CHAINS>
__device__ void multiply(float (&sum)[CHAINS][N][4], const uint32_t (&resident)[RESIDENT][4],
                         const uint4* streamed, int count, uint32_t state, uint32_t rows) {
  const auto two = [&](const uint32_t (&first)[4], const uint32_t (&second)[4], uint32_t state,
                       int chain) {
    uint32_t h[2][N][2];
#pragma unroll
    for (int n = 0; n < N; ++n) {
      uint32_t words[4];
      ptx::load_matrices(words, state + n * rows);
      h[0][n][0] = words[0], h[0][n][1] = words[1];
      h[1][n][0] = words[2], h[1][n][1] = words[3];
    }
    E::multiply(sum[chain % CHAINS], first, h[0]);
    E::multiply(sum[(chain + 1) % CHAINS], second, h[1]);
  };
  const auto two_streamed = [&](int k, int chain) {
    const uint4 a = streamed[k * 32], b = streamed[k * 32 + 32];
    two({a.x, a.y, a.z, a.w}, {b.x, b.y, b.z, b.w}, state + (RESIDENT + k) * 32, chain);
  };
#pragma unroll
  for (int k = 0; k < RESIDENT; k += 2) two(resident[k], resident[k + 1], state + k * 32, k);
  int k = 0;
#pragma unroll 1
  for (; k + 4 <= count; k += 4) {
    two_streamed(k, 0);
    two_streamed(k + 2, 2);
  }
  if (k < count) two_streamed(k, 0);
#pragma unroll
  for (int chains = CHAINS; chains > 1; chains /= 2) {
#pragma unroll
    for (int chain = 0; chain < chains / 2; ++chain) {
#pragma unroll
      for (int n = 0; n < N; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) sum[chain][n][i] += sum[chain + chains / 2][n][i];
      }
    }
  }
}

// The warps that share the depth of a tile of units take turns: who ends a step of 8 rows gets the
// others' sums of them.
struct Splits {
  int count, mine;  // a power of two; this warp's
  int n_tiles;      // with real rows
  int barrier;
  float4* sums;     // [n][count - 1][32], this lane's

  __device__ int owner(int n) const { return n & (count - 1); }
  __device__ bool owns(int n) const { return owner(n) == mine && n < n_tiles; }

  template <int N> __device__ void add_up(float (&sum)[N][4]) const {
    if (count == 1) return;
#pragma unroll
    for (int n = 0; n < N; ++n) {
      if (n >= n_tiles || owns(n)) continue;
      place(n)[((mine ^ owner(n)) - 1) * 32] = {sum[n][0], sum[n][1], sum[n][2], sum[n][3]};
    }
    ptx::named_barrier(barrier, 32 * count);
#pragma unroll
    for (int n = 0; n < N; ++n) {
      if (!owns(n)) continue;
#pragma unroll
      for (int i = 1; i < 8; i *= 2) {
        if (i >= count) break;
#pragma unroll
        for (int j = i - 1; j < 2 * i - 1; ++j) {
          const float4 other = place(n)[j * 32];
          sum[n][0] += other.x, sum[n][1] += other.y, sum[n][2] += other.z, sum[n][3] += other.w;
        }
      }
    }
  }

 private:
  __device__ float4* place(int n) const { return sums + n * (count - 1) * 32; }
};

}  // namespace fastrnn::cuda
