// The parameters of cells with several gates, a second state or a leak, in addition to those of
// nn.RNN's cells. K is the number of gates: pre and grad_pre are [..., G, K * H], and weight_hh is
// [G, K * H, H]. A pointer is null if the cell or the call has no such tensor.
#pragma once

#include "../params.h"

namespace fastrnn::cuda {

struct CellForward : Forward {
  fastrnn::Cell cell;
  const void* c0;                 // [B, G, H]
  const void* unit_param;         // [G, H]; null: 0
  const void *reset_h, *reset_c;  // [B, G, H], the state from which a reset starts; null: 0
  void* c_n;                      // [B, G, H]
  void* gates;                    // as pre, and may be pre itself; null: nothing is saved
  void* inner;                    // as out
  // Set by the launchers, or the caller: see workspace_bytes in dispatch.h.
  unsigned char* workspace;    // of step
  const void* padded_reset_h;  // of grid
};

struct CellBackward : Backward {
  fastrnn::Cell cell;
  const void* grad_c_n;       // [B, G, H]; null: 0
  const void *gates, *inner;  // as forward saved them
  const void *h0, *c0, *unit_param, *reset_h, *reset_c;
  void* grad_c0;                    // [B, G, H]
  void* grad_unit_param;            // as out
  void *reset_h_sum, *reset_c_sum;  // [B, G, H], in the accumulation dtype: gradients are added
  unsigned char* workspace;
};

}  // namespace fastrnn::cuda
