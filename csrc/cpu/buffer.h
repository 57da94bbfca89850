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

// A thread's memory for the small buffers of a call: calls of the allocator would take as long as
// the work of a short call. It is free again when no buffer is left.
class Arena {
 public:
  // Memory for so many bytes; null if there is not enough.
  void* take(size_t bytes) {
    const size_t lines = bytes / 64 * 64 + 64;  // more than 0, so that each buffer is within
    if (lines > size - used_) return nullptr;
    void* const taken = memory_ + used_;
    used_ += lines;
    ++buffers_;
    return taken;
  }

  // Returns memory that this thread took.
  void give_back() {
    if (--buffers_ == 0) used_ = 0;
  }

  bool contains(const void* data) const { return memory_ <= data && data < memory_ + size; }

  static Arena& of_this_thread() {
    static constinit thread_local Arena arena;
    return arena;
  }

 private:
  static constexpr size_t size = 1 << 15;
  alignas(64) char memory_[size] = {};
  size_t used_ = 0, buffers_ = 0;
};

// Uninitialized memory for n elements, aligned to a cache line. The thread that made a buffer
// destroys it.
template <class A>
struct Buffer {
  static constexpr std::align_val_t alignment{64};
  A* const data;

  explicit Buffer(int64_t n) : data(static_cast<A*>(allocate(n * sizeof(A)))) {}
  ~Buffer() {
    Arena& arena = Arena::of_this_thread();
    arena.contains(data) ? arena.give_back() : ::operator delete(data, alignment);
  }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

 private:
  static void* allocate(size_t bytes) {
    void* data = Arena::of_this_thread().take(bytes);
    if (data == nullptr) data = ::operator new(bytes, alignment, std::nothrow);
    if (data == nullptr) throw OutOfMemory(bytes);
    return data;
  }
};

}  // namespace fastrnn::cpu
