// Runs CUDA kernels on the CPU, to try them without a GPU. Every CUDA thread is a fiber; a random
// scheduler that means ill decides who goes on, and asynchronous and relaxed stores land at random
// moments in random order. So a missing barrier, a wrong phase or a reused buffer shows itself as a
// wrong result, a deadlock or an error, with the seed that gives the same schedule again.
//
// It is sequentially consistent but for those stores, switches between threads only at the
// instructions of ptx.h, and knows nothing of time: it cannot find a missing fence, a bank conflict
// or what the hardware rounds otherwise.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <memory>
#include <type_traits>
#include <vector>

#include "fiber.h"

struct uint3 { unsigned x, y, z; };
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

// From global to shared memory, at any time before it is waited for.
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
  const char* waits_for = nullptr;     // for the report of a deadlock
  std::vector<const void*> polled;     // by ld_relaxed, since a store last landed
  uint64_t polled_after = 0;           // stores landed
  std::vector<Copy> copies;            // on their way
  uint64_t copy_group = 0;             // that the next copy belongs to
};

// What the lanes of a warp bring to an instruction that all must reach, and where they want its
// results. `what` names it: lanes that come to another have parted ways.
struct Meeting {
  const char* what = nullptr;
  uint64_t detail = 0;
  uint32_t arrived = 0;  // lanes
  const void* given[warp_lanes];
  void* wanted[warp_lanes];
};

struct Warp {
  Block* block;
  Thread* lanes;
  uint32_t ready = ~0u, polling = 0, left = 0;  // lanes
  bool listed = false;                          // among the machine's ready warps
  Meeting meeting;
};

// Where whole warps wait for one another.
struct Barrier {
  int expected = 0;  // warps; of a named barrier as the first to come says
  std::vector<Warp*> waiting;
};

// Kept beside shared memory, where a mark stands in its place: who writes over it is found out.
struct Mbarrier {
  uint32_t offset;
  Thread* initialised_by;
  bool fenced;       // made known to the cluster
  int arrivals;      // of a phase
  int pending;       // arrivals that the open phase still lacks
  int64_t bytes;     // that it still lacks; below 0 where they came before they were announced
  uint32_t phase;
  std::vector<Thread*> waiting;
};

struct Cluster {
  std::vector<std::unique_ptr<Block>> blocks;
  Barrier barrier;
  int left = 0;  // blocks
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
  size_t left = 0;  // threads
  ~Block();
};

struct Shape {
  dim3 grid;
  int threads, cluster;
  size_t shared;
};

// A store on its way: to shared memory, with an mbarrier, or to global memory.
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

  // At most so many clusters run at once: all of these, or a random number of them.
  Machine(const Shape& shape, uint64_t seed, uint64_t clusters_at_once, bool all_of_these);
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
  void lull(const Warp& warp);  // it will be the last to go on, for a while
  void poll(const void* address);
  void send(const Store& store);
  void land_own(const void* address, size_t bytes);
  void progressed() { idle_ = 0; }
  [[noreturn]] void fail(const char* format, ...) __attribute__((format(printf, 2, 3)));

 private:
  static void enter(void* thread);
  void start_cluster();
  void end_thread();
  void end_clusters();
  void step_lanes(Warp& warp, uint32_t lanes);
  bool asleep(const Warp& warp) const;
  Warp* pick(bool even_asleep);
  bool turn(bool even_asleep);
  bool stir();
  bool let_poll();
  void wake_polling();
  void land(size_t count);
  void land_one(size_t at);
  [[noreturn]] void report_deadlock();

  Shape shape_;
  uint64_t seed_;
  Random random_;
  size_t clusters_at_once_;
  std::vector<unsigned> to_start_;  // clusters
  std::vector<std::unique_ptr<Cluster>> running_;
  std::vector<Warp*> ready_;        // those with a ready lane, and some that had one
  std::vector<Warp*> polling_;      // those with a polling lane
  std::vector<Store> flying_;
  uint64_t landed_ = 0;
  uint64_t pace_;                   // about so many turns between landings
  uint64_t era_ = 0;                // turns that the sleeper still sleeps
  const Warp* sleeping_warp_ = nullptr;
  const Block* sleeping_block_ = nullptr;
  int poison_;                      // what shared memory holds at first; below 0: anything
  int idle_ = 0;                    // times all threads were found to poll in vain
  bool ended_ = false;              // a cluster has
  Kernel kernel_ = nullptr;
  const void* arguments_ = nullptr;
  std::exception_ptr error_;
};

extern Machine* machine;  // the launch that is running
extern Thread* now;       // its thread that is running

// Runs `act` when all lanes have come, with what each brought.
using Act = void (*)(const void* const* given, void* const* wanted);
void collective(const char* what, uint64_t detail, const void* given, void* wanted, Act act);
void check_mask(uint32_t mask);

void warp_barrier(uint32_t mask);
void block_barrier(int id, int threads);
void barrier_cluster();
uint32_t ballot(uint32_t mask, bool vote);

uint32_t cvta_shared(const void* pointer);
uint32_t mapa(uint32_t address, uint32_t rank);
// The bytes at an address, checked against bounds and alignment; `own`: of this block only.
unsigned char* shared_memory(uint32_t address, size_t bytes, size_t alignment, bool own);

void mbarrier_init(uint32_t address, uint32_t arrivals);
void fence_mbarrier_init();
void mbarrier_arrive(uint32_t address, uint32_t bytes);
void mbarrier_wait(uint32_t address, uint32_t parity);
void st_async(uint32_t to, uint32_t mbarrier, uint32_t x, uint32_t y);
void mbarrier_landed(const Store& store);

void cp_async(uint32_t to, const void* from, size_t bytes, bool real);
void cp_async_commit();
void cp_async_wait(uint64_t pending);

void ld_relaxed(const void* from, void* words, size_t bytes);
void st_relaxed(void* to, const uint32_t* words, int count);

inline unsigned char* dynamic_shared() { return now->block->shared; }

template <class T, class From> T shuffle(const char* what, uint32_t mask, T value, From from) {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= 8);
  check_mask(mask);
  struct Lane { T value; int from; } given{value, from(now->lane)};
  T result;
  collective(what, 0, &given, &result, [](const void* const* given, void* const* wanted) {
    for (int lane = 0; lane < warp_lanes; ++lane) {
      const int from = static_cast<const Lane*>(given[lane])->from;
      *static_cast<T*>(wanted[lane]) = static_cast<const Lane*>(given[from])->value;
    }
  });
  return result;
}

}  // namespace fastrnn::emulator
