// Dispatches calls to the best instruction set that the CPU supports, chosen once.
#include "dispatch.h"

#include "flush_denormals.h"

#include <algorithm>
#include <atomic>

#include "amx_support.h"
#include "isa.h"

namespace fastrnn::cpu {
namespace {

struct InstructionSet {
  const char* name;
  const KernelTable* kernels;
  bool (*supported)();
};

#if defined(__x86_64__) && !defined(FASTRNN_EMULATE_TILES)
bool has_avx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("fma");
}
#endif

// Best first; the last one is supported by every CPU.
const InstructionSet available[] = {
#if defined(FASTRNN_EMULATE_TILES)
    {"amx", &amx::kernels, [] { return true; }},
#else
#if defined(__x86_64__)
#if defined(FASTRNN_TILES)
    {"amx", &amx::kernels, [] { return has_avx512() && amx_is_supported(); }},
#endif
    {"avx512", &avx512::kernels, &has_avx512},
    {"avx2", &avx2::kernels,
     [] { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }},
#endif
    {"baseline", &baseline::kernels, [] { return true; }},
#endif
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

}  // namespace

void forward(const CellForward& params, const Threads& threads) {
  selected().kernels->forward(params, threads);
}

void backward(const CellBackward& params, const Threads& threads) {
  selected().kernels->backward(params, threads);
}

void linear(const LinearParams& params, const Threads& threads) {
  selected().kernels->linear(params, threads);
}

void outer(const OuterParams& params) {
  const FlushDenormals flush;
  selected().kernels->outer(params);
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
