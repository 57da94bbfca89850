// What the bindings of the CPU kernels share: torch's threads and memory.
#pragma once

#include <torch/csrc/stable/library.h>

#include <atomic>
#include <cstring>
#include <exception>
#include <vector>

#include "../tensors.h"
#include "dispatch.h"
#include "flush_denormals.h"
#include "plan.h"

namespace fastrnn::cpu {

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

// A result with this shape. Packed data may have rows beyond all sequences: they are zero, as
// inactive rows are.
template <class Sizes>
Tensor output(const Sizes& shape, const Tensor& like, bool packed) {
  Tensor output = empty(shape, like);
  if (packed) std::memset(output.mutable_data_ptr(), 0, output.numel() * output.element_size());
  return output;
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
