// Counts the bytes that malloc has allocated, for all callers. memory.py loads this library before
// all others with LD_PRELOAD. It needs glibc.
#include <malloc.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstddef>

extern "C" {
void* __libc_malloc(size_t);
void* __libc_calloc(size_t, size_t);
void* __libc_realloc(void*, size_t);
void* __libc_memalign(size_t, size_t);
void __libc_free(void*);
}

namespace {

std::atomic<long> allocated{0}, peak{0}, baseline{0};

void* count_allocation(void* block) {
  if (block == nullptr) return block;
  const long bytes = malloc_usable_size(block);
  const long now = allocated.fetch_add(bytes) + bytes;
  long seen = peak.load();
  while (now > seen && !peak.compare_exchange_weak(seen, now)) {}
  return block;
}

void count_free(void* block) {
  if (block != nullptr) allocated.fetch_sub(malloc_usable_size(block));
}

}  // namespace

extern "C" {

// Starts a measurement of the peak.
void malloc_hook_reset_peak() {
  baseline.store(allocated.load());
  peak.store(allocated.load());
}

// Returns the most bytes allocated at once since the start, beyond those allocated at the start.
long malloc_hook_peak() { return peak.load() - baseline.load(); }

void* malloc(size_t size) { return count_allocation(__libc_malloc(size)); }
void* calloc(size_t count, size_t size) { return count_allocation(__libc_calloc(count, size)); }
void* memalign(size_t alignment, size_t size) {
  return count_allocation(__libc_memalign(alignment, size));
}
void* aligned_alloc(size_t alignment, size_t size) { return memalign(alignment, size); }
void* valloc(size_t size) { return memalign(sysconf(_SC_PAGESIZE), size); }

int posix_memalign(void** block, size_t alignment, size_t size) {
  void* allocation = memalign(alignment, size);
  if (allocation == nullptr) return ENOMEM;
  *block = allocation;
  return 0;
}

// A block that grows in place counts as freed and allocated again.
void* realloc(void* block, size_t size) {
  const long bytes_before = block == nullptr ? 0 : malloc_usable_size(block);
  void* allocation = __libc_realloc(block, size);
  if (allocation != nullptr || size == 0) allocated.fetch_sub(bytes_before);
  return count_allocation(allocation);
}

void free(void* block) {
  count_free(block);
  __libc_free(block);
}

}  // extern "C"
