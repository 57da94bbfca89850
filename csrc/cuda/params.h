// The parameters of the CUDA kernels as plain structs, independent of torch and of CUDA. Symbols as in
// csrc/params.h; D is the number of directions, and K that of gates. All pointers are to device
// memory. A pointer is null if the cell or the call has no such tensor; gradients, states and biases
// that are null count as 0.
#pragma once

#include "../params.h"

namespace fastrnn::cuda {

// Where the weights and the states of a group are. A group is a head of a direction; the groups of an
// operator of the recurrence count as heads of one direction.
struct GroupTensors {
  int64_t heads;                       // of a direction
  int64_t state_direction, state_row;  // elements between the directions, and the rows, of a state
  const void* weight_hh[2];            // [heads, K * H, H] of each direction
};

struct ForwardTensors : GroupTensors {
  const void* pre;                      // [T, B, G, K * H] or [N, G, K * H]
  const void *bias_ih[2], *bias_hh[2];  // [K * heads * H] of each direction: added to pre
  const void* h0;                       // [B, G, H] or [D, B, heads * H], as all states
  void* out;  // [T, B, G, H] or [N, G, H]; where rows are packed, only active rows are written
  void* h_n;
};

struct BackwardTensors : GroupTensors {
  const void* grad_out;  // as out
  const void* grad_h_n;
  const void* out;
  void* grad_pre;  // as pre; where rows are packed, only active rows are written
  void* grad_h0;
};

// Base is Params or ParamsWithResets.
template <class Base, class Tensors> struct PassParams : Base, Tensors {
  // The index of the first element of a group's row in a state.
  FASTRNN_HOST_DEVICE int64_t state_at(int64_t b, int64_t g) const {
    const bool second = g >= this->heads;
    return second * this->state_direction + b * this->state_row +
           (g - second * this->heads) * this->H;
  }

  // The weights of a group, which has `size` of them. In this form the kernels need few registers.
  template <class T> FASTRNN_HOST_DEVICE const T* weight_of(int64_t g, int64_t size) const {
    const bool second = g >= this->heads;
    return static_cast<const T*>(this->weight_hh[second]) + (second ? g - this->heads : g) * size;
  }

  // The elements of a group in tensors with `size` elements for each head.
  template <class T>
  FASTRNN_HOST_DEVICE const T* of_group(const void* const (&tensors)[2], int64_t g,
                                        int64_t size) const {
    const bool second = g >= this->heads;
    const auto* const tensor = static_cast<const T*>(second ? tensors[1] : tensors[0]);
    return tensor ? tensor + (g - second * this->heads) * size : nullptr;
  }
};

template <class Base> using ForwardParams = PassParams<Base, ForwardTensors>;
template <class Base> using BackwardParams = PassParams<Base, BackwardTensors>;

using Forward = ForwardParams<ParamsWithResets>;
using Backward = BackwardParams<ParamsWithResets>;

// Of cells with several gates, a second state or a leak.
struct CellForward : Forward {
  fastrnn::Cell cell;
  const void* c0;
  const void* unit_param[2];      // [heads * H] of each direction
  const void *reset_h, *reset_c;  // the state from which a reset starts
  void* c_n;
  void* gates;  // as pre, and may be pre itself; null: nothing is saved
  void* inner;  // as out
  // Set by the launchers, or the caller: see workspace_bytes in dispatch.h.
  unsigned char* workspace;    // of step
  const void* padded_reset_h;  // of grid
};

// The input of a layer, in place of pre: the kernels compute W_ih x_t themselves.
struct InputProjection {
  const void* input;         // [T, B, I] or [N, I]; unused in later layers of a stack
  const void* weight_ih[2];  // [K * heads * H, I] of each direction
  int64_t I;
  int64_t step, row;  // elements from one step, and one row, of input to the next
};

struct ProjectedForward : CellForward {
  InputProjection projection;
};

// The most layers of a stack that one kernel computes.
constexpr int most_stacked = 8;

// The layers of a stack, in the order in which they are computed: in backward the last layer comes
// first. All have the sizes, lengths, offsets and resets of of[0].
template <class P> struct LayersOf {
  P of[most_stacked];
};

struct CellBackward : Backward {
  fastrnn::Cell cell;
  const void* grad_c_n;
  const void *gates, *inner;  // as forward saved them
  const void *h0, *c0;
  const void* unit_param[2];
  const void *reset_h, *reset_c;
  void* grad_c0;
  void* grad_unit_param;            // as out
  void *reset_h_sum, *reset_c_sum;  // in the accumulation dtype: gradients are added
  unsigned char* workspace;
};

// Of a stack. The kernel computes grad_out of a layer from the gradients of the layer above.
struct ProjectedBackward : CellBackward {
  const void* weight_ih_above;  // [K * H, H]; null in the last layer, which is given grad_out
};

// The gradients of a layer's weights: sums over all steps and rows. D, heads and H as above, and I
// input features. The gradients of pre have those of a direction next to each other, so that heads
// need a cell of one gate. Results that are null are not wanted.
struct WeightGradients : ParamsWithResets {
  fastrnn::Cell cell;
  int64_t heads, I;                   // I is 0 if the gradient of W_ih is not wanted
  const void* input;                  // [T, B, I] or [N, I]
  int64_t input_step, input_row;      // elements from one step, and one row, to the next
  const void* out;                    // [T, B, D, heads * H] or [N, D, heads * H]
  const void* h0;                     // [D, B, heads * H]
  const void* grad_pre;               // as out, with K * heads * H
  const void* grad_unit_param;        // as out
  void *weight_ih[2], *weight_hh[2];  // [K * heads * H, I] and [heads, K * H, H] of each direction
  void *bias_ih[2], *bias_hh[2];      // [K * heads * H]
  void* leak[2];                      // [heads * H]

  FASTRNN_HOST_DEVICE int64_t directions() const { return G / heads; }
  FASTRNN_HOST_DEVICE int64_t hidden() const { return heads * H; }
  FASTRNN_HOST_DEVICE int64_t wide() const { return traits(cell).gates * hidden(); }
};

}  // namespace fastrnn::cuda
