// Chooses the instruction set, once, and how the work is cut.
#include "cpu.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <thread>

#include "kernels.h"

namespace fastrnn::cpu {
namespace {

struct InstructionSet {
  const char* name;
  const Kernels* kernels;
  bool (*supported)();
};

// Best first; the last runs on every processor.
const InstructionSet available[] = {
#if defined(__x86_64__)
    {"avx512", &avx512::kernels,
     [] {
       return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
              __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
              __builtin_cpu_supports("fma");
     }},
    {"avx2", &avx2::kernels,
     [] { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }},
#endif
    {"baseline", &baseline::kernels, [] { return true; }},
};

std::atomic<const InstructionSet*> chosen{nullptr};

const InstructionSet& selected() {
  const InstructionSet* set = chosen.load(std::memory_order_acquire);
  if (set == nullptr) {
    set = std::find_if(std::begin(available), std::end(available),
                       [](const InstructionSet& set) { return set.supported(); });
    chosen.store(set, std::memory_order_release);
  }
  return *set;
}

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

// That this process may use: more threads than these cannot run at once, and would wait for long.
int64_t processors() {
  static const int64_t count = std::thread::hardware_concurrency();
  return std::max<int64_t>(1, count);
}

}  // namespace

Plan make_plan(const Problem& p, int64_t threads, int64_t column_blocks) {
  // Multiply-adds below which waking the threads costs more than they save; those of one step that
  // are worth a team's meeting after it; and elements of W_hh, for packing.
  constexpr int64_t call_minimum = 1 << 19, step_minimum = 1 << 15, packing_minimum = 1 << 17;
  // Rows that share one reading of W_hh in a step, and keep a tile's state small.
  constexpr int64_t tile_rows = 64;
  const int64_t step = p.B * p.G * p.H * p.H;
  Plan plan;
  plan.packing = p.T > 1;  // for a single step the packed W_hh need not leave the nearest cache
  plan.parallel = threads > 1 && p.T * step >= call_minimum;
  plan.parallel_packing = plan.parallel && p.G * p.H * p.H >= packing_minimum;
  const int64_t wanted = plan.parallel ? (threads + p.G - 1) / p.G : 1;
  plan.tiles = std::max<int64_t>({1, wanted, (p.B + tile_rows - 1) / tile_rows});
  plan.tiles = std::min(plan.tiles, std::max<int64_t>(1, p.B));
  // Threads that share a step read W_hh once between them, threads with their own rows once each:
  // where it comes from beyond the second cache, that outweighs more rows.
  const int64_t weight_bytes = p.H * p.H * (p.dtype == DType::float64 ? 8 : 4);
  const int64_t few_rows = weight_bytes > second_cache_bytes() ? 32 : 2;
  plan.team = 1;
  if (plan.parallel && p.G < threads && p.G * p.B < few_rows * threads) {
    const int64_t able = std::min(threads, processors()) / p.G;
    plan.team = std::min({able, p.B * p.H * p.H / step_minimum, column_blocks / 2});
    plan.team = std::max<int64_t>(1, plan.team);
    if (plan.team > 1) plan.tiles = 1;
  }
  return plan;
}

LinearPlan make_plan(const Linear& p, int64_t threads, int64_t column_blocks) {
  // Multiply-adds below which waking the threads costs more than they save; rows that a piece of
  // the weight serves while it stays near; column blocks that are worth a thread.
  constexpr int64_t minimum = 1 << 19, tile_rows = 96, thread_blocks = 8;
  LinearPlan plan{};
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

void forward(const Forward& problem, const Threads& threads) {
  selected().kernels->forward(problem, threads);
}

void backward(const Backward& problem, const Threads& threads) {
  selected().kernels->backward(problem, threads);
}

void linear(const Linear& problem, const Threads& threads) {
  selected().kernels->linear(problem, threads);
}

const char* instruction_set() { return selected().name; }

bool use_instruction_set(const std::string& name) {
  for (const InstructionSet& set : available) {
    if (name == set.name && set.supported()) {
      chosen.store(&set, std::memory_order_release);
      return true;
    }
  }
  return false;
}

const char* const* instruction_sets() {
  static const std::vector<const char*> names = [] {
    std::vector<const char*> names;
    for (const InstructionSet& set : available) names.push_back(set.name);
    names.push_back(nullptr);
    return names;
  }();
  return names.data();
}

}  // namespace fastrnn::cpu
