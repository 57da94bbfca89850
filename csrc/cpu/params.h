// The parameters of the CPU kernels as plain structs, independent of torch. Symbols as in
// csrc/params.h; D is the number of directions and I the number of input features.
#pragma once

#include "../params.h"

namespace fastrnn::cpu {

// Where a tensor has the numbers of a group. A group is a head of a direction. Each member is the
// number of elements from one to the next.
struct Layout {
  int64_t direction, head, row, gate;
};

// What the forward and the backward of a cell share. A pointer is null if the cell or the call has
// no such argument. `out`, `gates` and `inner` and their gradients have the layout of
// csrc/params.h. A state is [B, G, H], or [D, B, heads * H] as in nn.RNN.
struct CellParams : ParamsWithResets {
  Cell cell;
  int64_t heads;                  // in each direction
  Layout state_layout;            // of h0, c0, h_n, c_n, reset_h and reset_c
  const void* weight_hh[2];       // [heads, K * H, H] of each direction
  const void* unit_param[2];      // [heads * H] of each direction
  const void *h0, *c0;            // null: 0
  const void *reset_h, *reset_c;  // the state from which a reset starts; null: 0
  // Whether factors of float32 may be rounded to bfloat16, by instruction sets that multiply it.
  bool bfloat16_products;

  int64_t direction(int64_t g) const { return g >= heads; }
  int64_t head(int64_t g) const { return g < heads ? g : g - heads; }

  // The index of the first element of a group's row.
  int64_t at(const Layout& layout, int64_t row, int64_t g) const {
    return direction(g) * layout.direction + head(g) * layout.head + row * layout.row;
  }
  int64_t state_at(int64_t b, int64_t g) const { return at(state_layout, b, g); }
  using Params::at;
};

// The input projection of a layer, W_ih x + b_ih + b_hh, except b_hh of the GRU's n.
struct Projection {
  int64_t I;
  const void* input;                    // [T, B, I] or [N, I]; null: `pre` is given instead
  int64_t step, row;                    // elements from one step, and one batch row, to the next
  const void* weight_ih[2];             // [K * heads * H, I] of each direction
  const void *bias_ih[2], *bias_hh[2];  // [K * heads * H] of each direction, or null
};

struct CellForward : CellParams {
  const void* pre;  // [T, B, G, K * H] or [N, G, K * H], unless there is a projection
  Projection projection;
  void* out;  // [T, B, G, H] or [N, G, H]; where rows are packed, only active rows are written
  void* h_n;
  void* c_n;
  void* gates;  // as pre, and may be pre itself; null: not saved
  void* inner;  // as out; null: not saved
};

struct CellBackward : CellParams {
  Layout grad_pre_layout;
  const void *grad_out, *grad_h_n, *grad_c_n;  // null: 0
  const void* out;
  const void* gates;
  const void* inner;
  void* grad_pre;  // [T, B, G, K * H] or [N, G, K * H], or [D, T * B, K * heads * H]
  void* grad_h0;
  void* grad_c0;
  void* grad_unit_param;  // as out
  void* grad_reset_h;
  void* grad_reset_c;
};

// out = bias + the sum of input[i] weight[i]^T.
struct LinearParams {
  int64_t M, N, K;
  DType dtype;
  int parts;              // 1 or 2
  const void* input[2];   // [M, K]
  const void* weight[2];  // [N, K], or [K, N] if `transposed`
  bool transposed;
  const void* bias;        // [N], or null
  void* out;               // [M, N]
  bool bfloat16_products;  // as in CellParams
};

// out = the sum over k of the outer products of a[k] and b[k].
struct OuterParams {
  int64_t M, N, K;
  DType dtype;
  const void* const* a;  // K rows, of which M elements from `a_offset` on are used
  const void* const* b;  // K rows, of which N elements from `b_offset` on are used; null: zeros
  int64_t a_offset, b_offset;
  void* out;     // [M, N]
  bool is_wide;  // whether out is float32 for half precision
};

}  // namespace fastrnn::cpu
