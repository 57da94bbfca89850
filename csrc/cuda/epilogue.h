// The epilogue of the grid and step kernels, which turns the accumulated products of a step into
// its result; and the order of a row's steps.
#pragma once

#include "bias.h"
#include "operand_load.h"
#include "pass_traits.h"

namespace fastrnn::cuda {

// The order of a group's steps: backward runs in the opposite order of forward. A row takes part
// only while it is active. Its first step reads the initial state and its last step stores the
// final one, so that no step has to copy an inactive row's state.
struct TimeOrder {
  int steps;
  bool descending;

  // The i-th step. The step after the last is the end, where backward computes grad_h0.
  __device__ int time(int i) const { return descending ? steps - 1 - i : i; }
  __device__ int next(int t) const { return descending ? t - 1 : t + 1; }
  __device__ int end() const { return descending ? -1 : steps; }

  // The row's step before t, which may be the end; negative if the row begins at t.
  __device__ int previous(int t, int length) const {
    if (descending) return t + 1 < length ? t + 1 : -1;
    return (t < length ? t : length) - 1;
  }
  __device__ bool last(int t, int length) const { return t == (descending ? 0 : length - 1); }
};

template <class P> __device__ TimeOrder time_order(const P& p, int64_t group, int steps) {
  return {steps, (group >= p.reverse_from) != is_backward<P>};
}

// The length of batch row b; negative beyond the batch.
__device__ inline int row_length(const Params& p, int64_t b) {
  if (b >= p.B) return -1;
  return static_cast<int>(p.lengths ? p.lengths[b] : p.T);
}

// Which of the two rows of a lane's accumulators cross a reset in a step; empty without resets.
template <class P, bool = has_resets<P>> struct RowResets {
  __device__ static constexpr bool at(int) { return false; }
};
template <class P> struct RowResets<P, true> {
  uint8_t rows;  // one bit a row
  __device__ bool at(int i) const { return rows >> i % 2 & 1; }
};

// The lane's chunks of a tile of 16 units and 8 batch rows.
template <class E, class P> struct TileIO {
  using Storage = typename E::Storage;

  const P& p;
  const TensorLayout& layout;
  const TimeOrder order;
  const Lane<E> lane;
  const int group, first_row, first_unit;
  const int* const lengths;  // [8], of the tile's rows
  int unit;
  int64_t offset;  // of the first chunk within a step
  // The same within a state, in shared memory: few steps need it, and registers are full.
  const int64_t* const state_offset;

  // `state_offset`: where this lane may keep it.
  __device__ TileIO(const P& p, const TensorLayout& layout, TimeOrder order, int64_t group,
                    int64_t first_row, int first_unit, const int* lengths, const Lane<E>& lane,
                    int64_t* state_offset)
      : p(p),
        layout(layout),
        order(order),
        lane(lane),
        group(static_cast<int>(group)),
        first_row(static_cast<int>(first_row)),
        first_unit(first_unit),
        lengths(lengths),
        unit(first_unit + lane.chunk_unit()),
        offset(((first_row + lane.chunk_row(0)) * p.G + group) * p.H + unit),
        state_offset(state_offset) {
    *state_offset = p.state_at(first_row + lane.chunk_row(0), group) + unit;
  }

  // `first_row` as in the constructor.
  __device__ void load_resets(RowResets<P>& resets, int t, int64_t first_row) const {
    if constexpr (has_resets<P>) {
      const auto resets_row = [&](int row) {
        return crosses_reset(p, t, first_row + row, order.descending, lengths[row]);
      };
      resets.rows = resets_row(lane.acc_row(0)) | resets_row(lane.acc_row(1)) << 1;
    }
  }

  __device__ int length(int i) const { return lengths[lane.chunk_row(i)]; }
  __device__ int64_t at(int t, int i) const {
    return (p.offsets ? p.offsets[t] * layout.row_stride : t * layout.step_stride) + offset +
           i * layout.row_stride;
  }
  __device__ int64_t state_at(int i) const { return *state_offset + i * p.state_row; }

  __device__ uint2 load(const void* tensor, int64_t at) const {
    return load_chunk<E>(static_cast<const Storage*>(tensor) + at - unit, unit, p.H,
                         layout.aligned_chunks);
  }
  __device__ void store(void* tensor, int64_t at, uint2 chunk) const {
    store_chunk<E>(static_cast<Storage*>(tensor) + at - unit, unit, p.H, layout.aligned_chunks,
                   chunk);
  }

  // Loads active rows only: packed data does not contain the others. Zeros if there is no tensor.
  __device__ void load_active(const void* tensor, int t, uint2 (&chunks)[E::lane_chunks]) const {
#pragma unroll
    for (int i = 0; i < E::lane_chunks; ++i) {
      chunks[i] = {0, 0};
      if (tensor && t < length(i)) chunks[i] = load(tensor, at(t, i));
    }
  }
  __device__ void load_state(const void* state, uint2 (&chunks)[E::lane_chunks]) const {
#pragma unroll
    for (int i = 0; i < E::lane_chunks; ++i) {
      chunks[i] = {0, 0};
      if (state && length(i) >= 0) chunks[i] = load(state, state_at(i));
    }
  }
  __device__ void prefetch_active(const void* tensor, int t) const {
#pragma unroll
    for (int i = 0; i < E::lane_chunks; ++i) {
      if (tensor && t < length(i) && unit < p.H) {
        ptx::prefetch_l2(static_cast<const Storage*>(tensor) + at(t, i));
      }
    }
  }
  // publish(i, chunk) returns whether it has stored an active row's chunk in the result.
  template <class Publish>
  __device__ void store_result(void* result, int t, const uint2 (&chunks)[E::lane_chunks],
                               Publish publish) const {
#pragma unroll
    for (int i = 0; i < E::lane_chunks; ++i) {
      if (t < length(i) && !publish(i, chunks[i])) store(result, at(t, i), chunks[i]);
    }
    store_zeros(result, t);
  }
  // Zeros inactive rows, which packed data does not contain.
  __device__ void store_zeros(void* result, int t) const {
    if (p.offsets) return;
#pragma unroll
    for (int i = 0; i < E::lane_chunks; ++i) {
      if (t >= length(i) && length(i) >= 0) store(result, at(t, i), {0, 0});
    }
  }
};

// The epilogue of a step, for the lane's chunks:
//   load_biases  loads them, in forward
//   begin        handles rows without steps, before the first step
//   load         loads the inputs other than the sums
//   prefetch     prefetches the same inputs into L2
//   load_resets  finds the rows that cross a reset, in the end step too
//   finish       stores the result, computed from the lane's sums
//   store_zeros  zeros a step's rows in the result, all of them inactive
template <class E, class P> struct Epilogue;

template <class E, class Base> struct Epilogue<E, ForwardParams<Base>>
    : TileIO<E, ForwardParams<Base>> {
  using P = ForwardParams<Base>;
  using TileIO<E, P>::TileIO;
  struct Inputs {
    uint2 pre[E::lane_chunks];
    Bias<E, P> bias;
  };

  __device__ void store_zeros(int t) const { TileIO<E, P>::store_zeros(this->p.out, t); }

  __device__ void load_biases(Inputs& inputs) const {
    inputs.bias.load(this->p, this->group, this->first_unit, this->lane);
  }
  __device__ void begin(Inputs&) const {
    uint2 chunks[E::lane_chunks];
    this->load_state(this->p.h0, chunks);
#pragma unroll
    for (int i = 0; i < E::lane_chunks; ++i) {
      if (this->length(i) == 0) this->store(this->p.h_n, this->state_at(i), chunks[i]);
    }
  }

  __device__ void load(Inputs& inputs, int t) const {
    this->load_active(this->p.pre, t, inputs.pre);
  }
  __device__ void prefetch(int t) const { this->prefetch_active(this->p.pre, t); }

  template <class Publish>
  __device__ void finish(int t, const float (&sum)[1][4], const Inputs& inputs,
                         const RowResets<P>& resets, Publish publish) const {
    float h[4];
    E::to_acc(inputs.pre, h);
    inputs.bias.add(0, h);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      h[i] = activate<E>(h[i] + (resets.at(i) ? 0 : sum[0][i]), this->p.activation);
    }
    uint2 chunks[E::lane_chunks];
    E::to_chunks(h, chunks);
    this->store_result(this->p.out, t, chunks, publish);
#pragma unroll
    for (int i = 0; i < E::lane_chunks; ++i) {
      const int length = this->length(i);
      if (t < length && this->order.last(t, length)) {
        this->store(this->p.h_n, this->state_at(i), chunks[i]);
      }
    }
  }
};

template <class E, class Base> struct Epilogue<E, BackwardParams<Base>>
    : TileIO<E, BackwardParams<Base>> {
  using P = BackwardParams<Base>;
  using TileIO<E, P>::TileIO;
  struct Inputs {
    uint2 grad_out[E::lane_chunks], h[E::lane_chunks];
  };

  __device__ void store_zeros(int t) const { TileIO<E, P>::store_zeros(this->p.grad_pre, t); }
  __device__ void load_biases(Inputs&) const {}
  __device__ void begin(Inputs&) const {}

  __device__ void load(Inputs& inputs, int t) const {
    this->load_active(this->p.grad_out, t, inputs.grad_out);
    this->load_active(this->p.out, t, inputs.h);
  }
  __device__ void prefetch(int t) const {
    this->prefetch_active(this->p.grad_out, t);
    this->prefetch_active(this->p.out, t);
  }

  template <class Publish>
  __device__ void finish(int t, const float (&sum)[1][4], const Inputs& inputs,
                         const RowResets<P>& resets, Publish publish) const {
    float dh[4];
    state_gradient(t, sum[0], resets, dh);
    uint2 chunks[E::lane_chunks];
    if (t == this->order.end()) {
      E::to_chunks(dh, chunks);
#pragma unroll
      for (int i = 0; i < E::lane_chunks; ++i) {
        if (this->length(i) >= 0) this->store(this->p.grad_h0, this->state_at(i), chunks[i]);
      }
      return;
    }
    float dz[4], h[4];
    E::to_acc(inputs.grad_out, dz);
    E::to_acc(inputs.h, h);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const Activation activation = this->p.activation;
      dz[i] = gradient(dz[i] + dh[i], slope(h[i], activation), activation);
    }
    E::to_chunks(dz, chunks);
    this->store_result(this->p.grad_pre, t, chunks, publish);
  }

 private:
  // dh is the product, or zero across a reset; grad_h_n where a row begins.
  __device__ void state_gradient(int t, const float (&sum)[4], const RowResets<P>& resets,
                                 float (&dh)[4]) const {
    bool begins[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int length = this->lengths[this->lane.acc_row(i)];
      begins[i] = this->order.previous(t, length) < 0 && (t < length || t == this->order.end());
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) dh[i] = resets.at(i) ? 0 : sum[i];
    if (!__ballot_sync(~0u, begins[0] || begins[1])) return;
    uint2 chunks[E::lane_chunks];
    this->load_state(this->p.grad_h_n, chunks);
    float first[4];
    E::to_acc(chunks, first);
#pragma unroll
    for (int i = 0; i < 4; ++i) dh[i] = begins[i % 2] ? first[i] : dh[i];
  }
};

}  // namespace fastrnn::cuda
