// What grid and step do around a step's product: the order of a row's steps, and the end of a step,
// from the sums to the result.
#pragma once

#include "pass_traits.h"
#include "operand_load.h"

namespace fastrnn::cuda {

// The order of a group's steps: backward runs against the order of forward. A row takes part while
// it is active; before and after that its state does not change, so that no step needs to hand on
// what an earlier one left: a row's first step takes the state it began with, its last leaves it.
struct Order {
  int steps;
  bool descending;

  // The i-th step. One beyond the last is the end, where backward has something left to do.
  __device__ int time(int i) const { return descending ? steps - 1 - i : i; }
  __device__ int next(int t) const { return descending ? t - 1 : t + 1; }
  __device__ int end() const { return descending ? -1 : steps; }

  // The step of a row before t, or of the end; negative where it begins at t.
  __device__ int previous(int t, int length) const {
    if (descending) return t + 1 < length ? t + 1 : -1;
    return (t < length ? t : length) - 1;
  }
  __device__ bool last(int t, int length) const { return t == (descending ? 0 : length - 1); }
};

template <class D> __device__ Order order_of(const D& p, int64_t group, int steps) {
  return {steps, (group >= p.reverse_from) != is_backward<D>};
}

// Of batch row b; negative beyond the batch.
__device__ inline int row_length(const Unbroken& p, int64_t b) {
  if (b >= p.B) return -1;
  return static_cast<int>(p.lengths ? p.lengths[b] : p.T);
}

// Of the lane's quad, whose rows' sums are cut in a step: of a problem without resets nothing.
template <class D, bool = has_resets<D>> struct Cuts {
  __device__ static constexpr bool of(int) { return false; }
};
template <class D> struct Cuts<D, true> {
  uint8_t rows;  // a bit each
  __device__ bool of(int i) const { return rows >> i % 2 & 1; }
};

// The lane's chunks of a tile of 16 units and 8 batch rows.
template <class E, class D> struct Chunks {
  using Storage = typename E::Storage;

  const D& p;
  const Access& access;
  const Order order;
  const Lane<E> lane;
  const int* const lengths;  // [8], of the tile's rows
  int unit;
  int64_t place;  // of the first chunk within a step, or in a [B, G, H] tensor

  __device__ Chunks(const D& p, const Access& access, Order order, int64_t group, int64_t first_row,
                    int first_unit, const int* lengths, const Lane<E>& lane)
      : p(p),
        access(access),
        order(order),
        lane(lane),
        lengths(lengths),
        unit(first_unit + lane.chunk_unit()),
        place(p.at(first_row + lane.chunk_row(0), group) + unit) {}

  // `first_row` as in the constructor.
  __device__ void load_cuts(Cuts<D>& cuts, int t, int64_t first_row) const {
    if constexpr (has_resets<D>) {
      const auto cut = [&](int row) {
        return is_cut(p, t, first_row + row, order.descending, lengths[row]);
      };
      cuts.rows = cut(lane.quad_row(0)) | cut(lane.quad_row(1)) << 1;
    }
  }

  __device__ int length(int i) const { return lengths[lane.chunk_row(i)]; }
  __device__ int64_t at(int i) const { return place + i * access.row; }
  __device__ int64_t at(int t, int i) const {
    return (p.offsets ? p.offsets[t] * access.row : t * access.step) + at(i);
  }

  __device__ uint2 load(const void* tensor, int64_t at) const {
    return load_chunk<E>(static_cast<const Storage*>(tensor) + at - unit, unit, p.H, access.chunks);
  }
  __device__ void store(void* tensor, int64_t at, uint2 chunk) const {
    store_chunk<E>(static_cast<Storage*>(tensor) + at - unit, unit, p.H, access.chunks, chunk);
  }

  // Of active rows, for the others have no place where rows are packed.
  __device__ void load_active(const void* tensor, int t, uint2 (&chunks)[E::rows]) const {
#pragma unroll
    for (int i = 0; i < E::rows; ++i) {
      chunks[i] = {0, 0};
      if (t < length(i)) chunks[i] = load(tensor, at(t, i));
    }
  }
  __device__ void prefetch_active(const void* tensor, int t) const {
#pragma unroll
    for (int i = 0; i < E::rows; ++i) {
      if (t < length(i) && unit < p.H) {
        ptx::prefetch(static_cast<const Storage*>(tensor) + at(t, i));
      }
    }
  }
  // publish(i, chunk) says whether it has stored the chunk of an active row where it belongs.
  template <class Publish>
  __device__ void store_result(void* result, int t, const uint2 (&chunks)[E::rows],
                               Publish publish) const {
#pragma unroll
    for (int i = 0; i < E::rows; ++i) {
      if (t < length(i) && !publish(i, chunks[i])) store(result, at(t, i), chunks[i]);
    }
    store_zeros(result, t);
  }
  // What inactive rows hold, where they have a place.
  __device__ void store_zeros(void* result, int t) const {
    if (p.offsets) return;
#pragma unroll
    for (int i = 0; i < E::rows; ++i) {
      if (t >= length(i) && length(i) >= 0) store(result, at(t, i), {0, 0});
    }
  }
};

// The end of a step, of the lane's chunks:
//   begin     before the first step
//   load      what the end needs beside the sums
//   prefetch  the same, into the second-level cache
//   load_cuts which of the sums are cut; of the end of all steps, too
//   finish    the result, from the quad's sums
template <class E, class D> struct Ending;

template <class E, class P> struct Ending<E, ForwardOf<P>> : Chunks<E, ForwardOf<P>> {
  using D = ForwardOf<P>;
  using Chunks<E, D>::Chunks;
  struct Inputs {
    uint2 pre[E::rows];
  };

  __device__ void* result() const { return this->p.out; }

  __device__ void begin() const {  // rows without steps
#pragma unroll
    for (int i = 0; i < E::rows; ++i) {
      if (this->length(i) != 0) continue;
      this->store(this->p.h_n, this->at(i), Chunks<E, D>::load(this->p.h0, this->at(i)));
    }
  }

  __device__ void load(Inputs& inputs, int t) const {
    this->load_active(this->p.pre, t, inputs.pre);
  }
  __device__ void prefetch(int t) const { this->prefetch_active(this->p.pre, t); }

  template <class Publish>
  __device__ void finish(int t, const float (&sum)[4], const Inputs& inputs, const Cuts<D>& cuts,
                         Publish publish) const {
    float h[4];
    E::to_quad(inputs.pre, h);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      h[i] = activate<E>(h[i] + (cuts.of(i) ? 0 : sum[i]), this->p.activation);
    }
    uint2 chunks[E::rows];
    E::to_chunks(h, chunks);
    this->store_result(this->p.out, t, chunks, publish);
#pragma unroll
    for (int i = 0; i < E::rows; ++i) {
      const int length = this->length(i);
      if (t < length && this->order.last(t, length)) {
        this->store(this->p.h_n, this->at(i), chunks[i]);
      }
    }
  }
};

template <class E, class P> struct Ending<E, BackwardOf<P>> : Chunks<E, BackwardOf<P>> {
  using D = BackwardOf<P>;
  using Chunks<E, D>::Chunks;
  struct Inputs {
    uint2 grad_out[E::rows], h[E::rows];
  };

  __device__ void* result() const { return this->p.grad_pre; }
  __device__ void begin() const {}

  __device__ void load(Inputs& inputs, int t) const {
    this->load_active(this->p.grad_out, t, inputs.grad_out);
    this->load_active(this->p.out, t, inputs.h);
  }
  __device__ void prefetch(int t) const {
    this->prefetch_active(this->p.grad_out, t);
    this->prefetch_active(this->p.out, t);
  }

  template <class Publish>
  __device__ void finish(int t, const float (&sum)[4], const Inputs& inputs, const Cuts<D>& cuts,
                         Publish publish) const {
    float dh[4];
    state(t, sum, cuts, dh);
    uint2 chunks[E::rows];
    if (t == this->order.end()) {
      E::to_chunks(dh, chunks);
#pragma unroll
      for (int i = 0; i < E::rows; ++i) {
        if (this->length(i) >= 0) this->store(this->p.grad_h0, this->at(i), chunks[i]);
      }
      return;
    }
    float dz[4], h[4];
    E::to_quad(inputs.grad_out, dz);
    E::to_quad(inputs.h, h);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const Activation activation = this->p.activation;
      dz[i] = gradient(dz[i] + dh[i], slope(h[i], activation), activation);
    }
    E::to_chunks(dz, chunks);
    this->store_result(this->p.grad_pre, t, chunks, publish);
  }

 private:
  // dh is the product's, or nothing where it is cut, but where a row begins.
  __device__ void state(int t, const float (&sum)[4], const Cuts<D>& cuts, float (&dh)[4]) const {
    bool begins[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int length = this->lengths[this->lane.quad_row(i)];
      begins[i] = this->order.previous(t, length) < 0 && (t < length || t == this->order.end());
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) dh[i] = cuts.of(i) ? 0 : sum[i];
    if (!__ballot_sync(~0u, begins[0] || begins[1])) return;
    uint2 chunks[E::rows];
#pragma unroll
    for (int i = 0; i < E::rows; ++i) {
      chunks[i] = {0, 0};
      if (this->length(i) >= 0) {
        chunks[i] = Chunks<E, D>::load(this->p.grad_h_n, this->at(i));
      }
    }
    float first[4];
    E::to_quad(chunks, first);
#pragma unroll
    for (int i = 0; i < 4; ++i) dh[i] = begins[i % 2] ? first[i] : dh[i];
  }
};

}  // namespace fastrnn::cuda
