// The biases of a layer, which the forward kernels add to pre.
#pragma once

#include "cells.h"
#include "pass_traits.h"

namespace fastrnn::cuda {

// b_ih + b_hh of gate k of a unit. b_hh of the GRU's n is its unit_param.
template <class E, class P>
__device__ Sum<E> bias_of(const P& p, int64_t group, int k, int64_t unit) {
  constexpr int of_hh = gates_of<P> == 3 ? 2 : gates_of<P>;
  const bool second = group >= p.heads;
  const int64_t at = (k * p.heads + group - second * p.heads) * p.H + unit;
  const auto value = [&](const void* tensor) -> Sum<E> {
    return tensor ? E::widen(static_cast<const typename E::Storage*>(tensor)[at]) : 0;
  };
  const Sum<E> of_ih = value(second ? p.bias_ih[1] : p.bias_ih[0]);
  return k < of_hh ? of_ih + value(second ? p.bias_hh[1] : p.bias_hh[0]) : of_ih;
}

// The biases of a lane's two units; empty in backward.
template <class E, class P, bool = is_backward<P>> struct Bias {
  float of[gates_of<P>][2];

  // `first_unit`: of the tile.
  __device__ void load(const P& p, int64_t group, int64_t first_unit, const Lane<E>& lane) {
#pragma unroll
    for (int k = 0; k < gates_of<P>; ++k) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int64_t unit = first_unit + (i ? lane.second_unit() : lane.first_unit());
        of[k][i] = unit < p.H ? bias_of<E>(p, group, k, unit) : 0;
      }
    }
  }
  // Adds to the accumulators of gate k.
  __device__ void add(int k, float (&acc)[4]) const {
#pragma unroll
    for (int i = 0; i < 4; ++i) acc[i] += of[k][i / 2];
  }
};
template <class E, class P> struct Bias<E, P, true> {
  __device__ void load(const P&, int64_t, int64_t, const Lane<E>&) {}
  __device__ void add(int, float (&)[4]) const {}
};

}  // namespace fastrnn::cuda
