// Registers the CPU kernels with torch, through its stable ABI. Checks once, allocates, calls.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "cpu.h"

namespace {

using fastrnn::Activation;
using fastrnn::DType;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

DType dtype_of(const Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case ScalarType::Double: return DType::float64;
    case ScalarType::Float: return DType::float32;
    case ScalarType::BFloat16: return DType::bfloat16;
    case ScalarType::Half: return DType::float16;
    default: STD_TORCH_CHECK(false, "fastrnn: the dtype must be float64, float32, bfloat16 or float16");
  }
}

void check_shape(const char* name, const Tensor& tensor, const std::vector<int64_t>& shape) {
  bool fits = tensor.dim() == static_cast<int64_t>(shape.size());
  for (size_t i = 0; fits && i < shape.size(); ++i) fits = tensor.size(i) == shape[i];
  STD_TORCH_CHECK(fits, "fastrnn: ", name, " has the wrong shape");
}

// A tensor the kernels can read: contiguous, on the CPU, of the problem's dtype.
Tensor readable(const char* name, const Tensor& tensor, ScalarType dtype) {
  STD_TORCH_CHECK(tensor.is_cpu(), "fastrnn: ", name, " must be on the CPU");
  STD_TORCH_CHECK(tensor.scalar_type() == dtype, "fastrnn: ", name, " has the wrong dtype");
  return torch::stable::contiguous(tensor);
}

// The problem's sizes, and lengths and offsets as int64, which it keeps alive.
struct Setup {
  fastrnn::Problem problem;
  std::optional<Tensor> lengths, offsets;

  Setup(const Tensor& data, const Tensor& h0, const Tensor& weight_hh,
        const std::optional<Tensor>& lengths_, const std::optional<Tensor>& offsets_,
        const std::string& activation, int64_t reverse_from) {
    STD_TORCH_CHECK(h0.dim() == 3, "fastrnn: h0 must be [B, G, H]");
    const int64_t B = h0.size(0), G = h0.size(1), H = h0.size(2);
    STD_TORCH_CHECK(activation == "tanh" || activation == "relu",
                    "fastrnn: activation must be 'tanh' or 'relu', got '", activation, "'");
    STD_TORCH_CHECK(!offsets_ || lengths_, "fastrnn: offsets need lengths beside them");
    if (lengths_) lengths = indices("lengths", *lengths_, B);
    if (offsets_) offsets = indices("offsets", *offsets_, offsets_->numel());
    const int64_t T = offsets ? offsets->numel() : data.size(0);
    check_shape("weight_hh", weight_hh, {G, H, H});
    if (offsets) {
      check_shape("pre", data, {data.size(0), G, H});
    } else {
      check_shape("pre", data, {T, B, G, H});
    }
    problem = {T,
               B,
               G,
               H,
               reverse_from,
               lengths ? lengths->const_data_ptr<int64_t>() : nullptr,
               offsets ? offsets->const_data_ptr<int64_t>() : nullptr,
               activation == "tanh" ? Activation::tanh : Activation::relu,
               dtype_of(data)};
    if (offsets) check_rows(data.size(0));
  }

  static Tensor indices(const char* name, const Tensor& tensor, int64_t size) {
    STD_TORCH_CHECK(tensor.is_cpu(), "fastrnn: ", name, " must be on the CPU");
    check_shape(name, tensor, {size});
    return torch::stable::contiguous(torch::stable::to(tensor, ScalarType::Long));
  }

  // Every row that packed data is asked for must be there: nothing may be read or written outside.
  void check_rows(int64_t rows) const {
    int64_t last = problem.B;  // lengths descend, so the active rows of a step come first
    for (int64_t b = 1; b < problem.B; ++b)
      STD_TORCH_CHECK(problem.lengths[b - 1] >= problem.lengths[b],
                      "fastrnn: lengths must be in descending order where offsets are given");
    for (int64_t t = 0; t < problem.T; ++t) {
      while (last > 0 && !problem.active(t, last - 1)) --last;
      STD_TORCH_CHECK(last == 0 || (problem.offsets[t] >= 0 && problem.offsets[t] <= rows - last),
                      "fastrnn: offsets name rows that the packed data does not have");
    }
  }
};

fastrnn::cpu::Threads threads() {
  const int64_t count = torch::stable::get_num_threads();
  return {count, [](int64_t n, const std::function<void(int64_t)>& task) {
            torch::stable::parallel_for(0, n, 1, [&](int64_t begin, int64_t end) {
              for (int64_t i = begin; i < end; ++i) task(i);
            });
          }};
}

Tensor contiguous_like(const Tensor& tensor) {
  return torch::stable::new_empty(tensor, tensor.sizes());
}

// Packed data may have rows that no step names: they are zero, as inactive rows are.
Tensor output_like(const Tensor& tensor, bool packed) {
  Tensor output = torch::stable::empty_like(tensor);
  if (packed) torch::stable::zero_(output);
  return output;
}

// `out` may be `pre` itself: the kernels read a row before they write it.
void forward_into(Tensor& out, Tensor& h_n, const Tensor& pre, const Tensor& weight_hh_,
                  const Tensor& h0_, const std::optional<Tensor>& lengths,
                  const std::optional<Tensor>& offsets, const std::string& activation,
                  int64_t reverse_from) {
  const Tensor weight_hh = readable("weight_hh", weight_hh_, pre.scalar_type());
  const Tensor h0 = readable("h0", h0_, pre.scalar_type());
  const Setup setup(pre, h0, weight_hh, lengths, offsets, activation, reverse_from);
  fastrnn::cpu::forward({setup.problem, pre.const_data_ptr(), weight_hh.const_data_ptr(),
                         h0.const_data_ptr(), out.mutable_data_ptr(), h_n.mutable_data_ptr()},
                        threads());
}

std::tuple<Tensor, Tensor> forward(const Tensor& pre_, const Tensor& weight_hh, const Tensor& h0,
                                   const std::optional<Tensor>& lengths,
                                   const std::optional<Tensor>& offsets,
                                   const std::string& activation, int64_t reverse_from) {
  const Tensor pre = readable("pre", pre_, pre_.scalar_type());
  Tensor out = output_like(pre, offsets.has_value());
  Tensor h_n = contiguous_like(h0);
  forward_into(out, h_n, pre, weight_hh, h0, lengths, offsets, activation, reverse_from);
  return {out, h_n};
}

Tensor forward_(Tensor pre, const Tensor& weight_hh, const Tensor& h0,
                const std::optional<Tensor>& lengths, const std::string& activation,
                int64_t reverse_from) {
  STD_TORCH_CHECK(pre.is_cpu() && pre.is_contiguous(), "fastrnn: pre must be contiguous");
  Tensor h_n = contiguous_like(h0);
  forward_into(pre, h_n, pre, weight_hh, h0, lengths, std::nullopt, activation, reverse_from);
  return h_n;
}

std::tuple<Tensor, Tensor> backward(const Tensor& grad_out_, const Tensor& grad_h_n_,
                                    const Tensor& out_, const Tensor& weight_hh_, const Tensor& h0,
                                    const std::optional<Tensor>& lengths,
                                    const std::optional<Tensor>& offsets,
                                    const std::string& activation, int64_t reverse_from) {
  const ScalarType dtype = out_.scalar_type();
  const Tensor grad_out = readable("grad_out", grad_out_, dtype);
  const Tensor grad_h_n = readable("grad_h_n", grad_h_n_, dtype);
  const Tensor out = readable("out", out_, dtype);
  const Tensor weight_hh = readable("weight_hh", weight_hh_, dtype);
  const Setup setup(out, h0, weight_hh, lengths, offsets, activation, reverse_from);
  for (const auto& [name, given, like] : {std::tuple{"grad_out", &grad_out, &out},
                                          std::tuple{"grad_h_n", &grad_h_n, &h0}}) {
    const auto sizes = like->sizes();
    check_shape(name, *given, {sizes.begin(), sizes.end()});
  }
  Tensor grad_pre = output_like(out, offsets.has_value());
  Tensor grad_h0 = torch::stable::empty_like(grad_h_n);
  fastrnn::cpu::backward({setup.problem, grad_out.const_data_ptr(), grad_h_n.const_data_ptr(),
                          out.const_data_ptr(), weight_hh.const_data_ptr(),
                          grad_pre.mutable_data_ptr(), grad_h0.mutable_data_ptr()},
                         threads());
  return {grad_pre, grad_h0};
}

}  // namespace

// The schemas are defined in Python, fastrnn/ops/recurrence.py.
STABLE_TORCH_LIBRARY_IMPL(fastrnn, CPU, m) {
  m.impl("recurrence", TORCH_BOX(&forward));
  m.impl("recurrence_", TORCH_BOX(&forward_));
  m.impl("recurrence_backward", TORCH_BOX(&backward));
}
