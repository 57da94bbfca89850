// step: one kernel launch for every step, whose end synchronizes all blocks. Supports any shape.
//
// A block owns 16 units of a group for up to 32 batch rows. Its warps split the K dimension; W_hh
// and the state are read from L2. One warp for each 8 rows runs the epilogue.
#pragma once

#include <algorithm>
#include <climits>
#include <cmath>
#include <stdexcept>

#include "alignment.h"
#include "launchers.h"
#include "operand_load.h"
#include "step_simt.h"

namespace fastrnn::cuda {

// This warp's sums of the product, for all rows of the block.
template <class E, class P, int N>
__device__ void step_product(const P& p, const TensorLayout& layout, const StepTile& tile,
                             const typename E::Storage* const (&rows)[N], const Lane<E>& lane,
                             float (&sum)[N][gate_tiles_of<P>][2][4]) {
  constexpr int TILES = gate_tiles_of<P>;
  const auto* weight_hh =
      p.template weight_of<typename E::Storage>(tile.group, gates_of<P> * p.H * p.H);
  const int64_t depth = step_depth<E>(p);
  const int k_tiles = static_cast<int>(
      (depth * static_cast<int>(sizeof(typename E::Storage)) + k_tile_bytes - 1) / k_tile_bytes);
#pragma unroll(N == 1 ? 4 : 2)
  for (int k_tile = threadIdx.x / 32; k_tile < k_tiles; k_tile += step_warps) {
    uint32_t w[TILES][2][4];
#pragma unroll
    for (int m = 0; m < TILES; ++m) {
      load_weights<E, P>(w[m], weight_hh + m * p.H * p.H, p.H, tile.first_unit, k_tile, lane,
                         layout);
    }
    uint4 h[N];
#pragma unroll
    for (int n = 0; n < N; ++n) {
      h[n] = {0, 0, 0, 0};
      if (rows[n])
        h[n] = load_16_bytes<E>(rows[n], k_tile_unit(k_tile, lane), depth, layout.aligned_k_tiles);
    }
    __syncwarp();
#pragma unroll
    for (int n = 0; n < N; ++n) {
#pragma unroll
      for (int m = 0; m < TILES; ++m) {
        mma_k_step<E>(sum[n][m][0], w[m][0], h[n].x, h[n].y);
        mma_k_step<E>(sum[n][m][1], w[m][1], h[n].z, h[n].w);
      }
    }
  }
}

// Stores a chunk of dz for the next launch. All other results are read where they are.
template <class E, class P> struct PublishStep {
  const Epilogue<E, P>& epilogue;
  const int launch;

  __device__ bool operator()(int, uint2) const { return false; }
  __device__ bool operator()(int i, uint2 chunk, int k) const {
    const P& p = epilogue.p;
    const int64_t b = epilogue.first_row + epilogue.lane.chunk_row(i);
    const int64_t units = padded_units(p.H, sizeof(typename E::Storage));
    const uint2 mask = unit_mask<E>(epilogue.unit, p.H);
    store_chunk<E>(step_dz<E>(p, launch, b, epilogue.group) + k * units, epilogue.unit, units, true,
                   {chunk.x & mask.x, chunk.y & mask.y});
    return false;
  }
};

template <class E, class P, int N>
__device__ void step_mma(const P& p, const TensorLayout& layout, int i) {
  constexpr int TILES = gate_tiles_of<P>;
  DYNAMIC_SHARED(shared);
  float4* const sums = reinterpret_cast<float4*>(shared);  // [N][TILES][step_warps][32]
  int* const lengths = reinterpret_cast<int*>(sums + N * TILES * step_threads);  // [8 * N]
  auto* const states = reinterpret_cast<int64_t*>(lengths + 8 * N);              // [32 * N]
  const StepTile tile = step_tile(p, i, 8 * N);
  const int warp = threadIdx.x / 32, thread = threadIdx.x % 32;
  const Lane<E> lane(thread);
  if (threadIdx.x < 8 * N) lengths[threadIdx.x] = row_length(p, tile.first_row + threadIdx.x);
  __syncthreads();

  const typename E::Storage* rows[N];
  bool any = false;
#pragma unroll
  for (int n = 0; n < N; ++n) {
    const int row = 8 * n + lane.g;
    rows[n] = state_row<E>(p, tile, tile.first_row + row, lengths[row]);
    any = any || rows[n];
  }
  float sum[N][TILES][2][4] = {};
  if (__ballot_sync(~0u, any)) {
    // Two instances, so that alignment is not checked at every load.
    if (layout.aligned_k_tiles && layout.aligned_chunks) {
      step_product<E, P, N>(p, {layout.row_stride, layout.step_stride, true, true}, tile, rows,
                            lane, sum);
    } else {
      step_product<E, P, N>(p, {layout.row_stride, layout.step_stride, false, false}, tile, rows,
                            lane, sum);
    }
  }
#pragma unroll
  for (int n = 0; n < N; ++n) {
#pragma unroll
    for (int m = 0; m < TILES; ++m) {
      const float (&a)[4] = sum[n][m][0], (&b)[4] = sum[n][m][1];
      sums[((n * TILES + m) * step_warps + warp) * 32 + thread] = {a[0] + b[0], a[1] + b[1],
                                                                   a[2] + b[2], a[3] + b[3]};
    }
  }
  __syncthreads();
  if (warp >= N) return;
  const Epilogue<E, P> epilogue(p, layout, tile.order, tile.group, tile.first_row + 8 * warp,
                                tile.first_unit, lengths + 8 * warp, lane, states + threadIdx.x);
  typename Epilogue<E, P>::Inputs inputs;
  if constexpr (saves_gates<P>) {
    if (i > 0) inputs.kept() = step_kept<typename Epilogue<E, P>::Kept>(p)[threadIdx.x];
  }
  epilogue.load_biases(inputs);
  if (i == 0) epilogue.begin(inputs);
  if (!is_backward<P> && p.T == 0) return;
  if (tile.t != tile.order.end()) epilogue.load(inputs, tile.t);
  RowResets<P> resets;
  epilogue.load_resets(resets, tile.t, tile.first_row + 8 * warp);
  float total[TILES][4] = {};
#pragma unroll
  for (int m = 0; m < TILES; ++m) {
#pragma unroll
    for (int j = 0; j < step_warps; ++j) {
      const float4 part = sums[((warp * TILES + m) * step_warps + j) * 32 + thread];
      total[m][0] += part.x, total[m][1] += part.y, total[m][2] += part.z, total[m][3] += part.w;
    }
  }
  epilogue.finish(tile.t, total, inputs, resets, PublishStep<E, P>{epilogue, i});
  if constexpr (saves_gates<P>) {
    step_kept<typename Epilogue<E, P>::Kept>(p)[threadIdx.x] = inputs.kept();
  }
}

template <class E, class P, int N>
__global__ void __launch_bounds__(step_threads, 1) step_kernel(P p, TensorLayout layout, int i) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
  step_simt<E, P, N>(p, i);
#else
  if constexpr (std::is_same_v<E, Float64>) {
    step_simt<E, P, N>(p, i);
  } else {
    step_mma<E, P, N>(p, layout, i);
  }
#endif
}

template <class Base> bool states_are_aligned(const ForwardParams<Base>& p) {
  return is_aligned(16, p.h0, p.out);
}
template <class Base> bool states_are_aligned(const BackwardParams<Base>& p) {
  return is_aligned(16, p.grad_pre);
}
template <class C> bool states_are_aligned(const CellForwardOf<C>& p) {
  return is_aligned(16, p.h0, p.out, p.reset_h);
}
template <class C> bool states_are_aligned(const CellBackwardOf<C>&) { return true; }

// The batch rows of a block, and the number of blocks. Several gates leave registers for fewer rows.
template <class P> constexpr int step_most_tiles = gate_tiles_of<P> > 1 ? 2 : 4;
template <class P> int step_rows(const P& p) { return p.B <= 8 ? 8 : 8 * step_most_tiles<P>; }
template <class P> int64_t step_blocks(const P& p) {
  return (p.H + 15) / 16 * ((p.B + step_rows(p) - 1) / step_rows(p)) * p.G;
}

template <class E, class P, int N> void launch_steps(const P& p, Stream stream) {
  using Storage = typename E::Storage;
  constexpr int size = sizeof(Storage), rows = 8 * N, TILES = gate_tiles_of<P>;
  constexpr int mma_bytes = N * TILES * step_threads * 16 + rows * 4 + 32 * N * 8;
  constexpr int simt_bytes = (rows + 16 * TILES) * (simt_k_tile + 1) * sizeof(Sum<E>);
  const bool aligned_k_tiles = p.H * size % 16 == 0 &&
                               is_aligned(16, p.weight_hh[0], p.weight_hh[1]) &&
                               states_are_aligned(p);
  const TensorLayout layout{p.G * p.H, p.B * p.G * p.H,
                            p.H * size % 8 == 0 && chunks_are_aligned(p), aligned_k_tiles};
  const int64_t blocks = step_blocks(p);
  if (blocks > INT_MAX) throw std::runtime_error("too many units for one launch");
  Launch shape{dim3(static_cast<unsigned>(blocks)), step_threads};
  shape.shared = std::max(mma_bytes, simt_bytes);
  // Forward without steps stores h_n; backward stores grad_h0 in a launch of its own.
  const int launches = static_cast<int>(p.T) + (is_backward<P> || p.T == 0);
  for (int i = 0; i < launches; ++i) {
    launch(step_kernel<E, P, N>, shape, stream, p, layout, i);
  }
}

template <class E, class P> void launch_step(const P& p, Stream stream) {
  if (p.B == 0 || p.G == 0) return;
  if (p.T >= INT_MAX) throw std::runtime_error("too many steps");
  if (p.B <= 8) return launch_steps<E, P, 1>(p, stream);
  return launch_steps<E, P, step_most_tiles<P>>(p, stream);
}

// Bytes of `workspace`.
template <class P> int64_t step_workspace_bytes(const P& p) {
  const int64_t bytes = step_blocks(p) * step_kept_bytes;
  if (!is_backward<P>) return bytes;
  const int size = element_bytes(p.dtype);
  return bytes + 2 * p.B * p.G * gates_of<P> * padded_units(p.H, size) * size;
}

}  // namespace fastrnn::cuda
