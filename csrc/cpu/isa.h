// The entry points of each instruction set, and the headers that the kernels use.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <numeric>
#include <stdexcept>
#include <type_traits>
#include <utility>
#include <vector>

// Emulated tiles need none of the instructions, which take a second to compile.
#if defined(__x86_64__) && !defined(FASTRNN_EMULATE_TILES)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

// Compilers since 2021 know Intel AMX, which only Linux lets programs use so far.
#if defined(FASTRNN_EMULATE_TILES) || \
    (defined(__x86_64__) && defined(__linux__) && (defined(__clang__) || __GNUC__ >= 11))
#define FASTRNN_TILES
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
#if defined(FASTRNN_TILES)
namespace amx {
extern const KernelTable kernels;
}
#endif

}  // namespace fastrnn::cpu
