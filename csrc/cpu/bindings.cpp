// Registers the recurrence and the linear operator on the CPU with torch, through its stable ABI:
// checks arguments, allocates, calls.
#include <tuple>

#include "host.h"

namespace fastrnn::cpu {
namespace {

Tensor contiguous_like(const Tensor& tensor) {
  const auto sizes = tensor.sizes();
  return empty(sizes, tensor);
}

// What a result is where the cell or the call has no such tensor.
Tensor none(const Tensor& like) { return empty(Shape{0}, like); }

template <class Shape>
Given optional_input(const char* name, const Given& tensor, const Shape& shape,
                     const Tensor& like) {
  if (!tensor) return {};
  const Tensor input = input_tensor(name, *tensor, like);
  check_shape(name, input, shape);
  return input;
}

// The tensors of a call that the forward and the backward share.
struct SharedInputs {
  const Tensor weight_hh, h0;
  const TensorArgs args;
  const Given c0, unit_param, reset_h, reset_c;

  SharedInputs(const Tensor& data, const Tensor& weight_hh_, const Tensor& h0_, const Given& c0_,
               const Given& unit_param_, const Given& lengths, const Given& offsets,
               const Given& resets, const Given& reset_h_, const Given& reset_c_, int64_t mode,
               int64_t reverse_from, bool is_pre)
      : weight_hh(input_tensor("weight_hh", weight_hh_, data)),
        h0(input_tensor("h0", h0_, data)),
        args(data, h0, weight_hh, lengths, offsets, resets, mode, reverse_from, is_pre),
        c0(optional_input("c0", c0_, args.state_shape(), data)),
        unit_param(optional_input("unit_param", unit_param_,
                                  std::array{args.params.G, args.params.H}, data)),
        reset_h(optional_input("reset_h", reset_h_, args.state_shape(), data)),
        reset_c(optional_input("reset_c", reset_c_, args.state_shape(), data)) {
    const CellTraits traits = fastrnn::traits(args.cell);
    STD_TORCH_CHECK(c0.has_value() == traits.has_c,
                    "fastrnn: c0 is for cells with a second state, which need it");
    const bool needs_unit_param = traits.has_unit_param && args.cell != Cell::gru;
    STD_TORCH_CHECK(unit_param ? traits.has_unit_param : !needs_unit_param,
                    "fastrnn: unit_param is b_hn of the GRU, or the leak of a leaky cell");
    if (offsets) check_packed_rows(args.params, data.size(0));
  }

  // The groups count as heads of one direction: then the states are [B, G, H].
  CellParams params() const {
    const int64_t G = args.params.G, H = args.params.H;
    return {args.params,
            args.cell,
            G,
            {0, H, G * H, H},
            {weight_hh.const_data_ptr(), nullptr},
            {data_or_null(unit_param), nullptr},
            h0.const_data_ptr(),
            data_or_null(c0),
            data_or_null(reset_h),
            data_or_null(reset_c)};
  }
};

// `out` may be `pre` itself for cells of one gate, and `gates` may be: the kernels read a row
// before they write it.
void forward_into(Tensor& out, Tensor& h_n, Given& c_n, Given& gates, Given& inner,
                  const Tensor& pre, const SharedInputs& given) {
  cpu::forward({given.params(),
                pre.const_data_ptr(),
                {},
                out.mutable_data_ptr(),
                h_n.mutable_data_ptr(),
                mutable_data_or_null(c_n),
                mutable_data_or_null(gates),
                mutable_data_or_null(inner)},
               threads());
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> run_forward(
    const Tensor& pre_, const Tensor& weight_hh, const Tensor& h0, const Given& c0,
    const Given& unit_param, const Given& lengths, const Given& offsets, const Given& resets,
    const Given& reset_h, const Given& reset_c, int64_t mode, int64_t reverse_from, bool save) {
  const Tensor pre = input_tensor("pre", pre_, pre_);
  const SharedInputs given(pre, weight_hh, h0, c0, unit_param, lengths, offsets, resets, reset_h,
                           reset_c, mode, reverse_from, /*is_pre=*/true);
  const bool packed = offsets.has_value();
  const std::vector<int64_t> shape = given.args.data_shape(pre.size(0));
  Tensor out = output(shape, pre, packed), h_n = contiguous_like(h0);
  Given c_n, gates, inner;
  if (c0) c_n = contiguous_like(h0);
  const CellTraits traits = fastrnn::traits(given.args.cell);
  if (save && traits.saves) {
    const auto sizes = pre.sizes();
    gates = output(sizes, pre, packed);
    if (traits.has_inner) inner = output(shape, pre, packed);
  }
  forward_into(out, h_n, c_n, gates, inner, pre, given);
  return {out, h_n, c_n ? *c_n : none(pre), gates ? *gates : none(pre), inner ? *inner : none(pre)};
}

// Checks a tensor that the caller has allocated for a result.
template <class Shape>
void check_output(const char* name, const Tensor& tensor, const Shape& shape, const Tensor& like) {
  check_shape(name, tensor, shape);
  STD_TORCH_CHECK(
      tensor.is_cpu() && tensor.is_contiguous() && tensor.scalar_type() == like.scalar_type(),
      "fastrnn: ", name, " must be contiguous and of pre's dtype and device");
}

// `out` may be `pre` for cells of one gate, and `gates` may be. Rows of packed data beyond all
// sequences are left unchanged.
Tensor run_forward_out(const Tensor& pre_, const Tensor& weight_hh, const Tensor& h0,
                       const Given& c0, const Given& unit_param, const Given& lengths,
                       const Given& offsets, const Given& resets, const Given& reset_h,
                       const Given& reset_c, int64_t mode, int64_t reverse_from, Tensor out,
                       Given c_n, Given gates, Given inner) {
  const Tensor pre = input_tensor("pre", pre_, pre_);
  const SharedInputs given(pre, weight_hh, h0, c0, unit_param, lengths, offsets, resets, reset_h,
                           reset_c, mode, reverse_from, /*is_pre=*/true);
  const std::vector<int64_t> shape = given.args.data_shape(pre.size(0));
  check_output("out", out, shape, pre);
  const CellTraits traits = fastrnn::traits(given.args.cell);
  STD_TORCH_CHECK(c_n.has_value() == traits.has_c, "fastrnn: c_n goes with c0");
  STD_TORCH_CHECK(!gates || traits.saves, "fastrnn: the cell saves no gates");
  STD_TORCH_CHECK(inner.has_value() == (gates && traits.has_inner),
                  "fastrnn: inner goes with the gates of a cell with an inner value");
  if (c_n) check_output("c_n", *c_n, given.args.state_shape(), pre);
  if (gates) check_output("gates", *gates, pre.sizes(), pre);
  if (inner) check_output("inner", *inner, shape, pre);
  Tensor h_n = contiguous_like(h0);
  forward_into(out, h_n, c_n, gates, inner, pre, given);
  return h_n;
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> run_backward(
    const Tensor& grad_out_, const Tensor& grad_h_n_, const Given& grad_c_n_, const Tensor& out_,
    const Given& gates_, const Given& inner_, const Tensor& weight_hh, const Tensor& h0,
    const Given& c0, const Given& unit_param, const Given& lengths, const Given& offsets,
    const Given& resets, const Given& reset_h, const Given& reset_c, int64_t mode,
    int64_t reverse_from) {
  const Tensor out = input_tensor("out", out_, out_);
  const SharedInputs given(out, weight_hh, h0, c0, unit_param, lengths, offsets, resets, reset_h,
                           reset_c, mode, reverse_from, /*is_pre=*/false);
  const auto& args = given.args;
  const CellTraits traits = fastrnn::traits(args.cell);
  const std::vector<int64_t> shape = args.data_shape(out.size(0)),
                             wide = args.data_shape(out.size(0), traits.gates);
  const auto states = args.state_shape();
  const Tensor grad_out = input_tensor("grad_out", grad_out_, out);
  const Tensor grad_h_n = input_tensor("grad_h_n", grad_h_n_, out);
  check_shape("grad_out", grad_out, shape);
  check_shape("grad_h_n", grad_h_n, states);
  const Given grad_c_n = optional_input("grad_c_n", grad_c_n_, states, out);
  const Given gates = optional_input("gates", gates_, wide, out);
  const Given inner = optional_input("inner", inner_, shape, out);
  STD_TORCH_CHECK(gates.has_value() == traits.saves && inner.has_value() == traits.has_inner,
                  "fastrnn: gates and inner must be those that the forward saved");
  const bool packed = offsets.has_value();
  Tensor grad_pre = output(wide, out, packed), grad_h0 = contiguous_like(grad_h_n);
  Given grad_c0, grad_unit_param, grad_reset_h, grad_reset_c;
  if (c0) grad_c0 = contiguous_like(grad_h_n);
  if (traits.has_unit_param) grad_unit_param = output(shape, out, packed);
  if (reset_h) grad_reset_h = contiguous_like(grad_h_n);
  if (reset_c) grad_reset_c = contiguous_like(grad_h_n);
  const int64_t G = args.params.G, H = args.params.H, K = traits.gates;
  cpu::backward({given.params(),
                 {0, K * H, G * K * H, H},
                 grad_out.const_data_ptr(),
                 grad_h_n.const_data_ptr(),
                 data_or_null(grad_c_n),
                 out.const_data_ptr(),
                 data_or_null(gates),
                 data_or_null(inner),
                 grad_pre.mutable_data_ptr(),
                 grad_h0.mutable_data_ptr(),
                 mutable_data_or_null(grad_c0),
                 mutable_data_or_null(grad_unit_param),
                 mutable_data_or_null(grad_reset_h),
                 mutable_data_or_null(grad_reset_c)},
                threads());
  const auto given_or_none = [&](const Given& x) { return x ? *x : none(out); };
  return {grad_pre,
          grad_h0,
          given_or_none(grad_c0),
          given_or_none(grad_unit_param),
          given_or_none(grad_reset_h),
          given_or_none(grad_reset_c)};
}

Tensor run_linear(const Tensor& input_, const Tensor& weight_, const Given& bias_) {
  const Tensor input = input_tensor("input", input_, input_);
  const Tensor weight = input_tensor("weight", weight_, input);
  STD_TORCH_CHECK(
      input.dim() >= 1 && weight.dim() == 2 && input.size(input.dim() - 1) == weight.size(1),
      "fastrnn: linear needs input [..., K] and weight [N, K]");
  Given bias;
  if (bias_) {
    bias = input_tensor("bias", *bias_, input);
    check_shape("bias", *bias, {weight.size(0)});
  }
  const auto given = input.sizes();
  std::vector<int64_t> sizes(given.begin(), given.end());
  int64_t rows = 1;
  for (size_t i = 0; i + 1 < sizes.size(); ++i) rows *= sizes[i];
  sizes.back() = weight.size(0);
  Tensor out = empty(sizes, input);
  cpu::linear({rows,
               weight.size(0),
               weight.size(1),
               dtype_of(input),
               1,
               {input.const_data_ptr(), nullptr},
               {weight.const_data_ptr(), nullptr},
               false,
               data_or_null(bias),
               out.mutable_data_ptr()},
              threads());
  return out;
}

}  // namespace
}  // namespace fastrnn::cpu

// The schemas are defined in Python, fastrnn/ops/recurrence.py and linear.py.
STABLE_TORCH_LIBRARY_IMPL(fastrnn, CPU, m) {
  m.impl("recurrence", TORCH_BOX(&fastrnn::cpu::run_forward));
  m.impl("recurrence.out", TORCH_BOX(&fastrnn::cpu::run_forward_out));
  m.impl("recurrence_backward", TORCH_BOX(&fastrnn::cpu::run_backward));
  m.impl("linear", TORCH_BOX(&fastrnn::cpu::run_linear));
}
