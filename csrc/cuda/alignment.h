// What the tensors of a call begin at multiples of. The host's side.
#pragma once

#include <cstdint>

#include "../params.h"

namespace fastrnn::cuda {

// The bits that any of the addresses has.
template <class... Pointers> uintptr_t address_bits(const Pointers*... pointers) {
  return (reinterpret_cast<uintptr_t>(pointers) | ...);
}
template <class P> uintptr_t address_bits(const ForwardOf<P>& p) {
  return address_bits(p.pre, p.weight_hh, p.h0, p.out, p.h_n);
}
template <class P> uintptr_t address_bits(const BackwardOf<P>& p) {
  return address_bits(p.grad_out, p.grad_h_n, p.out, p.weight_hh, p.grad_pre, p.grad_h0);
}

template <class... Pointers> bool at_multiples_of(int bytes, const Pointers*... pointers) {
  return address_bits(pointers...) % bytes == 0;
}

// Whether all tensors can be read 8 bytes at once, their rows permitting.
template <class D> bool chunks_are_aligned(const D& p) { return address_bits(p) % 8 == 0; }

// The largest of 8, 4 and 2 bytes that every row of every tensor begins at a multiple of.
template <class D> int alignment_of(const D& p, int64_t row_bytes) {
  const uintptr_t bits = uintptr_t(row_bytes) | address_bits(p);
  return bits % 8 == 0 ? 8 : bits % 4 == 0 ? 4 : 2;
}

}  // namespace fastrnn::cuda
