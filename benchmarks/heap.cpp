// Counts the bytes that malloc has handed out, of whoever asked for them: a library to be loaded
// before all others (LD_PRELOAD), as memory.py does. glibc alone.
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

std::atomic<long> held{0}, most{0}, before{0};

void* took(void* block) {
  if (block == nullptr) return block;
  const long bytes = malloc_usable_size(block);
  const long now = held.fetch_add(bytes) + bytes;
  long seen = most.load();
  while (now > seen && !most.compare_exchange_weak(seen, now)) {}
  return block;
}

void gives(void* block) {
  if (block != nullptr) held.fetch_sub(malloc_usable_size(block));
}

}  // namespace

extern "C" {

// From here on.
void heap_mark() {
  before.store(held.load());
  most.store(held.load());
}

// The most that was held at once since then, beyond what was held then.
long heap_peak() { return most.load() - before.load(); }

void* malloc(size_t size) { return took(__libc_malloc(size)); }
void* calloc(size_t count, size_t size) { return took(__libc_calloc(count, size)); }
void* memalign(size_t alignment, size_t size) { return took(__libc_memalign(alignment, size)); }
void* aligned_alloc(size_t alignment, size_t size) { return memalign(alignment, size); }
void* valloc(size_t size) { return memalign(sysconf(_SC_PAGESIZE), size); }

int posix_memalign(void** block, size_t alignment, size_t size) {
  void* found = memalign(alignment, size);
  if (found == nullptr) return ENOMEM;
  *block = found;
  return 0;
}

// A block that grows in its place has still been given back and taken.
void* realloc(void* block, size_t size) {
  const long had = block == nullptr ? 0 : malloc_usable_size(block);
  void* found = __libc_realloc(block, size);
  if (found != nullptr || size == 0) held.fetch_sub(had);
  return took(found);
}

void free(void* block) {
  gives(block);
  __libc_free(block);
}

}  // extern "C"
