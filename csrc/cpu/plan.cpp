// How the work of a call is cut.
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>

#include "kernels.h"
#include "cpu_count.h"

namespace fastrnn::cpu {
namespace {

using Clock = std::chrono::steady_clock;

// More threads than processors cannot run at once, and would wait for one another.
int64_t usable(int64_t threads) { return threads > 1 ? std::min(threads, processors()) : threads; }

int64_t second_cache_bytes() {
  static const int64_t bytes = [] {
    int64_t bytes = 0;
#ifdef _SC_LEVEL2_CACHE_SIZE
    bytes = sysconf(_SC_LEVEL2_CACHE_SIZE);
#endif
    return bytes > 0 ? bytes : 1 << 20;  // some machines do not tell
  }();
  return bytes;
}

// Until when no team is formed.
std::atomic<Clock::rep> crowded_until{0};

bool crowded() {
  const Clock::rep until = crowded_until.load(std::memory_order_relaxed);
  return until != 0 && Clock::now().time_since_epoch().count() < until;
}

}  // namespace

void note_crowding() {
  constexpr Clock::duration recovery = std::chrono::seconds(1);
  crowded_until.store((Clock::now() + recovery).time_since_epoch().count(),
                      std::memory_order_relaxed);
}

Plan make_plan(const ParamsWithResets& p, int64_t threads, int64_t column_blocks, int64_t gates) {
  // Multiply-adds below which waking the threads costs more than they save; those of one step that
  // are worth a team's meeting after it; and elements of W_hh, for packing.
  constexpr int64_t call_minimum = 1 << 19, step_minimum = 1 << 15, packing_minimum = 1 << 17;
  // Rows that share one reading of W_hh in a step, and keep a tile's state small.
  constexpr int64_t tile_rows = 64;
  const int64_t weights = gates * p.H * p.H;  // of a group
  const int64_t step = p.B * p.G * weights;
  Plan plan;
  plan.packing = p.T > 1;  // for a single step the packed W_hh need not leave the nearest cache
  if (p.T * step >= call_minimum) threads = usable(threads);
  plan.parallel = threads > 1 && p.T * step >= call_minimum;
  plan.parallel_packing = plan.parallel && p.G * weights >= packing_minimum;
  const int64_t wanted = plan.parallel ? (threads + p.G - 1) / p.G : 1;
  plan.tiles = std::max<int64_t>({1, wanted, (p.B + tile_rows - 1) / tile_rows});
  plan.tiles = std::min(plan.tiles, std::max<int64_t>(1, p.B));
  // Threads that share a step read W_hh once between them, threads with their own rows once each:
  // where it comes from beyond the second cache, that outweighs more rows.
  const int64_t weight_bytes = weights * (p.dtype == DType::float64 ? 8 : 4);
  const int64_t few_rows = weight_bytes > second_cache_bytes() ? 32 : 2;
  plan.team = 1;
  if (plan.parallel && p.G < threads && p.G * p.B < few_rows * threads && !crowded()) {
    plan.team = std::min({threads / p.G, p.B * weights / step_minimum, column_blocks / 2});
    plan.team = std::max<int64_t>(1, plan.team);
    if (plan.team > 1) plan.tiles = 1;
  }
  return plan;
}

LinearPlan make_plan(const LinearParams& p, int64_t threads, int64_t column_blocks) {
  // Multiply-adds below which waking the threads costs more than they save; rows that a piece of
  // the weight serves while it stays near; column blocks that are worth a thread.
  constexpr int64_t minimum = 1 << 19, tile_rows = 96, thread_blocks = 8;
  LinearPlan plan{};
  if (p.M * p.N * p.K >= minimum) threads = usable(threads);
  plan.parallel = threads > 1 && p.M * p.N * p.K >= minimum;
  plan.row_parts = (p.M + tile_rows - 1) / tile_rows;
  plan.column_parts = 1;
  // What several pieces of rows need is packed once for all.
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
