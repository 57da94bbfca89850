// The scheduler. What the instructions mean is in instructions.cpp and mma.cpp.
#include "emulator.h"

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <new>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>

namespace fastrnn::emulator {

Machine* machine = nullptr;
Thread* now = nullptr;

uint64_t Random::operator()() {  // splitmix64
  uint64_t z = state += 0x9e3779b97f4a7c15;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
  z = (z ^ z >> 27) * 0x94d049bb133111eb;
  return z ^ z >> 31;
}

Block::~Block() {
  for (Thread& thread : threads) {
    if (thread.fiber) Fiber::give_back(thread.fiber);
  }
  free(shared);
}

Machine::Machine(const Shape& shape, uint64_t seed, uint64_t clusters_at_once, bool all_of_these)
    : shape_(shape), seed_(seed), random_{seed} {
  clusters_at_once_ = all_of_these ? clusters_at_once : 1 + random_.below(clusters_at_once);
  const unsigned count = shape.grid.x / shape.cluster * shape.grid.y * shape.grid.z;
  for (unsigned i = 0; i < count; ++i) to_start_.push_back(i);
  // Stores land at once, soon, late, or when nothing else is left to do.
  const uint64_t paces[] = {1, 4, 32, uint64_t{1} << 40};
  pace_ = paces[random_.below(4)];
  poison_ = random_.one_in(2) ? 0xFF : -1;
  machine = this;
}

Machine::~Machine() {
  machine = nullptr;
  now = nullptr;
}

void Machine::fail(const char* format, ...) {
  char text[512];
  int length = 0;
  if (now) {
    const uint3 block = now->block->index;
    length = snprintf(text, sizeof text, "block (%u, %u, %u), thread %u: ", block.x, block.y,
                      block.z, now->index.x);
  }
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text + length, sizeof text - length, format, arguments);
  va_end(arguments);
  throw std::runtime_error(std::string(text) + " (seed " + std::to_string(seed_) + ")");
}

void Machine::start_cluster() {
  std::swap(to_start_[random_.below(to_start_.size())], to_start_.back());
  const unsigned number = to_start_.back(), along = shape_.grid.x / shape_.cluster;
  to_start_.pop_back();
  auto cluster = std::make_unique<Cluster>();
  const int warps = shape_.threads / warp_lanes;
  cluster->barrier.expected = warps * shape_.cluster;
  for (int rank = 0; rank < shape_.cluster; ++rank) {
    auto block = std::make_unique<Block>();
    block->index = {number % along * shape_.cluster + rank, number / along % shape_.grid.y,
                    number / along / shape_.grid.y};
    block->rank = rank;
    block->cluster = cluster.get();
    block->barriers[0].expected = warps;
    // An allocation of its own and of just this size: AddressSanitizer sees what goes beyond.
    void* memory = nullptr;
    if (posix_memalign(&memory, 128, shape_.shared) != 0) throw std::bad_alloc();
    block->shared = static_cast<unsigned char*>(memory);
    if (poison_ >= 0) {
      memset(memory, poison_, shape_.shared);
    } else {
      for (size_t i = 0; i < shape_.shared; i += 8) {
        const uint64_t bytes = random_();
        memcpy(block->shared + i, &bytes, std::min<size_t>(8, shape_.shared - i));
      }
    }
    block->threads.resize(shape_.threads);
    block->warps.resize(warps);
    for (int i = 0; i < shape_.threads; ++i) {
      Thread& thread = block->threads[i];
      thread.index = {unsigned(i), 0, 0};
      thread.lane = i % warp_lanes;
      thread.warp = &block->warps[i / warp_lanes];
      thread.block = block.get();
      thread.fiber = Fiber::take();
      thread.fiber->start(&Machine::enter, nullptr);
    }
    for (int i = 0; i < warps; ++i) {
      Warp& warp = block->warps[i];
      warp.block = block.get();
      warp.lanes = &block->threads[i * warp_lanes];
      warp.listed = true;
      ready_.push_back(&warp);
    }
    cluster->blocks.push_back(std::move(block));
  }
  running_.push_back(std::move(cluster));
  progressed();
}

void Machine::enter(void*) {
  Machine* const self = machine;
  try {
    self->kernel_(self->arguments_);
    self->end_thread();
  } catch (...) {
    self->error_ = std::current_exception();
  }
}

void Machine::end_thread() {
  Thread& thread = *now;
  Block& block = *thread.block;
  if (thread.warp->meeting.arrived) {
    fail("it has left, and others of its warp wait for it at %s", thread.warp->meeting.what);
  }
  if (!thread.copies.empty()) fail("it has left, and copies of its own are still under way");
  for (const Barrier* barrier : {&block.barriers[0], &block.cluster->barrier}) {
    if (!barrier->waiting.empty()) {
      fail("it has left, and others wait for it at %s", barrier->waiting[0]->lanes->waits_for);
    }
  }
  thread.warp->left |= 1u << thread.lane;
  thread.warp->ready &= ~(1u << thread.lane);
  progressed();
  if (++block.left < block.threads.size()) return;
  for (const Store& store : flying_) {
    if (store.block == &block) fail("its block has left, and stores to it are still under way");
  }
  if (++block.cluster->left == shape_.cluster) ended_ = true;
}

void Machine::end_clusters() {
  const auto idle = [](const Warp* warp) { return warp->ready == 0; };
  for (Warp* warp : ready_) warp->listed = !idle(warp);
  ready_.erase(std::remove_if(ready_.begin(), ready_.end(), idle), ready_.end());
  const auto over = [this](const auto& cluster) { return cluster->left == shape_.cluster; };
  // A relaxed store outlives the thread it came from.
  for (Store& store : flying_) {
    if (store.from && over(store.from->block->cluster)) store.from = nullptr;
  }
  running_.erase(std::remove_if(running_.begin(), running_.end(), over), running_.end());
  ended_ = false;
}

void Machine::run(Kernel kernel, const void* arguments) {
  kernel_ = kernel;
  arguments_ = arguments;
  while (!running_.empty() || !to_start_.empty()) {
    while (!to_start_.empty() && running_.size() < clusters_at_once_ &&
           (running_.empty() || !random_.one_in(8))) {
      start_cluster();
    }
    if (!flying_.empty() && random_.one_in(pace_)) land(1 + random_.below(flying_.size()));
    if (!turn(false) && !stir() && !turn(true) && !let_poll()) report_deadlock();
    if (ended_) end_clusters();
  }
  land(flying_.size());
}

// Each of these lanes goes on, if it can, as far as it goes.
void Machine::step_lanes(Warp& warp, uint32_t lanes) {
  const unsigned first = random_.below(warp_lanes);
  for (unsigned i = 0; i < warp_lanes; ++i) {
    const unsigned lane = (first + i) % warp_lanes;
    if (!(warp.ready & lanes & 1u << lane)) continue;
    now = &warp.lanes[lane];
    now->fiber->resume();
    now = nullptr;
    if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
  }
}

bool Machine::asleep(const Warp& warp) const {
  return &warp == sleeping_warp_ || warp.block == sleeping_block_;
}

// A warp with a ready lane, or null.
Warp* Machine::pick(bool even_asleep) {
  size_t at = 0;
  for (int attempts = 0; !ready_.empty();) {
    // At random; but if that finds only sleepers, one after the other.
    at = attempts < 4 ? random_.below(ready_.size()) : at + 1;
    if (at >= ready_.size()) return nullptr;
    Warp* warp = ready_[at];
    if (warp->ready == 0) {
      warp->listed = false;
      ready_[at] = ready_.back();
      ready_.pop_back();
      attempts = 0;
    } else if (even_asleep || !asleep(*warp)) {
      return warp;
    } else if (++attempts == 4) {
      at = size_t(-1);
    }
  }
  return nullptr;
}

void Machine::lull(const Warp& warp) {
  if (sleeping_warp_) return;
  sleeping_warp_ = &warp;
  era_ = random_.below(512);
}

bool Machine::turn(bool even_asleep) {
  Warp* warp = pick(even_asleep);
  if (!warp) return false;
  if (era_-- == 0) {
    era_ = random_.below(256);
    sleeping_warp_ = random_.one_in(6) ? warp : nullptr;
    sleeping_block_ = random_.one_in(3) ? warp->block : nullptr;
  }
  uint64_t passes = 1 + random_.below(64);
  switch (random_.below(4)) {
    case 0:  // one warp runs far ahead
      while (passes-- && warp->ready) step_lanes(*warp, ~0u);
      break;
    case 1:  // its block does
      for (bool any = true; any && passes--;) {
        any = false;
        for (Warp& other : warp->block->warps) {
          if (!other.ready || (asleep(other) && !even_asleep)) continue;
          step_lanes(other, ~0u);
          any = true;
        }
        if (!flying_.empty() && pace_ < 64 && random_.one_in(8)) land(1);
      }
      break;
    case 2:  // some lanes go on, others stay behind
      step_lanes(*warp, static_cast<uint32_t>(random_()));
      break;
    default:  // a few warps take a turn each
      passes = 1 + random_.below(8);
      for (; passes-- && warp; warp = pick(false)) step_lanes(*warp, ~0u);
  }
  return true;
}

// No thread that is awake can go on: something from outside must happen.
bool Machine::stir() {
  if (!flying_.empty()) {
    land(1 + random_.below(flying_.size()));
    return true;
  }
  if (!to_start_.empty() && running_.size() < clusters_at_once_) {
    start_cluster();
    return true;
  }
  return false;
}

// Those that poll may wait for a plain store, or may not have polled in vain at all.
bool Machine::let_poll() {
  constexpr int patience = 200;
  if (polling_.empty() || ++idle_ > patience) return false;
  wake_polling();
  return true;
}

void Machine::report_deadlock() {
  std::vector<std::pair<std::string_view, int>> places;  // and how many threads wait there
  for (const auto& cluster : running_) {
    for (const auto& block : cluster->blocks) {
      for (const Thread& thread : block->threads) {
        if (thread.warp->left >> thread.lane & 1) continue;
        const std::string_view what = thread.waits_for;
        const auto same = [&](const auto& place) { return place.first == what; };
        auto found = std::find_if(places.begin(), places.end(), same);
        if (found == places.end()) found = places.insert(found, {what, 0});
        ++found->second;
      }
    }
  }
  std::string text = "deadlock:";
  for (const auto& [what, count] : places) {
    text += text.back() == ':' ? " " : ", ";
    text += std::to_string(count) + (count == 1 ? " thread waits at " : " threads wait at ");
    text += what;
  }
  if (!to_start_.empty()) {
    text += ", while " + std::to_string(to_start_.size() * shape_.cluster) +
            " blocks wait for a place to run";
  }
  fail("%s", text.c_str());
}

void Machine::wait(const char* what) {
  Thread& thread = *now;
  thread.waits_for = what;
  thread.warp->ready &= ~(1u << thread.lane);
  thread.fiber->pause();
}

void Machine::wake(Warp& warp) {
  warp.ready = ~0u;
  if (warp.listed) return;
  warp.listed = true;
  ready_.push_back(&warp);
}

void Machine::wake(Thread& thread) {
  Warp& warp = *thread.warp;
  warp.ready |= 1u << thread.lane;
  if (warp.listed) return;
  warp.listed = true;
  ready_.push_back(&warp);
}

void Machine::sometimes_yield(int one_in) {
  if (random_.one_in(one_in)) now->fiber->pause();
}

// Before a thread reads what others may still have to write. One that comes back to the same place
// though nothing has landed since sleeps until something does.
void Machine::poll(const void* address) {
  constexpr size_t most = 1024;
  Thread& thread = *now;
  if (thread.polled_after != landed_ || thread.polled.size() == most) thread.polled.clear();
  thread.polled_after = landed_;
  const auto& polled = thread.polled;
  if (std::find(polled.begin(), polled.end(), address) == polled.end()) {
    sometimes_yield(8);
  } else {
    thread.polled.clear();
    if (!thread.warp->polling) polling_.push_back(thread.warp);
    thread.warp->polling |= 1u << thread.lane;
    wait("ld_relaxed, which it repeats");
  }
  thread.polled.push_back(address);
}

void Machine::wake_polling() {
  for (Warp* warp : polling_) {
    for (int lane = 0; lane < warp_lanes; ++lane) {
      if (warp->polling >> lane & 1) wake(warp->lanes[lane]);
    }
    warp->polling = 0;
  }
  polling_.clear();
}

void Machine::send(const Store& store) {
  flying_.push_back(store);
  progressed();
  sometimes_yield(16);
}

void Machine::land(size_t count) {
  if (count == 0) return;
  while (count-- && !flying_.empty()) land_one(random_.below(flying_.size()));
  ++landed_;
  progressed();
  wake_polling();
}

void Machine::land_one(size_t at) {
  // What one thread stores to one place stays in order.
  if (!flying_[at].block) {
    const auto same = [&](const Store& other) {
      return other.to == flying_[at].to && other.from == flying_[at].from;
    };
    at = std::find_if(flying_.begin(), flying_.end(), same) - flying_.begin();
  }
  const Store store = flying_[at];
  flying_.erase(flying_.begin() + at);
  memcpy(store.to, store.words, store.bytes);
  if (store.block) {
    mbarrier_landed(store);
  }
}

// A thread sees what it stored itself.
void Machine::land_own(const void* address, size_t bytes) {
  const auto* begin = static_cast<const unsigned char*>(address);
  for (size_t i = 0; i < flying_.size();) {
    const Store& store = flying_[i];
    const bool own = store.from == now && !store.block;
    if (own && store.to < begin + bytes && store.to + store.bytes > begin) {
      land_one(i);
    } else {
      ++i;
    }
  }
}

}  // namespace fastrnn::emulator
