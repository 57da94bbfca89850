// What the instruction sets share: the entry points each offers, the plan and the buffers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <deque>
#include <functional>
#include <new>
#include <type_traits>
#include <utility>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#include "dispatch.h"
#include "thread_team.h"

namespace fastrnn::cpu {

struct Kernels {
  void (*forward)(const Forward&, const Threads&);
  void (*backward)(const Backward&, const Threads&);
  void (*linear)(const LinearParams&, const Threads&);
};

// Becomes Python's MemoryError.
class OutOfMemory : public std::bad_alloc {
 public:
  explicit OutOfMemory(size_t bytes) {
    std::snprintf(message_, sizeof message_, "fastrnn: cannot allocate %zu bytes", bytes);
  }
  const char* what() const noexcept override { return message_; }

 private:
  char message_[64];
};

// Uninitialised memory for n elements, on a cache line.
template <class A>
struct Buffer {
  static constexpr std::align_val_t alignment{64};
  A* const data;
  explicit Buffer(int64_t n)
      : data(static_cast<A*>(::operator new(n * sizeof(A), alignment, std::nothrow))) {
    if (data == nullptr) throw OutOfMemory(n * sizeof(A));
  }
  ~Buffer() { ::operator delete(data, alignment); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
};

// How a params is cut into tasks.
struct Plan {
  bool parallel;          // worth waking the threads for
  bool parallel_packing;  // so is packing W_hh
  bool packing;           // W_hh is worth packing as a whole
  int64_t tiles;          // of batch rows, in each group
  int64_t team;           // threads that share each step of a group, rather than the batch
};

// W_hh is [G, gates * H, H].
Plan make_plan(const ParamsWithResets& params, int64_t threads, int64_t column_blocks, int64_t gates = 1);

// Says that a member of a team had to wait for a processor: for a while threads share the batch
// instead, or do not share at all.
void note_crowding();

// How the product with the input's weight is: tasks are pieces of rows and of columns.
struct LinearPlan {
  bool parallel;
  bool packing;  // the weight, as a whole, before the product
  int64_t row_parts, column_parts;
};

LinearPlan make_plan(const LinearParams& params, int64_t threads, int64_t column_blocks);

namespace baseline { extern const Kernels kernels; }
#if defined(__x86_64__)
namespace avx2 { extern const Kernels kernels; }
namespace avx512 { extern const Kernels kernels; }
#endif

}  // namespace fastrnn::cpu
