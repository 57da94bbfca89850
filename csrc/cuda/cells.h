// The cells on CUDA: csrc/cells with the arithmetic of an element type.
#pragma once

#include <type_traits>

#include "mma_traits.h"

namespace fastrnn::cuda {

// The type in which sums and steps are computed.
template <class E>
using Sum = std::conditional_t<std::is_same_v<E, Float64>, double, float>;

// A number of a step. Its functions are as precise as E needs.
template <class E> struct Number {
  Sum<E> value;

  friend __device__ Number operator+(Number a, Number b) { return {a.value + b.value}; }
  friend __device__ Number operator-(Number a, Number b) { return {a.value - b.value}; }
  friend __device__ Number operator-(int a, Number b) { return {a - b.value}; }
  friend __device__ Number operator-(Number a) { return {-a.value}; }
  friend __device__ Number operator*(Number a, Number b) { return {a.value * b.value}; }
  friend __device__ bool operator<(Number a, int b) { return a.value < b; }
  friend __device__ bool operator<=(Number a, int b) { return a.value <= b; }
  friend __device__ Number multiply_add(Number a, Number b, Number c) {
    return {fma(a.value, b.value, c.value)};
  }
  friend __device__ Number tanh(Number z) {
    if constexpr (std::is_same_v<E, Float64>) {
      return {::tanh(z.value)};
    } else {
      return {E::approximate ? ptx::tanh_approx(z.value) : tanhf(z.value)};
    }
  }
  friend __device__ Number sigmoid(Number z) {
    if constexpr (std::is_same_v<E, Float64>) {
      return {1 / (1 + ::exp(-z.value))};
    } else if constexpr (E::approximate) {  // one instruction instead of two for exp and division
      return {fmaf(ptx::tanh_approx(0.5f * z.value), 0.5f, 0.5f)};
    } else {
      return {1 / (1 + expf(-z.value))};
    }
  }
};

#include "../cells/step.h"
// The next ones use it.
#include "../cells/elman.h"
#include "../cells/gru.h"
#include "../cells/leaky.h"
#include "../cells/lstm.h"

// A cell with either activation of nn.RNN. The call has the activation, so that one kernel serves
// both.
template <template <Activation> class C> struct AnyActivation : C<Activation::tanh> {
  template <class... Given>
  static __device__ auto forward(Activation activation, const Given&... given) {
    if (activation == Activation::relu) return C<Activation::relu>::forward(given...);
    return C<Activation::tanh>::forward(given...);
  }
  template <class... Given>
  static __device__ auto backward(Activation activation, const Given&... given) {
    if (activation == Activation::relu) return C<Activation::relu>::backward(given...);
    return C<Activation::tanh>::backward(given...);
  }
};
using AnyElman = AnyActivation<Elman>;
using Leaky = AnyActivation<LeakyState>;
using LeakyPre = AnyActivation<LeakyPreActivation>;

template <class C> constexpr bool takes_activation = false;
template <template <Activation> class C>
constexpr bool takes_activation<AnyActivation<C>> = true;

template <class C, class... Given>
__device__ auto forward_step(Activation activation, const Given&... given) {
  if constexpr (takes_activation<C>) {
    return C::forward(activation, given...);
  } else {
    return C::forward(given...);
  }
}
template <class C, class... Given>
__device__ auto backward_step(Activation activation, const Given&... given) {
  if constexpr (takes_activation<C>) {
    return C::backward(activation, given...);
  } else {
    return C::backward(given...);
  }
}

}  // namespace fastrnn::cuda
