// The scheduler. Instructions are in instructions.cpp and mma.cpp, stores in flight in stores.cpp.
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
Thread* current = nullptr;

uint64_t Random::operator()() {  // splitmix64
  uint64_t z = state += 0x9e3779b97f4a7c15;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
  z = (z ^ z >> 27) * 0x94d049bb133111eb;
  return z ^ z >> 31;
}

Block::~Block() {
  for (Thread& thread : threads) {
    if (thread.fiber) Fiber::release(thread.fiber);
  }
  free(shared);
}

Machine::Machine(const Shape& shape, uint64_t seed, uint64_t clusters_at_once, bool exactly)
    : shape_(shape), seed_(seed), random_{seed} {
  clusters_at_once_ = exactly ? clusters_at_once : 1 + random_.below(clusters_at_once);
  const unsigned count = shape.grid.x / shape.cluster * shape.grid.y * shape.grid.z;
  for (unsigned i = 0; i < count; ++i) pending_.push_back(i);
  // Stores are delivered immediately, soon, late, or when nothing else can run.
  const uint64_t intervals[] = {1, 4, 32, uint64_t{1} << 40};
  delivery_interval_ = intervals[random_.below(4)];
  poison_ = random_.one_in(2) ? 0xFF : -1;
  machine = this;
}

Machine::~Machine() {
  machine = nullptr;
  current = nullptr;
}

void Machine::fail(const char* format, ...) {
  char text[512];
  int length = 0;
  if (current) {
    const uint3 block = current->block->index;
    length = snprintf(text, sizeof text, "block (%u, %u, %u), thread %u: ", block.x, block.y,
                      block.z, current->index.x);
  }
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text + length, sizeof text - length, format, arguments);
  va_end(arguments);
  throw std::runtime_error(std::string(text) + " (seed " + std::to_string(seed_) + ")");
}

void Machine::start_cluster() {
  std::swap(pending_[random_.below(pending_.size())], pending_.back());
  const unsigned number = pending_.back(), along = shape_.grid.x / shape_.cluster;
  pending_.pop_back();
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
    // A separate allocation of exactly this size, so that AddressSanitizer reports accesses beyond
    // it.
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
      thread.fiber = Fiber::acquire();
      thread.fiber->start(&Machine::enter, nullptr);
    }
    for (int i = 0; i < warps; ++i) {
      Warp& warp = block->warps[i];
      warp.block = block.get();
      warp.lanes = &block->threads[i * warp_lanes];
      warp.in_ready_list = true;
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
    self->exit_thread();
  } catch (...) {
    self->error_ = std::current_exception();
  }
}

void Machine::exit_thread() {
  Thread& thread = *current;
  Block& block = *thread.block;
  if (thread.warp->rendezvous.arrived) {
    fail("it has exited while others of its warp wait for it at %s", thread.warp->rendezvous.what);
  }
  if (!thread.copies.empty()) fail("it has exited while its copies are in flight");
  for (const Barrier* barrier : {&block.barriers[0], &block.cluster->barrier}) {
    if (!barrier->waiting.empty()) {
      fail("it has exited while others wait for it at %s", barrier->waiting[0]->lanes->waiting_at);
    }
  }
  thread.warp->exited |= 1u << thread.lane;
  thread.warp->ready &= ~(1u << thread.lane);
  progressed();
  if (++block.exited < block.threads.size()) return;
  for (const Store& store : in_flight_) {
    if (store.block == &block) fail("its block has exited while stores to it are in flight");
  }
  if (++block.cluster->exited == shape_.cluster) cluster_ended_ = true;
}

void Machine::end_clusters() {
  const auto idle = [](const Warp* warp) { return warp->ready == 0; };
  for (Warp* warp : ready_) warp->in_ready_list = !idle(warp);
  ready_.erase(std::remove_if(ready_.begin(), ready_.end(), idle), ready_.end());
  const auto over = [this](const auto& cluster) { return cluster->exited == shape_.cluster; };
  // A relaxed store may outlive its thread.
  for (Store& store : in_flight_) {
    if (store.from && over(store.from->block->cluster)) store.from = nullptr;
  }
  running_.erase(std::remove_if(running_.begin(), running_.end(), over), running_.end());
  cluster_ended_ = false;
}

void Machine::run(Kernel kernel, const void* arguments) {
  kernel_ = kernel;
  arguments_ = arguments;
  while (!running_.empty() || !pending_.empty()) {
    while (!pending_.empty() && running_.size() < clusters_at_once_ &&
           (running_.empty() || !random_.one_in(8))) {
      start_cluster();
    }
    if (!in_flight_.empty() && random_.one_in(delivery_interval_))
      deliver(1 + random_.below(in_flight_.size()));
    if (!run_some(false) && !wake_any() && !run_some(true) && !retry_polls()) report_deadlock();
    if (cluster_ended_) end_clusters();
  }
  deliver(in_flight_.size());
}

// Runs each of these lanes that is ready until it waits.
void Machine::step_lanes(Warp& warp, uint32_t lanes) {
  const unsigned first = random_.below(warp_lanes);
  for (unsigned i = 0; i < warp_lanes; ++i) {
    const unsigned lane = (first + i) % warp_lanes;
    if (!(warp.ready & lanes & 1u << lane)) continue;
    current = &warp.lanes[lane];
    current->fiber->resume();
    current = nullptr;
    if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
  }
}

bool Machine::is_delayed(const Warp& warp) const {
  return &warp == delayed_warp_ || warp.block == delayed_block_;
}

// Returns a warp with a ready lane, or null.
Warp* Machine::pick(bool include_delayed) {
  size_t at = 0;
  for (int attempts = 0; !ready_.empty();) {
    // At random; after four delayed warps, in order.
    at = attempts < 4 ? random_.below(ready_.size()) : at + 1;
    if (at >= ready_.size()) return nullptr;
    Warp* warp = ready_[at];
    if (warp->ready == 0) {
      warp->in_ready_list = false;
      ready_[at] = ready_.back();
      ready_.pop_back();
      attempts = 0;
    } else if (include_delayed || !is_delayed(*warp)) {
      return warp;
    } else if (++attempts == 4) {
      at = size_t(-1);
    }
  }
  return nullptr;
}

void Machine::delay(const Warp& warp) {
  if (delayed_warp_) return;
  delayed_warp_ = &warp;
  delay_turns_ = random_.below(512);
}

bool Machine::run_some(bool include_delayed) {
  Warp* warp = pick(include_delayed);
  if (!warp) return false;
  if (delay_turns_-- == 0) {
    delay_turns_ = random_.below(256);
    delayed_warp_ = random_.one_in(6) ? warp : nullptr;
    delayed_block_ = random_.one_in(3) ? warp->block : nullptr;
  }
  uint64_t passes = 1 + random_.below(64);
  switch (random_.below(4)) {
    case 0:  // one warp runs far ahead
      while (passes-- && warp->ready) step_lanes(*warp, ~0u);
      break;
    case 1:  // one block runs far ahead
      for (bool any = true; any && passes--;) {
        any = false;
        for (Warp& other : warp->block->warps) {
          if (!other.ready || (is_delayed(other) && !include_delayed)) continue;
          step_lanes(other, ~0u);
          any = true;
        }
        if (!in_flight_.empty() && delivery_interval_ < 64 && random_.one_in(8)) deliver(1);
      }
      break;
    case 2:  // some lanes run ahead of others
      step_lanes(*warp, static_cast<uint32_t>(random_()));
      break;
    default:  // a few warps run once each
      passes = 1 + random_.below(8);
      for (; passes-- && warp; warp = pick(false)) step_lanes(*warp, ~0u);
  }
  return true;
}

// If no thread that is not delayed can run, delivers stores or starts a cluster.
bool Machine::wake_any() {
  if (!in_flight_.empty()) {
    deliver(1 + random_.below(in_flight_.size()));
    return true;
  }
  if (!pending_.empty() && running_.size() < clusters_at_once_) {
    start_cluster();
    return true;
  }
  return false;
}

// Lets polling threads poll again: the value may have been written by a plain store.
bool Machine::retry_polls() {
  constexpr int patience = 200;
  if (polling_.empty() || ++fruitless_polls_ > patience) return false;
  wake_pollers();
  return true;
}

void Machine::report_deadlock() {
  std::vector<std::pair<std::string_view, int>> waits;  // with the number of waiting threads
  for (const auto& cluster : running_) {
    for (const auto& block : cluster->blocks) {
      for (const Thread& thread : block->threads) {
        if (thread.warp->exited >> thread.lane & 1) continue;
        const std::string_view what = thread.waiting_at;
        const auto same = [&](const auto& wait) { return wait.first == what; };
        auto found = std::find_if(waits.begin(), waits.end(), same);
        if (found == waits.end()) found = waits.insert(found, {what, 0});
        ++found->second;
      }
    }
  }
  std::string text = "deadlock:";
  for (const auto& [what, count] : waits) {
    text += text.back() == ':' ? " " : ", ";
    text += std::to_string(count) + (count == 1 ? " thread waits at " : " threads wait at ");
    text += what;
  }
  if (!pending_.empty()) {
    text += ", while " + std::to_string(pending_.size() * shape_.cluster) +
            " blocks wait to be scheduled";
  }
  fail("%s", text.c_str());
}

void Machine::wait(const char* what) {
  Thread& thread = *current;
  thread.waiting_at = what;
  thread.warp->ready &= ~(1u << thread.lane);
  thread.fiber->pause();
}

void Machine::wake(Warp& warp) {
  warp.ready = ~0u;
  if (warp.in_ready_list) return;
  warp.in_ready_list = true;
  ready_.push_back(&warp);
}

void Machine::wake(Thread& thread) {
  Warp& warp = *thread.warp;
  warp.ready |= 1u << thread.lane;
  if (warp.in_ready_list) return;
  warp.in_ready_list = true;
  ready_.push_back(&warp);
}

void Machine::sometimes_yield(int one_in) {
  if (random_.one_in(one_in)) current->fiber->pause();
}

// Called before a thread reads memory that others may still have to write. A thread that reads an
// address again, with no delivery in between, waits for the next delivery.
void Machine::poll(const void* address) {
  constexpr size_t most = 1024;
  Thread& thread = *current;
  if (thread.polled_at_delivery != deliveries_ || thread.polled.size() == most)
    thread.polled.clear();
  thread.polled_at_delivery = deliveries_;
  const auto& polled = thread.polled;
  if (std::find(polled.begin(), polled.end(), address) == polled.end()) {
    sometimes_yield(8);
  } else {
    thread.polled.clear();
    if (!thread.warp->polling) polling_.push_back(thread.warp);
    thread.warp->polling |= 1u << thread.lane;
    wait("ld_relaxed, polling");
  }
  thread.polled.push_back(address);
}

void Machine::wake_pollers() {
  for (Warp* warp : polling_) {
    for (int lane = 0; lane < warp_lanes; ++lane) {
      if (warp->polling >> lane & 1) wake(warp->lanes[lane]);
    }
    warp->polling = 0;
  }
  polling_.clear();
}

}  // namespace fastrnn::emulator
