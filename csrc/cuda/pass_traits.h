// Traits of a kernel's parameters P: which pass it is, and whether rows have resets. These are
// template parameters, so that unused features compile away.
#pragma once

#include <type_traits>

#include "../params.h"
#include "ptx.h"

namespace fastrnn::cuda {

template <class P> constexpr bool is_backward = false;
template <class Base> constexpr bool is_backward<BackwardParams<Base>> = true;

template <class P> constexpr bool has_resets = std::is_base_of_v<ParamsWithResets, P>;

// ParamsWithResets::crosses_reset for a row whose length is known. False for steps beyond the end.
template <class P>
__device__ bool crosses_reset(const P& p, int t, int64_t b, bool descending, int length) {
  if constexpr (has_resets<P>) {
    const int later = descending ? t + 1 : t;
    return 0 <= later && later < length && p.resets[p.row(later, b)];
  } else {
    return false;
  }
}

}  // namespace fastrnn::cuda
