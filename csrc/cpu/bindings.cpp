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

namespace {

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
  return {count, [](int64_t n, const std::function<void(int64_t)>& task) {
            // torch's own wrapper reports that an exception was thrown, but loses its message.
            std::exception_ptr thrown;
            std::atomic_flag first;
            torch::stable::parallel_for(0, n, 1, [&](int64_t begin, int64_t end) {
              try {
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

// Packed data may have rows beyond all sequences: they are zero, as inactive rows are.
Tensor output_like(const Tensor& tensor, bool packed) {
  Tensor output = contiguous_like(tensor);
  if (packed) std::memset(output.mutable_data_ptr(), 0, output.numel() * output.element_size());
  return output;
}

// `out` may be `pre` itself: the kernels read a row before they write it.
void forward_into(Tensor& out, Tensor& h_n, const Tensor& pre, const Tensor& weight_hh_,
                  const Tensor& h0_, const std::optional<Tensor>& lengths,
                  const std::optional<Tensor>& offsets, const std::optional<Tensor>& resets,
                  int64_t activation, int64_t reverse_from) {
  const Tensor weight_hh = input_tensor("weight_hh", weight_hh_, pre);
  const Tensor h0 = input_tensor("h0", h0_, pre);
  const TensorArgs args(pre, h0, weight_hh, lengths, offsets, resets, activation, reverse_from);
  if (offsets) check_packed_rows(args.params, pre.size(0));
  fastrnn::cpu::forward({args.params, pre.const_data_ptr(), weight_hh.const_data_ptr(),
                         h0.const_data_ptr(), out.mutable_data_ptr(), h_n.mutable_data_ptr()},
                        threads());
}

std::tuple<Tensor, Tensor> forward(const Tensor& pre_, const Tensor& weight_hh, const Tensor& h0,
                                   const std::optional<Tensor>& lengths,
                                   const std::optional<Tensor>& offsets,
                                   const std::optional<Tensor>& resets, int64_t activation,
                                   int64_t reverse_from) {
  const Tensor pre = input_tensor("pre", pre_, pre_);
  Tensor out = output_like(pre, offsets.has_value());
  Tensor h_n = contiguous_like(h0);
  forward_into(out, h_n, pre, weight_hh, h0, lengths, offsets, resets, activation, reverse_from);
  return {out, h_n};
}

// `out` may be `pre`. Rows of packed data beyond all sequences are left unchanged.
Tensor forward_out(const Tensor& pre_, const Tensor& weight_hh, const Tensor& h0,
                   const std::optional<Tensor>& lengths, const std::optional<Tensor>& offsets,
                   const std::optional<Tensor>& resets, int64_t activation, int64_t reverse_from,
                   Tensor out) {
  const Tensor pre = input_tensor("pre", pre_, pre_);
  const auto sizes = pre.sizes();
  check_shape("out", out, {sizes.begin(), sizes.end()});
  STD_TORCH_CHECK(out.is_cpu() && out.is_contiguous() && out.scalar_type() == pre.scalar_type(),
                  "fastrnn: out must be contiguous and of pre's dtype and device");
  Tensor h_n = contiguous_like(h0);
  forward_into(out, h_n, pre, weight_hh, h0, lengths, offsets, resets, activation, reverse_from);
  return h_n;
}

std::tuple<Tensor, Tensor> backward(const Tensor& grad_out_, const Tensor& grad_h_n_,
                                    const Tensor& out_, const Tensor& weight_hh_, const Tensor& h0,
                                    const std::optional<Tensor>& lengths,
                                    const std::optional<Tensor>& offsets,
                                    const std::optional<Tensor>& resets, int64_t activation,
                                    int64_t reverse_from) {
  const Tensor grad_out = input_tensor("grad_out", grad_out_, out_);
  const Tensor grad_h_n = input_tensor("grad_h_n", grad_h_n_, out_);
  const Tensor out = input_tensor("out", out_, out_);
  const Tensor weight_hh = input_tensor("weight_hh", weight_hh_, out_);
  const TensorArgs args(out, h0, weight_hh, lengths, offsets, resets, activation, reverse_from);
  if (offsets) check_packed_rows(args.params, out.size(0));
  for (const auto& [name, given, like] :
       {std::tuple{"grad_out", &grad_out, &out}, std::tuple{"grad_h_n", &grad_h_n, &h0}}) {
    const auto sizes = like->sizes();
    check_shape(name, *given, {sizes.begin(), sizes.end()});
  }
  Tensor grad_pre = output_like(out, offsets.has_value());
  Tensor grad_h0 = contiguous_like(grad_h_n);
  fastrnn::cpu::backward(
      {args.params, grad_out.const_data_ptr(), grad_h_n.const_data_ptr(), out.const_data_ptr(),
       weight_hh.const_data_ptr(), grad_pre.mutable_data_ptr(), grad_h0.mutable_data_ptr()},
      threads());
  return {grad_pre, grad_h0};
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
