// The instructions that wait or access memory of other threads.
#include <algorithm>

#include "emulator.h"

namespace fastrnn::emulator {
namespace {

bool differ(const char* a, const char* b) { return a != b && strcmp(a, b) != 0; }

// Returns true for the last lane to arrive; the others must wait.
bool arrive(const char* what, uint64_t detail, const void* inputs, void* outputs) {
  Warp& warp = *current->warp;
  Rendezvous& rendezvous = warp.rendezvous;
  if (warp.exited) machine->fail("%s: lanes of its warp have exited", what);
  if (rendezvous.arrived == 0) {
    rendezvous.what = what;
    rendezvous.detail = detail;
  } else if (differ(rendezvous.what, what) || rendezvous.detail != detail) {
    machine->fail("the lanes of its warp have diverged: this one is at %s, another at %s%s", what,
                  rendezvous.what, differ(rendezvous.what, what) ? "" : ", with another operand");
  }
  rendezvous.inputs[current->lane] = inputs;
  rendezvous.outputs[current->lane] = outputs;
  rendezvous.arrived |= 1u << current->lane;
  if (rendezvous.arrived != ~0u) return false;
  rendezvous.arrived = 0;
  return true;
}

void barrier_wait(const char* what, uint64_t detail, Barrier& barrier, int expected) {
  if (!arrive(what, detail, nullptr, nullptr)) return machine->wait(what);
  if (barrier.waiting.empty()) barrier.expected = expected;
  if (barrier.expected != expected) {
    machine->fail("%s: it expects %d threads, the first to arrive expected %d", what,
                  expected * warp_lanes, barrier.expected * warp_lanes);
  }
  barrier.waiting.push_back(current->warp);
  if (static_cast<int>(barrier.waiting.size()) < expected) return machine->wait(what);
  machine->progressed();
  for (Warp* warp : barrier.waiting) machine->wake(*warp);
  // Others may run far ahead before one of them continues.
  if (machine->one_in(4)) {
    machine->delay(*barrier.waiting[machine->below(barrier.waiting.size())]);
  }
  barrier.waiting.clear();
  machine->sometimes_yield(4);
}

// Addresses of shared memory: the block's rank in the high bits, the offset in the low bits.
// Offsets do not begin at 0, which is more likely a mistake than an address.
constexpr int offset_bits = 24;
constexpr uint32_t first_offset = 1024;
constexpr uint64_t sentinel = 0x7265697272616221;  // in place of an mbarrier

Block& owner(uint32_t address, bool own) {
  const auto& blocks = current->block->cluster->blocks;
  const uint32_t rank = address >> offset_bits;
  if (rank >= blocks.size()) machine->fail("shared address %#x is in no block", address);
  if (own && blocks[rank].get() != current->block) {
    machine->fail("shared address %#x is in another block: the instruction requires its own",
                  address);
  }
  if (blocks[rank]->exited == blocks[rank]->threads.size()) {
    machine->fail("shared address %#x is in a block that has exited", address);
  }
  return *blocks[rank];
}

Mbarrier& mbarrier_at(Block& block, uint32_t offset) {
  for (Mbarrier& mbarrier : block.mbarriers) {
    if (mbarrier.offset != offset) continue;
    if (memcmp(block.shared + offset, &sentinel, sizeof sentinel) != 0) {
      machine->fail("the mbarrier at byte %u of shared memory was overwritten", offset);
    }
    return mbarrier;
  }
  machine->fail("the mbarrier at byte %u of block %u's shared memory is not initialised", offset,
                block.rank);
}

Mbarrier& mbarrier_at(uint32_t address, bool own) {
  const unsigned char* bytes = shared_memory(address, 8, 8, own);
  Block& block = owner(address, own);
  return mbarrier_at(block, bytes - block.shared);
}

void complete_phase(Mbarrier& mbarrier) {
  if (mbarrier.pending > 0 || mbarrier.bytes != 0) return;
  mbarrier.phase ^= 1;
  mbarrier.pending = mbarrier.arrivals;
  machine->progressed();
  auto& waiting = mbarrier.waiting;
  for (Thread* thread : waiting) machine->wake(*thread);
  if (!waiting.empty() && machine->one_in(8)) {
    machine->delay(*waiting[machine->below(waiting.size())]->warp);
  }
  waiting.clear();
}

constexpr int64_t mbarrier_limit = (1 << 20) - 1;  // of arrivals and of bytes

void count_bytes(Mbarrier& mbarrier, int64_t bytes) {
  mbarrier.bytes += bytes;
  if (mbarrier.bytes > mbarrier_limit || mbarrier.bytes < -mbarrier_limit) {
    machine->fail("the mbarrier at byte %u of shared memory expects too many bytes",
                  mbarrier.offset);
  }
}

}  // namespace

void check_mask(uint32_t mask) {
  if (mask != ~0u)
    machine->fail("collectives of a part of the lanes, mask %#x, are not supported", mask);
}

void collective(const char* what, uint64_t detail, const void* inputs, void* outputs,
                Action action) {
  if (!arrive(what, detail, inputs, outputs)) return machine->wait(what);
  if (action) action(current->warp->rendezvous.inputs, current->warp->rendezvous.outputs);
  machine->wake(*current->warp);
}

void warp_barrier(uint32_t mask) {
  check_mask(mask);
  collective("__syncwarp", 0, nullptr, nullptr, nullptr);
}

uint32_t ballot(uint32_t mask, bool vote) {
  check_mask(mask);
  uint32_t votes;
  collective("__ballot_sync", 0, &vote, &votes,
             [](const void* const* inputs, void* const* outputs) {
               uint32_t votes = 0;
               for (int i = 0; i < warp_lanes; ++i) {
                 votes |= uint32_t{*static_cast<const bool*>(inputs[i])} << i;
               }
               for (int i = 0; i < warp_lanes; ++i) *static_cast<uint32_t*>(outputs[i]) = votes;
             });
  return votes;
}

void block_barrier(int id, int threads) {
  Block& block = *current->block;
  const int all = block.threads.size();
  if (id < 0 || id > 15) machine->fail("there is no barrier %d", id);
  if (id == 0) {
    if (block.exited) machine->fail("__syncthreads: threads of its block have exited");
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
  Cluster& cluster = *current->block->cluster;
  for (const auto& block : cluster.blocks) {
    if (block->exited) machine->fail("barrier_cluster: threads of its cluster have exited");
  }
  barrier_wait("barrier_cluster", 0, cluster.barrier,
               cluster.blocks.size() * current->block->warps.size());
}

uint32_t cvta_shared(const void* pointer) {
  const Block& block = *current->block;
  const ptrdiff_t offset = static_cast<const unsigned char*>(pointer) - block.shared;
  if (offset < 0 || size_t(offset) > machine->shared_bytes()) {
    machine->fail("the pointer is not to shared memory of its block");
  }
  return block.rank << offset_bits | (first_offset + uint32_t(offset));
}

uint32_t mapa(uint32_t address, uint32_t rank) {
  if (rank >= current->block->cluster->blocks.size()) {
    machine->fail("block %u of a cluster of %zu", rank, current->block->cluster->blocks.size());
  }
  return rank << offset_bits | (address & ((1u << offset_bits) - 1));
}

unsigned char* shared_memory(uint32_t address, size_t bytes, size_t alignment, bool own) {
  Block& block = owner(address, own);
  const uint32_t offset = address & ((1u << offset_bits) - 1);
  if (offset < first_offset || offset - first_offset + bytes > machine->shared_bytes()) {
    machine->fail("%zu bytes at byte %d of shared memory, which ends at byte %zu", bytes,
                  int(offset - first_offset), machine->shared_bytes());
  }
  if (offset % alignment) {
    machine->fail("byte %u of shared memory is not at a multiple of %zu", offset - first_offset,
                  alignment);
  }
  return block.shared + (offset - first_offset);
}

void mbarrier_init(uint32_t address, uint32_t arrivals) {
  const uint32_t offset = shared_memory(address, 8, 8, true) - current->block->shared;
  if (arrivals < 1 || arrivals > mbarrier_limit) {
    machine->fail("an mbarrier of %u arrivals", arrivals);
  }
  for (const Mbarrier& mbarrier : current->block->mbarriers) {
    if (mbarrier.offset == offset) machine->fail("an mbarrier initialised twice");
  }
  memcpy(current->block->shared + offset, &sentinel, sizeof sentinel);
  current->block->mbarriers.push_back(
      {offset, current, false, int(arrivals), int(arrivals), 0, 0, {}});
}

void fence_mbarrier_init() {
  for (Mbarrier& mbarrier : current->block->mbarriers) {
    if (mbarrier.initialised_by == current) mbarrier.fenced = true;
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
  complete_phase(mbarrier);
}

void mbarrier_wait(uint32_t address, uint32_t parity) {
  if (parity > 1) machine->fail("mbarrier_wait: parity %u", parity);
  machine->sometimes_yield(4);
  // Looked up in every turn, since other threads may initialise mbarriers.
  while (mbarrier_at(address, true).phase == parity) {
    mbarrier_at(address, true).waiting.push_back(current);
    machine->wait("mbarrier_wait");
  }
}

void st_async(uint32_t to, uint32_t mbarrier, uint32_t x, uint32_t y) {
  unsigned char* const target = shared_memory(to, 8, 8, false);
  Block& block = owner(to, false);
  const unsigned char* const counter = shared_memory(mbarrier, 8, 8, false);
  if (&owner(mbarrier, false) != &block) {
    machine->fail("st_async: the mbarrier and the destination are in different blocks");
  }
  machine->send({&block, target, {x, y}, 8, uint32_t(counter - block.shared), current});
}

void mbarrier_complete_tx(const Store& store) {
  Mbarrier& mbarrier = mbarrier_at(*store.block, store.mbarrier);
  if (!mbarrier.fenced && store.from->block != store.block) {
    machine->fail("a store from another block before fence_mbarrier_init");
  }
  count_bytes(mbarrier, -int64_t{store.bytes});
  complete_phase(mbarrier);
}

namespace {

void perform(const Copy& copy) {
  if (copy.from) {
    memcpy(copy.to, copy.from, copy.bytes);
  } else {
    memset(copy.to, 0, copy.bytes);
  }
}

// Performs some of this thread's copies early.
void perform_some() {
  auto& copies = current->copies;
  while (!copies.empty() && machine->one_in(3)) {
    std::swap(copies[machine->below(copies.size())], copies.back());
    perform(copies.back());
    copies.pop_back();
  }
}

}  // namespace

void cp_async(uint32_t to, const void* from, size_t bytes, bool valid) {
  unsigned char* const target = shared_memory(to, bytes, bytes, true);
  if (reinterpret_cast<uintptr_t>(from) % bytes) {
    machine->fail("cp_async: %p is not at a multiple of %zu", from, bytes);
  }
  if (valid) {  // reports a read out of bounds here
    static_cast<void>(*static_cast<const volatile unsigned char*>(from));
    static_cast<void>(static_cast<const volatile unsigned char*>(from)[bytes - 1]);
  }
  current->copies.push_back({target, valid ? from : nullptr, bytes, current->copy_group});
  perform_some();
}

void cp_async_commit() {
  ++current->copy_group;
  perform_some();
}

void cp_async_wait(uint64_t pending) {
  auto& copies = current->copies;
  const auto first = std::partition(copies.begin(), copies.end(), [=](const Copy& copy) {
    return copy.group + pending >= current->copy_group;
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
  machine->deliver_own(from, bytes);
  memcpy(words, from, bytes);
}

void st_relaxed(void* to, const uint32_t* words, int count) {
  if (reinterpret_cast<uintptr_t>(to) % (4 * count)) {
    machine->fail("st_relaxed: %p is not at a multiple of %d", to, 4 * count);
  }
  auto* const bytes = static_cast<unsigned char*>(to);
  for (int i = 0; i < count; ++i) {
    // Reports a store out of bounds here.
    static_cast<void>(*reinterpret_cast<volatile uint32_t*>(bytes + 4 * i));
    machine->send({nullptr, bytes + 4 * i, {words[i], 0}, 4, 0, current});
  }
}

}  // namespace fastrnn::emulator
