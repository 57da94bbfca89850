// A step of a cell that saves gates, for the four accumulators of a lane: two units of two batch
// rows each.
#pragma once

#include "pass_traits.h"

namespace fastrnn::cuda {

// Rounds to the storage dtype.
template <class E> __device__ Sum<E> round_to_storage(Sum<E> value) {
  if constexpr (sizeof(typename E::Storage) == 2) {
    return E::widen(E::pack(value, 0.0f) & 0xffff);
  } else {
    return value;
  }
}

// Computes the states of a unit after a step from those before it. `gates`: pre; then the values to
// save.
template <class E, class P>
__device__ void forward_unit(const P& p, Sum<E> (&gates)[gates_of<P>],
                             const Sum<E> (&product)[gates_of<P>], Sum<E> unit_param, Sum<E>& h,
                             Sum<E>& c, Sum<E>& inner) {
  using C = typename P::Cell;
  using V = Number<E>;
  constexpr int K = gates_of<P>;
  V pre[K], z[K];
#pragma unroll
  for (int k = 0; k < K; ++k) pre[k] = {gates[k]}, z[k] = {product[k]};
  UnitState<V> before{};
  if constexpr (C::keeps_h) before.h = {h};
  if constexpr (C::has_c) before.c = {c};
  const auto step = forward_step<C>(p.activation, pre, z, before, V{unit_param},
                                    [](V value) { return V{round_to_storage<E>(value.value)}; });
  h = step.state.h.value;
  if constexpr (C::has_c) c = step.state.c.value;
#pragma unroll
  for (int k = 0; k < K; ++k) gates[k] = step.gates[k].value;
  inner = step.inner.value;
}

// Computes a unit's gradients of pre and of the product from dh and dc. These become the gradients
// of the states before the step, except for the product's part. `gates`: as saved, or h of a cell that
// saves none; then dpre.
// `before`: c before the step, or h without c. `inner`: as saved; then the gradient of unit_param.
template <class E, class P>
__device__ void backward_unit(const P& p, Sum<E> (&gates)[gates_of<P>], Sum<E> (&dz)[gates_of<P>],
                              Sum<E> unit_param, Sum<E> before, Sum<E>& dh, Sum<E>& dc,
                              Sum<E>& inner) {
  using C = typename P::Cell;
  using V = Number<E>;
  constexpr int K = gates_of<P>;
  UnitStep<V, K> step{};
#pragma unroll
  for (int k = 0; k < K; ++k) step.gates[k] = {gates[k]};
  if constexpr (!C::saves) step.state.h = {gates[0]};
  if constexpr (C::has_inner) step.inner = {inner};
  UnitState<V> grad{{dh}, {}}, last{};
  if constexpr (C::has_c) grad.c = {dc};
  (C::has_c ? last.c : last.h) = {before};
  const auto gradients = backward_step<C>(p.activation, grad, step, last, V{unit_param});
#pragma unroll
  for (int k = 0; k < K; ++k) gates[k] = gradients.pre[k].value, dz[k] = gradients.z[k].value;
  dh = gradients.before.h.value;
  if constexpr (C::has_c) dc = gradients.before.c.value;
  if constexpr (C::has_unit_param) inner = gradients.unit_param.value;
}

// The unit_param of a lane's two units of a group.
template <class E, class P>
__device__ void load_unit_param(float (&to)[2], const P& p, int64_t group, const Lane<E>& lane,
                                int64_t first_unit) {
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int64_t unit = first_unit + (i ? lane.second_unit() : lane.first_unit());
    to[i] = 0;
    const auto* const param = p.template of_group<typename E::Storage>(p.unit_param, group, p.H);
    if (param && unit < p.H) to[i] = E::widen(param[unit]);
  }
}

// forward_unit for the lane's accumulators.
template <class E, class P>
__device__ void forward_acc(const P& p, float (&gates)[gates_of<P>][4],
                            const float (&product)[gates_of<P>][4], const float (&unit_param)[2],
                            float (&h)[4], float (&c)[4], float (&inner)[4]) {
  constexpr int K = gates_of<P>;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    float of_unit[K], sums[K];
#pragma unroll
    for (int k = 0; k < K; ++k) of_unit[k] = gates[k][i], sums[k] = product[k][i];
    forward_unit<E>(p, of_unit, sums, unit_param[i / 2], h[i], c[i], inner[i]);
#pragma unroll
    for (int k = 0; k < K; ++k) gates[k][i] = of_unit[k];
  }
}

// backward_unit for the lane's accumulators.
template <class E, class P>
__device__ void backward_acc(const P& p, float (&gates)[gates_of<P>][4],
                             float (&dz)[gates_of<P>][4], const float (&unit_param)[2],
                             const float (&before)[4], float (&dh)[4], float (&dc)[4],
                             float (&inner)[4]) {
  constexpr int K = gates_of<P>;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    float of_unit[K], of_product[K];
#pragma unroll
    for (int k = 0; k < K; ++k) of_unit[k] = gates[k][i];
    backward_unit<E>(p, of_unit, of_product, unit_param[i / 2], before[i], dh[i], dc[i], inner[i]);
#pragma unroll
    for (int k = 0; k < K; ++k) gates[k][i] = of_unit[k], dz[k][i] = of_product[k];
  }
}

// Adds to the gradient of the state from which a reset starts, if it is wanted. No other thread adds
// to the same unit of the row.
template <class E, class P>
__device__ void add_reset_gradient(const P& p, void* sums, int64_t b, int64_t group, int64_t unit,
                                   Sum<E> value) {
  if (sums && unit < p.H) static_cast<Sum<E>*>(sums)[p.state_at(b, group) + unit] += value;
}

}  // namespace fastrnn::cuda
