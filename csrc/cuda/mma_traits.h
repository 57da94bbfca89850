// What the dtypes are to the kernels: how values are stored, multiplied and rounded, and which of a
// tile's values a lane holds.
//
// A tile of a step is 16 units × 8 batch rows: the result of one product on the matrix unit, of a
// tile of W_hh with the state. Whatever the dtype, the product's depth is 32 bytes, 8 words of 32
// bits: 16 units in half precision, 8 in float32. Lane 4 g + q brings words q and q + 4 of two rows
// of W_hh and of row g of the state, and gets the four values of its quad: two units for batch rows
// 2 q and 2 q + 1. Memory wants consecutive units, 8 bytes of them, a chunk. Which unit stands for
// which row of the matrix unit's tile is ours to choose, so that a quad and its chunks hold the
// same values: in float32 within the lane, in half precision after a transpose within the warp.
#pragma once

#include "../params.h"
#include "ptx.h"

namespace fastrnn::cuda {

// Indices within a tile. `first`, `second`: the units of the quad's two rows.
template <class E> struct Lane {
  int g, q;
  __device__ explicit Lane(int lane) : g(lane / 4), q(lane % 4) {}
  __device__ int first() const { return E::unit(g); }
  __device__ int second() const { return E::unit(g) + E::second; }
  __device__ int quad_row(int i) const { return 2 * q + i % 2; }              // i < 4
  __device__ int chunk_unit() const { return E::chunk * (E::rows == 1 ? q : g); }
  __device__ int chunk_row(int i) const { return E::rows == 1 ? g : 2 * q + i; }  // i < E::rows
};

template <class E> struct Half {
  using Storage = uint16_t;
  static constexpr int values = 2;   // of a word
  static constexpr int chunk = 4;    // units of a chunk
  static constexpr int rows = 1;     // chunks of a lane, each of another batch row
  static constexpr int second = 2;   // from a quad's first unit to its second
  static constexpr bool approximate = true;  // tanh is the hardware's

  __device__ static int unit(int g) { return 4 * (g / 2) + g % 2; }

  __device__ static void to_chunks(const float (&quad)[4], uint2 (&chunks)[1]) {
    chunks[0].x = ptx::transpose(E::pack(quad[0], quad[1]));
    chunks[0].y = ptx::transpose(E::pack(quad[2], quad[3]));
  }
  __device__ static void to_quad(const uint2 (&chunks)[1], float (&quad)[4]) {
    const uint32_t first = ptx::transpose(chunks[0].x), second = ptx::transpose(chunks[0].y);
    quad[0] = E::widen(first & 0xffff), quad[1] = E::widen(first >> 16);
    quad[2] = E::widen(second & 0xffff), quad[3] = E::widen(second >> 16);
  }
  __device__ static uint32_t weight(Storage low, Storage high) {
    return low | uint32_t{high} << 16;
  }
  // Of chunks of rows of W_hh, lane 4 g + q bringing chunk q of row g: the lane's words of the
  // transpose's two rows.
  __device__ static void to_rows(uint2 chunk, uint32_t& first, uint32_t& second) {
    first = ptx::transpose(chunk.x), second = ptx::transpose(chunk.y);
  }
  __device__ static uint2 operand(uint2 chunk) { return chunk; }
};

struct Bfloat16 : Half<Bfloat16> {
  static constexpr DType dtype = DType::bfloat16;
  __device__ static float widen(uint32_t value) { return ptx::from_bits(value << 16); }
  __device__ static uint32_t pack(float low, float high) { return ptx::pack_bfloat16(low, high); }
  template <int N>
  __device__ static void multiply(float (&sum)[N][4], const uint32_t (&w)[4],
                                  const uint32_t (&h)[N][2]) {
#pragma unroll
    for (int n = 0; n < N; ++n) ptx::multiply_bfloat16(sum[n], w, h[n]);
  }
};

struct Float16 : Half<Float16> {
  static constexpr DType dtype = DType::float16;
  __device__ static float widen(uint32_t value) { return ptx::from_float16(value); }
  __device__ static uint32_t pack(float low, float high) { return ptx::pack_float16(low, high); }
  template <int N>
  __device__ static void multiply(float (&sum)[N][4], const uint32_t (&w)[4],
                                  const uint32_t (&h)[N][2]) {
#pragma unroll
    for (int n = 0; n < N; ++n) ptx::multiply_float16(sum[n], w, h[n]);
  }
};

struct Single {
  using Storage = float;
  static constexpr DType dtype = DType::float32;
  static constexpr int values = 1;
  static constexpr int chunk = 2;
  static constexpr int rows = 2;
  static constexpr int second = 1;

  __device__ static int unit(int g) { return 2 * g; }

  __device__ static void to_chunks(const float (&quad)[4], uint2 (&chunks)[2]) {
    chunks[0] = {ptx::bits(quad[0]), ptx::bits(quad[2])};
    chunks[1] = {ptx::bits(quad[1]), ptx::bits(quad[3])};
  }
  __device__ static void to_quad(const uint2 (&chunks)[2], float (&quad)[4]) {
    quad[0] = ptx::from_bits(chunks[0].x), quad[2] = ptx::from_bits(chunks[0].y);
    quad[1] = ptx::from_bits(chunks[1].x), quad[3] = ptx::from_bits(chunks[1].y);
  }
  __device__ static float widen(float value) { return value; }
};

// float32 rounded to the 10 bits that the matrix unit reads.
struct Tf32 : Single {
  static constexpr bool approximate = true;
  __device__ static uint32_t weight(float value, float) {
    return ptx::bits(ptx::round_tf32(value));
  }
  __device__ static uint2 operand(uint2 chunk) {
    return {ptx::bits(ptx::round_tf32(ptx::from_bits(chunk.x))),
            ptx::bits(ptx::round_tf32(ptx::from_bits(chunk.y)))};
  }
  __device__ static void to_rows(uint2 chunk, uint32_t& first, uint32_t& second) {
    first = operand(chunk).x, second = operand(chunk).y;
  }
  template <int N>
  __device__ static void multiply(float (&sum)[N][4], const uint32_t (&w)[4],
                                  const uint32_t (&h)[N][2]) {
#pragma unroll
    for (int n = 0; n < N; ++n) ptx::multiply_tf32(sum[n], w, h[n]);
  }
};

// float32 as the sum of two such values: three products, the smallest first. What they leave out is
// the product of the two remainders. W_hh is taken apart anew for every product: there are not
// registers enough to keep both values.
struct Float32 : Single {
  static constexpr bool approximate = false;
  __device__ static uint32_t weight(float value, float) { return ptx::bits(value); }
  __device__ static uint2 operand(uint2 chunk) { return chunk; }
  __device__ static void to_rows(uint2 chunk, uint32_t& first, uint32_t& second) {
    first = chunk.x, second = chunk.y;
  }
  template <int N>
  __device__ static void multiply(float (&sum)[N][4], const uint32_t (&w)[4],
                                  const uint32_t (&h)[N][2]) {
    uint32_t w_large[4], w_small[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) split(ptx::forget(w[i]), w_large[i], w_small[i]);
#pragma unroll
    for (int n = 0; n < N; ++n) {
      uint32_t h_large[2], h_small[2];
#pragma unroll
      for (int i = 0; i < 2; ++i) split(h[n][i], h_large[i], h_small[i]);
      ptx::multiply_tf32(sum[n], w_small, h_large);
      ptx::multiply_tf32(sum[n], w_large, h_small);
      ptx::multiply_tf32(sum[n], w_large, h_large);
    }
  }

 private:
  __device__ static void split(uint32_t word, uint32_t& large, uint32_t& small) {
    large = (word + 0x1000) & 0xffffe000;  // round_tf32 but for NaN, which the difference keeps
    small = ptx::bits(ptx::from_bits(word) - ptx::from_bits(large));
  }
};

// For kernels that do without the matrix unit, which has no such tile.
struct Float64 {
  using Storage = double;
  static constexpr DType dtype = DType::float64;
};

// The word from unit k on of a row of H units, 0 beyond it. `aligned`: rows begin at multiples of 4
// bytes and are whole words.
template <class E>
__device__ uint32_t load_word(const typename E::Storage* row, bool real, int64_t k, int64_t H,
                              bool aligned) {
  if (!real || k >= H) return 0;
  if (E::values == 1) return E::weight(row[k], {});
  if (aligned) return *reinterpret_cast<const uint32_t*>(row + k);
  return E::weight(row[k], k + 1 < H ? row[k + 1] : typename E::Storage{});
}

// A chunk of a row of H units: the units from `unit` on, 0 beyond H. `aligned`: H is a multiple of
// E::chunk and rows begin at multiples of 8 bytes.
template <class E>
__device__ uint2 load_chunk(const typename E::Storage* row, int64_t unit, int64_t H, bool aligned) {
  if (unit >= H) return {0, 0};
  if (aligned) return *reinterpret_cast<const uint2*>(row + unit);
  union {
    typename E::Storage values[E::chunk];
    uint2 words;
  } chunk;
#pragma unroll
  for (int i = 0; i < E::chunk; ++i) {
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
    typename E::Storage values[E::chunk];
  } chunk{words};
#pragma unroll
  for (int i = 0; i < E::chunk; ++i) {
    if (unit + i < H) row[unit + i] = chunk.values[i];
  }
}

// To shared memory: a chunk of a row of H units, zeros if it is not `real`.
template <class E>
__device__ void copy_chunk(unsigned char* to, const typename E::Storage* row, int unit, int64_t H,
                           int alignment, bool real) {
  const uint32_t address = ptx::shared_address(to);
  if (alignment == 8) {
    ptx::copy_async<8>(address, row + unit, real && unit < H);
  } else if (alignment == 4) {
    ptx::copy_async<4>(address, row + unit, real && unit < H);
    ptx::copy_async<4>(address + 4, row + unit + E::values, real && unit + E::values < H);
  } else {
    *reinterpret_cast<uint2*>(to) = real ? load_chunk<E>(row, unit, H, false) : uint2{0, 0};
  }
}

// Ones where a chunk's words have units.
template <class E> __device__ uint2 unit_mask(int unit, int64_t H) {
  const auto word = [&](int first) {
    if (E::values == 1) return first < H ? ~0u : 0u;
    return (first < H ? 0xffffu : 0u) | (first + 1 < H ? 0xffff0000u : 0u);
  };
  return {word(unit), word(unit + E::values)};
}

template <class E> __device__ float activate(float z, Activation activation) {
  if (activation == Activation::relu) return z < 0 ? 0 : z;  // NaN stays
  return E::approximate ? ptx::tanh_approximate(z) : tanhf(z);
}

// dz = dh act'(z) in two parts, of which the first does not wait for dh: what it takes of h = act(z),
// and the rest. Where h <= 0, relu lets nothing pass, not even NaN.
template <class T> __device__ T slope(T h, Activation activation) {
  return activation == Activation::relu ? h : 1 - h * h;
}
template <class T> __device__ T gradient(T dh, T slope, Activation activation) {
  if (activation == Activation::relu) return slope <= 0 ? 0 : dh;  // NaN stays
  return dh * slope;
}

}  // namespace fastrnn::cuda
