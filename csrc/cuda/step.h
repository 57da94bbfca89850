// step: one kernel launch for every step, whose end synchronizes all blocks. Supports any shape.
//
// A block owns 16 units of a group for up to 32 batch rows. Its warps split the K dimension; W_hh
// and the state are read from L2. One warp for each 8 rows runs the epilogue. Without mma, every
// thread computes a few units of its own.
#pragma once

#include <algorithm>
#include <climits>
#include <cmath>
#include <stdexcept>

#include "alignment.h"
#include "epilogue.h"
#include "launchers.h"
#include "operand_load.h"

namespace fastrnn::cuda {

constexpr int step_warps = 8, step_threads = 32 * step_warps;
constexpr int simt_k_tile = 32;  // k of the product held in shared memory

// The tile of a block.
struct StepTile {
  int64_t group, first_row;
  int first_unit, t;
  TimeOrder order;
};

template <class P> __device__ StepTile step_tile(const P& p, int i, int rows) {
  const int tiles_of_units = (p.H + 15) / 16, tiles_of_rows = (p.B + rows - 1) / rows;
  const int block = blockIdx.x, tile = block / tiles_of_units, group = tile / tiles_of_rows;
  const TimeOrder order = time_order(p, group, static_cast<int>(p.T));
  return {group, int64_t{tile % tiles_of_rows} * rows, block % tiles_of_units * 16, order.time(i),
          order};
}

// The state that row b multiplies at t; null if it multiplies none.
template <class Storage, class Base>
__device__ const Storage* state_row(const ForwardParams<Base>& p, const StepTile& tile, int64_t b,
                                    int length) {
  if (tile.t >= length) return nullptr;
  const int previous = tile.order.previous(tile.t, length);
  if (previous < 0) return static_cast<const Storage*>(p.h0) + p.at(b, tile.group);
  return static_cast<const Storage*>(p.out) + p.at(previous, b, tile.group);
}
template <class Storage, class Base>
__device__ const Storage* state_row(const BackwardParams<Base>& p, const StepTile& tile, int64_t b,
                                    int length) {
  const int previous = tile.order.previous(tile.t, length);
  if (previous < 0 || (tile.t >= length && tile.t != tile.order.end())) return nullptr;
  return static_cast<const Storage*>(p.grad_pre) + p.at(previous, b, tile.group);
}

// This warp's sums of the product, for all rows of the block.
template <class E, class P, int N>
__device__ void step_product(const P& p, const TensorLayout& layout, const StepTile& tile,
                             const typename E::Storage* const (&rows)[N], const Lane<E>& lane,
                             float (&sum)[N][2][4]) {
  const auto* weight_hh =
      static_cast<const typename E::Storage*>(p.weight_hh) + tile.group * p.H * p.H;
  const int k_tiles = static_cast<int>(
      (p.H * static_cast<int>(sizeof(typename E::Storage)) + k_tile_bytes - 1) / k_tile_bytes);
#pragma unroll(N == 1 ? 4 : 2)
  for (int k_tile = threadIdx.x / 32; k_tile < k_tiles; k_tile += step_warps) {
    uint32_t w[2][4];
    load_weights<E, is_backward<P>>(w, weight_hh, p.H, tile.first_unit, k_tile, lane, layout);
    uint4 h[N];
#pragma unroll
    for (int n = 0; n < N; ++n) {
      h[n] = {0, 0, 0, 0};
      if (rows[n])
        h[n] = load_16_bytes<E>(rows[n], k_tile_unit(k_tile, lane), p.H, layout.aligned_k_tiles);
    }
    __syncwarp();
#pragma unroll
    for (int n = 0; n < N; ++n) {
      mma_k_step<E>(sum[n][0], w[0], h[n].x, h[n].y);
      mma_k_step<E>(sum[n][1], w[1], h[n].z, h[n].w);
    }
  }
}

template <class E, class P, int N>
__device__ void step_mma(const P& p, const TensorLayout& layout, int i) {
  DYNAMIC_SHARED(shared);
  float4* const sums = reinterpret_cast<float4*>(shared);                // [N][step_warps][32]
  int* const lengths = reinterpret_cast<int*>(sums + N * step_threads);  // [8 * N]
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
    rows[n] = state_row<typename E::Storage>(p, tile, tile.first_row + row, lengths[row]);
    any = any || rows[n];
  }
  float sum[N][2][4] = {};
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
    const float (&a)[4] = sum[n][0], (&b)[4] = sum[n][1];
    sums[(n * step_warps + warp) * 32 + thread] = {a[0] + b[0], a[1] + b[1], a[2] + b[2],
                                                   a[3] + b[3]};
  }
  __syncthreads();
  if (warp >= N) return;
  const Epilogue<E, P> epilogue(p, layout, tile.order, tile.group, tile.first_row + 8 * warp,
                                tile.first_unit, lengths + 8 * warp, lane);
  if (i == 0) epilogue.begin();
  if (!is_backward<P> && p.T == 0) return;
  typename Epilogue<E, P>::Inputs inputs;
  if (tile.t != tile.order.end()) epilogue.load(inputs, tile.t);
  RowResets<P> resets;
  epilogue.load_resets(resets, tile.t, tile.first_row + 8 * warp);
  float total[4] = {};
#pragma unroll
  for (int j = 0; j < step_warps; ++j) {
    const float4 part = sums[(warp * step_warps + j) * 32 + thread];
    total[0] += part.x, total[1] += part.y, total[2] += part.z, total[3] += part.w;
  }
  epilogue.finish(tile.t, total, inputs, resets, [](int, uint2) { return false; });
}

// Traits of one value, for the kernels without mma.
template <class E> struct ScalarTraits {
  using Storage = typename E::Storage;
  using Sum = float;
  __device__ static Sum widen(Storage value) { return E::widen(value); }
  __device__ static Storage narrow(Sum value) {
    if constexpr (sizeof(Storage) == 2) {
      return static_cast<Storage>(E::pack(value, 0.0f));
    } else {
      return value;
    }
  }
  __device__ static Sum activate(Sum z, Activation activation) {
    return cuda::activate<E>(z, activation);
  }
};
template <> struct ScalarTraits<Float64> {
  using Storage = double;
  using Sum = double;
  __device__ static Sum widen(Storage value) { return value; }
  __device__ static Storage narrow(Sum value) { return value; }
  __device__ static Sum activate(Sum z, Activation activation) {
    if (activation == Activation::relu) return z < 0 ? 0 : z;  // NaN stays
    return tanh(z);
  }
};

template <class V, class Base>
__device__ void scalar_epilogue(const ForwardParams<Base>& p, const StepTile& tile, int64_t b,
                                int64_t unit, int length, typename V::Sum sum) {
  using Storage = typename V::Storage;
  const int64_t state = p.at(b, tile.group) + unit;
  auto* const h_n = static_cast<Storage*>(p.h_n);
  auto* const out = static_cast<Storage*>(p.out);
  if (length == 0 && tile.t == tile.order.time(0)) {
    h_n[state] = static_cast<const Storage*>(p.h0)[state];
  }
  if (tile.t >= 0 && tile.t < length) {
    const int64_t at = p.at(tile.t, b, tile.group) + unit;
    const auto pre = V::widen(static_cast<const Storage*>(p.pre)[at]);
    const Storage h = V::narrow(V::activate(pre + sum, p.activation));
    out[at] = h;
    if (tile.order.last(tile.t, length)) h_n[state] = h;
  } else if (!p.offsets && p.T > 0) {
    out[p.at(tile.t, b, tile.group) + unit] = Storage{};
  }
}

template <class V, class Base>
__device__ void scalar_epilogue(const BackwardParams<Base>& p, const StepTile& tile, int64_t b,
                                int64_t unit, int length, typename V::Sum sum) {
  using Storage = typename V::Storage;
  const int64_t state = p.at(b, tile.group) + unit;
  const bool begins = tile.order.previous(tile.t, length) < 0;
  const typename V::Sum dh =
      begins ? V::widen(static_cast<const Storage*>(p.grad_h_n)[state]) : sum;
  if (tile.t == tile.order.end()) {
    static_cast<Storage*>(p.grad_h0)[state] = V::narrow(dh);
    return;
  }
  if (tile.t >= length && p.offsets) return;
  const int64_t at = p.at(tile.t, b, tile.group) + unit;
  Storage dz{};
  if (tile.t < length) {
    const auto h = V::widen(static_cast<const Storage*>(p.out)[at]);
    const auto grad = V::widen(static_cast<const Storage*>(p.grad_out)[at]);
    dz = V::narrow(gradient(grad + dh, slope(h, p.activation), p.activation));
  }
  static_cast<Storage*>(p.grad_pre)[at] = dz;
}

template <class E, class P, int N> __device__ void step_simt(const P& p, int i) {
  using V = ScalarTraits<E>;
  using Storage = typename V::Storage;
  using Sum = typename V::Sum;
  constexpr int rows = 8 * N, thread_rows = (rows + 15) / 16, stride = simt_k_tile + 1;
  DYNAMIC_SHARED(shared);
  Sum* const states = reinterpret_cast<Sum*>(shared);  // [rows][stride]
  Sum* const weights = states + rows * stride;         // [16][stride]
  const StepTile tile = step_tile(p, i, rows);
  const auto* weight_hh = static_cast<const Storage*>(p.weight_hh) + tile.group * p.H * p.H;
  const int unit = threadIdx.x % 16, first = threadIdx.x / 16;

  Sum sum[thread_rows] = {};
  for (int64_t start = 0; start < p.H; start += simt_k_tile) {
    for (int j = threadIdx.x; j < rows * simt_k_tile; j += step_threads) {
      const int row = j / simt_k_tile, k = j % simt_k_tile;
      const int64_t b = tile.first_row + row;
      const auto* const from = state_row<Storage>(p, tile, b, row_length(p, b));
      states[row * stride + k] = from && start + k < p.H ? V::widen(from[start + k]) : Sum{};
    }
    for (int j = threadIdx.x; j < 16 * simt_k_tile; j += step_threads) {
      const int u = is_backward<P> ? j % 16 : j / simt_k_tile;
      const int k = is_backward<P> ? j / 16 : j % simt_k_tile;
      const int64_t row = is_backward<P> ? start + k : tile.first_unit + u;
      const int64_t column = is_backward<P> ? tile.first_unit + u : start + k;
      const bool inside = row < p.H && column < p.H;
      weights[u * stride + k] = inside ? V::widen(weight_hh[row * p.H + column]) : Sum{};
    }
    __syncthreads();
#pragma unroll 8
    for (int k = 0; k < simt_k_tile; ++k) {
      const Sum w = weights[unit * stride + k];
#pragma unroll
      for (int j = 0; j < thread_rows; ++j) {
        if (first + 16 * j < rows) sum[j] += w * states[(first + 16 * j) * stride + k];
      }
    }
    __syncthreads();
  }
#pragma unroll
  for (int j = 0; j < thread_rows; ++j) {
    const int64_t b = tile.first_row + first + 16 * j;
    const bool inside = first + 16 * j < rows && b < p.B && tile.first_unit + unit < p.H;
    if (has_resets<P> && inside &&
        crosses_reset(p, tile.t, b, tile.order.descending, row_length(p, b))) {
      sum[j] = 0;
    }
    if (inside) scalar_epilogue<V>(p, tile, b, tile.first_unit + unit, row_length(p, b), sum[j]);
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

template <class E, class P, int N> void launch_steps(const P& p, Stream stream) {
  using Storage = typename E::Storage;
  using Sum = typename ScalarTraits<E>::Sum;
  constexpr int size = sizeof(Storage), rows = 8 * N;
  constexpr int mma_bytes = N * step_threads * 16 + rows * 4;
  constexpr int simt_bytes = (rows + 16) * (simt_k_tile + 1) * sizeof(Sum);
  const bool aligned_k_tiles =
      p.H * size % 16 == 0 && is_aligned(16, p.weight_hh) && states_are_aligned(p);
  const TensorLayout layout{p.G * p.H, p.B * p.G * p.H,
                            p.H * size % 8 == 0 && chunks_are_aligned(p), aligned_k_tiles};
  const int64_t blocks = (p.H + 15) / 16 * ((p.B + rows - 1) / rows) * p.G;
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
  return launch_steps<E, P, 4>(p, stream);
}

}  // namespace fastrnn::cuda
