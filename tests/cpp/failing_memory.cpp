// An allocator that fails on demand, for tests/ops/backends/cpu/test_out_of_memory.py: a library for LD_PRELOAD.
// Allocations that fail are those of the extension by operator new, and those of torch for tensors.
#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <new>

namespace {

std::atomic<long> left{-1}, seen{0};

bool fails() {
  ++seen;
  return left.load() >= 0 && left.fetch_sub(1) == 0;
}

std::atomic<size_t> begin{0}, end{0};  // the addresses of the extension

bool of_the_extension(void* caller) {
  const auto address = reinterpret_cast<size_t>(caller);
  return begin <= address && address < end;
}

}  // namespace

extern "C" {

void watch(size_t first, size_t last) { begin = first, end = last; }

// Fails the allocation after `count` more; none if negative.
void fail_after(long count) { seen = 0, left = count; }
long seen_since() { return seen; }

int posix_memalign(void** block, size_t alignment, size_t size) {
  if (fails()) return ENOMEM;
  *block = std::aligned_alloc(alignment, (size + alignment - 1) / alignment * alignment);
  return *block == nullptr ? ENOMEM : 0;
}

}  // extern "C"

#define CALLER __builtin_return_address(0)

namespace {

void* get(size_t size, size_t alignment, void* caller) {
  if (of_the_extension(caller) && fails()) return nullptr;
  const size_t rounded = (size + alignment - 1) / alignment * alignment;
  return std::aligned_alloc(alignment, rounded == 0 ? alignment : rounded);
}

void* need(size_t size, size_t alignment, void* caller) {
  void* block = get(size, alignment, caller);
  if (block == nullptr) throw std::bad_alloc();
  return block;
}

constexpr size_t plain = __STDCPP_DEFAULT_NEW_ALIGNMENT__;

}  // namespace

void* operator new(size_t size) { return need(size, plain, CALLER); }
void* operator new(size_t size, std::align_val_t a) { return need(size, size_t(a), CALLER); }
void* operator new(size_t size, std::align_val_t a, const std::nothrow_t&) noexcept {
  return get(size, size_t(a), CALLER);
}
void operator delete(void* block) noexcept { std::free(block); }
void operator delete(void* block, size_t) noexcept { std::free(block); }
void operator delete(void* block, std::align_val_t) noexcept { std::free(block); }
void operator delete(void* block, size_t, std::align_val_t) noexcept { std::free(block); }
