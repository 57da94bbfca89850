// Runs CUDA kernels on the CPU, to test them without a GPU. Every CUDA thread is a fiber. An
// adversarial random scheduler selects the threads to run, and delivers asynchronous and relaxed
// stores at random times in random order. So a missing barrier, a wrong phase or a reused buffer
// causes a wrong result, a deadlock or an error, which reports the seed of the schedule.
//
// Except for those stores, execution is sequentially consistent. Threads switch only at the
// instructions of ptx.h. There is no model of time, so missing fences, bank conflicts and
// differences in rounding remain undetected.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <memory>
#include <type_traits>
#include <vector>

#include "fiber.h"

struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

namespace fastrnn::emulator {

constexpr int warp_lanes = 32;

struct Random {
  uint64_t state;
  uint64_t operator()();
  uint64_t below(uint64_t bound) { return (*this)() % bound; }
  bool one_in(uint64_t n) { return below(n) == 0; }
};

struct Block;
struct Warp;

// An asynchronous copy from global to shared memory, performed any time before it is waited for.
struct Copy {
  unsigned char* to;
  const void* from;  // null: zeros
  size_t bytes;
  uint64_t group;
};

struct Thread {
  uint3 index;
  int lane;
  Warp* warp;
  Block* block;
  Fiber* fiber;
  const char* waiting_at = nullptr;  // for the deadlock report
  std::vector<const void*> polled;   // addresses read by ld_relaxed since the last delivery
  uint64_t polled_at_delivery = 0;   // value of Machine::deliveries_
  std::vector<Copy> copies;          // not yet performed
  uint64_t copy_group = 0;           // of the next copy
};

// A collective instruction of a warp: the inputs of its lanes, and where they expect the outputs.
// `what` names it: lanes that arrive at a different one have diverged.
struct Rendezvous {
  const char* what = nullptr;
  uint64_t detail = 0;
  uint32_t arrived = 0;  // lanes
  const void* inputs[warp_lanes];
  void* outputs[warp_lanes];
};

struct Warp {
  Block* block;
  Thread* lanes;
  uint32_t ready = ~0u, polling = 0, exited = 0;  // lanes
  bool in_ready_list = false;                     // whether it is in Machine::ready_
  Rendezvous rendezvous;
};

// A barrier of whole warps.
struct Barrier {
  int expected = 0;  // warps; of a named barrier set by the first to arrive
  std::vector<Warp*> waiting;
};

// Stored outside shared memory, which holds a sentinel instead, so that overwriting it is detected.
struct Mbarrier {
  uint32_t offset;
  Thread* initialised_by;
  bool fenced;    // visible to the cluster
  int arrivals;   // of a phase
  int pending;    // missing arrivals of the current phase
  int64_t bytes;  // missing bytes; negative if they arrived before they were expected
  uint32_t phase;
  std::vector<Thread*> waiting;
};

struct Cluster {
  std::vector<std::unique_ptr<Block>> blocks;
  Barrier barrier;
  int exited = 0;  // blocks
};

struct Block {
  uint3 index;
  uint32_t rank;  // within the cluster
  Cluster* cluster;
  unsigned char* shared = nullptr;
  std::vector<Thread> threads;
  std::vector<Warp> warps;
  Barrier barriers[16];
  std::vector<Mbarrier> mbarriers;
  size_t exited = 0;  // threads
  ~Block();
};

struct Shape {
  dim3 grid;
  int threads, cluster;
  size_t shared;
};

// A store in flight: to shared memory, with an mbarrier, or to global memory.
struct Store {
  Block* block;  // null: global memory
  unsigned char* to;
  uint32_t words[2];
  uint32_t bytes, mbarrier;
  const Thread* from;
};

// One launch.
class Machine {
 public:
  using Kernel = void (*)(const void* arguments);

  // The maximum number of clusters that run at once: exactly this one, or a random number up to it.
  Machine(const Shape& shape, uint64_t seed, uint64_t clusters_at_once, bool exactly);
  ~Machine();
  void run(Kernel kernel, const void* arguments);

  const dim3& grid_shape() const { return shape_.grid; }
  dim3 block_shape() const { return dim3(shape_.threads); }
  size_t shared_bytes() const { return shape_.shared; }

  void wait(const char* what);  // until another thread wakes this one
  void wake(Thread& thread);
  void wake(Warp& warp);
  bool one_in(uint64_t n) { return random_.one_in(n); }
  uint64_t below(uint64_t bound) { return random_.below(bound); }
  void sometimes_yield(int one_in);
  void delay(const Warp& warp);  // runs the warp last, for a while
  void poll(const void* address);
  void send(const Store& store);
  void deliver_own(const void* address, size_t bytes);
  void progressed() { fruitless_polls_ = 0; }
  [[noreturn]] void fail(const char* format, ...) __attribute__((format(printf, 2, 3)));

 private:
  static void enter(void* thread);
  void start_cluster();
  void exit_thread();
  void end_clusters();
  void step_lanes(Warp& warp, uint32_t lanes);
  bool is_delayed(const Warp& warp) const;
  Warp* pick(bool include_delayed);
  bool run_some(bool include_delayed);
  bool wake_any();
  bool retry_polls();
  void wake_pollers();
  void deliver(size_t count);
  void deliver_one(size_t at);
  [[noreturn]] void report_deadlock();

  Shape shape_;
  uint64_t seed_;
  Random random_;
  size_t clusters_at_once_;
  std::vector<unsigned> pending_;  // clusters
  std::vector<std::unique_ptr<Cluster>> running_;
  std::vector<Warp*> ready_;    // all warps with a ready lane, and some without
  std::vector<Warp*> polling_;  // warps with a polling lane
  std::vector<Store> in_flight_;
  uint64_t deliveries_ = 0;
  uint64_t delivery_interval_;  // average turns between deliveries
  uint64_t delay_turns_ = 0;    // remaining turns of the delay
  const Warp* delayed_warp_ = nullptr;
  const Block* delayed_block_ = nullptr;
  int poison_;                  // initial bytes of shared memory; random if negative
  int fruitless_polls_ = 0;     // consecutive times that only polling threads remained
  bool cluster_ended_ = false;  // since the last end_clusters()
  Kernel kernel_ = nullptr;
  const void* arguments_ = nullptr;
  std::exception_ptr error_;
};

extern Machine* machine;  // the running launch
extern Thread* current;   // its running thread

// Runs `action` on the inputs of all lanes once all have arrived.
using Action = void (*)(const void* const* inputs, void* const* outputs);
void collective(const char* what, uint64_t detail, const void* inputs, void* outputs,
                Action action);
void check_mask(uint32_t mask);

void warp_barrier(uint32_t mask);
void block_barrier(int id, int threads);
void barrier_cluster();
uint32_t ballot(uint32_t mask, bool vote);

uint32_t cvta_shared(const void* pointer);
uint32_t mapa(uint32_t address, uint32_t rank);
// The bytes at an address, checked for bounds and alignment. `own`: must be in this block.
unsigned char* shared_memory(uint32_t address, size_t bytes, size_t alignment, bool own);

void mbarrier_init(uint32_t address, uint32_t arrivals);
void fence_mbarrier_init();
void mbarrier_arrive(uint32_t address, uint32_t bytes);
void mbarrier_wait(uint32_t address, uint32_t parity);
void st_async(uint32_t to, uint32_t mbarrier, uint32_t x, uint32_t y);
void mbarrier_complete_tx(const Store& store);

void cp_async(uint32_t to, const void* from, size_t bytes, bool valid);
void cp_async_commit();
void cp_async_wait(uint64_t pending);

void ld_relaxed(const void* from, void* words, size_t bytes);
void st_relaxed(void* to, const uint32_t* words, int count);

inline unsigned char* dynamic_shared() { return current->block->shared; }

template <class T, class From> T shuffle(const char* what, uint32_t mask, T value, From from) {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= 8);
  check_mask(mask);
  struct Lane {
    T value;
    int from;
  } inputs{value, from(current->lane)};
  T result;
  collective(what, 0, &inputs, &result, [](const void* const* inputs, void* const* outputs) {
    for (int lane = 0; lane < warp_lanes; ++lane) {
      const int from = static_cast<const Lane*>(inputs[lane])->from;
      *static_cast<T*>(outputs[lane]) = static_cast<const Lane*>(inputs[from])->value;
    }
  });
  return result;
}

}  // namespace fastrnn::emulator
