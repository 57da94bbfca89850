// Checks the tensor arguments of the operators and converts them to Params, for the bindings of
// both devices. Tensors are those of torch's stable ABI.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <array>
#include <initializer_list>
#include <optional>
#include <stdexcept>
#include <vector>

#include "params.h"

// Weak: torch has it from 2.13 on.
extern "C" __attribute__((weak)) const char* torch_exception_get_what_without_backtrace();

namespace fastrnn {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline DType dtype_of(const Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case ScalarType::Double: return DType::float64;
    case ScalarType::Float: return DType::float32;
    case ScalarType::BFloat16: return DType::bfloat16;
    case ScalarType::Half: return DType::float16;
    default:
      STD_TORCH_CHECK(false, "fastrnn: the dtype must be float64, float32, bfloat16 or float16");
  }
}

template <class Shape>
void check_shape(const char* name, const Tensor& tensor, const Shape& shape) {
  bool fits = tensor.dim() == static_cast<int64_t>(shape.size());
  int64_t i = 0;
  for (const int64_t size : shape) fits = fits && tensor.size(i++) == size;
  STD_TORCH_CHECK(fits, "fastrnn: ", name, " has the wrong shape");
}

// A shape that is written at the call.
inline void check_shape(const char* name, const Tensor& tensor,
                        std::initializer_list<int64_t> shape) {
  check_shape<std::initializer_list<int64_t>>(name, tensor, shape);
}

inline void check_device(const char* name, const Tensor& tensor, const Tensor& like) {
  STD_TORCH_CHECK(tensor.device() == like.device(), "fastrnn: ", name, " must be on ",
                  like.is_cpu() ? "the CPU" : "the device of the others");
}

// The message of torch's last error in this thread, if torch provides it.
inline const char* torch_error_message(const char* otherwise) {
  if (torch_exception_get_what_without_backtrace == nullptr) return otherwise;
  const char* reason = torch_exception_get_what_without_backtrace();
  return reason == nullptr || *reason == '\0' ? otherwise : reason;
}

// Errors of the stable ABI contain the line of the call but not torch's message: this adds it.
template <class Make> Tensor with_reason(const char* what, Make make) {
  try {
    return make();
  } catch (const std::runtime_error& error) {
    STD_TORCH_CHECK(false, "fastrnn: ", what, ": ", torch_error_message(error.what()));
  }
}

inline Tensor contiguous(const char* name, const Tensor& tensor) {
  // A call of the dispatcher takes longer than a short recurrence.
  if (tensor.is_contiguous()) return tensor;
  return with_reason(name, [&] { return torch::stable::contiguous(tensor); });
}

// Checks that an input has the device and dtype of `like`, and makes it contiguous.
inline Tensor input_tensor(const char* name, const Tensor& tensor, const Tensor& like) {
  check_device(name, tensor, like);
  STD_TORCH_CHECK(tensor.scalar_type() == like.scalar_type(), "fastrnn: ", name,
                  " has the wrong dtype");
  return contiguous(name, tensor);
}

// Checks `lengths` or `offsets`, and converts them to int64.
inline Tensor index_tensor(const char* name, const Tensor& tensor, int64_t size,
                           const Tensor& like) {
  check_device(name, tensor, like);
  check_shape(name, tensor, {size});
  return contiguous(name,
                    with_reason(name, [&] { return torch::stable::to(tensor, ScalarType::Long); }));
}

// Checks `resets`, for data with `rows` rows: [T, B], or [N] if it is packed.
inline Tensor reset_tensor(const Tensor& tensor, int64_t T, int64_t B, int64_t rows, bool packed,
                           const Tensor& like) {
  check_device("resets", tensor, like);
  if (packed) {
    check_shape("resets", tensor, {rows});
  } else {
    check_shape("resets", tensor, {T, B});
  }
  STD_TORCH_CHECK(tensor.scalar_type() == ScalarType::Bool, "fastrnn: resets must be bool");
  return contiguous("resets", tensor);
}

// The parameters of a call, and the int64 and bool tensors that they point to.
struct TensorArgs {
  ParamsWithResets params;
  Cell cell;
  std::optional<Tensor> lengths, offsets, resets;

  // `data`: pre, or out.
  TensorArgs(const Tensor& data, const Tensor& h0, const Tensor& weight_hh,
             const std::optional<Tensor>& lengths_, const std::optional<Tensor>& offsets_,
             const std::optional<Tensor>& resets_, int64_t mode, int64_t reverse_from,
             bool is_pre) {
    STD_TORCH_CHECK(h0.dim() == 3, "fastrnn: h0 must be [B, G, H]");
    const int64_t B = h0.size(0), G = h0.size(1), H = h0.size(2);
    STD_TORCH_CHECK(mode >= 0 && mode <= int64_t(Cell::leaky_pre_relu),
                    "fastrnn: there is no cell ", mode);
    cell = Cell(mode);
    const int64_t K = traits(cell).gates, width = is_pre ? K : 1;
    STD_TORCH_CHECK(!offsets_ || lengths_, "fastrnn: offsets require lengths");
    if (lengths_) lengths = index_tensor("lengths", *lengths_, B, data);
    if (offsets_) offsets = index_tensor("offsets", *offsets_, offsets_->numel(), data);
    const int64_t T = offsets ? offsets->numel() : data.size(0);
    check_shape("weight_hh", weight_hh, {G, K * H, H});
    if (offsets) {
      check_shape(is_pre ? "pre" : "out", data, {data.size(0), G, width * H});
    } else {
      check_shape(is_pre ? "pre" : "out", data, {T, B, G, width * H});
    }
    if (resets_) resets = reset_tensor(*resets_, T, B, data.size(0), offsets.has_value(), data);
    params = {{T, B, G, H, reverse_from, lengths ? lengths->const_data_ptr<int64_t>() : nullptr,
               offsets ? offsets->const_data_ptr<int64_t>() : nullptr, activation_of(cell),
               dtype_of(data)},
              resets ? resets->const_data_ptr<bool>() : nullptr};
  }

  // The shape of `data` with `width` * H numbers per row and group, given its rows.
  std::vector<int64_t> data_shape(int64_t rows, int64_t width = 1) const {
    if (offsets) return {rows, params.G, width * params.H};
    return {params.T, params.B, params.G, width * params.H};
  }

  std::array<int64_t, 3> state_shape() const { return {params.B, params.G, params.H}; }
};

}  // namespace fastrnn
