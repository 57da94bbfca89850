// The gradients of a layer's input and weights: products over all its rows, after the loop.
#pragma once

#include "../stack.h"
#include "host.h"

namespace fastrnn::cpu {

// What the forward and the backward of a layer share.
CellParams layer_params(const Stack& stack, int64_t layer, bool bfloat16_products);

class LayerGradients {
 public:
  // x is the layer's input, out its output, grad_pre [D, rows, K * heads * H] the gradient of the
  // pre-activations, and grad_unit_param, as out, that of the unit_param. `of_weights`: whether any
  // gradient but the input's is wanted.
  LayerGradients(const Stack& stack, const CellParams& params, int64_t layer, const Tensor& x,
                 const Tensor& out, const Tensor& grad_pre, const Given& grad_unit_param,
                 bool of_weights);

  Tensor input() const;
  Tensor weight_ih(int64_t direction) const;
  Tensor weight_hh(int64_t direction) const;
  std::array<Tensor, 2> biases(int64_t direction) const;  // of b_ih and b_hh
  Tensor leak(int64_t direction) const;

 private:
  using Pointers = std::vector<const void*>;

  // The rows of a sum of products: those of an active step, by direction.
  struct Rows {
    Pointers grad_pre, grad_unit_param, x, state_before;
  };

  Rows rows(int64_t direction) const;
  const char* state_before(int64_t t, int64_t b, int64_t direction) const;

  const Stack& stack_;
  const int64_t layer_, element_size_, hidden_, wide_;
  const CellParams params_;
  const Tensor &x_, &out_, &grad_pre_;
  const Given& grad_unit_param_;
  Rows rows_[2];
};

}  // namespace fastrnn::cpu
