// What the instructions do that wait, or reach beyond their thread.
#include <algorithm>

#include "emulator.h"

namespace fastrnn::emulator {
namespace {

bool differ(const char* a, const char* b) { return a != b && strcmp(a, b) != 0; }

// True for the last lane to come; the others must wait.
bool meet(const char* what, uint64_t detail, const void* given, void* wanted) {
  Warp& warp = *now->warp;
  Meeting& meeting = warp.meeting;
  if (warp.left) machine->fail("%s: lanes of its warp have left", what);
  if (meeting.arrived == 0) {
    meeting.what = what;
    meeting.detail = detail;
  } else if (differ(meeting.what, what) || meeting.detail != detail) {
    machine->fail("the lanes of its warp have parted ways: this one is at %s, another at %s%s",
                  what, meeting.what, differ(meeting.what, what) ? "" : ", with another operand");
  }
  meeting.given[now->lane] = given;
  meeting.wanted[now->lane] = wanted;
  meeting.arrived |= 1u << now->lane;
  if (meeting.arrived != ~0u) return false;
  meeting.arrived = 0;
  return true;
}

void barrier_wait(const char* what, uint64_t detail, Barrier& barrier, int expected) {
  if (!meet(what, detail, nullptr, nullptr)) return machine->wait(what);
  if (barrier.waiting.empty()) barrier.expected = expected;
  if (barrier.expected != expected) {
    machine->fail("%s: it expects %d threads, the first to come expected %d", what,
                  expected * warp_lanes, barrier.expected * warp_lanes);
  }
  barrier.waiting.push_back(now->warp);
  if (static_cast<int>(barrier.waiting.size()) < expected) return machine->wait(what);
  machine->progressed();
  for (Warp* warp : barrier.waiting) machine->wake(*warp);
  // Others may be far when one of them does what it waited to do.
  if (machine->one_in(4)) {
    machine->lull(*barrier.waiting[machine->below(barrier.waiting.size())]);
  }
  barrier.waiting.clear();
  machine->sometimes_yield(4);
}

// Addresses of shared memory: the rank of the block above, so many bits of place below. No place is
// 0, which is more often a mistake than an address.
constexpr int place_bits = 24;
constexpr uint32_t first_place = 1024;
constexpr uint64_t mark = 0x7265697272616221;  // where an mbarrier stands

Block& owner(uint32_t address, bool own) {
  const auto& blocks = now->block->cluster->blocks;
  const uint32_t rank = address >> place_bits;
  if (rank >= blocks.size()) machine->fail("shared address %#x is of no block", address);
  if (own && blocks[rank].get() != now->block) {
    machine->fail("shared address %#x is another block's: the instruction takes its own only",
                  address);
  }
  if (blocks[rank]->left == blocks[rank]->threads.size()) {
    machine->fail("shared address %#x is of a block that has left", address);
  }
  return *blocks[rank];
}

Mbarrier& mbarrier_at(Block& block, uint32_t offset) {
  for (Mbarrier& mbarrier : block.mbarriers) {
    if (mbarrier.offset != offset) continue;
    if (memcmp(block.shared + offset, &mark, sizeof mark) != 0) {
      machine->fail("the mbarrier at byte %u of shared memory was written over", offset);
    }
    return mbarrier;
  }
  machine->fail("there is no mbarrier at byte %u of block %u's shared memory: not initialised",
                offset, block.rank);
}

Mbarrier& mbarrier_at(uint32_t address, bool own) {
  const unsigned char* bytes = shared_memory(address, 8, 8, own);
  Block& block = owner(address, own);
  return mbarrier_at(block, bytes - block.shared);
}

void settle(Mbarrier& mbarrier) {
  if (mbarrier.pending > 0 || mbarrier.bytes != 0) return;
  mbarrier.phase ^= 1;
  mbarrier.pending = mbarrier.arrivals;
  machine->progressed();
  auto& waiting = mbarrier.waiting;
  for (Thread* thread : waiting) machine->wake(*thread);
  if (!waiting.empty() && machine->one_in(8)) {
    machine->lull(*waiting[machine->below(waiting.size())]->warp);
  }
  waiting.clear();
}

constexpr int64_t most_of_an_mbarrier = (1 << 20) - 1;  // arrivals, and bytes

void count_bytes(Mbarrier& mbarrier, int64_t bytes) {
  mbarrier.bytes += bytes;
  if (mbarrier.bytes > most_of_an_mbarrier || mbarrier.bytes < -most_of_an_mbarrier) {
    machine->fail("the mbarrier at byte %u of shared memory counts too many bytes",
                  mbarrier.offset);
  }
}

}  // namespace

void check_mask(uint32_t mask) {
  if (mask != ~0u) machine->fail("a collective of some lanes only, mask %#x: unknown", mask);
}

void collective(const char* what, uint64_t detail, const void* given, void* wanted, Act act) {
  if (!meet(what, detail, given, wanted)) return machine->wait(what);
  if (act) act(now->warp->meeting.given, now->warp->meeting.wanted);
  machine->wake(*now->warp);
}

void warp_barrier(uint32_t mask) {
  check_mask(mask);
  collective("__syncwarp", 0, nullptr, nullptr, nullptr);
}

uint32_t ballot(uint32_t mask, bool vote) {
  check_mask(mask);
  uint32_t votes;
  collective("__ballot_sync", 0, &vote, &votes, [](const void* const* given, void* const* wanted) {
    uint32_t votes = 0;
    for (int i = 0; i < warp_lanes; ++i) {
      votes |= uint32_t{*static_cast<const bool*>(given[i])} << i;
    }
    for (int i = 0; i < warp_lanes; ++i) *static_cast<uint32_t*>(wanted[i]) = votes;
  });
  return votes;
}

void block_barrier(int id, int threads) {
  Block& block = *now->block;
  const int all = block.threads.size();
  if (id < 0 || id > 15) machine->fail("there is no barrier %d", id);
  if (id == 0) {
    if (block.left) machine->fail("__syncthreads: threads of its block have left");
    threads = all;
  }
  if (threads <= 0 || threads > all || threads % warp_lanes) {
    machine->fail("barrier %d cannot wait for %d threads of %d", id, threads, all);
  }
  const char* what = id == 0 ? "__syncthreads" : "a named barrier";
  const uint64_t detail = uint64_t(id) << 32 | uint64_t(threads);
  barrier_wait(what, detail, block.barriers[id], threads / warp_lanes);
}

void barrier_cluster() {
  Cluster& cluster = *now->block->cluster;
  for (const auto& block : cluster.blocks) {
    if (block->left) machine->fail("barrier_cluster: threads of its cluster have left");
  }
  barrier_wait("barrier_cluster", 0, cluster.barrier,
               cluster.blocks.size() * now->block->warps.size());
}

uint32_t cvta_shared(const void* pointer) {
  const Block& block = *now->block;
  const ptrdiff_t offset = static_cast<const unsigned char*>(pointer) - block.shared;
  if (offset < 0 || size_t(offset) > machine->shared_bytes()) {
    machine->fail("a pointer that does not point to its block's shared memory");
  }
  return block.rank << place_bits | (first_place + uint32_t(offset));
}

uint32_t mapa(uint32_t address, uint32_t rank) {
  if (rank >= now->block->cluster->blocks.size()) {
    machine->fail("block %u of a cluster of %zu", rank, now->block->cluster->blocks.size());
  }
  return rank << place_bits | (address & ((1u << place_bits) - 1));
}

unsigned char* shared_memory(uint32_t address, size_t bytes, size_t alignment, bool own) {
  Block& block = owner(address, own);
  const uint32_t place = address & ((1u << place_bits) - 1);
  if (place < first_place || place - first_place + bytes > machine->shared_bytes()) {
    machine->fail("%zu bytes at byte %d of shared memory: it ends at byte %zu", bytes,
                  int(place - first_place), machine->shared_bytes());
  }
  if (place % alignment) {
    machine->fail("byte %u of shared memory is not at a multiple of %zu", place - first_place,
                  alignment);
  }
  return block.shared + (place - first_place);
}

void mbarrier_init(uint32_t address, uint32_t arrivals) {
  const uint32_t offset = shared_memory(address, 8, 8, true) - now->block->shared;
  if (arrivals < 1 || arrivals > most_of_an_mbarrier) {
    machine->fail("an mbarrier of %u arrivals", arrivals);
  }
  for (const Mbarrier& mbarrier : now->block->mbarriers) {
    if (mbarrier.offset == offset) machine->fail("an mbarrier initialised twice");
  }
  memcpy(now->block->shared + offset, &mark, sizeof mark);
  now->block->mbarriers.push_back(
      {offset, now, false, int(arrivals), int(arrivals), 0, 0, {}});
}

void fence_mbarrier_init() {
  for (Mbarrier& mbarrier : now->block->mbarriers) {
    if (mbarrier.initialised_by == now) mbarrier.fenced = true;
  }
}

void mbarrier_arrive(uint32_t address, uint32_t bytes) {
  machine->sometimes_yield(8);
  Mbarrier& mbarrier = mbarrier_at(address, true);
  if (mbarrier.pending == 0) {
    machine->fail("mbarrier at byte %u of shared memory: one arrival too many", mbarrier.offset);
  }
  count_bytes(mbarrier, bytes);
  --mbarrier.pending;
  settle(mbarrier);
}

void mbarrier_wait(uint32_t address, uint32_t parity) {
  if (parity > 1) machine->fail("mbarrier_wait: parity %u", parity);
  machine->sometimes_yield(4);
  // Looked up again each time: another thread may have initialised one more.
  while (mbarrier_at(address, true).phase == parity) {
    mbarrier_at(address, true).waiting.push_back(now);
    machine->wait("mbarrier_wait");
  }
}

void st_async(uint32_t to, uint32_t mbarrier, uint32_t x, uint32_t y) {
  unsigned char* const target = shared_memory(to, 8, 8, false);
  Block& block = owner(to, false);
  const unsigned char* const counter = shared_memory(mbarrier, 8, 8, false);
  if (&owner(mbarrier, false) != &block) {
    machine->fail("st_async: its mbarrier is in another block than what it stores");
  }
  machine->send({&block, target, {x, y}, 8, uint32_t(counter - block.shared), now});
}

void mbarrier_landed(const Store& store) {
  Mbarrier& mbarrier = mbarrier_at(*store.block, store.mbarrier);
  if (!mbarrier.fenced && store.from->block != store.block) {
    machine->fail("a store from another block before fence_mbarrier_init");
  }
  count_bytes(mbarrier, -int64_t{store.bytes});
  settle(mbarrier);
}

namespace {

void perform(const Copy& copy) {
  if (copy.from) {
    memcpy(copy.to, copy.from, copy.bytes);
  } else {
    memset(copy.to, 0, copy.bytes);
  }
}

// Some of this thread's copies come before they must.
void perform_some() {
  auto& copies = now->copies;
  while (!copies.empty() && machine->one_in(3)) {
    std::swap(copies[machine->below(copies.size())], copies.back());
    perform(copies.back());
    copies.pop_back();
  }
}

}  // namespace

void cp_async(uint32_t to, const void* from, size_t bytes, bool real) {
  unsigned char* const target = shared_memory(to, bytes, bytes, true);
  if (reinterpret_cast<uintptr_t>(from) % bytes) {
    machine->fail("cp_async: %p is not at a multiple of %zu", from, bytes);
  }
  if (real) {  // a read out of bounds is to be seen where it is asked for
    static_cast<void>(*static_cast<const volatile unsigned char*>(from));
    static_cast<void>(static_cast<const volatile unsigned char*>(from)[bytes - 1]);
  }
  now->copies.push_back({target, real ? from : nullptr, bytes, now->copy_group});
  perform_some();
}

void cp_async_commit() {
  ++now->copy_group;
  perform_some();
}

void cp_async_wait(uint64_t pending) {
  auto& copies = now->copies;
  const auto first = std::partition(copies.begin(), copies.end(), [=](const Copy& copy) {
    return copy.group + pending >= now->copy_group;
  });
  std::for_each(first, copies.end(), perform);
  copies.erase(first, copies.end());
  machine->sometimes_yield(16);
}

void ld_relaxed(const void* from, void* words, size_t bytes) {
  if (reinterpret_cast<uintptr_t>(from) % bytes) {
    machine->fail("ld_relaxed: %p is not at a multiple of %zu", from, bytes);
  }
  machine->poll(from);
  machine->land_own(from, bytes);
  memcpy(words, from, bytes);
}

void st_relaxed(void* to, const uint32_t* words, int count) {
  if (reinterpret_cast<uintptr_t>(to) % (4 * count)) {
    machine->fail("st_relaxed: %p is not at a multiple of %d", to, 4 * count);
  }
  auto* const bytes = static_cast<unsigned char*>(to);
  for (int i = 0; i < count; ++i) {
    // Now, while it can be seen who stores out of bounds.
    static_cast<void>(*reinterpret_cast<volatile uint32_t*>(bytes + 4 * i));
    machine->send({nullptr, bytes + 4 * i, {words[i], 0}, 4, 0, now});
  }
}

}  // namespace fastrnn::emulator
