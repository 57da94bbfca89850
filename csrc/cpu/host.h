// What the bindings of the CPU kernels share: torch's threads and memory.
#pragma once

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <exception>
#include <initializer_list>
#include <optional>
#include <vector>

#include "../tensor_args.h"
#include "dispatch.h"
#include "flush_denormals.h"
#include "plan.h"

namespace fastrnn::cpu {

using Given = std::optional<Tensor>;

// torch's threads.
inline Threads threads() {
  const int64_t count = torch::stable::get_num_threads();
  return {count, [count](int64_t n, const std::function<void(int64_t)>& task) {
            // torch's own wrapper reports that an exception was thrown, but loses its message.
            std::exception_ptr thrown;
            std::atomic_flag first;
            const int64_t grain = tasks_per_thread(n, count);
            torch::stable::parallel_for(0, n, grain, [&](int64_t begin, int64_t end) {
              try {
                const FlushDenormals flush;
                for (int64_t i = begin; i < end; ++i) task(i);
              } catch (...) {
                if (!first.test_and_set()) thrown = std::current_exception();
              }
            });
            if (thrown) std::rethrow_exception(thrown);
          }};
}

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

// An uninitialized contiguous tensor with the dtype of `like`. It bypasses the dispatcher, which
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
  int32_t dtype, device;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(like.get(), &dtype));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device));
  AtenTensorHandle made;
  const auto error = aoti_torch_empty_strided(static_cast<int64_t>(sizes.size()), sizes.data(),
                                              strides.data(), dtype, device, 0, &made);
  STD_TORCH_CHECK(error == TORCH_SUCCESS, "fastrnn: no memory for a result of ",
                  stride * static_cast<int64_t>(like.element_size()),
                  " bytes: ", torch_error_message("torch gives no reason"));
  return Tensor(made);
}

// A result with this shape. Packed data may have rows beyond all sequences: they are zero, as
// inactive rows are.
template <class Sizes>
Tensor output(const Sizes& shape, const Tensor& like, bool packed) {
  Tensor output = empty(shape, like);
  if (packed) std::memset(output.mutable_data_ptr(), 0, output.numel() * output.element_size());
  return output;
}

inline const void* data_or_null(const Given& tensor) {
  return tensor ? tensor->const_data_ptr() : nullptr;
}

inline void* mutable_data_or_null(Given& tensor) {
  return tensor ? tensor->mutable_data_ptr() : nullptr;
}

// Checks that packed data contains every row that the offsets name, so that no access is out of
// bounds.
inline void check_packed_rows(const ParamsWithResets& params, int64_t rows) {
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

}  // namespace fastrnn::cpu
