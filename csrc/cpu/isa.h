// The entry points of each instruction set, and the headers that the kernels use.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <numeric>
#include <type_traits>
#include <utility>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#include "buffer.h"
#include "dispatch.h"
#include "flush_denormals.h"
#include "plan.h"
#include "thread_team.h"

namespace fastrnn::cpu {

struct KernelTable {
  void (*forward)(const CellForward&, const Threads&);
  void (*backward)(const CellBackward&, const Threads&);
  void (*linear)(const LinearParams&, const Threads&);
  void (*outer)(const OuterParams&);
};

namespace baseline {
extern const KernelTable kernels;
}
#if defined(__x86_64__)
namespace avx2 {
extern const KernelTable kernels;
}
namespace avx512 {
extern const KernelTable kernels;
}
#endif

}  // namespace fastrnn::cpu
