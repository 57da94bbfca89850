// The PTX instructions that the kernels use. FASTRNN_EMULATE replaces them by their emulation on the
// CPU: emulated_ptx.h, which the include path must provide.
#pragma once

#include <cstdint>

#ifdef FASTRNN_EMULATE
#include "emulated_ptx.h"
#else
#include <cuda_runtime.h>

// `name`: this block's dynamic shared memory, a pointer to bytes at a multiple of 128.
#define DYNAMIC_SHARED(name) extern __shared__ __align__(128) unsigned char name[]

namespace fastrnn::cuda::ptx {

#define FASTRNN_PTX __device__ __forceinline__

// Addresses of shared memory, 32 bits: this block's, and the same place in another of the cluster.
FASTRNN_PTX uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}
FASTRNN_PTX uint32_t peer_address(uint32_t address, uint32_t rank) {
  uint32_t peer;
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(peer) : "r"(address), "r"(rank));
  return peer;
}
FASTRNN_PTX uint32_t cluster_rank() {
  uint32_t rank;
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}

// All threads of the cluster, and what they wrote to shared memory.
FASTRNN_PTX void cluster_barrier() {
  asm volatile(
      "barrier.cluster.arrive.release.aligned;\n"
      "barrier.cluster.wait.acquire.aligned;" ::: "memory");
}

// `threads` threads, whole warps, of this block; barrier 0 is __syncthreads'.
FASTRNN_PTX void named_barrier(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

// mbarriers: a phase ends when all arrivals and all expected bytes have come.
FASTRNN_PTX void mbarrier_init(uint32_t barrier, uint32_t arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}
FASTRNN_PTX void mbarrier_init_fence() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
FASTRNN_PTX void mbarrier_arrive_expect(uint32_t barrier, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
               : "memory");
}
// Until the phase of this parity has ended: the first has parity 0.
FASTRNN_PTX void mbarrier_wait(uint32_t barrier, uint32_t parity) {
  asm volatile(
      "{\n"
      ".reg .pred ended;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 ended, [%0], %1;\n"
      "@ended bra done;\n"
      "bra again;\n"
      "done:\n"
      "}" ::"r"(barrier),
      "r"(parity)
      : "memory");
}

// 8 bytes to shared memory of the cluster; their arrival counts on the mbarrier beside them.
FASTRNN_PTX void store_async(uint32_t to, uint32_t barrier, uint2 value) {
  asm volatile(
      "st.async.shared::cluster.mbarrier::complete_tx::bytes.v2.b32 [%0], {%1, %2}, [%3];"
      ::"r"(to), "r"(value.x), "r"(value.y), "r"(barrier)
      : "memory");
}

// `bytes` bytes, 4 or 8, from global to this block's shared memory, or zeros where not `real`. They
// are there once copy_wait says so of the group that the thread put them in.
template <int bytes> FASTRNN_PTX void copy_async(uint32_t to, const void* from, bool real) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(to), "l"(from), "n"(bytes),
               "r"(real ? bytes : 0)
               : "memory");
}
FASTRNN_PTX void copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Until all groups of this thread have come, but the newest `pending`.
template <int pending> FASTRNN_PTX void copy_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
}

// Global memory, past the first-level cache, with no order but that of each 32-bit word.
FASTRNN_PTX uint4 load_relaxed(const void* from) {
  uint4 value;
  asm volatile("ld.relaxed.gpu.global.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
               : "l"(from)
               : "memory");
  return value;
}
FASTRNN_PTX void store_relaxed(void* to, uint2 value) {
  asm volatile("st.relaxed.gpu.global.v2.u32 [%0], {%1, %2};" ::"l"(to), "r"(value.x), "r"(value.y)
               : "memory");
}
// Into the second-level cache.
FASTRNN_PTX void prefetch(const void* from) {
  asm volatile("prefetch.global.L2 [%0];" ::"l"(from));
}

// Four 8 × 16-byte tiles from shared memory: lane l gives the address of row l % 8 of tile l / 8,
// and gets word l % 4 of row l / 4 of each.
FASTRNN_PTX void load_matrices(uint32_t (&words)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
               : "r"(address)
               : "memory");
}
// Of an 8 × 8 matrix of 16-bit values, lane l holding two of row l / 4: the same of the transpose.
FASTRNN_PTX uint32_t transpose(uint32_t word) {
  uint32_t transposed;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(transposed) : "r"(word));
  return transposed;
}

// sum += w h on the matrix unit: w 16 × 32 bytes, h 8 × 32 bytes, float32 sums.
#define FASTRNN_MMA(name, kind)                                                                  \
  FASTRNN_PTX void name(float (&sum)[4], const uint32_t (&w)[4], const uint32_t (&h)[2]) {       \
    asm volatile("mma.sync.aligned." kind " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "      \
                 "{%0, %1, %2, %3};"                                                             \
                 : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])                        \
                 : "r"(w[0]), "r"(w[1]), "r"(w[2]), "r"(w[3]), "r"(h[0]), "r"(h[1]));            \
  }
FASTRNN_MMA(multiply_bfloat16, "m16n8k16.row.col.f32.bf16.bf16.f32")
FASTRNN_MMA(multiply_float16, "m16n8k16.row.col.f32.f16.f16.f32")
FASTRNN_MMA(multiply_tf32, "m16n8k8.row.col.f32.tf32.tf32.f32")
#undef FASTRNN_MMA

// Conversions; a word of two 16-bit values has the first in its low half.
FASTRNN_PTX uint32_t bits(float value) { return __float_as_uint(value); }
FASTRNN_PTX float from_bits(uint32_t word) { return __uint_as_float(word); }
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
FASTRNN_PTX uint32_t round_bfloat16(float value) {  // to nearest, ties to even
  const uint32_t word = __float_as_uint(value);
  return value != value ? 0x7fff : (word + 0x7fff + (word >> 16 & 1)) >> 16;
}
FASTRNN_PTX uint32_t pack_bfloat16(float low, float high) {
  return round_bfloat16(low) | round_bfloat16(high) << 16;
}
FASTRNN_PTX uint32_t pack_float16(float low, float high) {
  uint16_t halves[2];
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(halves[0]) : "f"(low));
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(halves[1]) : "f"(high));
  return halves[0] | uint32_t{halves[1]} << 16;
}
#else
FASTRNN_PTX uint32_t pack_bfloat16(float low, float high) {
  uint32_t word;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
  return word;
}
FASTRNN_PTX uint32_t pack_float16(float low, float high) {
  uint32_t word;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
  return word;
}
#endif
FASTRNN_PTX float from_float16(uint16_t value) {
  float wide;
  asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(value));
  return wide;
}
// Rounded to the 10 bits that the matrix unit reads of a float32, as a float32.
FASTRNN_PTX float round_tf32(float value) {
  uint32_t rounded;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(rounded) : "f"(value));
  return __uint_as_float(rounded);
}
FASTRNN_PTX float tanh_approximate(float value) {
  float result;
  asm("tanh.approx.f32 %0, %1;" : "=f"(result) : "f"(value));
  return result;
}

// The same value, but the compiler no longer knows where it comes from: in a loop, what is computed
// from it is computed anew instead of being kept in registers.
template <class Word> FASTRNN_PTX Word forget(Word value) {
  if constexpr (sizeof(Word) == 8) {
    asm volatile("" : "+l"(value));
  } else {
    asm volatile("" : "+r"(value));
  }
  return value;
}

#undef FASTRNN_PTX

}  // namespace fastrnn::cuda::ptx
#endif
