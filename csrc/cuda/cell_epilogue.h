// The epilogue of the grid and step kernels for cells that save gates: see epilogue.h. Its inputs
// keep the lane's states, or their gradients, from a step to the next.
#pragma once

#include "cell_step.h"
#include "epilogue.h"

namespace fastrnn::cuda {

// What the epilogues of both passes share.
template <class E, class P> struct CellTileIO : TileIO<E, P> {
  using Base = TileIO<E, P>;
  using C = typename P::Cell;
  using Storage = typename E::Storage;
  using Chunks = uint2[E::lane_chunks];
  static constexpr int K = gates_of<P>;
  using Base::Base;

  // Whether the row of accumulator i is active at t.
  __device__ bool active(int t, int i) const {
    return 0 <= t && t < this->lengths[this->lane.acc_row(i)];
  }

  // The element of a gate in a tensor with K * H numbers a row, from that of a tensor with H.
  __device__ int64_t gate_at(int64_t at, int k) const {
    return (at - this->unit) * K + k * this->p.H + this->unit;
  }

  __device__ void load_state(const void* tensor, float (&state)[4]) const {
    Chunks chunks;
    Base::load_state(tensor, chunks);
    E::to_acc(chunks, state);
  }
  __device__ void load_states(const void* of_h, float (&h)[4], const void* of_c,
                              float (&c)[4]) const {
    load_state(of_h, h);
    if constexpr (C::has_c) load_state(of_c, c);
  }
  __device__ void load_unit_param(float (&to)[2]) const {
    if constexpr (C::has_unit_param) {
      cuda::load_unit_param<E>(to, this->p, this->group, this->lane, this->first_unit);
    }
  }
  __device__ void store_state(void* tensor, const float (&state)[4]) const {
    Chunks chunks;
    E::to_chunks(state, chunks);
#pragma unroll
    for (int i = 0; i < E::lane_chunks; ++i) {
      if (this->length(i) >= 0) Base::store(tensor, this->state_at(i), chunks[i]);
    }
  }

  __device__ void load_gates(const void* tensor, int t, Chunks (&chunks)[K]) const {
#pragma unroll
    for (int k = 0; k < K; ++k) {
#pragma unroll
      for (int i = 0; i < E::lane_chunks; ++i) {
        chunks[k][i] = {0, 0};
        if (t < this->length(i)) {
          chunks[k][i] = Base::load(tensor, gate_at(this->at(t, i), k));
        }
      }
    }
  }
  __device__ void prefetch_gates(const void* tensor, int t) const {
#pragma unroll
    for (int i = 0; i < E::lane_chunks; ++i) {
      if (t >= this->length(i) || this->unit >= this->p.H) continue;
#pragma unroll
      for (int k = 0; k < K; ++k) {
        ptx::prefetch_l2(static_cast<const Storage*>(tensor) + gate_at(this->at(t, i), k));
      }
    }
  }
  // Stores values of active rows, and zeros in the others unless rows are packed.
  __device__ void store_gates(void* tensor, int t, const Chunks (&chunks)[K]) const {
#pragma unroll
    for (int k = 0; k < K; ++k) {
#pragma unroll
      for (int i = 0; i < E::lane_chunks; ++i) {
        if (t < this->length(i)) {
          Base::store(tensor, gate_at(this->at(t, i), k), chunks[k][i]);
        }
      }
    }
    store_zero_gates(tensor, t);
  }
  __device__ void store_zero_gates(void* tensor, int t) const {
    if (this->p.offsets) return;
#pragma unroll
    for (int i = 0; i < E::lane_chunks; ++i) {
      if (t < this->length(i) || this->length(i) < 0) continue;
#pragma unroll
      for (int k = 0; k < K; ++k) {
        Base::store(tensor, gate_at(this->at(t, i), k), {0, 0});
      }
    }
  }
  __device__ void store_values(void* tensor, int t, const float (&values)[4]) const {
    Chunks chunks;
    E::to_chunks(values, chunks);
    Base::store_result(tensor, t, chunks, [](int, uint2) { return false; });
  }
};

template <class E, class C> struct Epilogue<E, CellForwardOf<C>> : CellTileIO<E, CellForwardOf<C>> {
  using P = CellForwardOf<C>;
  using IO = CellTileIO<E, P>;
  using IO::IO, IO::K;
  // What a lane keeps from a step to the next, with the values of the storage dtype.
  struct Kept {
    float h[4], c[4], unit_param[2];
  };
  struct Inputs : Kept {
    __device__ Kept& kept() { return *this; }
    typename IO::Chunks pre[K];
    Bias<E, P> bias;
  };

  __device__ void load_biases(Inputs& inputs) const {
    inputs.bias.load(this->p, this->group, this->first_unit, this->lane);
  }

  __device__ void begin(Inputs& inputs) const {
    this->load_states(this->p.h0, inputs.h, this->p.c0, inputs.c);
    this->load_unit_param(inputs.unit_param);
    typename IO::Chunks h, c;
    IO::Base::load_state(this->p.h0, h);
    if constexpr (C::has_c) IO::Base::load_state(this->p.c0, c);
    // Rows without steps.
#pragma unroll
    for (int i = 0; i < E::lane_chunks; ++i) {
      if (this->length(i) != 0) continue;
      this->store(this->p.h_n, this->state_at(i), h[i]);
      if constexpr (C::has_c) this->store(this->p.c_n, this->state_at(i), c[i]);
    }
  }

  __device__ void load(Inputs& inputs, int t) const {
    this->load_gates(this->p.pre, t, inputs.pre);
  }
  __device__ void prefetch(int t) const { this->prefetch_gates(this->p.pre, t); }

  // The product is that of reset_h where a row starts from it.
  template <class Publish>
  __device__ void finish(int t, const float (&sum)[K][4], Inputs& inputs,
                         const RowResets<P>& resets, Publish publish) const {
    start_from_resets(inputs, resets);
    float gates[K][4], inner[4], next_h[4], next_c[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) next_h[i] = inputs.h[i], next_c[i] = inputs.c[i];
#pragma unroll
    for (int k = 0; k < K; ++k) {
      E::to_acc(inputs.pre[k], gates[k]);
      inputs.bias.add(k, gates[k]);
    }
    forward_acc<E>(this->p, gates, sum, inputs.unit_param, next_h, next_c, inner);
    typename IO::Chunks h, c;
    E::to_chunks(next_h, h);
    E::to_acc(h, next_h);  // rounded
    this->store_result(this->p.out, t, h, publish);
    if constexpr (C::has_c) E::to_chunks(next_c, c);
    if (this->p.gates) {
      typename IO::Chunks saved[K];
#pragma unroll
      for (int k = 0; k < K; ++k) E::to_chunks(gates[k], saved[k]);
      this->store_gates(this->p.gates, t, saved);
      if constexpr (C::has_inner) this->store_values(this->p.inner, t, inner);
    }
#pragma unroll
    for (int i = 0; i < E::lane_chunks; ++i) {
      const int length = this->length(i);
      if (t >= length || !this->order.last(t, length)) continue;
      this->store(this->p.h_n, this->state_at(i), h[i]);
      if constexpr (C::has_c) this->store(this->p.c_n, this->state_at(i), c[i]);
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (!this->active(t, i)) continue;
      inputs.h[i] = next_h[i];
      if constexpr (C::has_c) inputs.c[i] = next_c[i];
    }
  }

  __device__ void store_zeros(int t) const {
    IO::Base::store_zeros(this->p.out, t);
    if (!this->p.gates) return;
    this->store_zero_gates(this->p.gates, t);
    if constexpr (C::has_inner) IO::Base::store_zeros(this->p.inner, t);
  }

 private:
  __device__ void start_from_resets(Kept& kept, const RowResets<P>& resets) const {
    if (!__ballot_sync(~0u, resets.rows != 0)) return;
    float h[4], c[4];
    this->load_states(this->p.reset_h, h, this->p.reset_c, c);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (!resets.at(i)) continue;
      kept.h[i] = h[i];
      if constexpr (C::has_c) kept.c[i] = c[i];
    }
  }
};

template <class E, class C>
struct Epilogue<E, CellBackwardOf<C>> : CellTileIO<E, CellBackwardOf<C>> {
  using P = CellBackwardOf<C>;
  using IO = CellTileIO<E, P>;
  using IO::IO, IO::K;
  // What a lane keeps from a step to the next: the gradients of the states, except for the product's
  // part.
  struct Kept {
    float dh[4], dc[4], unit_param[2];
  };
  struct Inputs : Kept {
    __device__ Kept& kept() { return *this; }
    typename IO::Chunks grad_out, gates[K], inner, before;
  };

  __device__ void load_biases(Inputs&) const {}

  __device__ void begin(Inputs& inputs) const {
    this->load_states(this->p.grad_h_n, inputs.dh, this->p.grad_c_n, inputs.dc);
    this->load_unit_param(inputs.unit_param);
  }

  __device__ void load(Inputs& inputs, int t) const {
    this->load_active(this->p.grad_out, t, inputs.grad_out);
    this->load_gates(this->p.gates, t, inputs.gates);
    if constexpr (C::has_inner) this->load_active(this->p.inner, t, inputs.inner);
    const int before = this->order.next(t);  // the step before t in forward
#pragma unroll
    for (int i = 0; i < E::lane_chunks; ++i) {
      inputs.before[i] = {0, 0};
      if (t >= this->length(i)) continue;
      const bool exists = 0 <= before && before < this->length(i);
      const bool reset = crosses_reset(this->p, before, this->first_row + this->lane.chunk_row(i),
                                       this->order.descending, this->length(i));
      const void* const state = C::has_c ? (reset ? this->p.reset_c : this->p.c0)
                                         : (reset ? this->p.reset_h : this->p.h0);
      if (exists && !reset) {
        inputs.before[i] =
            IO::Base::load(C::has_c ? this->p.inner : this->p.out, this->at(before, i));
      } else if (state) {
        inputs.before[i] = IO::Base::load(state, this->state_at(i));
      }
    }
  }
  __device__ void prefetch(int t) const {
    this->prefetch_active(this->p.grad_out, t);
    this->prefetch_gates(this->p.gates, t);
    // An inner value that is c was prefetched as the state before the last step.
    if constexpr (C::has_inner && !C::has_c) this->prefetch_active(this->p.inner, t);
    const int before = this->order.next(t);
    if (before >= 0) this->prefetch_active(C::has_c ? this->p.inner : this->p.out, before);
  }

  // publish(i, chunk, k) takes chunk i of dz of gate k.
  template <class Publish>
  __device__ void finish(int t, const float (&sum)[1][4], Inputs& inputs,
                         const RowResets<P>& resets, Publish publish) const {
    // An inactive row keeps dh and dc.
#pragma unroll
    for (int i = 0; i < 4; ++i) inputs.dh[i] += sum[0][i];
    end_at_resets(t, inputs, resets);
    if (t == this->order.end()) {
      this->store_state(this->p.grad_h0, inputs.dh);
      if constexpr (C::has_c) this->store_state(this->p.grad_c0, inputs.dc);
      return;
    }
    float grad_out[4], gates[K][4], inner[4], before[4], dz[K][4], dh[4], dc[4];
    E::to_acc(inputs.grad_out, grad_out);
#pragma unroll
    for (int k = 0; k < K; ++k) E::to_acc(inputs.gates[k], gates[k]);
    if constexpr (C::has_inner) E::to_acc(inputs.inner, inner);
    E::to_acc(inputs.before, before);
#pragma unroll
    for (int i = 0; i < 4; ++i) dh[i] = inputs.dh[i] + grad_out[i], dc[i] = inputs.dc[i];
    backward_acc<E>(this->p, gates, dz, inputs.unit_param, before, dh, dc, inner);
    typename IO::Chunks of_pre[K], of_product[K];
#pragma unroll
    for (int k = 0; k < K; ++k) {
      E::to_chunks(gates[k], of_pre[k]);
      if constexpr (!C::z_is_pre) E::to_chunks(dz[k], of_product[k]);
    }
#pragma unroll
    for (int k = 0; k < K; ++k) {
#pragma unroll
      for (int i = 0; i < E::lane_chunks; ++i) {
        if (t >= this->length(i)) continue;
        const uint2 published = (C::z_is_pre ? of_pre : of_product)[k][i];
        if (!publish(i, published, k)) {
          this->store(this->p.grad_pre, this->gate_at(this->at(t, i), k), of_pre[k][i]);
        }
      }
    }
    this->store_zero_gates(this->p.grad_pre, t);
    if constexpr (C::has_unit_param) this->store_values(this->p.grad_unit_param, t, inner);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (!this->active(t, i)) continue;
      inputs.dh[i] = dh[i];
      if constexpr (C::has_c) inputs.dc[i] = dc[i];
    }
  }

  __device__ void store_zeros(int t) const {
    this->store_zero_gates(this->p.grad_pre, t);
    if constexpr (C::has_unit_param) IO::Base::store_zeros(this->p.grad_unit_param, t);
  }

 private:
  // Ends the gradients at a reset, and adds them to those of the state from which it starts. No
  // reset matters before a row's first step of the loop.
  __device__ void end_at_resets(int t, Kept& kept, const RowResets<P>& resets) const {
    if (resets.rows == 0 || (t == 0 && !this->order.descending)) return;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (!resets.at(i)) continue;
      const int64_t b = this->first_row + this->lane.acc_row(i);
      const int64_t unit =
          this->first_unit + (i < 2 ? this->lane.first_unit() : this->lane.second_unit());
      add_reset_gradient<E>(this->p, this->p.reset_h_sum, b, this->group, unit, kept.dh[i]);
      kept.dh[i] = 0;
      if constexpr (C::has_c) {
        add_reset_gradient<E>(this->p, this->p.reset_c_sum, b, this->group, unit, kept.dc[i]);
        kept.dc[i] = 0;
      }
    }
  }
};

}  // namespace fastrnn::cuda
