// The element types one value at a time, for kernels without mma.
#pragma once

#include "mma_traits.h"

namespace fastrnn::cuda {

template <class E> struct ScalarTraits {
  using Element = E;
  using Storage = typename E::Storage;
  using Sum = float;
  __device__ static Sum widen(Storage value) { return E::widen(value); }
  __device__ static Storage narrow(Sum value) {
    if constexpr (sizeof(Storage) == 2) {
      return static_cast<Storage>(E::pack(value, 0.0f));
    } else {
      return value;
    }
  }
  __device__ static Sum activate(Sum z, Activation activation) {
    return cuda::activate<E>(z, activation);
  }
};
template <> struct ScalarTraits<Float64> {
  using Element = Float64;
  using Storage = double;
  using Sum = double;
  __device__ static Sum widen(Storage value) { return value; }
  __device__ static Storage narrow(Sum value) { return value; }
  __device__ static Sum activate(Sum z, Activation activation) {
    if (activation == Activation::relu) return z < 0 ? 0 : z;  // NaN stays
    return tanh(z);
  }
};

// 0 if there is no tensor.
template <class V> typename V::Sum __device__ load_value(const void* tensor, int64_t at) {
  return tensor ? V::widen(static_cast<const typename V::Storage*>(tensor)[at]) : 0;
}
template <class V> void __device__ store_value(void* tensor, int64_t at, typename V::Sum value) {
  static_cast<typename V::Storage*>(tensor)[at] = V::narrow(value);
}

}  // namespace fastrnn::cuda
