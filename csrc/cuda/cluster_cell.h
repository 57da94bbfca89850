// The part of the cluster kernel that belongs to a cell that saves gates: the inputs of a step, the
// states of a lane, and what a step stores.
#pragma once

#include "bias.h"
#include "cell_step.h"
#include "cluster_projection.h"
#include "cluster_stack.h"

namespace fastrnn::cuda {

// What both passes share. The inputs of a step, of step_inputs in plan.h, are copied to shared memory
// some steps ahead, each lane's by itself.
template <class E, class P, int RESIDENT, int N> struct ClusterCellIO {
  using Warp = ClusterWarp<E, P, RESIDENT, N>;
  using C = typename P::Cell;
  using Chunks = uint2[E::lane_chunks];
  static constexpr int K = gates_of<P>, INPUTS = step_inputs(pass_of<P>, traits_of<P>),
                       STAGES = cluster_stages(N), size = sizeof(typename E::Storage);

  static constexpr int input_bytes = N * E::lane_chunks * INPUTS * STAGES * 256,
                       tile_bytes = input_bytes + cluster_bias_bytes(pass_of<P>, traits_of<P>);

  const Warp& warp;
  const P& p = warp.p;
  unsigned char* const staged = warp.shared + warp.layout.stages +
                                warp.m_tile * (projects<P> ? warp.layout.tile_bytes : tile_bytes) +
                                warp.lane_index * 8;

  __device__ explicit ClusterCellIO(const Warp& warp) : warp(warp) {}

  __device__ unsigned char* slot(int s, int n, int i, int input) const {
    return staged + s % STAGES * 256 + ((n * E::lane_chunks + i) * INPUTS + input) * STAGES * 256;
  }
  __device__ void copy(int s, int n, int i, int input, const typename E::Storage* row,
                       bool valid) const {
    cp_async_chunk<E>(slot(s, n, i, input), row, warp.unit, warp.H, warp.alignment, valid);
  }
  // An input of step s, in accumulators.
  __device__ void load(int s, int n, int input, float (&acc)[4]) const {
    Chunks chunks;
#pragma unroll
    for (int i = 0; i < E::lane_chunks; ++i) {
      chunks[i] = *reinterpret_cast<const uint2*>(slot(s, n, i, input));
    }
    E::to_acc(chunks, acc);
  }

  // As ClusterWarp::row, in a tensor with K * H numbers a row.
  __device__ typename E::Storage* gate_row(const void* tensor, int64_t step, int n, int i,
                                           int k) const {
    const int64_t at =
        K * (step + warp.chunk_offset + (8 * n + i) * warp.row_bytes) + k * warp.H * size;
    return reinterpret_cast<typename E::Storage*>(
        const_cast<char*>(static_cast<const char*>(tensor)) + at);
  }

  // Whether the row of accumulator i is in a mask of rows.
  __device__ bool acc_bit(uint32_t mask, int n, int i) const {
    return mask >> (8 * n + warp.lane.acc_row(i)) & 1;
  }

  // A chunk of a state [B, G, H]; zeros if there is no tensor.
  __device__ uint2 state_chunk(const void* tensor, int n, int i) const {
    if (!tensor || !warp.chunk_bit(warp.valid_rows, n, i)) return {0, 0};
    return load_chunk<E>(warp.state_row(tensor, n, i), warp.unit, warp.H, warp.aligned);
  }
  __device__ void load_state(const void* tensor, int n, float (&state)[4]) const {
    Chunks chunks;
#pragma unroll
    for (int i = 0; i < E::lane_chunks; ++i) chunks[i] = state_chunk(tensor, n, i);
    E::to_acc(chunks, state);
  }
  __device__ void store_state(void* tensor, int n, const Chunks& chunks) const {
#pragma unroll
    for (int i = 0; i < E::lane_chunks; ++i) {
      if (!warp.chunk_bit(warp.valid_rows, n, i)) continue;
      store_chunk<E>(warp.state_row(tensor, n, i), warp.unit, warp.H, warp.aligned, chunks[i]);
    }
  }
  __device__ void store_state(void* tensor, int n, const float (&state)[4]) const {
    Chunks chunks;
    E::to_chunks(state, chunks);
    store_state(tensor, n, chunks);
  }

  // Stores values of a step: of active rows, and zeros in the others unless rows are packed.
  template <class Row>
  __device__ void store(const float (&values)[4], uint32_t active, int n, Row row) const {
    Chunks chunks;
    E::to_chunks(values, chunks);
    store(chunks, active, n, row);
  }
  template <class Row>
  __device__ void store(const Chunks& chunks, uint32_t active, int n, Row row) const {
#pragma unroll
    for (int i = 0; i < E::lane_chunks; ++i) {
      if (!warp.chunk_bit(p.offsets ? active : warp.valid_rows, n, i)) continue;
      store_chunk<E>(row(i), warp.unit, warp.H, warp.aligned,
                     warp.chunk_bit(active, n, i) ? chunks[i] : uint2{0, 0});
    }
  }
  __device__ void store_values(void* tensor, int64_t offset, uint32_t active, int n,
                               const float (&values)[4]) const {
    store(values, active, n, [&](int i) { return warp.row(tensor, offset, n, i); });
  }
  __device__ void store_gates(void* tensor, int64_t offset, uint32_t active, int n,
                              const float (&values)[K][4]) const {
#pragma unroll
    for (int k = 0; k < K; ++k) {
      store(values[k], active, n, [&](int i) { return gate_row(tensor, offset, n, i, k); });
    }
  }

  // Sets units beyond H and inactive rows to zero.
  __device__ void mask(Chunks& chunks, uint32_t active, int n) const {
#pragma unroll
    for (int i = 0; i < E::lane_chunks; ++i) {
      const bool is_active = warp.chunk_bit(active, n, i);
      chunks[i].x = is_active ? chunks[i].x & warp.valid_units.x : 0;
      chunks[i].y = is_active ? chunks[i].y & warp.valid_units.y : 0;
    }
  }
};

// The rows that take part in a step. Bit b is that of row b.
struct StepRows {
  int64_t offset;                // bytes of the step's rows
  uint32_t active, next_active;  // in this step, and in the next one
  uint32_t resets, next_resets;  // whether the loop crosses a reset as it enters the step
};

template <class E, class P, int RESIDENT, int N, bool = is_backward<P>> struct ClusterCell;

template <class E, class P, int RESIDENT, int N>
struct ClusterCell<E, P, RESIDENT, N, false> : ClusterCellIO<E, P, RESIDENT, N> {
  using IO = ClusterCellIO<E, P, RESIDENT, N>;
  using IO::K, IO::p, IO::warp;
  using typename IO::C;
  static constexpr int SENT = 1;

  typename IO::Chunks h[N];
  float c[N][4];

  float projected[K][1][4];  // pre of a step, if there is an input projection

  // The biases and the unit_param of a tile are in shared memory, a copy for each lane. The barrier of
  // the reduction precedes the first use.
  __device__ explicit ClusterCell(const typename IO::Warp& warp) : IO(warp) {
    if (warp.split > 0) return;
    if constexpr (projects<P>) projection().load_weights();
    Bias<E, P> bias;
    bias.load(p, warp.group, warp.first_unit, warp.lane);
#pragma unroll
    for (int k = 0; k < K; ++k) *bias_slot(k) = {bias.of[k][0], bias.of[k][1]};
    if constexpr (C::has_unit_param) {
      float unit_param[2];
      load_unit_param<E>(unit_param, p, warp.group, warp.lane, warp.first_unit);
      *bias_slot(K) = {unit_param[0], unit_param[1]};
    }
  }

  __device__ void start(int n) {
#pragma unroll
    for (int i = 0; i < E::lane_chunks; ++i) h[n][i] = this->state_chunk(p.h0, n, i);
    if constexpr (C::has_c) this->load_state(p.c0, n, c[n]);
  }

  __device__ void prefetch(int s, int n, int64_t offset, int64_t, uint32_t active, uint32_t) const {
    if constexpr (projects<P>) {
      if (warp.layer == 0) projection().prefetch(s, active);
    } else {
#pragma unroll
      for (int i = 0; i < E::lane_chunks; ++i) {
        const bool is_active = warp.chunk_bit(active, n, i);
#pragma unroll
        for (int k = 0; k < K; ++k) {
          this->copy(s, n, i, k, this->gate_row(p.pre, offset, n, i, k), is_active);
        }
      }
    }
  }

  // What step s needs in addition to the state.
  __device__ void prepare(int s) {
    if constexpr (projects<P>) {
      static_assert(N == 1);
#pragma unroll
      for (int k = 0; k < K; ++k) {
#pragma unroll
        for (int i = 0; i < 4; ++i) projected[k][0][i] = 0;
      }
      if (warp.layer > 0) exchange().receive(s);
      projection().multiply(s, projected);
    }
  }

  // send(i, k, chunk) sends chunk i of the state.
  template <class Send>
  __device__ void step(int s, int n, const float (&product)[K][4], const StepRows& rows,
                       Send send) {
    float gates[K][4], inner[4], before[4], next_c[4];
#pragma unroll
    for (int k = 0; k < K; ++k) {
      if constexpr (projects<P>) {
#pragma unroll
        for (int i = 0; i < 4; ++i) gates[k][i] = projected[k][0][i];
      } else {
        this->load(s, n, k, gates[k]);
      }
      const float2 bias = *bias_slot(k);
      gates[k][0] += bias.x, gates[k][1] += bias.x;
      gates[k][2] += bias.y, gates[k][3] += bias.y;
    }
    E::to_acc(h[n], before);
#pragma unroll
    for (int i = 0; i < 4; ++i) next_c[i] = c[n][i];
    if (rows.resets) start_from_reset(n, rows.resets, before, next_c);
    float unit_param[2];
    if constexpr (C::has_unit_param) {
      const float2 units = *bias_slot(K);
      unit_param[0] = units.x, unit_param[1] = units.y;
    }
    forward_acc<E>(p, gates, product, unit_param, before, next_c, inner);
    typename IO::Chunks next;
    E::to_chunks(before, next);
#pragma unroll
    for (int i = 0; i < E::lane_chunks; ++i) {
      const bool is_active = warp.chunk_bit(rows.active, n, i);
      h[n][i].x = is_active ? next[i].x & warp.valid_units.x : h[n][i].x;
      h[n][i].y = is_active ? next[i].y & warp.valid_units.y : h[n][i].y;
      const bool reset = rows.next_resets && warp.chunk_bit(rows.next_resets, n, i);
      send(i, 0, reset ? this->state_chunk(p.reset_h, n, i) : h[n][i]);
    }
    if constexpr (projects<P>) pass_on(s);
    if constexpr (C::has_c) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        c[n][i] = this->acc_bit(rows.active, n, i) ? next_c[i] : c[n][i];
      }
    }
    this->store(h[n], rows.active, n, [&](int i) { return warp.row(p.out, rows.offset, n, i); });
    if (!p.gates) return;
    this->store_gates(p.gates, rows.offset, rows.active, n, gates);
    if constexpr (C::has_inner) this->store_values(p.inner, rows.offset, rows.active, n, inner);
  }

  // After the last step: the final state, and zeros in all rows from `steps` on.
  __device__ void finish(int n, int steps, int64_t step_bytes) const {
    this->store_state(p.h_n, n, h[n]);
    if constexpr (C::has_c) this->store_state(p.c_n, n, c[n]);
    if (p.offsets) return;
#pragma unroll 1
    for (int64_t t = steps; t < p.T; ++t) {
      const float zeros[K][4] = {};
      this->store_values(p.out, t * step_bytes, 0, n, zeros[0]);
      if (!p.gates) continue;
      this->store_gates(p.gates, t * step_bytes, 0, n, zeros);
      if constexpr (C::has_inner) this->store_values(p.inner, t * step_bytes, 0, n, zeros[0]);
    }
  }

 private:
  // Sends the output of step s to the next layer, and frees its input.
  __device__ void pass_on(int s) const {
    const auto exchange = this->exchange();
    if (exchange.receives()) exchange.free(s, h[0][0]);
    if (!exchange.sends()) return;
    exchange.wait_for_room(s);
#pragma unroll
    for (int i = 0; i < E::lane_chunks; ++i) exchange.send(s, i, 0, h[0][i]);
  }

  __device__ float2* bias_slot(int k) const {
    unsigned char* first = this->slot(0, N, 0, 0);
    if constexpr (projects<P>) first = tile() + stage_bytes() + warp.lane_index * 8;
    return reinterpret_cast<float2*>(first + k * 256);
  }

  // The memory of the warp's tile: the rows of x, the biases, W_ih.
  __device__ unsigned char* tile() const {
    return warp.shared + warp.layout.stages + warp.m_tile * warp.layout.tile_bytes;
  }
  __device__ int stage_bytes() const {
    return IO::STAGES * 8 * input_row_bytes(warp.layout.x_k_steps);
  }
  __device__ auto exchange() const { return LayerExchange<E, typename IO::Warp>(warp); }
  __device__ auto projection() const {
    return ClusterProjection<E, P, typename IO::Warp>(
        warp, warp.layer == 0 ? tile() : warp.shared + warp.layout.received,
        tile() + stage_bytes() + cluster_bias_bytes(Pass::forward, traits_of<P>) +
            warp.lane_index * 16);
  }

  __device__ void start_from_reset(int n, uint32_t resets, float (&before)[4],
                                   float (&before_c)[4]) const {
    float first[4], first_c[4];
    this->load_state(p.reset_h, n, first);
    if constexpr (C::has_c) this->load_state(p.reset_c, n, first_c);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (!this->acc_bit(resets, n, i)) continue;
      before[i] = first[i];
      if constexpr (C::has_c) before_c[i] = first_c[i];
    }
  }
};

}  // namespace fastrnn::cuda
