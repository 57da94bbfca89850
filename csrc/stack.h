// The tensors of a stack of layers, as the operators `layer` and `layer_backward` take them on both
// devices.
#pragma once

#include <vector>

#include "tensors.h"

namespace fastrnn {

// The weights of a layer in one direction.
struct Weights {
  Tensor ih, hh;  // [K * heads * H, I], and [K * H, H] or [heads, K * H, H]
  Given bias_ih, bias_hh, leak;
};

// The arguments of a call, checked, and contiguous except for a dense input.
struct Stack {
  Tensor input;  // [T, B, I], [N, I] with offsets, or [B, I] for one step
  Given h0, c0;  // [L * D, B, heads * H]
  Given lengths, offsets, resets;
  Cell cell;
  CellTraits traits;
  int64_t layers, directions;
  int64_t heads, H;              // the heads of a direction, and the units of a head
  int64_t T, B, rows;            // rows of data: T * B or N
  std::vector<Weights> weights;  // layer by layer, direction by direction

  Stack(const Tensor& input, const std::vector<Tensor>& weights, const Given& h0, const Given& c0,
        const Given& lengths, const Given& offsets, const Given& resets, int64_t mode,
        int64_t layers, int64_t directions);

  int64_t hidden() const { return heads * H; }
  bool is_packed() const { return offsets.has_value(); }
  const Weights& of(int64_t layer, int64_t direction) const {
    return weights[layer * directions + direction];
  }

  // The shape of data with `width` numbers in a row.
  Shape data_shape(int64_t width) const {
    if (input.dim() == 2) return {rows, width};
    return {T, B, width};
  }
  // The same by groups, with `width` numbers for each.
  Shape grouped_shape(int64_t width) const {
    const int64_t groups = directions * heads;
    if (input.dim() == 2) return {rows, groups, width};
    return {T, B, groups, width};
  }
  Shape state_shape() const { return {layers * directions, B, hidden()}; }

  // What all layers share.
  ParamsWithResets params() const;

  const void* unit_param(int64_t layer, int64_t direction) const;  // null: there is none

  // The bytes before a layer's part of a state.
  int64_t state_offset(int64_t layer) const {
    return layer * directions * B * hidden() * static_cast<int64_t>(input.element_size());
  }

 private:
  void add_weights(const std::vector<Tensor>& given);
};

// A layer's part of a state, or of its gradient; null if there is none.
inline const void* part_of(const Given& state, const Stack& stack, int64_t layer) {
  if (!state) return nullptr;
  return static_cast<const char*>(state->const_data_ptr()) + stack.state_offset(layer);
}
inline void* mutable_part_of(Given& state, const Stack& stack, int64_t layer) {
  if (!state) return nullptr;
  return static_cast<char*>(state->mutable_data_ptr()) + stack.state_offset(layer);
}

}  // namespace fastrnn
