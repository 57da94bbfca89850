// Tensors of torch's stable ABI, for the bindings of both devices: shapes, new tensors, and those that
// a call may lack.
#pragma once

#include <algorithm>
#include <array>
#include <initializer_list>
#include <optional>

#include "tensor_args.h"

namespace fastrnn {

using Given = std::optional<Tensor>;

// Up to four sizes, without an allocation.
class Shape {
 public:
  Shape(std::initializer_list<int64_t> sizes) : dim_(sizes.size()) {
    std::copy(sizes.begin(), sizes.end(), sizes_.begin());
  }
  size_t size() const { return dim_; }
  const int64_t* data() const { return sizes_.data(); }
  const int64_t* begin() const { return data(); }
  const int64_t* end() const { return data() + dim_; }

 private:
  std::array<int64_t, 4> sizes_;
  size_t dim_;
};

// An uninitialized contiguous tensor with the dtype and device of `like`. It bypasses the dispatcher, which
// takes longer than the work of a short call.
template <class Sizes>
Tensor empty(const Sizes& sizes, const Tensor& like) {
  constexpr size_t most = 64;  // dimensions of a tensor
  std::array<int64_t, most> strides;
  int64_t stride = 1;
  for (size_t i = sizes.size(); i-- > 0;) {
    strides[i] = stride;
    stride *= std::max<int64_t>(sizes.data()[i], 1);
  }
  int32_t dtype, device, index;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(like.get(), &dtype));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(like.get(), &index));
  AtenTensorHandle made;
  const auto error = aoti_torch_empty_strided(static_cast<int64_t>(sizes.size()), sizes.data(),
                                              strides.data(), dtype, device, index, &made);
  STD_TORCH_CHECK(error == TORCH_SUCCESS, "fastrnn: no memory for a result of ",
                  stride * static_cast<int64_t>(like.element_size()),
                  " bytes: ", torch_error_message("torch gives no reason"));
  return Tensor(made);
}

inline const void* data_or_null(const Given& tensor) {
  return tensor ? tensor->const_data_ptr() : nullptr;
}

inline void* mutable_data_or_null(Given& tensor) {
  return tensor ? tensor->mutable_data_ptr() : nullptr;
}

}  // namespace fastrnn
