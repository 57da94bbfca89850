// The operators `layer` and `layer_backward` on any device: a stack of layers in one call. Kernels
// computes one layer, or several that begin with it:
//   forward(stack, layer, x, h_n, c_n, save) returns Saved of each
//   backward(stack, layer, BackwardInputs, needs) returns BackwardResults of each, from the last down
#pragma once

#include <utility>
#include <vector>

#include "stack.h"

namespace fastrnn {

// Which gradients to compute: bits of `needs`. Every layer but the first needs that of its input.
enum Needs : int64_t {
  needs_input = 1,
  needs_states = 2,
  needs_weight_ih = 4,
  needs_weight_hh = 8,
  needs_biases = 16,
  needs_leak = 32,
};

// The results of a layer that its backward needs.
struct Saved {
  Tensor out;
  Given gates, inner;
};

// What the backward of a layer is given, and the tensors of all layers in which it stores the
// gradients of the states.
struct BackwardInputs {
  const Stack& stack;
  const std::vector<Saved>& saved;  // of all layers
  const Given &output, &h_n, &c_n;
  Given &h0, &c0;

  const Tensor& x(int64_t layer) const { return layer == 0 ? stack.input : saved[layer - 1].out; }
};

struct BackwardResults {
  Given input;                  // of the lowest layer of a call
  std::vector<Tensor> weights;  // those that `needs` names, direction by direction
};

// Returns output, h_n and, if the cell has c, c_n. With `save`, what the backward needs follows
// layer by layer: the output, except that of the last layer, the gates and the inner values.
template <class Kernels>
std::vector<Tensor> run_layers(const Kernels& kernels, const Stack& stack, bool save) {
  Given h_n = empty(stack.state_shape(), stack.input), c_n;
  if (stack.traits.has_c) c_n = empty(stack.state_shape(), stack.input);
  std::vector<Tensor> kept;
  Given x = stack.input;
  for (int64_t l = 0; l < stack.layers;) {
    for (Saved& saved : kernels.forward(stack, l, *x, h_n, c_n, save)) {
      if (save) {
        if (l + 1 < stack.layers) kept.push_back(saved.out);
        if (saved.gates) kept.push_back(*saved.gates);
        if (saved.inner) kept.push_back(*saved.inner);
      }
      x = saved.out;
      ++l;
    }
  }
  std::vector<Tensor> results{*x, *h_n};
  if (c_n) results.push_back(*c_n);
  results.insert(results.end(), kept.begin(), kept.end());
  return results;
}

// What the forward saved of each layer, in its order.
inline std::vector<Saved> saved_of(const Stack& stack, const Tensor& output,
                                   const std::vector<Tensor>& given) {
  std::vector<Saved> all;
  size_t next = 0;
  const auto take = [&]() -> const Tensor& {
    STD_TORCH_CHECK(next < given.size(), "fastrnn: saved must be what the forward returned");
    return given[next++];
  };
  for (int64_t l = 0; l < stack.layers; ++l) {
    Saved saved{l + 1 < stack.layers ? take() : output, {}, {}};
    if (stack.traits.saves) saved.gates = take();
    if (stack.traits.has_inner) saved.inner = take();
    all.push_back(saved);
  }
  return all;
}

// Returns the gradients that `needs` names: of the input, of h0 and c0, and of the weights in their
// order.
template <class Kernels>
std::vector<Tensor> run_layers_backward(const Kernels& kernels, const Stack& stack,
                                        const Given& grad_output, const Given& grad_h_n,
                                        const Given& grad_c_n, const Tensor& output,
                                        const std::vector<Tensor>& saved, int64_t needs) {
  const auto contiguous = [&](const char* name, const Given& tensor) -> Given {
    if (!tensor) return {};
    return input_tensor(name, *tensor, stack.input);
  };
  const Given of_h_n = contiguous("grad_h_n", grad_h_n), of_c_n = contiguous("grad_c_n", grad_c_n);
  const std::vector<Saved> all = saved_of(stack, output, saved);
  Given grad = contiguous("grad_output", grad_output), grad_h0, grad_c0;
  if (needs & needs_states) {
    grad_h0 = empty(stack.state_shape(), stack.input);
    if (stack.traits.has_c) grad_c0 = empty(stack.state_shape(), stack.input);
  }
  std::vector<std::vector<Tensor>> of_weights(stack.layers);
  for (int64_t l = stack.layers - 1; l >= 0;) {
    const BackwardInputs given{stack, all, grad, of_h_n, of_c_n, grad_h0, grad_c0};
    for (BackwardResults& found : kernels.backward(stack, l, given, needs)) {
      grad = std::move(found.input);
      of_weights[l--] = std::move(found.weights);
    }
  }
  std::vector<Tensor> results;
  if (needs & needs_input) results.push_back(*grad);
  if (grad_h0) results.push_back(*grad_h0);
  if (grad_c0) results.push_back(*grad_c0);
  for (const auto& of_layer : of_weights)
    results.insert(results.end(), of_layer.begin(), of_layer.end());
  return results;
}

}  // namespace fastrnn
