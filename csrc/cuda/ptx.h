// The PTX instructions that the kernels use. FASTRNN_EMULATE replaces them with an emulation on the
// CPU: emulated_ptx.h, which the include path must provide.
#pragma once

#include <cstdint>

#ifdef FASTRNN_EMULATE
#include "emulated_ptx.h"
#else
#include <cuda_runtime.h>

// Declares `name`, the block's dynamic shared memory as bytes aligned to 128.
#define DYNAMIC_SHARED(name) extern __shared__ __align__(128) unsigned char name[]

namespace fastrnn::cuda::ptx {

#define FASTRNN_PTX __device__ __forceinline__

// 32-bit addresses of shared memory: in this block, and the same offset in block `rank` of the
// cluster.
FASTRNN_PTX uint32_t cvta_shared(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}
FASTRNN_PTX uint32_t mapa(uint32_t address, uint32_t rank) {
  uint32_t peer;
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(peer) : "r"(address), "r"(rank));
  return peer;
}
FASTRNN_PTX uint32_t cluster_ctarank() {
  uint32_t rank;
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}

// Synchronizes all threads of the cluster and makes their writes to shared memory visible.
FASTRNN_PTX void barrier_cluster() {
  // clang-format off
  asm volatile(
      "barrier.cluster.arrive.release.aligned;\n"
      "barrier.cluster.wait.acquire.aligned;" ::: "memory");
  // clang-format on
}

// Synchronizes `threads` threads, whole warps, of this block. Barrier 0 is that of __syncthreads.
FASTRNN_PTX void bar_sync(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

// mbarriers: a phase completes when all arrivals and all expected bytes have arrived.
FASTRNN_PTX void mbarrier_init(uint32_t barrier, uint32_t arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}
FASTRNN_PTX void fence_mbarrier_init() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
FASTRNN_PTX void mbarrier_arrive_expect_tx(uint32_t barrier, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
               : "memory");
}
// Waits until the phase of this parity has completed. The first phase has parity 0.
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

// Stores 8 bytes to shared memory of the cluster; they count on an mbarrier of the same block.
FASTRNN_PTX void st_async(uint32_t to, uint32_t barrier, uint2 value) {
  // clang-format off
  asm volatile(
      "st.async.shared::cluster.mbarrier::complete_tx::bytes.v2.b32 [%0], {%1, %2}, [%3];"
      ::"r"(to), "r"(value.x), "r"(value.y), "r"(barrier)
      : "memory");
  // clang-format on
}

// Copies 4 or 8 bytes from global to this block's shared memory, or zeros if not `valid`. The copy
// has completed once the thread has waited for its group.
template <int bytes> FASTRNN_PTX void cp_async(uint32_t to, const void* from, bool valid) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(to), "l"(from), "n"(bytes),
               "r"(valid ? bytes : 0)
               : "memory");
}
FASTRNN_PTX void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits for all groups of this thread except the newest `pending`.
template <int pending> FASTRNN_PTX void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
}

// Relaxed accesses to global memory that bypass L1. Each 32-bit word is accessed atomically.
FASTRNN_PTX uint4 ld_relaxed(const void* from) {
  uint4 value;
  asm volatile("ld.relaxed.gpu.global.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
               : "l"(from)
               : "memory");
  return value;
}
FASTRNN_PTX void st_relaxed(void* to, uint2 value) {
  asm volatile("st.relaxed.gpu.global.v2.u32 [%0], {%1, %2};" ::"l"(to), "r"(value.x), "r"(value.y)
               : "memory");
}
FASTRNN_PTX void prefetch_l2(const void* from) {
  asm volatile("prefetch.global.L2 [%0];" ::"l"(from));
}

// Loads four 8 × 16-byte tiles from shared memory. Lane l passes the address of row l % 8 of tile
// l / 8, and receives word l % 4 of row l / 4 of each tile.
FASTRNN_PTX void ldmatrix(uint32_t (&words)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
               : "r"(address)
               : "memory");
}
// Transposes an 8 × 8 matrix of 16-bit values, of which lane l holds two of row l / 4.
FASTRNN_PTX uint32_t movmatrix(uint32_t word) {
  uint32_t transposed;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(transposed) : "r"(word));
  return transposed;
}

// sum += w h on the tensor cores: w 16 × 32 bytes, h 8 × 32 bytes, float32 accumulators.
#define FASTRNN_MMA(name, kind)                                                            \
  FASTRNN_PTX void name(float (&sum)[4], const uint32_t (&w)[4], const uint32_t (&h)[2]) { \
    asm volatile("mma.sync.aligned." kind                                                  \
                 " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "                         \
                 "{%0, %1, %2, %3};"                                                       \
                 : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])                  \
                 : "r"(w[0]), "r"(w[1]), "r"(w[2]), "r"(w[3]), "r"(h[0]), "r"(h[1]));      \
  }
FASTRNN_MMA(mma_bf16, "m16n8k16.row.col.f32.bf16.bf16.f32")
FASTRNN_MMA(mma_f16, "m16n8k16.row.col.f32.f16.f16.f32")
FASTRNN_MMA(mma_tf32, "m16n8k8.row.col.f32.tf32.tf32.f32")
#undef FASTRNN_MMA

// Conversions. A word of two 16-bit values has the first in its low half.
FASTRNN_PTX uint32_t bits(float value) { return __float_as_uint(value); }
FASTRNN_PTX float from_bits(uint32_t word) { return __uint_as_float(word); }
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
FASTRNN_PTX uint32_t round_to_bf16(float value) {  // to nearest, ties to even
  const uint32_t word = __float_as_uint(value);
  return value != value ? 0x7fff : (word + 0x7fff + (word >> 16 & 1)) >> 16;
}
FASTRNN_PTX uint32_t cvt_bf16x2(float low, float high) {
  return round_to_bf16(low) | round_to_bf16(high) << 16;
}
FASTRNN_PTX uint32_t cvt_f16x2(float low, float high) {
  uint16_t halves[2];
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(halves[0]) : "f"(low));
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(halves[1]) : "f"(high));
  return halves[0] | uint32_t{halves[1]} << 16;
}
#else
FASTRNN_PTX uint32_t cvt_bf16x2(float low, float high) {
  uint32_t word;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
  return word;
}
FASTRNN_PTX uint32_t cvt_f16x2(float low, float high) {
  uint32_t word;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
  return word;
}
#endif
FASTRNN_PTX float cvt_f32_f16(uint16_t value) {
  float wide;
  asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(value));
  return wide;
}
// Rounds to the 10 mantissa bits that the tensor cores read of a float32.
FASTRNN_PTX float cvt_tf32(float value) {
  uint32_t rounded;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(rounded) : "f"(value));
  return __uint_as_float(rounded);
}
FASTRNN_PTX float tanh_approx(float value) {
  float result;
  asm("tanh.approx.f32 %0, %1;" : "=f"(result) : "f"(value));
  return result;
}

// Returns the same value while hiding its origin from the compiler. In a loop, values derived from
// it are recomputed instead of being kept in registers.
template <class Word> FASTRNN_PTX Word opaque(Word value) {
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
