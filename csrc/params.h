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
enum class Cell { rnn_tanh, rnn_relu, lstm, gru };  // numbered as in fastrnn/ops/cells
enum class Activation { tanh, relu };  // of nn.RNN's two cells, which have the same numbers

// K, the number of gates.
inline int64_t gates(Cell cell) { return cell == Cell::lstm ? 4 : cell == Cell::gru ? 3 : 1; }

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

  // The same in a [B, G, H] tensor.
  FASTRNN_HOST_DEVICE int64_t at(int64_t b, int64_t g) const { return (b * G + g) * H; }
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

// The parameters of the two passes. Base is Params or ParamsWithResets.
template <class Base> struct ForwardParams : Base {
  const void* pre;        // [T, B, G, H] or [N, G, H]
  const void* weight_hh;  // [G, H, H]
  const void* h0;         // [B, G, H]
  void* out;              // as pre; where rows are packed, only active rows are written
  void* h_n;              // [B, G, H]
};

template <class Base> struct BackwardParams : Base {
  const void* grad_out;   // as out
  const void* grad_h_n;   // [B, G, H]
  const void* out;        // [T, B, G, H] or [N, G, H]
  const void* weight_hh;  // [G, H, H]
  void* grad_pre;         // as out; where rows are packed, only active rows are written
  void* grad_h0;          // [B, G, H]
};

using Forward = ForwardParams<ParamsWithResets>;
using Backward = BackwardParams<ParamsWithResets>;

// The parameters of any cell. For K gates, `pre`, `grad_pre` and `gates` are [.., K * H], and
// `weight_hh` is [G, K * H, H]. A pointer is null if the cell or the call has no such argument.
struct CellForward : Forward {
  Cell cell;
  const void* c0;          // [B, G, H]
  const void* unit_param;  // [G, H]
  const void* reset_h;     // [B, G, H]: the state from which a reset starts; null: 0
  const void* reset_c;     // [B, G, H]
  void* c_n;               // [B, G, H]
  void* gates;             // as pre, and may be pre itself; null: not saved
  void* inner;             // as out; null: not saved
};

struct CellBackward : Backward {
  Cell cell;
  const void* h0;          // [B, G, H]
  const void* c0;          // [B, G, H]
  const void* unit_param;  // [G, H]
  const void* reset_h;     // [B, G, H]
  const void* reset_c;     // [B, G, H]
  const void* grad_c_n;    // [B, G, H]; null: 0
  const void* gates;       // as grad_pre
  const void* inner;       // as out
  void* grad_c0;           // [B, G, H]
  void* grad_unit_param;   // as out
  void* grad_reset_h;      // [B, G, H]
  void* grad_reset_c;      // [B, G, H]
};

}  // namespace fastrnn
