// The operators `layer` and `layer_backward` on the CPU: a stack of layers in one call. The weights
// are read where they are, and no zero state, merged bias or transposed copy is made.
#include "layer_gradients.h"

namespace fastrnn::cpu {
namespace {

Projection projection(const Stack& stack, int64_t layer, const Tensor& x) {
  const int64_t dim = x.dim();
  Projection projection{x.size(dim - 1), x.const_data_ptr(), dim == 2 ? 0 : x.stride(0),
                        x.stride(dim - 2)};
  for (int64_t d = 0; d < stack.directions; ++d) {
    const Weights& own = stack.of(layer, d);
    projection.weight_ih[d] = own.ih.const_data_ptr();
    projection.bias_ih[d] = data_or_null(own.bias_ih);
    projection.bias_hh[d] = data_or_null(own.bias_hh);
  }
  return projection;
}

// The results of a layer that its backward needs.
struct Saved {
  Tensor out;
  Given gates, inner;
};

Saved run_layer(const Stack& stack, int64_t layer, const Tensor& x, Given& h_n, Given& c_n,
                bool save) {
  const int64_t wide = stack.directions * stack.hidden();
  const bool packed = stack.is_packed();
  Saved saved{output(stack.data_shape(wide), x, packed), {}, {}};
  if (save && stack.traits.saves) {
    saved.gates = output(stack.grouped_shape(stack.traits.gates * stack.H), x, packed);
    if (stack.traits.has_inner) saved.inner = output(stack.grouped_shape(stack.H), x, packed);
  }
  forward({stack.params(layer), nullptr, projection(stack, layer, x), saved.out.mutable_data_ptr(),
           mutable_part_of(h_n, stack, layer), mutable_part_of(c_n, stack, layer),
           mutable_data_or_null(saved.gates), mutable_data_or_null(saved.inner)},
          threads());
  return saved;
}

// Returns output, h_n and, if the cell has c, c_n. With `save`, what the backward needs follows
// layer by layer: the output, except that of the last layer, the gates and the inner values.
std::vector<Tensor> layer(const Tensor& input, const std::vector<Tensor>& weights, const Given& h0,
                          const Given& c0, const Given& lengths, const Given& offsets,
                          const Given& resets, int64_t mode, int64_t layers, int64_t directions,
                          bool bfloat16_products, bool save) {
  const Stack stack(input, weights, h0, c0, lengths, offsets, resets, mode, layers, directions,
                    bfloat16_products);
  Given h_n = empty(stack.state_shape(), stack.input), c_n;
  if (stack.traits.has_c) c_n = empty(stack.state_shape(), stack.input);
  std::vector<Tensor> kept;
  Given x = stack.input;
  for (int64_t l = 0; l < layers; ++l) {
    Saved saved = run_layer(stack, l, *x, h_n, c_n, save);
    if (save) {
      if (l + 1 < layers) kept.push_back(saved.out);
      if (saved.gates) kept.push_back(*saved.gates);
      if (saved.inner) kept.push_back(*saved.inner);
    }
    x = saved.out;
  }
  std::vector<Tensor> results{*x, *h_n};
  if (c_n) results.push_back(*c_n);
  results.insert(results.end(), kept.begin(), kept.end());
  return results;
}

// Which gradients to compute: bits of `needs`.
enum Needs : int64_t {
  needs_input = 1,
  needs_states = 2,
  needs_weight_ih = 4,
  needs_weight_hh = 8,
  needs_biases = 16,
  needs_leak = 32,
};

// What the forward saved of each layer, in its order.
std::vector<Saved> saved_of(const Stack& stack, const Tensor& output,
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

// The gradient of what a layer adds to the projection, [D, rows, K * heads * H].
Tensor run_layer_backward(const Stack& stack, int64_t layer, const Saved& saved,
                          const Given& grad_output, const Given& grad_h_n, const Given& grad_c_n,
                          Given& grad_h0, Given& grad_c0, Given& grad_unit_param) {
  const int64_t wide = stack.traits.gates * stack.hidden(), H = stack.H;
  const bool packed = stack.is_packed();
  Tensor grad_pre = output(Shape{stack.directions, stack.rows, wide}, stack.input, packed);
  if (stack.traits.has_unit_param)
    grad_unit_param =
        output(Shape{stack.rows, stack.directions * stack.hidden()}, stack.input, packed);
  CellBackward params{stack.params(layer)};
  params.grad_pre_layout = {stack.rows * wide, H, wide, stack.hidden()};
  params.grad_out = data_or_null(grad_output);
  params.grad_h_n = part_of(grad_h_n, stack, layer);
  params.grad_c_n = part_of(grad_c_n, stack, layer);
  params.out = saved.out.const_data_ptr();
  params.gates = data_or_null(saved.gates);
  params.inner = data_or_null(saved.inner);
  params.grad_pre = grad_pre.mutable_data_ptr();
  params.grad_h0 = mutable_part_of(grad_h0, stack, layer);
  params.grad_c0 = mutable_part_of(grad_c0, stack, layer);
  params.grad_unit_param = mutable_data_or_null(grad_unit_param);
  backward(params, threads());
  return grad_pre;
}

// A layer's gradients of its weights, direction by direction.
std::vector<Tensor> weight_gradients(const LayerGradients& gradients, const Stack& stack,
                                     int64_t layer, int64_t needs) {
  std::vector<Tensor> results;
  for (int64_t d = 0; d < stack.directions; ++d) {
    const Weights& own = stack.of(layer, d);
    if (needs & needs_weight_ih) results.push_back(gradients.weight_ih(d));
    if (needs & needs_weight_hh) results.push_back(gradients.weight_hh(d));
    if (needs & needs_biases && own.bias_ih)
      for (const Tensor& bias : gradients.biases(d)) results.push_back(bias);
    if (needs & needs_leak && own.leak) results.push_back(gradients.leak(d));
  }
  return results;
}

// Returns the gradients that `needs` names: of the input, of h0 and c0, and of the weights in their
// order.
std::vector<Tensor> layer_backward(const Given& grad_output, const Given& grad_h_n,
                                   const Given& grad_c_n, const Tensor& output,
                                   const std::vector<Tensor>& saved, const Tensor& input,
                                   const std::vector<Tensor>& weights, const Given& h0,
                                   const Given& c0, const Given& lengths, const Given& offsets,
                                   const Given& resets, int64_t mode, int64_t layers,
                                   int64_t directions, bool bfloat16_products, int64_t needs) {
  const Stack stack(input, weights, h0, c0, lengths, offsets, resets, mode, layers, directions,
                    bfloat16_products);
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
  std::vector<std::vector<Tensor>> of_weights(layers);
  for (int64_t l = layers - 1; l >= 0; --l) {
    Given grad_unit_param;
    const Tensor grad_pre = run_layer_backward(stack, l, all[l], grad, of_h_n, of_c_n, grad_h0,
                                               grad_c0, grad_unit_param);
    const Tensor& x = l == 0 ? stack.input : all[l - 1].out;
    const bool any_weight = needs & ~(needs_input | needs_states);
    const LayerGradients gradients(stack, l, x, all[l].out, grad_pre, grad_unit_param, any_weight);
    if (l > 0 || needs & needs_input) grad = gradients.input();
    of_weights[l] = weight_gradients(gradients, stack, l, needs);
  }
  std::vector<Tensor> results;
  if (needs & needs_input) results.push_back(*grad);
  if (grad_h0) results.push_back(*grad_h0);
  if (grad_c0) results.push_back(*grad_c0);
  for (const auto& of_layer : of_weights)
    results.insert(results.end(), of_layer.begin(), of_layer.end());
  return results;
}

}  // namespace
}  // namespace fastrnn::cpu

// The schemas are defined in Python, fastrnn/ops/layer.py.
STABLE_TORCH_LIBRARY_IMPL(fastrnn, CPU, m) {
  m.impl("layer", TORCH_BOX(&fastrnn::cpu::layer));
  m.impl("layer_backward", TORCH_BOX(&fastrnn::cpu::layer_backward));
}
