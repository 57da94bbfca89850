// The parts of the kernels of `rows`: a block's tensors, the copies of a step's inputs, the products.
#pragma once

#include "alignment.h"
#include "bias.h"
#include "cell_step.h"
#include "plan.h"
#include "scalar_traits.h"

namespace fastrnn::cuda {

// In bytes: of the rows of H numbers, and of the rows of a layer's input.
struct RowsAlignment {
  int tensors, input;
};

// The block's row and group, its steps, and where their tensors are.
template <class E, class P> struct RowsBlock {
  using C = typename P::Cell;
  using Storage = typename E::Storage;
  static constexpr int K = gates_of<P>;

  const P& p;
  const RowsLayout& layout;
  const RowsAlignment& alignment;
  unsigned char* const shared;

  const int H = static_cast<int>(p.H);
  const int unit = threadIdx.x / rows_lanes, lane = threadIdx.x % rows_lanes;
  const bool has_unit = unit < H, writes = has_unit && lane == 0;
  const int groups = static_cast<int>(p.G);
  const int group = static_cast<int>(blockIdx.x) % groups,
            b = static_cast<int>(blockIdx.x) / groups;
  const int steps = static_cast<int>(p.lengths ? p.lengths[b] : p.T);
  const bool descending = (group >= p.reverse_from) != is_backward<P>;

  __device__ int time(int s) const { return descending ? steps - 1 - s : s; }
  __device__ int64_t row(int t) const { return p.row(t, b) * p.G + group; }

  // In a state. Recomputed, so that the loop does not keep it in registers.
  __device__ int64_t state_index() const { return p.state_at(b, ptx::opaque(group)) + unit; }

  // Whether the loop crosses a reset as it enters step s.
  __device__ bool crosses(int s) const {
    const int later = descending ? time(s) + 1 : time(s);
    return p.resets && 0 <= later && later < steps && p.resets[p.row(later, b)];
  }

  __device__ float load(const void* tensor, int64_t at) const {
    return tensor && has_unit ? E::widen(static_cast<const Storage*>(tensor)[at]) : 0;
  }
  __device__ void store(void* tensor, int64_t at, float value) const {
    store_value<ScalarTraits<E>>(tensor, at, value);
  }

  __device__ float unit_param() const {
    if constexpr (!C::has_unit_param) return 0;
    return load(p.template of_group<Storage>(p.unit_param, group, p.H), unit);
  }

  // The lane's part of the unit's rows of W_hh, in backward of its column.
  template <int DEPTH> __device__ void load_weights(float (&w)[K][DEPTH]) const {
    const Storage* const weight_hh = p.template weight_of<Storage>(group, K * p.H * p.H);
#pragma unroll
    for (int k = 0; k < K; ++k) {
#pragma unroll
      for (int i = 0; i < DEPTH; ++i) {
        const int other = (i / 4 * rows_lanes + lane) * 4 + i % 4;  // see multiply_add
        const int64_t row = k * p.H + (is_backward<P> ? other : unit);
        w[k][i] = other < H ? load(weight_hh, row * H + (is_backward<P> ? unit : other)) : 0;
      }
    }
  }

  // The value of the gate with the lane's number. Other forms become arrays in local memory.
  __device__ float of_lane(const float (&values)[K]) const {
    const bool odd = lane % 2 != 0;
    const float low = odd ? values[K > 1] : values[0];
    const float high = odd ? values[K > 3 ? 3 : 0] : values[K > 2 ? 2 : 0];
    return lane < 2 ? low : high;
  }

  // The sum over the lanes of a unit, in all of them.
  __device__ static float sum(float value) {
#pragma unroll
    for (int i = 1; i < rows_lanes; i *= 2) value += __shfl_xor_sync(~0u, value, i);
    return value;
  }

  // A state of the two buffers, of `gates` vectors.
  __device__ float* state(int s, int gates) const {
    return reinterpret_cast<float*>(shared) + s % 2 * gates * layout.padded_units;
  }

  __device__ const Storage* input(int s, int vector) const {
    const int place = s % rows_stages * layout.chunks + vector * layout.vector_chunks;
    return reinterpret_cast<const Storage*>(shared + layout.inputs + place * 8);
  }
};

// Where a number of each step is in a tensor. In dense data it takes one addition to move on to the
// next step.
template <class Block> struct RowsCursor {
  int64_t at, step;  // of the current step; to the next one in dense data

  // Of a tensor with `numbers` for each row and group.
  __device__ __forceinline__ RowsCursor(const Block& block, int64_t numbers, int64_t column)
      : at(block.steps > 0 ? block.row(block.time(0)) * numbers + column : 0),
        step((block.descending ? -1 : 1) * block.p.B * block.p.G * numbers) {}

  __device__ __forceinline__ void move_to(const Block& block, int s, int64_t numbers,
                                          int64_t column) {
    if (!block.p.offsets) {
      at += step;
    } else if (s < block.steps) {
      at = block.row(block.time(s)) * numbers + column;
    }
  }
};

// What a thread copies of the inputs of each step: a chunk of a vector, or nothing.
template <class E, class P> struct RowsInput {
  using Block = RowsBlock<E, P>;
  using Storage = typename E::Storage;
  static constexpr int K = Block::K, before = 1 + K + P::Cell::has_inner;  // vectors of backward

  const Block& block;
  const int vector = threadIdx.x / block.layout.vector_chunks;
  const int unit = threadIdx.x % block.layout.vector_chunks * E::chunk_units;
  const bool reads_x = block.layout.x_chunks > 0;
  const int bytes = reads_x ? block.alignment.input : block.alignment.tensors;
  const int later = is_backward<P> && vector == before;  // h or c before the step
  const void* const from = threadIdx.x < block.layout.chunks ? tensor() : nullptr;
  // Of the row of the next step to copy, and from a step to the next. In packed data, of the first row,
  // and from a row to the next.
  int64_t at, step;

  __device__ __forceinline__ explicit RowsInput(const Block& block) : block(block) {
    const P& p = block.p;
    int64_t numbers = K * p.H, column = vector * p.H;
    if (is_backward<P>) {
      const bool is_gate = 1 <= vector && vector <= K;
      numbers = is_gate ? K * p.H : p.H, column = is_gate ? (vector - 1) * p.H : 0;
    }
    at = (block.b * p.G + block.group) * numbers + column;
    step = (p.offsets ? 1 : p.B) * p.G * numbers;
    if constexpr (!is_backward<P>) {
      const auto& x = p.projection;
      if (reads_x) at = block.b * x.row, step = p.offsets ? x.row : x.step;
    }
    if (p.offsets) return;
    at += block.time(later) * step;
    if (block.descending) step = -step;
  }

  // Starts the copy of step s, which follows that of step s - 1.
  __device__ __forceinline__ void prefetch(int s) {
    if (threadIdx.x < block.layout.chunks) {
      const int t = block.time(s + later);
      const bool valid = from && 0 <= t && t < block.steps;
      const int place_in_ring = s % rows_stages * block.layout.chunks + threadIdx.x;
      cp_async_chunk<E>(block.shared + block.layout.inputs + place_in_ring * 8,
                        static_cast<const Storage*>(from) + (valid ? place(t) : 0), unit, width(),
                        bytes, valid);
      if (!block.p.offsets) at += step;
    }
    ptx::cp_async_commit();
  }
  // Before the barrier of a step: for what the next one reads.
  __device__ void wait() const { ptx::cp_async_wait<rows_stages - 2>(); }

 private:
  __device__ __forceinline__ int64_t width() const {
    if constexpr (is_backward<P>) {
      return block.p.H;
    } else {
      return reads_x ? block.p.projection.I : block.p.H;
    }
  }
  __device__ __forceinline__ const void* tensor() const {
    const P& p = block.p;
    if constexpr (is_backward<P>) {
      if (vector == before) return P::Cell::has_c ? p.inner : p.out;
      return vector == 0 ? p.grad_out : vector <= K ? p.gates : p.inner;
    } else {
      return reads_x ? p.projection.input : p.pre;
    }
  }
  __device__ __forceinline__ int64_t place(int t) const {
    return block.p.offsets ? at + block.p.offsets[t] * step : at;
  }
};

// sum[k] += w[k] v for the lane's part of a vector v of DEPTH * rows_lanes numbers.
template <int DEPTH, int K>
__device__ void multiply_add(float (&sums)[K][2], const float (&w)[K][DEPTH], const float* v,
                             int lane) {
#pragma unroll
  for (int i = 0; i < DEPTH / 4; ++i) {
    const float4 x = reinterpret_cast<const float4*>(v)[i * rows_lanes + lane];
#pragma unroll
    for (int k = 0; k < K; ++k) {
      float& sum = sums[k][i % 2];
      sum = fmaf(w[k][4 * i], x.x, sum);
      sum = fmaf(w[k][4 * i + 1], x.y, sum);
      sum = fmaf(w[k][4 * i + 2], x.z, sum);
      sum = fmaf(w[k][4 * i + 3], x.w, sum);
    }
  }
}

// W_ih in shared memory, as float32: four numbers of each thread next to those of the others.
template <class E, class P> struct RowsProjection {
  using Storage = typename E::Storage;
  static constexpr int K = gates_of<P>;
  const RowsBlock<E, P>& block;
  const int count = block.layout.x_chunks;  // of four inputs, of a lane
  float4* const weights = reinterpret_cast<float4*>(block.shared + block.layout.weights);

  __device__ void load() const {
    const P& p = block.p;
    const int64_t I = p.projection.I;
    const bool second = block.group >= p.heads;
    const auto* const weight_ih =
        static_cast<const Storage*>(second ? p.projection.weight_ih[1] : p.projection.weight_ih[0]);
    const int64_t first = (block.group - second * p.heads) * p.H + block.unit;
    for (int i = 0; i < count * K; ++i) {
      float values[4];
      for (int j = 0; j < 4; ++j) {
        const int64_t column = (int64_t{i / K} * rows_lanes + block.lane) * 4 + j;
        const int64_t of_gate = i % K * p.heads * p.H;
        values[j] = column < I ? block.load(weight_ih, (of_gate + first) * I + column) : 0;
      }
      weights[i * blockDim.x + threadIdx.x] = {values[0], values[1], values[2], values[3]};
    }
  }

  // Four numbers at once.
  __device__ static void load(const Storage* from, float (&values)[4]) {
    if constexpr (sizeof(Storage) == 4) {
      const float4 four = *reinterpret_cast<const float4*>(from);
      values[0] = four.x, values[1] = four.y, values[2] = four.z, values[3] = four.w;
    } else {
      const uint2 four = *reinterpret_cast<const uint2*>(from);
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        values[2 * j] = E::widen((j ? four.y : four.x) & 0xffff);
        values[2 * j + 1] = E::widen((j ? four.y : four.x) >> 16);
      }
    }
  }

  __device__ void multiply(const Storage* x, float (&sums)[K]) const {
#pragma unroll 1
    for (int i = 0; i < count; ++i) {
      float values[4];
      load(x + (i * rows_lanes + block.lane) * 4, values);
#pragma unroll
      for (int k = 0; k < K; ++k) {
        const float4 w = weights[(i * K + k) * blockDim.x + threadIdx.x];
        sums[k] = fmaf(w.x, values[0], sums[k]);
        sums[k] = fmaf(w.y, values[1], sums[k]);
        sums[k] = fmaf(w.z, values[2], sums[k]);
        sums[k] = fmaf(w.w, values[3], sums[k]);
      }
    }
  }
};

}  // namespace fastrnn::cuda
