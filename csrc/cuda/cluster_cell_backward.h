// The backward of cluster_cell.h.
#pragma once

#include "cluster_cell.h"

namespace fastrnn::cuda {

template <class E, class P, int RESIDENT, int N>
struct ClusterCell<E, P, RESIDENT, N, true> : ClusterCellIO<E, P, RESIDENT, N> {
  using IO = ClusterCellIO<E, P, RESIDENT, N>;
  using IO::K, IO::p, IO::warp;
  using typename IO::C;
  static constexpr int SENT = K, INNER = 1 + K, BEFORE = IO::INPUTS - 1;

  float dh[N][4], dc[N][4];  // gradients of the states, except for the product's part
  float unit_param[2];
  float projected[1][1][4];  // grad_out of a step, in a later layer of a stack

  __device__ explicit ClusterCell(const typename IO::Warp& warp) : IO(warp) {
    if constexpr (C::has_unit_param) {
      load_unit_param<E>(unit_param, p, warp.group, warp.lane, warp.first_unit);
    }
    if constexpr (projects<P>) {
      if (warp.split == 0 && warp.layer > 0) projection().load_weights();
    }
  }

  __device__ void start(int n) {
    this->load_state(p.grad_h_n, n, dh[n]);
    if constexpr (C::has_c) this->load_state(p.grad_c_n, n, dc[n]);
  }

  __device__ void prefetch(int s, int n, int64_t offset, int64_t next_offset, uint32_t active,
                           uint32_t next_active) const {
#pragma unroll
    for (int i = 0; i < E::lane_chunks; ++i) {
      const bool is_active = warp.chunk_bit(active, n, i);
      if (!projects<P> || warp.layer == 0) {
        this->copy(s, n, i, 0, warp.row(p.grad_out, offset, n, i), is_active && p.grad_out);
      }
#pragma unroll
      for (int k = 0; k < K; ++k) {
        this->copy(s, n, i, 1 + k, this->gate_row(p.gates, offset, n, i, k), is_active);
      }
      if constexpr (C::has_inner) {
        this->copy(s, n, i, INNER, warp.row(p.inner, offset, n, i), is_active);
      }
      if constexpr (C::saves) {
        const void* const states = C::has_c ? p.inner : p.out;
        this->copy(s, n, i, BEFORE, warp.row(states, next_offset, n, i),
                   warp.chunk_bit(next_active, n, i));
      }
    }
  }

  __device__ void prepare(int s) {
    if constexpr (projects<P>) {
      static_assert(N == 1);
      if (warp.layer == 0 || s == warp.steps) return;
#pragma unroll
      for (int i = 0; i < 4; ++i) projected[0][0][i] = 0;
      exchange().receive(s);
      projection().multiply(s, projected);
    }
  }

  // send(i, k, chunk) sends chunk i of dz of gate k.
  template <class Send>
  __device__ void step(int s, int n, const float (&product)[1][4], const StepRows& rows,
                       Send send) {
#pragma unroll
    for (int i = 0; i < 4; ++i) dh[n][i] += product[0][i];
    if (rows.resets) end_at_reset(n, rows.resets);
    if (s == warp.steps) return;
    float grad_out[4], gates[K][4], inner[4], before[4], dz[K][4], next_dh[4], next_dc[4];
    if (!projects<P> || warp.layer == 0) {
      this->load(s, n, 0, grad_out);
    } else {
#pragma unroll
      for (int i = 0; i < 4; ++i) grad_out[i] = projected[0][0][i];
    }
#pragma unroll
    for (int k = 0; k < K; ++k) this->load(s, n, 1 + k, gates[k]);
    if constexpr (C::has_inner) this->load(s, n, INNER, inner);
    if constexpr (C::saves) load_before(s, n, rows, before);
#pragma unroll
    for (int i = 0; i < 4; ++i) next_dh[i] = dh[n][i] + grad_out[i], next_dc[i] = dc[n][i];
    backward_acc<E>(p, gates, dz, unit_param, before, next_dh, next_dc, inner);
#pragma unroll
    for (int k = 0; k < K; ++k) {
      typename IO::Chunks of_product;
      E::to_chunks(C::z_is_pre ? gates[k] : dz[k], of_product);
      this->mask(of_product, rows.active, n);
#pragma unroll
      for (int i = 0; i < E::lane_chunks; ++i) send(i, k, of_product[i]);
    }
    if constexpr (projects<P>) pass_on(s, rows.active, gates);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const bool is_active = this->acc_bit(rows.active, n, i);
      dh[n][i] = is_active ? next_dh[i] : dh[n][i];
      if constexpr (C::has_c) dc[n][i] = is_active ? next_dc[i] : dc[n][i];
    }
    this->store_gates(p.grad_pre, rows.offset, rows.active, n, gates);
    if constexpr (C::has_unit_param) {
      this->store_values(p.grad_unit_param, rows.offset, rows.active, n, inner);
    }
  }

  __device__ void finish(int n, int steps, int64_t step_bytes) const {
    this->store_state(p.grad_h0, n, dh[n]);
    if constexpr (C::has_c) this->store_state(p.grad_c0, n, dc[n]);
    if (p.offsets) return;
#pragma unroll 1
    for (int64_t t = steps; t < p.T; ++t) {
      const float zeros[K][4] = {};
      this->store_gates(p.grad_pre, t * step_bytes, 0, n, zeros);
      if constexpr (C::has_unit_param) {
        this->store_values(p.grad_unit_param, t * step_bytes, 0, n, zeros[0]);
      }
    }
  }

 private:
  // Sends the gradients of pre to the layer below, and frees the rows of the layer above.
  __device__ void pass_on(int s, uint32_t active, const float (&gates)[K][4]) const {
    const auto exchange = this->exchange();
    const bool sends = exchange.sends();
    if (sends) exchange.wait_for_room(s);
#pragma unroll
    for (int k = 0; k < K; ++k) {
      typename IO::Chunks chunks;
      E::to_chunks(gates[k], chunks);
      this->mask(chunks, active, 0);
      if (k == 0 && exchange.receives()) exchange.free(s, chunks[0]);
#pragma unroll
      for (int i = 0; i < E::lane_chunks; ++i) {
        if (sends) exchange.send(s, i, k, chunks[i]);
      }
    }
  }
  __device__ auto exchange() const { return LayerExchange<E, typename IO::Warp>(warp); }
  __device__ auto projection() const {
    return ClusterProjection<E, P, typename IO::Warp>(
        warp, warp.shared + warp.layout.received,
        this->staged - warp.lane_index * 8 + IO::input_bytes + warp.lane_index * 16);
  }

  // c before the step in forward, or h without c: that of the next step here, or the state from which
  // the sequence starts.
  __device__ void load_before(int s, int n, const StepRows& rows, float (&before)[4]) const {
    typename IO::Chunks chunks;
#pragma unroll
    for (int i = 0; i < E::lane_chunks; ++i) {
      chunks[i] = *reinterpret_cast<const uint2*>(this->slot(s, n, i, BEFORE));
    }
    const uint32_t first = rows.active & (~rows.next_active | rows.next_resets);
    if (first) {
#pragma unroll
      for (int i = 0; i < E::lane_chunks; ++i) {
        if (!warp.chunk_bit(first, n, i)) continue;
        const bool reset = warp.chunk_bit(rows.next_resets, n, i);
        const void* const state =
            C::has_c ? (reset ? p.reset_c : p.c0) : (reset ? p.reset_h : p.h0);
        chunks[i] = this->state_chunk(state, n, i);
      }
    }
    E::to_acc(chunks, before);
  }

  // Ends the gradients at a reset, and adds them to those of the state from which it starts.
  __device__ void end_at_reset(int n, uint32_t resets) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (!this->acc_bit(resets, n, i)) continue;
      const int b = warp.first_row + 8 * n + warp.lane.acc_row(i);
      const int unit = warp.first_unit + (i < 2 ? warp.lane.first_unit() : warp.lane.second_unit());
      add_reset_gradient<E>(p, p.reset_h_sum, b, warp.group, unit, dh[n][i]);
      dh[n][i] = 0;
      if constexpr (C::has_c) {
        add_reset_gradient<E>(p, p.reset_c_sum, b, warp.group, unit, dc[n][i]);
        dc[n][i] = 0;
      }
    }
  }
};

}  // namespace fastrnn::cuda
