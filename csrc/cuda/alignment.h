// The alignment of a call's tensors. Host code.
#pragma once

#include <cstdint>

#include "../params.h"
#include "cell_params.h"

namespace fastrnn::cuda {

// The bitwise or of all addresses.
template <class... Pointers> uintptr_t address_bits(const Pointers*... pointers) {
  return (reinterpret_cast<uintptr_t>(pointers) | ...);
}
template <class Base> uintptr_t address_bits(const ForwardParams<Base>& p) {
  return address_bits(p.pre, p.weight_hh[0], p.weight_hh[1], p.h0, p.out, p.h_n);
}
template <class Base> uintptr_t address_bits(const BackwardParams<Base>& p) {
  return address_bits(p.grad_out, p.grad_h_n, p.out, p.weight_hh[0], p.weight_hh[1], p.grad_pre,
                      p.grad_h0);
}

inline uintptr_t address_bits(const CellForward& p) {
  return address_bits(static_cast<const Forward&>(p)) |
         address_bits(p.c0, p.reset_h, p.reset_c, p.c_n, p.gates, p.inner);
}
template <class C> uintptr_t address_bits(const CellForwardOf<C>& p) {
  return address_bits(static_cast<const CellForward&>(p));
}
template <class C> uintptr_t address_bits(const ProjectedForwardOf<C>& p) {
  return address_bits(static_cast<const CellForward&>(p));
}
inline uintptr_t address_bits(const CellBackward& p) {
  return address_bits(static_cast<const Backward&>(p)) |
         address_bits(p.grad_c_n, p.gates, p.inner, p.h0, p.c0, p.reset_h, p.reset_c, p.grad_c0,
                      p.grad_unit_param);
}
template <class C> uintptr_t address_bits(const CellBackwardOf<C>& p) {
  return address_bits(static_cast<const CellBackward&>(p));
}
template <class C> uintptr_t address_bits(const ProjectedBackwardOf<C>& p) {
  return address_bits(static_cast<const CellBackward&>(p));
}

template <class P> uintptr_t address_bits(const LayersOf<P>& layers) {
  uintptr_t bits = 0;
  for (const P& layer : layers.of) bits |= address_bits(layer);
  return bits;
}

template <class... Pointers> bool is_aligned(int bytes, const Pointers*... pointers) {
  return address_bits(pointers...) % bytes == 0;
}

inline int alignment_of_bits(uintptr_t bits) { return bits % 8 == 0 ? 8 : bits % 4 == 0 ? 4 : 2; }

// Whether all tensors begin at multiples of 8 bytes.
template <class P> bool chunks_are_aligned(const P& p) { return address_bits(p) % 8 == 0; }

// The alignment of every row of every tensor: 8, 4 or 2 bytes.
template <class P> int alignment_of(const P& p, int64_t row_bytes) {
  return alignment_of_bits(uintptr_t(row_bytes) | address_bits(p));
}

// The same of the rows of the layers' inputs and of W_ih.
inline uintptr_t input_bits(const ProjectedForward& layer, int element_bytes) {
  const InputProjection& p = layer.projection;
  return uintptr_t((p.I | p.step | p.row) * element_bytes) |
         address_bits(p.input, p.weight_ih[0], p.weight_ih[1]);
}
inline uintptr_t input_bits(const ProjectedBackward& layer, int element_bytes) {
  return uintptr_t(layer.H * element_bytes) | address_bits(layer.weight_ih_above);
}
template <class P> int input_alignment(const LayersOf<P>& layers, int element_bytes) {
  uintptr_t bits = 0;
  for (const P& layer : layers.of) bits |= input_bits(layer, element_bytes);
  return alignment_of_bits(bits);
}

}  // namespace fastrnn::cuda
