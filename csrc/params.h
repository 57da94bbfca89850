// The parameters of the grouped recurrence as plain structs, independent of torch.
//
// Symbols as in fastrnn/ops/reference.py: T steps, B batch rows, G groups, H hidden units, K gates;
// `pre` is the input's part of the pre-activations, `dz` the gradient of W_hh h_{t-1}.
#pragma once

#include <cstdint>

#ifdef __CUDACC__
#define FASTRNN_HOST_DEVICE __host__ __device__
#else
#define FASTRNN_HOST_DEVICE
#endif

namespace fastrnn {

enum class DType { float64, float32, bfloat16, float16 };
// Numbered as in fastrnn/ops/cells.
enum class Cell {
  rnn_tanh,
  rnn_relu,
  lstm,
  gru,
  leaky_tanh,
  leaky_relu,
  leaky_pre_tanh,
  leaky_pre_relu
};
enum class Activation { tanh, relu };  // of nn.RNN's two cells, which have the same numbers

constexpr Activation activation_of(Cell cell) {
  return cell == Cell::rnn_relu || cell == Cell::leaky_relu || cell == Cell::leaky_pre_relu
             ? Activation::relu
             : Activation::tanh;
}

// The tensors of a cell, see cells/step.h.
struct CellTraits {
  int64_t gates;
  bool has_c, has_unit_param, saves, has_inner;
  bool operator==(const CellTraits&) const = default;
};

FASTRNN_HOST_DEVICE constexpr CellTraits traits(Cell cell) {
  switch (cell) {
    case Cell::lstm: return {4, true, false, true, true};
    case Cell::gru: return {3, false, true, true, true};
    case Cell::leaky_tanh:
    case Cell::leaky_relu: return {1, false, true, true, false};
    case Cell::leaky_pre_tanh:
    case Cell::leaky_pre_relu: return {1, true, true, true, true};
    default: return {1, false, false, false, false};
  }
}

// A recurrence without resets: every row is one sequence.
struct Params {
  int64_t T, B, G, H;
  int64_t reverse_from;    // groups from this one on run from the last step to the first
  const int64_t* lengths;  // [B]: row b is active while t < lengths[b]; null: always
  const int64_t* offsets;  // [T]: row (t, b) of packed data is offsets[t] + b; null: t * B + b
  Activation activation;
  DType dtype;

  FASTRNN_HOST_DEVICE bool active(int64_t t, int64_t b) const { return !lengths || t < lengths[b]; }

  FASTRNN_HOST_DEVICE int64_t row(int64_t t, int64_t b) const {
    return offsets ? offsets[t] + b : t * B + b;
  }

  // Index of the first of the H elements of row (t, b) of group g.
  FASTRNN_HOST_DEVICE int64_t at(int64_t t, int64_t b, int64_t g) const {
    return (row(t, b) * G + g) * H;
  }
};

struct ParamsWithResets : Params {
  const bool* resets;  // [T, B] or [N]: whether row b starts a new sequence at step t; null: never

  // Whether a loop crosses a reset as it enters step t: then the state, or its gradient, is zero.
  // The step after the last counts too: -1 or T.
  FASTRNN_HOST_DEVICE bool crosses_reset(int64_t t, int64_t b, bool descending) const {
    const int64_t later = descending ? t + 1 : t;
    return resets && later < T && active(later, b) && resets[row(later, b)];
  }
};

}  // namespace fastrnn
