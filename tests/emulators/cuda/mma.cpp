// The matrix instructions of a warp. See "Warp-level matrix instructions" in the PTX ISA.
#include <cmath>
#include <cstring>

#include "emulated_ptx.h"

namespace fastrnn::cuda::ptx {
namespace {

struct Operands {
  const uint32_t *w, *h;
  float* sum;
};

// Rounds towards zero, as the tensor cores truncate.
float truncate(double value) {
  const float nearest = float(value);
  if (!(std::fabs(double(nearest)) > std::fabs(value)) || std::isinf(nearest)) return nearest;
  return from_bits(bits(nearest) - 1);
}

struct Bfloat16Values {
  static constexpr int word_values = 2;
  static float get(uint32_t word, int i) { return from_bits(i ? word & 0xffff0000 : word << 16); }
};
struct Float16Values {
  static constexpr int word_values = 2;
  static float get(uint32_t word, int i) { return cvt_f32_f16(uint16_t(word >> 16 * i)); }
};
struct Tf32Values {
  static constexpr int word_values = 1;
  static float get(uint32_t word, int) { return from_bits(word & ~0x1fffu); }
};

template <class Values> void multiply(const void* const*, void* const* lanes) {
  constexpr int depth = 8 * Values::word_values;
  double w[16][depth], h[depth][8], sum[16][8];
  for (int lane = 0; lane < emulator::warp_lanes; ++lane) {
    const int g = lane / 4, q = lane % 4;
    const auto& operands = *static_cast<const Operands*>(lanes[lane]);
    for (int i = 0; i < Values::word_values; ++i) {
      for (int half = 0; half < 2; ++half) {
        const int k = Values::word_values * (q + 4 * half) + i;
        w[g][k] = Values::get(operands.w[2 * half], i);
        w[g + 8][k] = Values::get(operands.w[2 * half + 1], i);
        h[k][g] = Values::get(operands.h[half], i);
      }
    }
    for (int i = 0; i < 4; ++i) sum[g + 8 * (i / 2)][2 * q + i % 2] = operands.sum[i];
  }
  for (int row = 0; row < 16; ++row) {
    for (int k = 0; k < depth; ++k) {
      for (int n = 0; n < 8; ++n) sum[row][n] += w[row][k] * h[k][n];
    }
  }
  for (int lane = 0; lane < emulator::warp_lanes; ++lane) {
    const int g = lane / 4, q = lane % 4;
    const auto& operands = *static_cast<const Operands*>(lanes[lane]);
    for (int i = 0; i < 4; ++i) operands.sum[i] = truncate(sum[g + 8 * (i / 2)][2 * q + i % 2]);
  }
}

template <class Values>
void collective(const char* what, float (&sum)[4], const uint32_t (&w)[4], const uint32_t (&h)[2]) {
  Operands operands{w, h, sum};
  emulator::collective(what, 0, nullptr, &operands, &multiply<Values>);
}

}  // namespace

void mma_bf16(float (&sum)[4], const uint32_t (&w)[4], const uint32_t (&h)[2]) {
  collective<Bfloat16Values>("mma_bf16", sum, w, h);
}
void mma_f16(float (&sum)[4], const uint32_t (&w)[4], const uint32_t (&h)[2]) {
  collective<Float16Values>("mma_f16", sum, w, h);
}
void mma_tf32(float (&sum)[4], const uint32_t (&w)[4], const uint32_t (&h)[2]) {
  collective<Tf32Values>("mma_tf32", sum, w, h);
}

void ldmatrix(uint32_t (&words)[4], uint32_t address) {
  const void* row = emulator::shared_memory(address, 16, 16, true);
  const auto action = [](const void* const* rows, void* const* to) {
    for (int lane = 0; lane < emulator::warp_lanes; ++lane) {
      for (int tile = 0; tile < 4; ++tile) {
        const auto* row = static_cast<const char*>(rows[8 * tile + lane / 4]);
        memcpy(static_cast<uint32_t*>(to[lane]) + tile, row + 4 * (lane % 4), 4);
      }
    }
  };
  emulator::collective("ldmatrix", 0, row, words, action);
}

uint32_t movmatrix(uint32_t word) {
  uint32_t result;
  const auto action = [](const void* const* from, void* const* to) {
    uint16_t values[8][8];
    for (int lane = 0; lane < emulator::warp_lanes; ++lane) {
      memcpy(&values[lane / 4][2 * (lane % 4)], from[lane], 4);
    }
    for (int lane = 0; lane < emulator::warp_lanes; ++lane) {
      const int row = lane / 4, column = 2 * (lane % 4);
      const uint16_t pair[2] = {values[column][row], values[column + 1][row]};
      memcpy(to[lane], pair, 4);
    }
  };
  emulator::collective("movmatrix", 0, &word, &result, action);
  return result;
}

}  // namespace fastrnn::cuda::ptx
