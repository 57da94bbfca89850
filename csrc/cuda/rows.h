// rows: a block for each batch row and group of a small layer, with W_hh in registers. A step is a
// product of float32 multiply-adds, and one barrier: it has far fewer instructions than those of the
// tensor cores, whose tiles have 8 batch rows.
//
// The rows_lanes lanes of a unit share the depth of its products, and add up their sums. In forward
// they multiply the rows of W_hh of all gates by h; in backward the column of the unit by dz of all
// gates. A state has two buffers: step s reads one of them and writes the other before the barrier.
//
// The inputs of a step are copied to shared memory some steps ahead, into a ring with one place more
// than is in use: the place that is written at the end of step s was read in step s - 1.
#pragma once

#include <climits>
#include <stdexcept>

#include "launchers.h"
#include "rows_block.h"

namespace fastrnn::cuda {

template <class E, class P, int DEPTH>
__global__ void __launch_bounds__(DEPTH * rows_lanes * rows_lanes, 1)
    rows_forward_kernel(P p, RowsLayout layout, RowsAlignment alignment) {
  using Block = RowsBlock<E, P>;
  using C = typename P::Cell;
  constexpr int K = Block::K;
  DYNAMIC_SHARED(shared);
  const Block block{p, layout, alignment, shared};
  RowsInput<E, P> input(block);
  const int unit = block.unit, lane = block.lane, H = block.H, steps = block.steps;
  const RowsProjection<E, P> projection{block};
  RowsCursor<Block> of_unit(block, H, unit), of_gate(block, K * H, lane * H + unit);

  float w[K][DEPTH], bias[K];
  block.load_weights(w);
#pragma unroll
  for (int k = 0; k < K; ++k) bias[k] = block.has_unit ? bias_of<E>(p, block.group, k, unit) : 0;
  const float unit_param = block.unit_param();
  if (layout.x_chunks > 0) projection.load();

  float h = block.load(p.h0, block.state_index()), c = block.load(p.c0, block.state_index());
  const auto starts_at_reset = [&](float& h, float& c) {
    h = block.load(p.reset_h, block.state_index()), c = block.load(p.reset_c, block.state_index());
  };
  const auto send = [&](int s) {  // the state that step s multiplies
    float first = h, unused;
    if (block.crosses(s)) starts_at_reset(first, unused);
    if (block.writes) block.state(s, 1)[unit] = first;
  };
  for (int i = threadIdx.x; i < 2 * layout.padded_units; i += blockDim.x) block.state(0, 1)[i] = 0;
  __syncthreads();
  send(0);
  for (int s = 0; s < rows_stages - 1; ++s) input.prefetch(s);
  input.wait();
  __syncthreads();

#pragma unroll 1
  for (int s = 0; s < steps; ++s) {
    float sums[K][2] = {}, pre[K], product[K], inner = 0;
#pragma unroll
    for (int k = 0; k < K; ++k) pre[k] = 0;
    if (layout.x_chunks > 0) {
      projection.multiply(block.input(s, 0), pre);
    } else {
#pragma unroll
      for (int k = 0; k < K; ++k) {
        if (block.writes) pre[k] = E::widen(block.input(s, k)[unit]);
      }
    }
    multiply_add(sums, w, block.state(s, 1), lane);
#pragma unroll
    for (int k = 0; k < K; ++k) {
      product[k] = sums[k][0] + sums[k][1];
      if constexpr (C::z_is_pre) product[k] += pre[k], pre[k] = 0;
      product[k] = Block::sum(product[k]);
      if constexpr (!C::z_is_pre) pre[k] = Block::sum(pre[k]);
      pre[k] += bias[k];
    }
    float next_h = h, next_c = c;
    if (block.crosses(s)) starts_at_reset(next_h, next_c);
    forward_unit<E>(p, pre, product, unit_param, next_h, next_c, inner);
    h = round_to_storage<E>(next_h), c = next_c;
    if (s + 1 < steps) send(s + 1);
    if (block.writes) block.store(p.out, of_unit.at, h);
    if (p.gates && block.has_unit) {
      if (lane < K) block.store(p.gates, of_gate.at, block.of_lane(pre));
      if (C::has_inner && lane == K % rows_lanes) block.store(p.inner, of_unit.at, inner);
      of_gate.move_to(block, s + 1, K * H, lane * H + unit);
    }
    of_unit.move_to(block, s + 1, H, unit);
    input.prefetch(s + rows_stages - 1);
    input.wait();
    __syncthreads();
  }
  ptx::cp_async_wait<0>();
  if (!block.writes) return;
  block.store(p.h_n, block.state_index(), h);
  if constexpr (C::has_c) block.store(p.c_n, block.state_index(), c);
  if (p.offsets) return;
#pragma unroll 1
  for (int t = steps; t < p.T; ++t) {
    const int64_t row = block.row(t);
    block.store(p.out, row * H + unit, 0);
    if (!p.gates) continue;
    for (int k = 0; k < K; ++k) block.store(p.gates, (row * K + k) * H + unit, 0);
    if (C::has_inner) block.store(p.inner, row * H + unit, 0);
  }
}

template <class E, class P, int DEPTH>
__global__ void __launch_bounds__(DEPTH * rows_lanes * rows_lanes, 1)
    rows_backward_kernel(P p, RowsLayout layout, RowsAlignment alignment) {
  using Block = RowsBlock<E, P>;
  using C = typename P::Cell;
  constexpr int K = Block::K, INNER = 1 + K, BEFORE = INNER + C::has_inner;
  DYNAMIC_SHARED(shared);
  const Block block{p, layout, alignment, shared};
  RowsInput<E, P> input(block);
  const int unit = block.unit, lane = block.lane, H = block.H, steps = block.steps;
  RowsCursor<Block> of_unit(block, H, unit), of_gate(block, K * H, lane * H + unit);

  float w[K][DEPTH];
  block.load_weights(w);
  const float unit_param = block.unit_param();
  float dh = block.load(p.grad_h_n, block.state_index()),
        dc = block.load(p.grad_c_n, block.state_index());
  for (int i = threadIdx.x; i < 2 * K * layout.padded_units; i += blockDim.x) {
    block.state(0, K)[i] = 0;
  }
  for (int s = 0; s < rows_stages - 1; ++s) input.prefetch(s);
  input.wait();
  __syncthreads();

#pragma unroll 1
  for (int s = 0;; ++s) {
    float sums[1][2] = {};
#pragma unroll
    for (int k = 0; k < K; ++k) {
      const float (&weights)[1][DEPTH] = reinterpret_cast<const float (&)[1][DEPTH]>(w[k]);
      multiply_add(sums, weights, block.state(s, K) + k * layout.padded_units, lane);
    }
    dh += Block::sum(sums[0][0] + sums[0][1]);
    // A reset never matters before the first step of the backward loop.
    if (s > 0 && block.crosses(s)) {
      if (block.writes) add_reset_gradient<E>(p, p.reset_h_sum, block.b, block.group, unit, dh);
      dh = 0;
      if constexpr (C::has_c) {
        if (block.writes) add_reset_gradient<E>(p, p.reset_c_sum, block.b, block.group, unit, dc);
        dc = 0;
      }
    }
    if (s == steps) break;
    float gates[K] = {}, dz[K], inner = 0, before = 0;
    if (block.has_unit) {
      dh += E::widen(block.input(s, 0)[unit]);
#pragma unroll
      for (int k = 0; k < K; ++k) gates[k] = E::widen(block.input(s, 1 + k)[unit]);
      if constexpr (C::has_inner) inner = E::widen(block.input(s, INNER)[unit]);
      if constexpr (C::saves) before = E::widen(block.input(s, BEFORE)[unit]);
    }
    if constexpr (C::saves) {
      const bool reset = block.crosses(s + 1);
      if (reset || s + 1 == steps) {
        const void* const state =
            C::has_c ? (reset ? p.reset_c : p.c0) : (reset ? p.reset_h : p.h0);
        before = block.load(state, block.state_index());
      }
    }
    backward_unit<E>(p, gates, dz, unit_param, before, dh, dc, inner);
    if (block.has_unit) {
      if (lane < K) {
        const float dpre = block.of_lane(gates);
        block.state(s + 1, K)[lane * layout.padded_units + unit] =
            C::z_is_pre ? dpre : block.of_lane(dz);
        block.store(p.grad_pre, K == 1 ? of_unit.at : of_gate.at, dpre);
      }
      if (C::has_unit_param && lane == K % rows_lanes) {
        block.store(p.grad_unit_param, of_unit.at, inner);
      }
    }
    if (K > 1) of_gate.move_to(block, s + 1, K * H, lane * H + unit);
    if (K == 1 || C::has_unit_param) of_unit.move_to(block, s + 1, H, unit);
    input.prefetch(s + rows_stages - 1);
    input.wait();
    __syncthreads();
  }
  ptx::cp_async_wait<0>();
  if (!block.writes) return;
  block.store(p.grad_h0, block.state_index(), dh);
  if constexpr (C::has_c) block.store(p.grad_c0, block.state_index(), dc);
  if (p.offsets) return;
#pragma unroll 1
  for (int t = steps; t < p.T; ++t) {
    const int64_t row = block.row(t);
    for (int k = 0; k < K; ++k) block.store(p.grad_pre, (row * K + k) * H + unit, 0);
    if (C::has_unit_param) block.store(p.grad_unit_param, row * H + unit, 0);
  }
}

template <class E, class P> void launch_rows(const P& p, Stream stream) {
  constexpr int size = sizeof(typename E::Storage), K = gates_of<P>;
  if (p.B == 0 || p.G == 0) return;
  if (p.B * p.G > INT_MAX || p.T >= INT_MAX) throw std::runtime_error("too many rows or steps");
  int64_t I = 0;
  RowsAlignment alignment{alignment_of(p, p.H * size), 0};
  if constexpr (!is_backward<P>) {
    I = p.projection.I;
    alignment.input = alignment_of_bits(input_bits(p, size));
  }
  const RowsLayout layout(pass_of<P>, traits(p.cell), p.H, I, size);
  const auto with_depth = [&](auto depth) {
    constexpr int DEPTH = decltype(depth)::value;
    if constexpr (K * DEPTH <= rows_weights) {
      const auto kernel = [] {
        if constexpr (is_backward<P>) {
          return rows_backward_kernel<E, P, DEPTH>;
        } else {
          return rows_forward_kernel<E, P, DEPTH>;
        }
      }();
      Launch shape{dim3(static_cast<unsigned>(p.B * p.G)), rows_threads(p.H)};
      shape.shared = layout.end;
      return launch(kernel, shape, stream, p, layout, alignment);
    } else {
      throw std::runtime_error("the rows kernel has no such instance");
    }
  };
  switch (layout.chunks <= rows_threads(p.H) ? rows_depth(p.H) : 0) {
    case 8: return with_depth(std::integral_constant<int, 8>());
    case 16: return with_depth(std::integral_constant<int, 16>());
    case 32: return with_depth(std::integral_constant<int, 32>());
  }
  throw std::runtime_error("the rows kernel does not support this size");
}

}  // namespace fastrnn::cuda
