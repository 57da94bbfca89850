// The step kernel without tensor cores: for float64, and for GPUs older than compute capability 8.0.
// Every thread computes a few units of its own.
#pragma once

#include <algorithm>

#include "scalar_traits.h"
#include "step_tile.h"

namespace fastrnn::cuda {

constexpr int simt_k_tile = 32;  // k of the product held in shared memory

// What a thread of a cell's kernel keeps of a unit from a step to the next: h and c, or the gradients
// of the states except for the product's part.
template <class V> struct ScalarKept {
  typename V::Sum h, c;
};

template <class V, class Base>
__device__ void scalar_epilogue(const ForwardParams<Base>& p, const StepTile& tile, int64_t b,
                                int64_t unit, int length, const typename V::Sum (&sum)[1],
                                ScalarKept<V>&) {
  using Storage = typename V::Storage;
  const int64_t state = p.state_at(b, tile.group) + unit;
  auto* const h_n = static_cast<Storage*>(p.h_n);
  auto* const out = static_cast<Storage*>(p.out);
  if (length == 0 && tile.t == tile.order.time(0)) {
    h_n[state] = p.h0 ? static_cast<const Storage*>(p.h0)[state] : Storage{};
  }
  if (tile.t >= 0 && tile.t < length) {
    const int64_t at = p.at(tile.t, b, tile.group) + unit;
    const auto pre = V::widen(static_cast<const Storage*>(p.pre)[at]) +
                     bias_of<typename V::Element>(p, tile.group, 0, unit);
    const Storage h = V::narrow(V::activate(pre + sum[0], p.activation));
    out[at] = h;
    if (tile.order.last(tile.t, length)) h_n[state] = h;
  } else if (!p.offsets && p.T > 0) {
    out[p.at(tile.t, b, tile.group) + unit] = Storage{};
  }
}

template <class V, class Base>
__device__ void scalar_epilogue(const BackwardParams<Base>& p, const StepTile& tile, int64_t b,
                                int64_t unit, int length, const typename V::Sum (&sum)[1],
                                ScalarKept<V>&) {
  using Storage = typename V::Storage;
  const int64_t state = p.state_at(b, tile.group) + unit;
  const bool begins = tile.order.previous(tile.t, length) < 0;
  const typename V::Sum dh = begins ? load_value<V>(p.grad_h_n, state) : sum[0];
  if (tile.t == tile.order.end()) {
    static_cast<Storage*>(p.grad_h0)[state] = V::narrow(dh);
    return;
  }
  if (tile.t >= length && p.offsets) return;
  const int64_t at = p.at(tile.t, b, tile.group) + unit;
  Storage dz{};
  if (tile.t < length) {
    const auto h = V::widen(static_cast<const Storage*>(p.out)[at]);
    const auto grad = load_value<V>(p.grad_out, at);
    dz = V::narrow(gradient(grad + dh, slope(h, p.activation), p.activation));
  }
  static_cast<Storage*>(p.grad_pre)[at] = dz;
}

template <class V, class C>
__device__ void scalar_epilogue(const CellForwardOf<C>& p, const StepTile& tile, int64_t b,
                                int64_t unit, int length, const typename V::Sum (&sum)[C::gates],
                                ScalarKept<V>& kept) {
  constexpr int K = C::gates;
  const int64_t state = p.state_at(b, tile.group) + unit;
  if (tile.launch == 0) {
    kept = {load_value<V>(p.h0, state), load_value<V>(p.c0, state)};
    if (length == 0) {
      store_value<V>(p.h_n, state, kept.h);
      if constexpr (C::has_c) store_value<V>(p.c_n, state, kept.c);
    }
  }
  if (p.T == 0) return;
  const bool active = tile.t < length;
  if (!active && p.offsets) return;
  const int64_t at = p.at(tile.t, b, tile.group), gate_at = at * K + unit;
  typename V::Sum gates[K] = {}, inner = 0, h = 0;
  if (active) {
    if (crosses_reset(p, tile.t, b, tile.order.descending, length)) {
      kept = {load_value<V>(p.reset_h, state), load_value<V>(p.reset_c, state)};
    }
    for (int k = 0; k < K; ++k) {
      gates[k] = load_value<V>(p.pre, gate_at + k * p.H) +
                 bias_of<typename V::Element>(p, tile.group, k, unit);
    }
    const auto* const params =
        p.template of_group<typename V::Storage>(p.unit_param, tile.group, p.H);
    const auto param = load_value<V>(params, unit);
    forward_unit<typename V::Element>(p, gates, sum, param, kept.h, kept.c, inner);
    h = kept.h = V::widen(V::narrow(kept.h));
    if (tile.order.last(tile.t, length)) {
      store_value<V>(p.h_n, state, kept.h);
      if constexpr (C::has_c) store_value<V>(p.c_n, state, kept.c);
    }
  }
  store_value<V>(p.out, at + unit, h);
  if (!p.gates) return;
  for (int k = 0; k < K; ++k) store_value<V>(p.gates, gate_at + k * p.H, gates[k]);
  if constexpr (C::has_inner) store_value<V>(p.inner, at + unit, inner);
}

// c before the step of the tile in forward, or h without c.
template <class V, class C>
__device__ typename V::Sum state_before(const CellBackwardOf<C>& p, const StepTile& tile, int64_t b,
                                        int64_t unit, int length) {
  const int before = tile.order.next(tile.t);
  const int64_t state = p.state_at(b, tile.group) + unit;
  if (crosses_reset(p, before, b, tile.order.descending, length)) {
    return load_value<V>(C::has_c ? p.reset_c : p.reset_h, state);
  }
  if (before < 0 || before >= length) return load_value<V>(C::has_c ? p.c0 : p.h0, state);
  return load_value<V>(C::has_c ? p.inner : p.out, p.at(before, b, tile.group) + unit);
}

template <class V, class C>
__device__ void scalar_epilogue(const CellBackwardOf<C>& p, const StepTile& tile, int64_t b,
                                int64_t unit, int length, const typename V::Sum (&sum)[1],
                                ScalarKept<V>& kept) {
  using E = typename V::Element;
  constexpr int K = C::gates;
  const bool descending = tile.order.descending;
  const int64_t state = p.state_at(b, tile.group) + unit;
  if (tile.launch == 0) {
    kept = {load_value<V>(p.grad_h_n, state), load_value<V>(p.grad_c_n, state)};
  }
  kept.h += sum[0];
  if (crosses_reset(p, tile.t, b, descending, length) && (tile.t != 0 || descending)) {
    add_reset_gradient<E>(p, p.reset_h_sum, b, tile.group, unit, kept.h);
    add_reset_gradient<E>(p, p.reset_c_sum, b, tile.group, unit, kept.c);
    kept = {};
  }
  if (tile.t == tile.order.end()) {
    store_value<V>(p.grad_h0, state, kept.h);
    if constexpr (C::has_c) store_value<V>(p.grad_c0, state, kept.c);
    return;
  }
  const bool active = tile.t < length;
  if (!active && p.offsets) return;
  const int64_t at = p.at(tile.t, b, tile.group), gate_at = at * K + unit;
  typename V::Sum gates[K] = {}, dz[K] = {}, inner = 0;
  if (active) {
    kept.h += load_value<V>(p.grad_out, at + unit);
    for (int k = 0; k < K; ++k) gates[k] = load_value<V>(p.gates, gate_at + k * p.H);
    if constexpr (C::has_inner) inner = load_value<V>(p.inner, at + unit);
    const auto* const params =
        p.template of_group<typename V::Storage>(p.unit_param, tile.group, p.H);
    const auto param = load_value<V>(params, unit);
    const auto before = state_before<V>(p, tile, b, unit, length);
    backward_unit<E>(p, gates, dz, param, before, kept.h, kept.c, inner);
    auto* const row = step_dz<E>(p, tile.launch, b, tile.group) + unit;
    for (int k = 0; k < K; ++k) {
      row[k * padded_units(p.H, sizeof(typename V::Storage))] = V::narrow(dz[k]);
    }
  }
  for (int k = 0; k < K; ++k) store_value<V>(p.grad_pre, gate_at + k * p.H, gates[k]);
  if constexpr (C::has_unit_param) {
    store_value<V>(p.grad_unit_param, at + unit, active ? inner : 0);
  }
}

template <class E, class P, int N> __device__ void step_simt(const P& p, int i) {
  using V = ScalarTraits<E>;
  using Storage = typename V::Storage;
  using Sum = typename V::Sum;
  constexpr int rows = 8 * N, thread_rows = (rows + 15) / 16, stride = simt_k_tile + 1;
  constexpr int TILES = gate_tiles_of<P>;
  DYNAMIC_SHARED(shared);
  Sum* const states = reinterpret_cast<Sum*>(shared);  // [rows][stride]
  Sum* const weights = states + rows * stride;         // [TILES][16][stride]
  const StepTile tile = step_tile(p, i, rows);
  const auto* weight_hh = p.template weight_of<Storage>(tile.group, gates_of<P> * p.H * p.H);
  const int unit = threadIdx.x % 16, first = threadIdx.x / 16;
  const int64_t depth = step_depth<E>(p);

  Sum sum[thread_rows][TILES] = {};
  for (int64_t start = 0; start < depth; start += simt_k_tile) {
    for (int j = threadIdx.x; j < rows * simt_k_tile; j += step_threads) {
      const int row = j / simt_k_tile, k = j % simt_k_tile;
      const int64_t b = tile.first_row + row;
      const auto* const from = state_row<E>(p, tile, b, row_length(p, b));
      const bool inside = from && weight_row<E, P>(start + k, p.H).exists;
      states[row * stride + k] = inside ? V::widen(from[start + k]) : Sum{};
    }
    for (int j = threadIdx.x; j < TILES * 16 * simt_k_tile; j += step_threads) {
      const int u = is_backward<P> ? j % 16 : j / simt_k_tile;
      const int k = is_backward<P> ? j / 16 : j % simt_k_tile;
      const int64_t own_unit = tile.first_unit + u % 16;
      const auto k_row = weight_row<E, P>(start + k, p.H);
      const bool inside = k_row.exists && own_unit < p.H;
      const int64_t row = is_backward<P> ? k_row.index : u / 16 * p.H + own_unit;
      const int64_t column = is_backward<P> ? own_unit : start + k;
      weights[u * stride + k] = inside ? V::widen(weight_hh[row * p.H + column]) : Sum{};
    }
    __syncthreads();
#pragma unroll 8
    for (int k = 0; k < simt_k_tile; ++k) {
#pragma unroll
      for (int m = 0; m < TILES; ++m) {
        const Sum w = weights[(16 * m + unit) * stride + k];
#pragma unroll
        for (int j = 0; j < thread_rows; ++j) {
          if (first + 16 * j < rows) sum[j][m] += w * states[(first + 16 * j) * stride + k];
        }
      }
    }
    __syncthreads();
  }
#pragma unroll
  for (int j = 0; j < thread_rows; ++j) {
    const int64_t b = tile.first_row + first + 16 * j;
    const bool inside = first + 16 * j < rows && b < p.B && tile.first_unit + unit < p.H;
    if (!inside) continue;
    if (has_resets<P> && !saves_gates<P> &&
        crosses_reset(p, tile.t, b, tile.order.descending, row_length(p, b))) {
      sum[j][0] = 0;
    }
    ScalarKept<V> kept;
    auto* memory = &kept;
    if constexpr (saves_gates<P>) {
      memory = step_kept<ScalarKept<V>>(p) + threadIdx.x * thread_rows + j;
    }
    scalar_epilogue<V>(p, tile, b, tile.first_unit + unit, row_length(p, b), sum[j], *memory);
  }
}

}  // namespace fastrnn::cuda
