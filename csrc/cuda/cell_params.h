// The parameters of kernels that are compiled for one cell C which saves gates.
#pragma once

#include "cells.h"
#include "params.h"

namespace fastrnn::cuda {

template <class C> struct CellForwardOf : CellForward {
  using Cell = C;
};
template <class C> struct CellBackwardOf : CellBackward {
  using Cell = C;
};

// Of cells with an input projection, including those of nn.RNN.
template <class C> struct ProjectedForwardOf : ProjectedForward {
  using Cell = C;
};
template <class C> struct ProjectedBackwardOf : ProjectedBackward {
  using Cell = C;
};
template <class C> using ForwardLayers = LayersOf<ProjectedForwardOf<C>>;
template <class C> using BackwardLayers = LayersOf<ProjectedBackwardOf<C>>;

// Calls `function` with the layers, as parameters of their cell.
template <template <class> class Of, class P, class Function>
void with_projected_cell(const LayersOf<P>& layers, Function function) {
  const auto of_cell = [&](auto cell) {
    LayersOf<Of<decltype(cell)>> all;
    for (int l = 0; l < most_stacked; ++l) all.of[l] = {layers.of[l]};
    function(all);
  };
  switch (layers.of[0].cell) {
    case Cell::rnn_tanh:
    case Cell::rnn_relu: return of_cell(AnyElman());
    case Cell::lstm: return of_cell(Lstm());
    case Cell::gru: return of_cell(Gru());
    default: return;  // see best_stack in plan.h
  }
}

// Calls `function` with the parameters of the call's cell.
template <template <class> class Of, class P, class Function>
auto with_cell(const P& params, Function function) {
  switch (params.cell) {
    case Cell::lstm: return function(Of<Lstm>{params});
    case Cell::gru: return function(Of<Gru>{params});
    case Cell::leaky_tanh:
    case Cell::leaky_relu: return function(Of<Leaky>{params});
    default: return function(Of<LeakyPre>{params});
  }
}

// Calls `function` with the parameters of the call's cell, which may be nn.RNN's.
template <template <class> class Of, class P, class Function>
auto with_any_cell(const P& params, Function function) {
  if (!traits(params.cell).saves) return function(Of<AnyElman>{params});
  return with_cell<Of>(params, function);
}

}  // namespace fastrnn::cuda
