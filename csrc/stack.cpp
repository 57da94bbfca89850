#include "stack.h"

namespace fastrnn {
namespace {

// Checks that a tensor has the dtype and device of `like`, and that its rows are contiguous.
Tensor with_contiguous_rows(const char* name, const Tensor& tensor, const Tensor& like) {
  if (tensor.dim() == 3 && tensor.stride(2) == 1) return tensor;
  return input_tensor(name, tensor, like);
}

Given optional_tensor(const char* name, const Given& tensor, const Shape& shape,
                      const Tensor& like) {
  if (!tensor) return {};
  check_shape(name, *tensor, shape);
  return input_tensor(name, *tensor, like);
}

}  // namespace

Stack::Stack(const Tensor& input_, const std::vector<Tensor>& weights_, const Given& h0_,
             const Given& c0_, const Given& lengths_, const Given& offsets_, const Given& resets_,
             int64_t mode, int64_t layers, int64_t directions)
    : input(with_contiguous_rows("input", input_, input_)),
      cell(Cell(mode)),
      traits(fastrnn::traits(Cell(mode))),
      layers(layers),
      directions(directions) {
  STD_TORCH_CHECK(mode >= 0 && mode <= int64_t(Cell::leaky_pre_relu), "fastrnn: there is no cell ",
                  mode);
  STD_TORCH_CHECK(layers > 0 && (directions == 1 || directions == 2),
                  "fastrnn: a stack has at least one layer, and one or two directions");
  STD_TORCH_CHECK(!offsets_ || lengths_, "fastrnn: offsets require lengths");
  STD_TORCH_CHECK(input.dim() == 2 || (input.dim() == 3 && !offsets_),
                  "fastrnn: input must be [T, B, I], [N, I] with offsets, or one step [B, I]");
  B = offsets_ ? lengths_->numel() : input.size(input.dim() - 2);
  if (lengths_) lengths = index_tensor("lengths", *lengths_, B, input);
  if (offsets_) offsets = index_tensor("offsets", *offsets_, offsets_->numel(), input);
  T = offsets_ ? offsets->numel() : input.dim() == 2 ? 1 : input.size(0);
  STD_TORCH_CHECK(T > 0 || is_packed(), "fastrnn: there must be at least one step");
  rows = offsets_ ? input.size(0) : T * B;
  if (resets_) resets = reset_tensor(*resets_, T, B, rows, is_packed(), input);
  add_weights(weights_);
  STD_TORCH_CHECK(c0_.has_value() == (h0_ && traits.has_c),
                  "fastrnn: c0 goes with h0, for cells with a second state");
  h0 = optional_tensor("h0", h0_, state_shape(), input);
  c0 = optional_tensor("c0", c0_, state_shape(), input);
}

void Stack::add_weights(const std::vector<Tensor>& given) {
  const int64_t count = static_cast<int64_t>(given.size()) / (layers * directions);
  const bool is_leaky = traits.has_unit_param && cell != Cell::gru;
  const bool has_biases = count >= 4;
  STD_TORCH_CHECK(count == 2 + 2 * has_biases + is_leaky &&
                      count * layers * directions == static_cast<int64_t>(given.size()),
                  "fastrnn: the stack needs another number of weights");
  const Tensor& first = given[1];
  STD_TORCH_CHECK(first.dim() == 2 || first.dim() == 3, "fastrnn: weight_hh has the wrong shape");
  heads = first.dim() == 3 ? first.size(0) : 1;
  H = first.size(first.dim() - 1);
  const int64_t wide = traits.gates * hidden();
  const Shape of_hh =
      first.dim() == 2 ? Shape{traits.gates * H, H} : Shape{heads, traits.gates * H, H};
  weights.reserve(layers * directions);
  for (size_t i = 0; i < given.size(); i += count) {
    const bool is_first = static_cast<int64_t>(i) < count * directions;
    const int64_t inputs = is_first ? input.size(input.dim() - 1) : directions * hidden();
    check_shape("weight_ih", given[i], {wide, inputs});
    check_shape("weight_hh", given[i + 1], of_hh);
    Weights one{input_tensor("weight_ih", given[i], input),
                input_tensor("weight_hh", given[i + 1], input),
                {},
                {},
                {}};
    if (has_biases) {
      check_shape("bias_ih", given[i + 2], {wide});
      check_shape("bias_hh", given[i + 3], {wide});
      one.bias_ih = input_tensor("bias_ih", given[i + 2], input);
      one.bias_hh = input_tensor("bias_hh", given[i + 3], input);
    }
    if (is_leaky) {
      check_shape("leak", given[i + count - 1], {hidden()});
      one.leak = input_tensor("leak", given[i + count - 1], input);
    }
    weights.push_back(std::move(one));
  }
}

ParamsWithResets Stack::params() const {
  return {
      {T, B, directions * heads, H, heads, lengths ? lengths->const_data_ptr<int64_t>() : nullptr,
       offsets ? offsets->const_data_ptr<int64_t>() : nullptr, activation_of(cell),
       dtype_of(input)},
      resets ? resets->const_data_ptr<bool>() : nullptr};
}

const void* Stack::unit_param(int64_t layer, int64_t direction) const {
  const Weights& own = of(layer, direction);
  if (own.leak) return own.leak->const_data_ptr();
  if (cell != Cell::gru || !own.bias_hh) return nullptr;
  return static_cast<const char*>(own.bias_hh->const_data_ptr()) +  // b_hn
         2 * hidden() * static_cast<int64_t>(input.element_size());
}

}  // namespace fastrnn
