// Traits of the element types: how values are stored, multiplied and rounded, and which values of a
// tile a lane holds.
//
// A tile of a step has 16 units × 8 batch rows: the result of one mma of a tile of W_hh and the
// state. For every dtype a k-step is 32 bytes, 8 words of 32 bits: 16 units in half precision, 8 in
// float32. Lane 4 g + q provides words q and q + 4 of two rows of W_hh and of row g of the state.
// It gets four accumulators: two units for batch rows 2 q and 2 q + 1. Memory accesses use a chunk:
// 8 bytes of consecutive units. The kernels are free to assign units to the rows of the mma tile.
// They do it so that a lane's accumulators and its chunks hold the same values: in float32 within
// the lane, in half precision after a transpose within the warp.
#pragma once

#include "plan.h"
#include "ptx.h"

namespace fastrnn::cuda {

// A lane's indices within a tile. Its accumulators belong to a first and a second unit.
template <class E> struct Lane {
  int g, q;
  __device__ explicit Lane(int lane) : g(lane / 4), q(lane % 4) {}
  __device__ int first_unit() const { return E::unit(g); }
  __device__ int second_unit() const { return E::unit(g) + E::second_offset; }
  // The batch row of accumulator i < 4, the first unit of the chunks, the batch row of chunk i.
  __device__ int acc_row(int i) const { return 2 * q + i % 2; }
  __device__ int chunk_unit() const { return E::chunk_units * (E::lane_chunks == 1 ? q : g); }
  __device__ int chunk_row(int i) const { return E::lane_chunks == 1 ? g : 2 * q + i; }
};

template <class E> struct HalfTraits {
  using Storage = uint16_t;
  static constexpr int word_values = 2;      // values of a 32-bit word
  static constexpr int chunk_units = 4;      // units of a chunk
  static constexpr int lane_chunks = 1;      // chunks of a lane, each of another batch row
  static constexpr int second_offset = 2;    // from a lane's first unit to its second
  static constexpr bool approximate = true;  // tanh.approx is precise enough

  __device__ static int unit(int g) { return 4 * (g / 2) + g % 2; }

  __device__ static void to_chunks(const float (&acc)[4], uint2 (&chunks)[1]) {
    chunks[0].x = ptx::movmatrix(E::pack(acc[0], acc[1]));
    chunks[0].y = ptx::movmatrix(E::pack(acc[2], acc[3]));
  }
  __device__ static void to_acc(const uint2 (&chunks)[1], float (&acc)[4]) {
    const uint32_t first = ptx::movmatrix(chunks[0].x), second = ptx::movmatrix(chunks[0].y);
    acc[0] = E::widen(first & 0xffff), acc[1] = E::widen(first >> 16);
    acc[2] = E::widen(second & 0xffff), acc[3] = E::widen(second >> 16);
  }
  __device__ static uint32_t weight_word(Storage low, Storage high) {
    return low | uint32_t{high} << 16;
  }
  // Lane 4 g + q provides chunk q of row g of W_hh. Returns the lane's words of two rows of the
  // transpose.
  __device__ static void transpose_weights(uint2 chunk, uint32_t& first, uint32_t& second) {
    first = ptx::movmatrix(chunk.x), second = ptx::movmatrix(chunk.y);
  }
  __device__ static uint2 operand(uint2 chunk) { return chunk; }
};

struct Bfloat16 : HalfTraits<Bfloat16> {
  static constexpr DType dtype = DType::bfloat16;
  __device__ static float widen(uint32_t value) { return ptx::from_bits(value << 16); }
  __device__ static uint32_t pack(float low, float high) { return ptx::cvt_bf16x2(low, high); }
  template <int N>
  __device__ static void mma(float (&sum)[N][4], const uint32_t (&w)[4],
                             const uint32_t (&h)[N][2]) {
#pragma unroll
    for (int n = 0; n < N; ++n) ptx::mma_bf16(sum[n], w, h[n]);
  }
};

struct Float16 : HalfTraits<Float16> {
  static constexpr DType dtype = DType::float16;
  __device__ static float widen(uint32_t value) { return ptx::cvt_f32_f16(value); }
  __device__ static uint32_t pack(float low, float high) { return ptx::cvt_f16x2(low, high); }
  template <int N>
  __device__ static void mma(float (&sum)[N][4], const uint32_t (&w)[4],
                             const uint32_t (&h)[N][2]) {
#pragma unroll
    for (int n = 0; n < N; ++n) ptx::mma_f16(sum[n], w, h[n]);
  }
};

struct SingleTraits {
  using Storage = float;
  static constexpr DType dtype = DType::float32;
  static constexpr int word_values = 1;
  static constexpr int chunk_units = 2;
  static constexpr int lane_chunks = 2;
  static constexpr int second_offset = 1;

  __device__ static int unit(int g) { return 2 * g; }

  __device__ static void to_chunks(const float (&acc)[4], uint2 (&chunks)[2]) {
    chunks[0] = {ptx::bits(acc[0]), ptx::bits(acc[2])};
    chunks[1] = {ptx::bits(acc[1]), ptx::bits(acc[3])};
  }
  __device__ static void to_acc(const uint2 (&chunks)[2], float (&acc)[4]) {
    acc[0] = ptx::from_bits(chunks[0].x), acc[2] = ptx::from_bits(chunks[0].y);
    acc[1] = ptx::from_bits(chunks[1].x), acc[3] = ptx::from_bits(chunks[1].y);
  }
  __device__ static float widen(float value) { return value; }
};

// float32 rounded to the 10 mantissa bits that the tensor cores read.
struct Tf32 : SingleTraits {
  static constexpr bool approximate = true;
  __device__ static uint32_t weight_word(float value, float) {
    return ptx::bits(ptx::cvt_tf32(value));
  }
  __device__ static uint2 operand(uint2 chunk) {
    return {ptx::bits(ptx::cvt_tf32(ptx::from_bits(chunk.x))),
            ptx::bits(ptx::cvt_tf32(ptx::from_bits(chunk.y)))};
  }
  __device__ static void transpose_weights(uint2 chunk, uint32_t& first, uint32_t& second) {
    first = operand(chunk).x, second = operand(chunk).y;
  }
  template <int N>
  __device__ static void mma(float (&sum)[N][4], const uint32_t (&w)[4],
                             const uint32_t (&h)[N][2]) {
#pragma unroll
    for (int n = 0; n < N; ++n) ptx::mma_tf32(sum[n], w, h[n]);
  }
};

// float32 as the sum of two tf32 values: three products, the smallest first. The product of the two
// small parts is dropped. W_hh is split again for every product, since registers cannot hold both
// parts.
struct Float32 : SingleTraits {
  static constexpr bool approximate = false;
  __device__ static uint32_t weight_word(float value, float) { return ptx::bits(value); }
  __device__ static uint2 operand(uint2 chunk) { return chunk; }
  __device__ static void transpose_weights(uint2 chunk, uint32_t& first, uint32_t& second) {
    first = chunk.x, second = chunk.y;
  }
  template <int N>
  __device__ static void mma(float (&sum)[N][4], const uint32_t (&w)[4],
                             const uint32_t (&h)[N][2]) {
    uint32_t w_large[4], w_small[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) split_tf32(ptx::opaque(w[i]), w_large[i], w_small[i]);
#pragma unroll
    for (int n = 0; n < N; ++n) {
      uint32_t h_large[2], h_small[2];
#pragma unroll
      for (int i = 0; i < 2; ++i) split_tf32(h[n][i], h_large[i], h_small[i]);
      ptx::mma_tf32(sum[n], w_small, h_large);
      ptx::mma_tf32(sum[n], w_large, h_small);
      ptx::mma_tf32(sum[n], w_large, h_large);
    }
  }

 private:
  __device__ static void split_tf32(uint32_t word, uint32_t& large, uint32_t& small) {
    large = (word + 0x1000) & 0xffffe000;  // cvt_tf32, except for NaN, which `small` keeps
    small = ptx::bits(ptx::from_bits(word) - ptx::from_bits(large));
  }
};

// For kernels that do not use mma: it has no float64 tile of this shape.
struct Float64 {
  using Storage = double;
  static constexpr DType dtype = DType::float64;
  __device__ static double widen(double value) { return value; }
};

template <class E>
constexpr Mode mode_of = E::word_values == 2 ? Mode::half
                         : E::approximate    ? Mode::tf32
                                             : Mode::float32;

// Loads the word at unit k of a row of H units, 0 beyond it. `aligned`: rows begin at multiples of
// 4 bytes and are whole words.
template <class E>
__device__ uint32_t load_word(const typename E::Storage* row, bool valid, int64_t k, int64_t H,
                              bool aligned) {
  if (!valid || k >= H) return 0;
  if (E::word_values == 1) return E::weight_word(row[k], {});
  if (aligned) return *reinterpret_cast<const uint32_t*>(row + k);
  return E::weight_word(row[k], k + 1 < H ? row[k + 1] : typename E::Storage{});
}

// Loads a chunk of a row of H units: the units from `unit` on, 0 beyond H. `aligned`: H is a
// multiple of E::chunk_units and rows begin at multiples of 8 bytes.
template <class E>
__device__ uint2 load_chunk(const typename E::Storage* row, int64_t unit, int64_t H, bool aligned) {
  if (unit >= H) return {0, 0};
  if (aligned) return *reinterpret_cast<const uint2*>(row + unit);
  union {
    typename E::Storage values[E::chunk_units];
    uint2 words;
  } chunk;
#pragma unroll
  for (int i = 0; i < E::chunk_units; ++i) {
    chunk.values[i] = unit + i < H ? row[unit + i] : typename E::Storage{};
  }
  return chunk.words;
}

template <class E>
__device__ void store_chunk(typename E::Storage* row, int64_t unit, int64_t H, bool aligned,
                            uint2 words) {
  if (unit >= H) return;
  if (aligned) {
    *reinterpret_cast<uint2*>(row + unit) = words;
    return;
  }
  union {
    uint2 words;
    typename E::Storage values[E::chunk_units];
  } chunk{words};
#pragma unroll
  for (int i = 0; i < E::chunk_units; ++i) {
    if (unit + i < H) row[unit + i] = chunk.values[i];
  }
}

// Copies a chunk of a row of H units to shared memory; zeros if it is not `valid`.
template <class E>
__device__ void cp_async_chunk(unsigned char* to, const typename E::Storage* row, int unit,
                               int64_t H, int alignment, bool valid) {
  const uint32_t address = ptx::cvta_shared(to);
  if (alignment == 8) {
    ptx::cp_async<8>(address, row + unit, valid && unit < H);
  } else if (alignment == 4) {
    ptx::cp_async<4>(address, row + unit, valid && unit < H);
    ptx::cp_async<4>(address + 4, row + unit + E::word_values, valid && unit + E::word_values < H);
  } else {
    *reinterpret_cast<uint2*>(to) = valid ? load_chunk<E>(row, unit, H, false) : uint2{0, 0};
  }
}

// Bits of a chunk that hold units below H.
template <class E> __device__ uint2 unit_mask(int unit, int64_t H) {
  const auto word = [&](int first) {
    if (E::word_values == 1) return first < H ? ~0u : 0u;
    return (first < H ? 0xffffu : 0u) | (first + 1 < H ? 0xffff0000u : 0u);
  };
  return {word(unit), word(unit + E::word_values)};
}

template <class E> __device__ float activate(float z, Activation activation) {
  if (activation == Activation::relu) return z < 0 ? 0 : z;  // NaN stays
  return E::approximate ? ptx::tanh_approx(z) : tanhf(z);
}

// dz = dh act'(z) in two parts. slope needs only h = act(z), so it can be computed before dh is
// known. Where h <= 0, relu passes nothing on, not even NaN.
template <class T> __device__ T slope(T h, Activation activation) {
  return activation == Activation::relu ? h : 1 - h * h;
}
template <class T> __device__ T gradient(T dh, T slope, Activation activation) {
  if (activation == Activation::relu) return slope <= 0 ? 0 : dh;  // NaN stays
  return dh * slope;
}

}  // namespace fastrnn::cuda
