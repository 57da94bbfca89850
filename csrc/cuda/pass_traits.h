// What a kernel is given: one of the passes, of a problem with resets or of one without. They are
// types, for what a kernel does not need not to be in its code.
#pragma once

#include <type_traits>

#include "../params.h"
#include "ptx.h"

namespace fastrnn::cuda {

template <class D> constexpr bool is_backward = false;
template <class P> constexpr bool is_backward<BackwardOf<P>> = true;

template <class D> constexpr bool has_resets = std::is_base_of_v<Problem, D>;

// Problem::cut, of a row whose length is known. Steps beyond a loop's end have nothing to cut.
template <class D>
__device__ bool is_cut(const D& p, int t, int64_t b, bool descending, int length) {
  if constexpr (has_resets<D>) {
    const int later = descending ? t + 1 : t;
    return 0 <= later && later < length && p.resets[p.row(later, b)];
  } else {
    return false;
  }
}

}  // namespace fastrnn::cuda
