// Checks FlushDenormals, and conversions of half precision under it, for
// tests/ops/backends/cpu/test_denormals.py; prints failures.
#include <cfenv>
#include <cfloat>
#include <cmath>
#include <cstdio>
#include <optional>
#include <stdexcept>

#include "cpu/isa.h"

#define VECTOR_BYTES 16
namespace fastrnn::cpu::test {
#include "cpu/simd.h"
}

using fastrnn::cpu::FlushDenormals;
using namespace fastrnn::cpu::test;

bool flushes() {
  volatile float operand = FLT_MIN / 4, small = FLT_MIN;
  volatile double long_operand = DBL_MIN / 4, long_small = DBL_MIN;
  const bool operands = operand * 4 == 0 && long_operand * 4 == 0;
  const bool results = small / 4 == 0 && long_small / 4 == 0;
  if (operands != results) std::puts("only operands or only results are flushed");
  return operands;
}

int check_mode() {
  if (flushes()) return std::puts("the mode of a program flushes denormals");
  {
    const FlushDenormals outer;
    if (!flushes()) return std::puts("denormals are not flushed");
    { const FlushDenormals inner; }
    if (!flushes()) return std::puts("the inner object has ended the outer one");
  }
  if (flushes()) return std::puts("the mode was not restored");
  try {
    const FlushDenormals flush;
    throw std::runtime_error("thrown");
  } catch (const std::runtime_error&) {
    if (flushes()) return std::puts("an exception left the mode");
  }
  std::feclearexcept(FE_ALL_EXCEPT);
  {
    const FlushDenormals flush;
    volatile float one = 1, three = 3;
    three = one / three;
  }
  if (!std::fetestexcept(FE_INEXACT)) return std::puts("the exception flags were lost");
  return 0;
}

// The magnitude of a half-precision number.
double magnitude(uint16_t half) {
  const int exponent = half >> 10 & 31, mantissa = half & 1023;
  if (exponent == 31) return mantissa == 0 ? INFINITY : NAN;
  return exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(1024 + mantissa, exponent - 25);
}

// The magnitude to which a float rounds: to nearest even.
double rounded(float x) {
  if (!std::isfinite(x)) return std::fabs(x);
  const double value = std::fabs(static_cast<double>(x));
  if (value >= 65520) return INFINITY;
  const double unit = std::ldexp(1, std::max(value == 0 ? -14 : std::ilogb(value), -14) - 10);
  return std::nearbyint(value / unit) * unit;
}

bool same(double a, double b) { return a == b || (std::isnan(a) && std::isnan(b)); }

int check_widen(bool flush) {
  constexpr int64_t L = lanes<float>;
  for (int64_t first = 0; first < 1 << 16; first += L) {
    uint16_t half[L];
    float wide[L];
    for (int64_t i = 0; i < L; ++i) half[i] = static_cast<uint16_t>(first + i);
    {
      std::optional<FlushDenormals> guard;
      if (flush) guard.emplace();
      store(wide, Float16::widen(load<HalfBits>(half)));
    }
    for (int64_t i = 0; i < L; ++i)
      if (!same(std::fabs(wide[i]), magnitude(half[i])) || std::signbit(wide[i]) != half[i] >> 15)
        return std::printf("widen(%#x) is %a\n", half[i], wide[i]);
  }
  return 0;
}

// All signs, exponents and leading bits of the mantissa, with the low bits where rounding changes.
int check_narrow(bool flush) {
  constexpr int64_t L = lanes<float>;
  for (const uint32_t low : {0u, 1u, 0xfffu, 0x1000u, 0x1001u, 0x1fffu})
    for (int64_t first = 0; first < 1 << 19; first += L) {
      uint32_t bits[L];
      uint16_t half[L];
      for (int64_t i = 0; i < L; ++i) bits[i] = static_cast<uint32_t>(first + i) << 13 | low;
      {
        std::optional<FlushDenormals> guard;
        if (flush) guard.emplace();
        store(half, Float16::narrow(load<Vector<float>>(bits)));
      }
      for (int64_t i = 0; i < L; ++i) {
        const float x = bit_cast<float>(bits[i]);
        if (!same(magnitude(half[i]), rounded(x)) || half[i] >> 15 != bits[i] >> 31)
          return std::printf("narrow(%a) is %#x\n", x, half[i]);
      }
    }
  return 0;
}

int main() {
  return check_mode() || check_widen(false) || check_widen(true) || check_narrow(false) ||
         check_narrow(true);
}
