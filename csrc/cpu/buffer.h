// Aligned, uninitialized memory of the kernels.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <new>

namespace fastrnn::cpu {

// Converted to Python's MemoryError.
class OutOfMemory : public std::bad_alloc {
 public:
  explicit OutOfMemory(size_t bytes) {
    std::snprintf(message_, sizeof message_, "fastrnn: cannot allocate %zu bytes", bytes);
  }
  const char* what() const noexcept override { return message_; }

 private:
  char message_[64];
};

// Uninitialized memory for n elements, aligned to a cache line.
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

}  // namespace fastrnn::cpu
