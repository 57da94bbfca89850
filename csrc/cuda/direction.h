// What a kernel is given: one of the passes, of a problem with resets or of one without. They are
// types, for what a kernel does not need not to be in its code.
#pragma once

#include <type_traits>

#include "../problem.h"
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

// The host's side.
// The largest of 8, 4 and 2 bytes that every row of every tensor begins at a multiple of.
template <class... Pointers> int alignment_of(int64_t row_bytes, Pointers... pointers) {
  const uintptr_t bits = (uintptr_t(row_bytes) | ... | reinterpret_cast<uintptr_t>(pointers));
  return bits % 8 == 0 ? 8 : bits % 4 == 0 ? 4 : 2;
}
template <class P> int alignment_of(const ForwardOf<P>& p, int64_t row_bytes) {
  return alignment_of(row_bytes, p.pre, p.weight_hh, p.h0, p.out, p.h_n);
}
template <class P> int alignment_of(const BackwardOf<P>& p, int64_t row_bytes) {
  return alignment_of(row_bytes, p.grad_out, p.grad_h_n, p.out, p.weight_hh, p.grad_pre, p.grad_h0);
}

}  // namespace fastrnn::cuda
