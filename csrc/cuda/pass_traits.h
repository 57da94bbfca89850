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
template <class C> constexpr bool is_backward<ProjectedBackwardOf<C>> = true;

template <class P> constexpr bool has_resets = std::is_base_of_v<ParamsWithResets, P>;

// Whether P is of a cell that saves gates, and the K of any cell.
template <class P> constexpr bool saves_gates = false;
template <class C> constexpr bool saves_gates<CellForwardOf<C>> = true;
template <class C> constexpr bool saves_gates<CellBackwardOf<C>> = true;
template <class P> constexpr int gates_of = 1;
template <class C> constexpr int gates_of<CellForwardOf<C>> = C::gates;
template <class C> constexpr int gates_of<CellBackwardOf<C>> = C::gates;

// Whether the kernel computes the input projection, or the gradient of the input of a stack's later
// layer. It is a kernel of cells that save gates, though nn.RNN's save none.
template <class P> constexpr bool projects = false;
template <class C> constexpr bool projects<ProjectedForwardOf<C>> = true;
template <class C> constexpr bool projects<ProjectedBackwardOf<C>> = true;
template <class C> constexpr bool saves_gates<ProjectedForwardOf<C>> = true;
template <class C> constexpr bool saves_gates<ProjectedBackwardOf<C>> = true;
template <class C> constexpr int gates_of<ProjectedForwardOf<C>> = C::gates;
template <class C> constexpr int gates_of<ProjectedBackwardOf<C>> = C::gates;

// What a kernel is given: the parameters of a call, or of all layers of a stack.
template <class Arguments> struct LayerOf {
  using P = Arguments;
  FASTRNN_HOST_DEVICE static const P& get(const Arguments& p, int) { return p; }
};
template <class Layer> struct LayerOf<LayersOf<Layer>> {
  using P = Layer;
  FASTRNN_HOST_DEVICE static const P& get(const LayersOf<Layer>& all, int l) { return all.of[l]; }
};

template <class P> constexpr Pass pass_of = is_backward<P> ? Pass::backward : Pass::forward;

// The traits of P's cell.
template <class P, bool = saves_gates<P>>
constexpr CellTraits traits_of = traits(fastrnn::Cell::rnn_tanh);
template <class P>
constexpr CellTraits traits_of<P, true> = {P::Cell::gates, P::Cell::has_c, P::Cell::has_unit_param,
                                           /*saves=*/true, P::Cell::has_inner};

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

// The row of W_hh that k is in the depth of P's product, if there is one. In backward the depth has
// all gates, each of a whole number of 16 bytes.
template <class Int> struct WeightRow {
  Int index;
  bool exists;
};
template <class E, class P, class Int>
__device__ WeightRow<Int> weight_row(Int k, int64_t H) {
  if constexpr (is_backward<P> && gates_of<P> > 1) {
    const Int units = static_cast<Int>(padded_units(H, sizeof(typename E::Storage)));
    const Int gate = k / units, unit = k % units;
    return {static_cast<Int>(gate * H + unit), gate < gates_of<P> && unit < H};
  } else {
    return {k, k < H};
  }
}

// The units that the blocks of a team exchange for each row: of h, or of dz of all gates.
template <class P>
FASTRNN_HOST_DEVICE int64_t exchanged_units(const P& p, int element_bytes) {
  return (is_backward<P> ? gates_of<P> : 1) * padded_units(p.H, element_bytes);
}

}  // namespace fastrnn::cuda
