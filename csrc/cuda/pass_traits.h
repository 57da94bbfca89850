// Traits of a kernel's parameters P: which pass it is, whether rows have resets, and the cell. These
// are template parameters, so that unused features compile away.
#pragma once

#include <type_traits>

#include "cell_params.h"
#include "ptx.h"

namespace fastrnn::cuda {

template <class P> constexpr bool is_backward = false;
template <class Base> constexpr bool is_backward<BackwardParams<Base>> = true;
template <class C> constexpr bool is_backward<CellBackwardOf<C>> = true;

template <class P> constexpr bool has_resets = std::is_base_of_v<ParamsWithResets, P>;

// Whether P is of a cell that saves gates, and the K of any cell.
template <class P> constexpr bool saves_gates = false;
template <class C> constexpr bool saves_gates<CellForwardOf<C>> = true;
template <class C> constexpr bool saves_gates<CellBackwardOf<C>> = true;
template <class P> constexpr int gates_of = 1;
template <class C> constexpr int gates_of<CellForwardOf<C>> = C::gates;
template <class C> constexpr int gates_of<CellBackwardOf<C>> = C::gates;

template <class P> constexpr Pass pass_of = is_backward<P> ? Pass::backward : Pass::forward;

// The traits of P's cell.
template <class P, bool = saves_gates<P>>
constexpr CellTraits traits_of = traits(fastrnn::Cell::rnn_tanh);
template <class P>
constexpr CellTraits traits_of<P, true> = {P::Cell::gates, P::Cell::has_c, P::Cell::has_unit_param,
                                           P::Cell::saves, P::Cell::has_inner};

// Tiles of W_hh that a warp multiplies for each tile of units, see plan.h.
template <class P> constexpr int gate_tiles_of = is_backward<P> ? 1 : gates_of<P>;

// ParamsWithResets::crosses_reset for a row whose length is known. False for steps beyond the end.
template <class P>
__device__ bool crosses_reset(const P& p, int t, int64_t b, bool descending, int length) {
  if constexpr (has_resets<P>) {
    if (saves_gates<P> && !p.resets) return false;  // one instance with resets and without
    const int later = descending ? t + 1 : t;
    return 0 <= later && later < length && p.resets[p.row(later, b)];
  } else {
    return false;
  }
}

}  // namespace fastrnn::cuda
