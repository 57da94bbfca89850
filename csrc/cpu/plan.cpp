// The plan of a call: how it is divided into tasks, and how many threads run them.
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>

#include "plan.h"

#include "cpu_count.h"

namespace fastrnn::cpu {
namespace {

using Clock = std::chrono::steady_clock;

// More threads than CPUs would wait for each other instead of running concurrently.
int64_t usable_threads(int64_t threads) {
  return threads > 1 ? std::min(threads, available_cpus()) : threads;
}

int64_t l2_cache_bytes() {
  static const int64_t bytes = [] {
    int64_t bytes = 0;
#ifdef _SC_LEVEL2_CACHE_SIZE
    bytes = sysconf(_SC_LEVEL2_CACHE_SIZE);
#endif
    return bytes > 0 ? bytes : 1 << 20;  // some machines do not report it
  }();
  return bytes;
}

// No team forms before this time.
std::atomic<Clock::rep> oversubscribed_until{0};

bool oversubscribed() {
  const Clock::rep until = oversubscribed_until.load(std::memory_order_relaxed);
  return until != 0 && Clock::now().time_since_epoch().count() < until;
}

}  // namespace

void note_oversubscription() {
  constexpr Clock::duration recovery = std::chrono::seconds(1);
  oversubscribed_until.store((Clock::now() + recovery).time_since_epoch().count(),
                             std::memory_order_relaxed);
}

int64_t tasks_per_thread(int64_t tasks, int64_t threads) {
  const int64_t usable = std::max<int64_t>(1, usable_threads(threads));
  return std::max<int64_t>(1, (tasks + usable - 1) / usable);
}

Plan make_plan(const ParamsWithResets& p, int64_t threads, int64_t column_blocks, int64_t gates,
               int64_t inputs) {
  // Minimum sizes: the multiply-adds of a call that justify waking the threads, those of a step
  // that justify a team's barrier, and the elements of W_hh that justify packing in parallel.
  constexpr int64_t call_minimum = 1 << 19, step_minimum = 1 << 15, packing_minimum = 1 << 17;
  // The rows of a tile share one read of W_hh per step, and the state of so many rows is small.
  constexpr int64_t tile_rows = 32;
  const int64_t weights = gates * p.H * p.H;  // per group
  const int64_t weights_ih = gates * p.H * inputs;
  const int64_t step = p.B * p.G * (weights + weights_ih);
  Plan plan;
  if (p.T * step >= call_minimum) threads = usable_threads(threads);
  plan.parallel = threads > 1 && p.T * step >= call_minimum;
  plan.parallel_packing = plan.parallel && p.G * (weights + weights_ih) >= packing_minimum;
  const int64_t wanted = plan.parallel ? (threads + p.G - 1) / p.G : 1;
  plan.tiles = std::max<int64_t>({1, wanted, (p.B + tile_rows - 1) / tile_rows});
  plan.tiles = std::min(plan.tiles, std::max<int64_t>(1, p.B));
  // A team reads W_hh once, while threads with separate rows read it once each. If W_hh exceeds L2,
  // a team is faster up to a larger number of rows.
  const int64_t weight_bytes = weights * (p.dtype == DType::float64 ? 8 : 4);
  const int64_t few_rows = weight_bytes > l2_cache_bytes() ? 32 : 2;
  plan.team_size = 1;
  if (plan.parallel && p.G < threads && p.G * p.B < few_rows * threads && !oversubscribed()) {
    plan.team_size = std::min({threads / p.G, p.B * weights / step_minimum, column_blocks / 2});
    plan.team_size = std::max<int64_t>(1, plan.team_size);
    if (plan.team_size > 1) plan.tiles = 1;
  }
  // Where a thread uses W_hh once, it packs it in parts that stay in L1.
  plan.packing = p.T > 1 || plan.tiles > wanted;
  // Otherwise each thread projects the input of its own rows, or of its own units.
  plan.projects_ahead = plan.parallel && plan.team_size * plan.tiles * p.G < threads;
  return plan;
}

LinearPlan make_plan(const LinearParams& p, int64_t threads, int64_t column_blocks) {
  // The multiply-adds that justify waking the threads, the rows for which a part of the weight
  // stays in cache, and the column blocks that justify a thread.
  constexpr int64_t minimum = 1 << 19, tile_rows = 96, thread_blocks = 8;
  LinearPlan plan{};
  if (p.M * p.N * p.K >= minimum) threads = usable_threads(threads);
  plan.parallel = threads > 1 && p.M * p.N * p.K >= minimum;
  plan.row_parts = (p.M + tile_rows - 1) / tile_rows;
  plan.column_parts = 1;
  // Packing pays off only if several parts of rows use the packed weight.
  plan.packing = plan.row_parts > 1;
  if (!plan.parallel) return plan;
  if (plan.packing) {
    plan.row_parts = (plan.row_parts + threads - 1) / threads * threads;
  } else if (column_blocks >= thread_blocks * threads) {
    plan.column_parts = threads;
  } else {
    plan.row_parts = std::min(threads, p.M);
  }
  return plan;
}

}  // namespace fastrnn::cpu
