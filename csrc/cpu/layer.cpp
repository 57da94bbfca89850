// The operators `layer` and `layer_backward` on the CPU. The weights are read where they are, and no
// zero state, merged bias or transposed copy is made.
#include "../layer.h"

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

struct Kernels {
  bool bfloat16_products;

  std::vector<Saved> forward(const Stack& stack, int64_t layer, const Tensor& x, Given& h_n,
                             Given& c_n, bool save) const {
    const int64_t wide = stack.directions * stack.hidden();
    const bool packed = stack.is_packed();
    Saved saved{output(stack.data_shape(wide), x, packed), {}, {}};
    if (save && stack.traits.saves) {
      saved.gates = output(stack.grouped_shape(stack.traits.gates * stack.H), x, packed);
      if (stack.traits.has_inner) saved.inner = output(stack.grouped_shape(stack.H), x, packed);
    }
    cpu::forward({layer_params(stack, layer, bfloat16_products), nullptr,
                  projection(stack, layer, x), saved.out.mutable_data_ptr(),
                  mutable_part_of(h_n, stack, layer), mutable_part_of(c_n, stack, layer),
                  mutable_data_or_null(saved.gates), mutable_data_or_null(saved.inner)},
                 threads());
    return {saved};
  }

  std::vector<BackwardResults> backward(const Stack& stack, int64_t layer,
                                        const BackwardInputs& grad, int64_t needs) const {
    Given grad_unit_param;
    const Tensor grad_pre = of_pre(stack, layer, grad, grad_unit_param);
    const bool any_weight = needs & ~(needs_input | needs_states);
    const LayerGradients gradients(stack, layer_params(stack, layer, bfloat16_products), layer,
                                   grad.x(layer), grad.saved[layer].out, grad_pre, grad_unit_param,
                                   any_weight);
    BackwardResults found;
    if (layer > 0 || needs & needs_input) found.input = gradients.input();
    for (int64_t d = 0; d < stack.directions; ++d) {
      const Weights& own = stack.of(layer, d);
      if (needs & needs_weight_ih) found.weights.push_back(gradients.weight_ih(d));
      if (needs & needs_weight_hh) found.weights.push_back(gradients.weight_hh(d));
      if (needs & needs_biases && own.bias_ih)
        for (const Tensor& bias : gradients.biases(d)) found.weights.push_back(bias);
      if (needs & needs_leak && own.leak) found.weights.push_back(gradients.leak(d));
    }
    return {found};
  }

 private:
  // The gradient of what a layer adds to the projection, [D, rows, K * heads * H].
  Tensor of_pre(const Stack& stack, int64_t layer, const BackwardInputs& grad,
                Given& grad_unit_param) const {
    const int64_t wide = stack.traits.gates * stack.hidden(), H = stack.H;
    const bool packed = stack.is_packed();
    Tensor grad_pre = output(Shape{stack.directions, stack.rows, wide}, stack.input, packed);
    if (stack.traits.has_unit_param)
      grad_unit_param =
          output(Shape{stack.rows, stack.directions * stack.hidden()}, stack.input, packed);
    CellBackward params{layer_params(stack, layer, bfloat16_products)};
    params.grad_pre_layout = {stack.rows * wide, H, wide, stack.hidden()};
    params.grad_out = data_or_null(grad.output);
    params.grad_h_n = part_of(grad.h_n, stack, layer);
    params.grad_c_n = part_of(grad.c_n, stack, layer);
    const Saved& saved = grad.saved[layer];
    params.out = saved.out.const_data_ptr();
    params.gates = data_or_null(saved.gates);
    params.inner = data_or_null(saved.inner);
    params.grad_pre = grad_pre.mutable_data_ptr();
    params.grad_h0 = mutable_part_of(grad.h0, stack, layer);
    params.grad_c0 = mutable_part_of(grad.c0, stack, layer);
    params.grad_unit_param = mutable_data_or_null(grad_unit_param);
    cpu::backward(params, threads());
    return grad_pre;
  }
};

std::vector<Tensor> layer(const Tensor& input, const std::vector<Tensor>& weights, const Given& h0,
                          const Given& c0, const Given& lengths, const Given& offsets,
                          const Given& resets, int64_t mode, int64_t layers, int64_t directions,
                          bool bfloat16_products, bool save) {
  const Stack stack(input, weights, h0, c0, lengths, offsets, resets, mode, layers, directions);
  if (stack.is_packed()) check_packed_rows(stack.params(), stack.rows);
  return run_layers(Kernels{bfloat16_products}, stack, save);
}

std::vector<Tensor> layer_backward(const Given& grad_output, const Given& grad_h_n,
                                   const Given& grad_c_n, const Tensor& output,
                                   const std::vector<Tensor>& saved, const Tensor& input,
                                   const std::vector<Tensor>& weights, const Given& h0,
                                   const Given& c0, const Given& lengths, const Given& offsets,
                                   const Given& resets, int64_t mode, int64_t layers,
                                   int64_t directions, bool bfloat16_products, int64_t needs) {
  const Stack stack(input, weights, h0, c0, lengths, offsets, resets, mode, layers, directions);
  if (stack.is_packed()) check_packed_rows(stack.params(), stack.rows);
  return run_layers_backward(Kernels{bfloat16_products}, stack, grad_output, grad_h_n, grad_c_n,
                             output, saved, needs);
}

}  // namespace
}  // namespace fastrnn::cpu

// The schemas are defined in Python, fastrnn/ops/layer.py.
STABLE_TORCH_LIBRARY_IMPL(fastrnn, CPU, m) {
  m.impl("layer", TORCH_BOX(&fastrnn::cpu::layer));
  m.impl("layer_backward", TORCH_BOX(&fastrnn::cpu::layer_backward));
}
