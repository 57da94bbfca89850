// Registers the CPU kernels with torch through its stable ABI: checks arguments, allocates, calls.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <exception>
#include <optional>
#include <tuple>
#include <vector>

#include "../tensor_args.h"
#include "dispatch.h"
#include "flush_denormals.h"
#include "plan.h"

namespace {

using fastrnn::Cell;
using fastrnn::check_shape;
using fastrnn::input_tensor;
using fastrnn::TensorArgs;
using torch::stable::Tensor;

// Checks that packed data contains every row that the offsets name, so that no access is out of
// bounds.
void check_packed_rows(const fastrnn::ParamsWithResets& params, int64_t rows) {
  int64_t last = params.B;  // lengths descend, so the active rows of a step come first
  for (int64_t b = 1; b < params.B; ++b)
    STD_TORCH_CHECK(params.lengths[b - 1] >= params.lengths[b],
                    "fastrnn: lengths must be in descending order where offsets are given");
  for (int64_t t = 0; t < params.T; ++t) {
    while (last > 0 && !params.active(t, last - 1)) --last;
    STD_TORCH_CHECK(last == 0 || (params.offsets[t] >= 0 && params.offsets[t] <= rows - last),
                    "fastrnn: offsets name rows that the packed data does not have");
  }
}

fastrnn::cpu::Threads threads() {
  const int64_t count = torch::stable::get_num_threads();
  return {count, [count](int64_t n, const std::function<void(int64_t)>& task) {
            // torch's own wrapper reports that an exception was thrown, but loses its message.
            std::exception_ptr thrown;
            std::atomic_flag first;
            const int64_t grain = fastrnn::cpu::tasks_per_thread(n, count);
            torch::stable::parallel_for(0, n, grain, [&](int64_t begin, int64_t end) {
              try {
                const fastrnn::cpu::FlushDenormals flush;
                for (int64_t i = begin; i < end; ++i) task(i);
              } catch (...) {
                if (!first.test_and_set()) thrown = std::current_exception();
              }
            });
            if (thrown) std::rethrow_exception(thrown);
          }};
}

// An uninitialized contiguous tensor with the dtype of `like`. It bypasses the dispatcher, which
// takes longer than the work of a short call.
Tensor empty(const std::vector<int64_t>& sizes, const Tensor& like) {
  std::vector<int64_t> strides(sizes.size());
  int64_t stride = 1;
  for (size_t i = sizes.size(); i-- > 0;) {
    strides[i] = stride;
    stride *= std::max<int64_t>(sizes[i], 1);
  }
  int32_t dtype, device;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(like.get(), &dtype));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device));
  AtenTensorHandle made;
  const auto error = aoti_torch_empty_strided(static_cast<int64_t>(sizes.size()), sizes.data(),
                                              strides.data(), dtype, device, 0, &made);
  STD_TORCH_CHECK(error == TORCH_SUCCESS, "fastrnn: no memory for a result of ",
                  stride * static_cast<int64_t>(like.element_size()),
                  " bytes: ", fastrnn::torch_error_message("torch gives no reason"));
  return Tensor(made);
}

Tensor contiguous_like(const Tensor& tensor) {
  const auto sizes = tensor.sizes();
  return empty({sizes.begin(), sizes.end()}, tensor);
}

// What a result is where the cell or the call has no such tensor.
Tensor none(const Tensor& like) { return empty({0}, like); }

using Given = std::optional<Tensor>;

// A result with this shape. Packed data may have rows beyond all sequences: they are zero, as
// inactive rows are.
Tensor output(const std::vector<int64_t>& shape, const Tensor& like, bool packed) {
  Tensor output = empty(shape, like);
  if (packed) std::memset(output.mutable_data_ptr(), 0, output.numel() * output.element_size());
  return output;
}

template <class Shape>
Given optional_input(const char* name, const Given& tensor, const Shape& shape,
                     const Tensor& like) {
  if (!tensor) return {};
  const Tensor input = input_tensor(name, *tensor, like);
  check_shape(name, input, shape);
  return input;
}

const void* data_or_null(const Given& tensor) {
  return tensor ? tensor->const_data_ptr() : nullptr;
}

void* mutable_data_or_null(std::optional<Tensor>& tensor) {
  return tensor ? tensor->mutable_data_ptr() : nullptr;
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
    const fastrnn::CellTraits traits = fastrnn::traits(args.cell);
    STD_TORCH_CHECK(c0.has_value() == traits.has_c,
                    "fastrnn: c0 is for cells with a second state, which need it");
    const bool needs_unit_param = traits.has_unit_param && args.cell != Cell::gru;
    STD_TORCH_CHECK(unit_param ? traits.has_unit_param : !needs_unit_param,
                    "fastrnn: unit_param is b_hn of the GRU, or the leak of a leaky cell");
    if (offsets) check_packed_rows(args.params, data.size(0));
  }
};

// `out` may be `pre` itself for cells of one gate, and `gates` may be: the kernels read a row
// before they write it.
void forward_into(Tensor& out, Tensor& h_n, std::optional<Tensor>& c_n,
                  std::optional<Tensor>& gates, std::optional<Tensor>& inner, const Tensor& pre,
                  const SharedInputs& given) {
  fastrnn::cpu::forward(
      {{given.args.params, pre.const_data_ptr(), given.weight_hh.const_data_ptr(),
        given.h0.const_data_ptr(), out.mutable_data_ptr(), h_n.mutable_data_ptr()},
       given.args.cell,
       data_or_null(given.c0),
       data_or_null(given.unit_param),
       data_or_null(given.reset_h),
       data_or_null(given.reset_c),
       mutable_data_or_null(c_n),
       mutable_data_or_null(gates),
       mutable_data_or_null(inner)},
      threads());
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> forward(
    const Tensor& pre_, const Tensor& weight_hh, const Tensor& h0, const Given& c0,
    const Given& unit_param, const Given& lengths, const Given& offsets, const Given& resets,
    const Given& reset_h, const Given& reset_c, int64_t mode, int64_t reverse_from, bool save) {
  const Tensor pre = input_tensor("pre", pre_, pre_);
  const SharedInputs given(pre, weight_hh, h0, c0, unit_param, lengths, offsets, resets, reset_h,
                           reset_c, mode, reverse_from, /*is_pre=*/true);
  const bool packed = offsets.has_value();
  const std::vector<int64_t> shape = given.args.data_shape(pre.size(0));
  Tensor out = output(shape, pre, packed), h_n = contiguous_like(h0);
  std::optional<Tensor> c_n, gates, inner;
  if (c0) c_n = contiguous_like(h0);
  const fastrnn::CellTraits traits = fastrnn::traits(given.args.cell);
  if (save && traits.saves) {
    const auto sizes = pre.sizes();
    gates = output({sizes.begin(), sizes.end()}, pre, packed);
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
Tensor forward_out(const Tensor& pre_, const Tensor& weight_hh, const Tensor& h0, const Given& c0,
                   const Given& unit_param, const Given& lengths, const Given& offsets,
                   const Given& resets, const Given& reset_h, const Given& reset_c, int64_t mode,
                   int64_t reverse_from, Tensor out, std::optional<Tensor> c_n,
                   std::optional<Tensor> gates, std::optional<Tensor> inner) {
  const Tensor pre = input_tensor("pre", pre_, pre_);
  const SharedInputs given(pre, weight_hh, h0, c0, unit_param, lengths, offsets, resets, reset_h,
                           reset_c, mode, reverse_from, /*is_pre=*/true);
  const std::vector<int64_t> shape = given.args.data_shape(pre.size(0));
  check_output("out", out, shape, pre);
  const fastrnn::CellTraits traits = fastrnn::traits(given.args.cell);
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

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> backward(
    const Tensor& grad_out_, const Tensor& grad_h_n_, const Given& grad_c_n_, const Tensor& out_,
    const Given& gates_, const Given& inner_, const Tensor& weight_hh, const Tensor& h0,
    const Given& c0, const Given& unit_param, const Given& lengths, const Given& offsets,
    const Given& resets, const Given& reset_h, const Given& reset_c, int64_t mode,
    int64_t reverse_from) {
  const Tensor out = input_tensor("out", out_, out_);
  const SharedInputs given(out, weight_hh, h0, c0, unit_param, lengths, offsets, resets, reset_h,
                           reset_c, mode, reverse_from, /*is_pre=*/false);
  const auto& args = given.args;
  const fastrnn::CellTraits traits = fastrnn::traits(args.cell);
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
  std::optional<Tensor> grad_c0, grad_unit_param, grad_reset_h, grad_reset_c;
  if (c0) grad_c0 = contiguous_like(grad_h_n);
  if (traits.has_unit_param) grad_unit_param = output(shape, out, packed);
  if (reset_h) grad_reset_h = contiguous_like(grad_h_n);
  if (reset_c) grad_reset_c = contiguous_like(grad_h_n);
  fastrnn::cpu::backward(
      {{args.params, grad_out.const_data_ptr(), grad_h_n.const_data_ptr(), out.const_data_ptr(),
        given.weight_hh.const_data_ptr(), grad_pre.mutable_data_ptr(), grad_h0.mutable_data_ptr()},
       args.cell,
       given.h0.const_data_ptr(),
       data_or_null(given.c0),
       data_or_null(given.unit_param),
       data_or_null(given.reset_h),
       data_or_null(given.reset_c),
       data_or_null(grad_c_n),
       data_or_null(gates),
       data_or_null(inner),
       mutable_data_or_null(grad_c0),
       mutable_data_or_null(grad_unit_param),
       mutable_data_or_null(grad_reset_h),
       mutable_data_or_null(grad_reset_c)},
      threads());
  const auto given_or_none = [&](const std::optional<Tensor>& x) { return x ? *x : none(out); };
  return {grad_pre,
          grad_h0,
          given_or_none(grad_c0),
          given_or_none(grad_unit_param),
          given_or_none(grad_reset_h),
          given_or_none(grad_reset_c)};
}

Tensor linear(const Tensor& input_, const Tensor& weight_, const std::optional<Tensor>& bias_) {
  const Tensor input = input_tensor("input", input_, input_);
  const Tensor weight = input_tensor("weight", weight_, input);
  STD_TORCH_CHECK(
      input.dim() >= 1 && weight.dim() == 2 && input.size(input.dim() - 1) == weight.size(1),
      "fastrnn: linear needs input [..., K] and weight [N, K]");
  std::optional<Tensor> bias;
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
  fastrnn::cpu::linear(
      {rows, weight.size(0), weight.size(1), fastrnn::dtype_of(input), input.const_data_ptr(),
       weight.const_data_ptr(), bias ? bias->const_data_ptr() : nullptr, out.mutable_data_ptr()},
      threads());
  return out;
}

}  // namespace

// The schemas are defined in Python, fastrnn/ops/recurrence.py and linear.py.
STABLE_TORCH_LIBRARY_IMPL(fastrnn, CPU, m) {
  m.impl("recurrence", TORCH_BOX(&forward));
  m.impl("recurrence.out", TORCH_BOX(&forward_out));
  m.impl("recurrence_backward", TORCH_BOX(&backward));
  m.impl("linear", TORCH_BOX(&linear));
}
