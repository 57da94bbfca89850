// Sums of outer products over rows of data: the gradients of weights.
#pragma once

#include <vector>

#include "host.h"

namespace fastrnn::cpu {

// The elements [first, first + count) of some rows of data; a null row is 0.
struct Operand {
  const std::vector<const void*>& rows;
  int64_t first, count;
};

// out [a.count, b.count] = the sum of a_row^T b_row over all rows. The dtype is that of `like`.
void weight_product(const Operand& a, const Operand& b, const Tensor& like, void* out);

// The sum of some elements of all rows. The dtype is that of `like`.
Tensor sum_of_rows(const Operand& rows, const Tensor& like);

// Runs the tasks on torch's threads if `work`, their number of multiply-adds, is large.
template <class Task>
void run_tasks(int64_t count, int64_t work, Task task) {
  constexpr int64_t minimum = 1 << 19;
  if (work >= minimum && count > 1) return threads().run(count, task);
  for (int64_t i = 0; i < count; ++i) task(i);
}

}  // namespace fastrnn::cpu
