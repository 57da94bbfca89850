#include "layer_gradients.h"

#include "weight_product.h"

namespace fastrnn::cpu {

CellParams layer_params(const Stack& stack, int64_t layer, bool bfloat16_products) {
  CellParams params{stack.params(), stack.cell, stack.heads};
  params.bfloat16_products = bfloat16_products;
  params.state_layout = {stack.B * stack.hidden(), stack.H, stack.hidden(), stack.H};
  params.h0 = part_of(stack.h0, stack, layer);
  params.c0 = part_of(stack.c0, stack, layer);
  for (int64_t d = 0; d < stack.directions; ++d) {
    params.weight_hh[d] = stack.of(layer, d).hh.const_data_ptr();
    params.unit_param[d] = stack.unit_param(layer, d);
  }
  return params;
}

LayerGradients::LayerGradients(const Stack& stack, const CellParams& params, int64_t layer,
                               const Tensor& x, const Tensor& out, const Tensor& grad_pre,
                               const Given& grad_unit_param, bool of_weights)
    : stack_(stack),
      layer_(layer),
      element_size_(static_cast<int64_t>(x.element_size())),
      hidden_(stack.hidden()),
      wide_(stack.traits.gates * hidden_),
      params_(params),
      x_(x),
      out_(out),
      grad_pre_(grad_pre),
      grad_unit_param_(grad_unit_param) {
  for (int64_t d = 0; of_weights && d < stack.directions; ++d) rows_[d] = rows(d);
}

LayerGradients::Rows LayerGradients::rows(int64_t direction) const {
  const auto at = [&](const Tensor& tensor, int64_t element) {
    return static_cast<const char*>(tensor.const_data_ptr()) + element * element_size_;
  };
  const bool packed = stack_.is_packed();
  const int64_t dim = x_.dim(), step = dim == 2 ? 0 : x_.stride(0), row_stride = x_.stride(dim - 2);
  Rows rows;
  const bool of_units = grad_unit_param_.has_value();
  for (Pointers* all : {&rows.grad_pre, &rows.x, &rows.state_before}) all->reserve(stack_.rows);
  if (of_units) rows.grad_unit_param.reserve(stack_.rows);
  for (int64_t t = 0; t < stack_.T; ++t)
    for (int64_t b = 0; b < stack_.B; ++b) {
      if (!params_.active(t, b)) continue;
      const int64_t row = params_.row(t, b);
      rows.grad_pre.push_back(at(grad_pre_, (direction * stack_.rows + row) * wide_));
      if (of_units)
        rows.grad_unit_param.push_back(
            at(*grad_unit_param_, (row * stack_.directions + direction) * hidden_));
      rows.x.push_back(at(x_, packed ? row * row_stride : t * step + b * row_stride));
      rows.state_before.push_back(state_before(t, b, direction));
    }
  return rows;
}

// The state before a step; null: 0.
const char* LayerGradients::state_before(int64_t t, int64_t b, int64_t direction) const {
  const bool descending = direction == 1;
  if (params_.crosses_reset(t, b, descending)) return nullptr;
  const int64_t previous = descending ? t + 1 : t - 1;
  if (previous < 0 || previous >= stack_.T || !params_.active(previous, b)) {
    if (params_.h0 == nullptr) return nullptr;
    return static_cast<const char*>(params_.h0) +
           (direction * stack_.B + b) * hidden_ * element_size_;
  }
  const int64_t row = params_.row(previous, b) * stack_.directions + direction;
  return static_cast<const char*>(out_.const_data_ptr()) + row * hidden_ * element_size_;
}

Tensor LayerGradients::input() const {
  const int64_t inputs = x_.size(x_.dim() - 1);
  Tensor grad = empty(stack_.data_shape(inputs), x_);
  LinearParams params{stack_.rows, inputs, wide_, params_.dtype, int(stack_.directions)};
  for (int64_t d = 0; d < stack_.directions; ++d) {
    params.input[d] = static_cast<const char*>(grad_pre_.const_data_ptr()) +
                      d * stack_.rows * wide_ * element_size_;
    params.weight[d] = stack_.of(layer_, d).ih.const_data_ptr();
  }
  params.transposed = true;
  params.bfloat16_products = params_.bfloat16_products;
  params.out = grad.mutable_data_ptr();
  linear(params, threads());
  return grad;
}

Tensor LayerGradients::weight_ih(int64_t direction) const {
  const Rows& rows = rows_[direction];
  const int64_t inputs = x_.size(x_.dim() - 1);
  Tensor grad = empty(Shape{wide_, inputs}, x_);
  weight_product({rows.grad_pre, 0, wide_}, {rows.x, 0, inputs}, x_, grad.mutable_data_ptr());
  return grad;
}

Tensor LayerGradients::weight_hh(int64_t direction) const {
  const Rows& rows = rows_[direction];
  const int64_t H = stack_.H, gates = stack_.traits.gates, heads = stack_.heads;
  const auto sizes = stack_.of(layer_, direction).hh.sizes();
  Tensor grad = empty(sizes, x_);
  char* out = static_cast<char*>(grad.mutable_data_ptr());
  // dz, the gradient of W_hh h, is that of pre, except for the GRU's n, whose b_hn it shares.
  const int64_t of_pre = stack_.cell == Cell::gru ? 2 : gates;
  if (heads == 1) {
    weight_product({rows.grad_pre, 0, of_pre * H}, {rows.state_before, 0, H}, x_, out);
    if (of_pre < gates)
      weight_product({rows.grad_unit_param, 0, H}, {rows.state_before, 0, H}, x_,
                     out + of_pre * H * H * element_size_);
    return grad;
  }
  const auto head = [&](int64_t i) {
    const int64_t j = i / gates, k = i % gates;
    const bool from_pre = k < of_pre;
    outer({H, H, static_cast<int64_t>(rows.grad_pre.size()), params_.dtype,
           from_pre ? rows.grad_pre.data() : rows.grad_unit_param.data(), rows.state_before.data(),
           from_pre ? k * hidden_ + j * H : j * H, j * H, out + i * H * H * element_size_});
  };
  run_tasks(heads * gates, stack_.rows * wide_ * H, head);
  return grad;
}

std::array<Tensor, 2> LayerGradients::biases(int64_t direction) const {
  const Rows& rows = rows_[direction];
  Tensor of_ih = sum_of_rows({rows.grad_pre, 0, wide_}, x_), of_hh = empty(Shape{wide_}, x_);
  const int64_t of_pre = stack_.cell == Cell::gru ? 2 * hidden_ : wide_;
  char* to = static_cast<char*>(of_hh.mutable_data_ptr());
  std::memcpy(to, of_ih.const_data_ptr(), of_pre * element_size_);
  if (of_pre < wide_) {
    const Tensor of_n = sum_of_rows({rows.grad_unit_param, 0, hidden_}, x_);
    std::memcpy(to + of_pre * element_size_, of_n.const_data_ptr(), hidden_ * element_size_);
  }
  return {of_ih, of_hh};
}

Tensor LayerGradients::leak(int64_t direction) const {
  return sum_of_rows({rows_[direction].grad_unit_param, 0, hidden_}, x_);
}

}  // namespace fastrnn::cpu
