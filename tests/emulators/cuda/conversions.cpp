// Conversions, rounded as PTX defines them.
#include <cmath>

#include "emulated_ptx.h"

namespace fastrnn::cuda::ptx {
namespace {

constexpr uint32_t canonical_nan = 0x7fffffff;

uint32_t to_bfloat16(float value) {
  if (std::isnan(value)) return 0x7fff;
  const uint32_t word = bits(value);
  return (word + 0x7fff + (word >> 16 & 1)) >> 16;
}

// To nearest, ties to even.
uint32_t to_float16(float value) {
  if (std::isnan(value)) return 0x7fff;
  const uint32_t sign = bits(value) >> 16 & 0x8000;
  const float size = std::fabs(value);
  if (size >= 65520.0f) return sign | 0x7c00;
  // Below 2^-14 the spacing is 2^-24, as of a float32 after adding 1/2.
  if (size < 0x1p-14f) return sign | (bits(size + 0.5f) - bits(0.5f));
  const uint32_t word = bits(size);
  return sign | ((word + 0xfff + (word >> 13 & 1)) - (112u << 23)) >> 13;
}

}  // namespace

uint32_t cvt_bf16x2(float low, float high) { return to_bfloat16(low) | to_bfloat16(high) << 16; }
uint32_t cvt_f16x2(float low, float high) { return to_float16(low) | to_float16(high) << 16; }

float cvt_f32_f16(uint16_t value) {
  const uint32_t sign = uint32_t{value} << 16 & 0x80000000, exponent = value >> 10 & 31;
  const uint32_t fraction = value & 0x3ff;
  if (exponent == 31) return from_bits(sign | 0x7f800000 | fraction << 13);
  if (exponent == 0) return from_bits(sign | bits(float(fraction) * 0x1p-24f));
  return from_bits(sign | (exponent + 112) << 23 | fraction << 13);
}

float cvt_tf32(float value) {  // to nearest, ties away from zero
  if (std::isnan(value)) return from_bits(canonical_nan);
  if (std::isinf(value)) return value;
  return from_bits((bits(value) + 0x1000) & ~0x1fffu);
}

// Has the maximum relative error of the hardware, 2^-11, with noise that depends on the value.
float tanh_approx(float value) {
  if (std::isnan(value)) return from_bits(canonical_nan);
  const double noise = double(bits(value) * 2654435761u) / 4294967296.0 * 2 - 1;
  const double result = std::tanh(double(value)) * (1 + noise * 0x1p-11 * 0.9);
  return std::fmin(1.0, std::fmax(-1.0, result));
}

}  // namespace fastrnn::cuda::ptx
